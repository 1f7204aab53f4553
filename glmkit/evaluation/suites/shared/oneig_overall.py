"""The overall score of OneIG-Bench (Chang et al. 2025, arXiv 2506.07977): the plain mean of its five parts.

The parts are runs of their own, in one folder: those of glmkit, or, of the three that need no judge and no OCR, the
files `<part>_score_*.csv` that the benchmark's scripts write for one model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glmkit.errors import UserError
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.evaluation.suites.shared.base import Counts, Suite
from glmkit.files import make_folder, write_json
from glmkit.hashing import file_sha256
from glmkit.inputs.records import read_csv
from glmkit.records import Prompt, Summary, read_record
from glmkit.runs import open_run

PARTS = ("alignment", "text", "reasoning", "style", "diversity")
COLUMNS = {"reasoning": "reasoning", "style": "style", "diversity": "total average"}  # of the benchmark's files
KIND = "mean of evaluations"
FIX = "glmkit eval --suite oneig-text-en --run runs/text, and so on for each part of one model; then --data runs"


class Part(NamedTuple):
    """Hold the score of one part, whose model it is, and how it was measured."""

    model: str
    score: Mapping[str, float | None]
    n_scored: int
    n_total: int
    n_prompts: int
    how: str


class OneigOverall(Suite):
    """Average five runs; there is nothing to generate: `language` is en or zh."""

    reads_text = False

    def __init__(self, language: str) -> None:
        self.language = language
        name = f"OneIG-Bench ({language})"
        self.metrics = {
            "oneig_overall": {
                "direction": "higher",
                "definition": f"{name}: plain mean of {', '.join(PARTS)}; without one of them there is none.",
            },
            **{
                f"oneig_{part}": {"direction": "higher", "definition": f"{name}, {part}, as its run says."}
                for part in PARTS
            },
        }

    def files(self, data: Path | None) -> list[Path]:
        """Give the summary of each part; UserError when one is missing or there twice."""
        if data is None or not data.is_dir():
            raise UserError("the overall score of OneIG-Bench is a mean of runs", found=data, fix=FIX)
        return [self._file(data, part) for part in PARTS]

    def _file(self, data: Path, part: str) -> Path:
        suite = f"oneig-{part}-{self.language}"
        runs = [path for path in sorted(data.glob("*/summary.json")) if read_record(path, Summary).suite == suite]
        found = runs + (sorted(data.glob(f"{part}_score_*.csv")) if part in COLUMNS else [])
        if len(found) != 1:
            what = f"{data} holds {'no run' if not found else 'several runs'} of {suite}"
            raise UserError(what, found=", ".join(map(str, found)) or None, fix=FIX)
        return found[0]

    def read(self, files: Sequence[Path]) -> list[Prompt]:
        """Raise UserError: the prompts are those of the parts."""
        raise UserError("the overall score of OneIG-Bench has no prompts of its own", found=files[0].parent, fix=FIX)

    def counts(self, _prompt: Prompt, _lines: Sequence[RecognizedLine], _image: Path) -> Counts:
        """Count nothing."""
        return {}

    def combine(self, name: str, data: Path | None, folder: Path | None) -> tuple[Path, Summary]:
        """Average the parts, and write summary.json to `folder` or to one in reports/.

        UserError when they are of several models, or when a part has no score.
        """
        files = dict(zip(PARTS, self.files(data), strict=True))
        parts = {part: self._read(part, path) for part, path in files.items()}
        values = {part: one.score["value"] for part, one in parts.items()}
        known = [value for value in values.values() if value is not None]
        if len(known) < len(PARTS):
            part = next(part for part, value in values.items() if value is None)
            raise UserError(f"{files[part]} has no score", fix="run that part again, with images")
        if len(models := {one.model for one in parts.values()}) > 1:
            raise UserError("the parts are of several models", found=", ".join(sorted(models)), fix=FIX)
        (model,) = models
        overall: dict[str, Any] = {"value": sum(known) / len(known), "low": None, "high": None}
        summary = Summary(
            suite=name,
            model=model,
            adapters=(),
            n_scored=sum(one.n_scored for one in parts.values()),
            n_total=sum(one.n_total for one in parts.values()),
            n_prompts=sum(one.n_prompts for one in parts.values()),
            scores={"oneig_overall": overall, **{f"oneig_{part}": one.score for part, one in parts.items()}},
            splits={},
            metrics=self.metrics,
            ocr="",
            bootstrap={},
            family="mean of five runs",
            why_not_official=tuple(f"{part}: {one.how}" for part, one in parts.items() if one.how != "official"),
        )
        folder = folder or Path("reports") / f"{name}-{Path(model).name}"
        make_folder(folder)
        open_run(folder, KIND, {"suite": name, "parts": {part: file_sha256(path) for part, path in files.items()}})
        write_json(folder / "summary.json", summary.to_dict())
        return folder, summary

    def _read(self, part: str, path: Path) -> Part:
        if path.suffix == ".csv":
            lines = read_csv(path)
            if len(lines) != 1 or not (value := lines[0].get(COLUMNS[part])) or "" not in lines[0]:
                what = f"{path} needs one model and the column {COLUMNS[part]}"
                raise UserError(what, found=f"{len(lines)} models", fix="take the file of a run of one model")
            score: dict[str, float | None] = {"value": float(value), "low": None, "high": None}
            return Part(lines[0][""], score, 0, 0, 0, f"by the benchmark's own code, {path.name}")
        summary = read_record(path, Summary)
        score = dict(next(iter(summary.scores.values())))
        model = " + ".join((summary.model, *summary.adapters))
        return Part(model, score, summary.n_scored, summary.n_total, summary.n_prompts, summary.family)
