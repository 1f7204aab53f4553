"""Read evaluation runs, and refuse what cannot be compared."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypedDict

from glmkit.errors import UserError
from glmkit.evaluation import stats
from glmkit.files import exists, iterate_jsonl
from glmkit.records import Generation, R, Score, Summary, read_record
from glmkit.runs import read_manifest
from glmkit.shapes import check_shape

LONGEST_NAME = 32  # characters; longer ones make tables wide


class EvalSettings(TypedDict):
    """Hold what a report needs to know of the settings of a run."""

    suite_fingerprint: str


class GeneratedEvalSettings(EvalSettings):
    """Hold what it needs, where a model generated the images."""

    width: int
    height: int
    steps: int | None
    guidance: float | None


@dataclass(frozen=True)
class EvalRun:
    """A finished evaluation. `images` and `scores` have the same ids; `name` is unique among the runs of a report."""

    folder: Path
    name: str
    summary: Summary
    manifest: dict[str, Any]
    images: tuple[Generation, ...]
    scores: tuple[Score, ...]

    @property
    def prompts(self) -> set[str]:
        """Return the ids of the prompts that the run generated, or about which answers are published."""
        only_answers = "answers" in self.manifest["settings"]
        return {image.prompt_id for image in self.images if not only_answers or image.error is None}

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of the images, each once, in ascending order."""
        return tuple(sorted({image.seed for image in self.images}))


def load_runs(folders: Sequence[Path], names: Sequence[str] = ()) -> tuple[EvalRun, ...]:
    """Read the runs, and call them by `names` where there are any, one for each.

    UserError when one is no finished evaluation, when they have no prompt in common, or when the names do not fit.
    """
    _check_names(folders, names)
    known: dict[Any, Any] = {}  # what the lines of all files share
    runs = [load_run(folder, known) for folder in folders]
    for index, run in enumerate(runs):
        if any(run.folder.resolve() == earlier.folder.resolve() for earlier in runs[:index]):
            raise UserError(f"{run.folder} is given twice", fix="name each run once")
        if run.summary.suite != runs[0].summary.suite:
            raise UserError(
                "runs of different suites cannot be compared",
                found=f"{runs[0].folder}: {runs[0].summary.suite}, {run.folder}: {run.summary.suite}",
                fix="make one report for each suite",
            )
    _check_families(runs)
    if not set.intersection(*(run.prompts for run in runs)):
        raise UserError("the runs have no prompt in common", fix="evaluate them with the same --split and --limit")
    names = names or unique_names([run.name for run in runs], [run.folder.resolve().name for run in runs])
    return tuple(replace(run, name=name) for run, name in zip(runs, names, strict=True))


def _check_names(folders: Sequence[Path], names: Sequence[str]) -> None:
    """Raise UserError unless there is one name for each run, and no two runs have the same."""
    if not names:
        return
    fix = f"--name once for each of {len(folders)} runs, in their order, each another name"
    if len(names) != len(folders):
        raise UserError(f"{len(folders)} runs need {len(folders)} names", found=", ".join(names), fix=fix)
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise UserError("two runs have one name, or a run has none", found=", ".join(map(repr, names)), fix=fix)


def _check_families(runs: Sequence[EvalRun]) -> None:
    """Raise UserError when official scores would stand beside those of another OCR engine."""
    official = [run for run in runs if run.summary.family == "official"]
    for run in runs:
        if official and run.summary.ocr != official[0].summary.ocr:
            raise UserError(
                "official scores and scores read by another OCR engine cannot be compared",
                found=f"{official[0].folder}: official, {run.folder}: {run.summary.family}",
                fix="evaluate both with the same --ocr",
            )


def load_run(folder: Path, known: dict[Any, Any] | None = None) -> EvalRun:
    """Read one run folder of `glmkit eval`; runs that are read with one `known`, empty at first, share their texts."""
    manifest = load_manifest(folder)
    generated = "steps" in manifest["settings"]
    kind = GeneratedEvalSettings if generated else EvalSettings
    check_shape(manifest["settings"], kind, f"{folder / 'manifest.json'}", "settings")
    if not (folder / "summary.json").exists():
        raise UserError(
            f"{folder} is not finished",
            found="no summary.json",
            fix="run the same glmkit eval command again; it continues where it stopped",
        )
    summary = read_record(folder / "summary.json", Summary)
    known = {} if known is None else known
    images = _read_shared(folder / "images.jsonl", Generation, known)
    scores = _read_shared(folder / "scores.jsonl", Score, known)
    _check_pairs(folder, images, scores)
    _check_counts(folder, summary, scores)
    _check_files(folder, images)
    return EvalRun(folder, run_name(summary, folder), summary, manifest, images, scores)


def _read_shared(path: Path, kind: type[R], known: dict[Any, Any]) -> tuple[R, ...]:
    """Read records whose texts and lists are those that are `known`, where they are equal: they take half as much."""
    lines = enumerate(iterate_jsonl(path), start=1)
    records = (kind.from_dict(values, f"{path}, line {number}") for number, values in lines)
    return tuple(kind(**_shared(vars(record), known)) for record in records)


def _shared(value: Any, known: dict[Any, Any]) -> Any:
    if isinstance(value, dict):
        return {known.setdefault(key, key): _shared(one, known) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        items = tuple(_shared(one, known) for one in value)
        return known.setdefault((items, *map(type, items)), items)  # 1, 1.0 and True are equal, and not the same
    return known.setdefault(value, value) if isinstance(value, str) else value


def _check_pairs(folder: Path, images: Sequence[Generation], scores: Sequence[Score]) -> None:
    """Raise UserError unless every image has one score, and every prompt and seed one image."""
    pairs = [{(one.id, one.prompt_id, one.seed) for one in records} for records in (images, scores)]
    twice = Counter(key for one in images for key in (one.id, (one.prompt_id, one.seed))).most_common(1)
    if pairs[0] != pairs[1] or len(scores) != len(images) or (twice and twice[0][1] > 1):
        found = min(map(str, pairs[0] ^ pairs[1]), default=str(twice and twice[0][0]))
        raise UserError(
            f"{folder}: images.jsonl and scores.jsonl do not fit",
            found=f"{found} only in one of them, or twice",
            fix="run the same glmkit eval command again",
        )


def _check_files(folder: Path, images: Sequence[Generation]) -> None:
    """Raise UserError for a record that leads out of the run folder, which may be somebody else's."""
    root = folder.resolve()
    for number, image in enumerate(images, start=1):
        for key, path in (("file", image.file or ""), ("prompt_id", Path("references", image.prompt_id))):
            try:
                inside = Path(os.path.realpath(root / path)).is_relative_to(root)
            except (OSError, ValueError):  # no name of a file
                inside = False
            if not inside:
                where = f"{folder / 'images.jsonl'}, line {number}"
                raise UserError(f"{where}: {key} leads out of the run folder", found=path, fix="evaluate again")


def _check_counts(folder: Path, summary: Summary, scores: Sequence[Score]) -> None:
    """Raise UserError unless every scored image has the counts of every metric of the summary."""
    wanted = {ratio for metric in summary.metrics for ratio in stats.required_counts(metric)}
    for number, score in enumerate(scores, start=1):
        if score.error is None and (missing := wanted - set(score.counts)):
            where = f"{folder / 'scores.jsonl'}, line {number}"
            raise UserError(f"{where}: counts.{min(missing)} is missing", fix="run the same glmkit eval command again")


def load_manifest(folder: Path) -> dict[str, Any]:
    """Read what `glmkit eval` recorded about a run; UserError when the folder is something else."""
    fix = "glmkit eval --suite SUITE --run DIR makes a run folder"
    if not folder.is_dir():
        raise UserError(f"{folder} is not a run folder", found="a file" if exists(folder) else "nothing", fix=fix)
    if not (folder / "manifest.json").exists():
        raise UserError(f"{folder} is not a run folder", found="a folder without manifest.json", fix=fix)
    manifest = read_manifest(folder)
    if manifest["kind"] != "eval":
        raise UserError(f"{folder} is not an evaluation", found=f"a run of kind {manifest['kind']!r}", fix=fix)
    return manifest


def run_name(summary: Summary, folder: Path) -> str:
    """Return what people call this run: its name, else model and adapters, else, where they are long, its folder."""
    described = " + ".join(short_name(name) for name in (summary.model, *summary.adapters))
    return summary.name or (described if len(described) <= LONGEST_NAME else folder.resolve().name)


def short_name(name: str) -> str:
    """Return the last folder of a path or hub id.

    `RUN/adapter`, where fine-tuning puts its result, is called RUN, with a weight `RUN:0.8`; the adapter of one
    component (`RUN/adapter/decoder`) is called `RUN decoder`.
    """
    path = PureWindowsPath(name) if "\\" in name else PurePosixPath(name)  # of the system that made the run
    last, colon, weight = path.name.partition(":")
    if last == "adapter":
        return (path.parent.name + colon + weight) or name
    if path.parent.name == "adapter" and path.parent.parent.name:
        return f"{path.parent.parent.name} {path.name}"
    return path.name or name


def unique_names(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Add the folder, and a number when that is not enough, to names that several runs share."""
    counts = Counter(names)
    longer = [f"{name} ({folder})" if counts[name] > 1 else name for name, folder in zip(names, folders, strict=True)]
    occurrences: Counter[str] = Counter()
    unique = []
    for name in longer:
        occurrences[name] += 1
        unique.append(name if occurrences[name] == 1 else f"{name} #{occurrences[name]}")
    return unique
