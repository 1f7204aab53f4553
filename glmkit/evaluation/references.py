"""Reference sets: images of another model, known by name, as features with their provenance; and distances to them.

A set is a folder of the cache: `manifest.json` (what was read), `prompts.jsonl`, and a folder of features for each
extractor. The images themselves stay where the user has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmkit.errors import UserError, unknown
from glmkit.evaluation import features
from glmkit.evaluation.collect import COMPLETE, FEATURES, Features, Source, collect, load
from glmkit.evaluation.distances import DEFINITIONS, distance, sample
from glmkit.evaluation.sources import Images
from glmkit.files import read_json, write_json, write_jsonl
from glmkit.records import Distance
from glmkit.runs import cache_folder, fingerprint, open_run

INDICATIVE_BELOW = 2048  # images; with fewer, the covariance of 2048 features has no full rank


@dataclass(frozen=True)
class Reference:
    """A set, with the folder of each of its complete features."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    complete: tuple[Path, ...]


def root() -> Path:
    return cache_folder() / "references"


def names() -> list[str]:
    return sorted(path.parent.name for path in root().glob("*/manifest.json"))


def get(name: str) -> Reference:
    """The set of that name; UserError with the nearest name, or with the command that makes one."""
    known = names()
    if not known:
        raise UserError(f"there is no reference set {name!r}", fix=f"glmkit reference add {name} --images DIR")
    if name not in known:
        raise unknown("reference set", name, known)
    folder = root() / name
    complete = tuple(sorted(path.parent for path in folder.glob(f"*/{COMPLETE}")))
    return Reference(name, folder, read_json(folder / "manifest.json"), complete)


def add(
    name: str, source: Source, about: Mapping[str, Any], specs: Sequence[str], device: str, limit: int | None = None
) -> Reference:
    """Make or continue a set: one pass over the source for each extractor that it lacks.

    `about` are JSON values that identify the source; a set of that name with another source is a UserError.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError("the name of a reference set is the name of a folder", found=name, fix="letters, digits, . _ -")
    extractors = [features.load(spec, device) for spec in specs]  # what is missing must show before the first image
    folder = root() / name
    try:
        open_run(folder, "reference", {**about, "limit": limit}, device)
    except UserError as error:
        fix = f"repeat the command that made it, choose another name, or delete {folder}"
        raise UserError(f"the reference set {name} is made of something else", found=error.found, fix=fix) from error
    for extractor in extractors:
        place = folder / features.slug(extractor)
        stored = collect(source, extractor, place, unique=True, title=extractor.label, limit=limit)
        _write_prompts(folder / "prompts.jsonl", stored)
    return get(name)


def _write_prompts(path: Path, stored: Features) -> None:
    """The distinct prompts of a set, to draw them with another model: `glmkit generate --prompts FILE`."""
    prompts = dict.fromkeys(row["prompt"] for row in stored.rows() if row["prompt"])
    if prompts:
        write_jsonl(path, ({"id": f"{number:06d}", "prompt": prompt} for number, prompt in enumerate(prompts)))


Ready = tuple[Reference, Path, features.Extractor]  # a set, the folder of its features, and what made them


def ready(names: Sequence[str], device: str) -> list[Ready]:
    """What distances to these sets need, so that anything missing shows before a model draws."""
    found: list[Ready] = []
    loaded: dict[str, features.Extractor] = {}
    for reference in map(get, names):
        if not reference.complete:
            fix = "repeat the glmkit reference add command that made it"
            raise UserError(f"the reference set {reference.name} is not finished", fix=fix)
        for place in reference.complete:
            if place.name not in loaded:
                loaded[place.name] = _extractor(reference, place, device)
            found.append((reference, place, loaded[place.name]))
    return found


def _extractor(reference: Reference, place: Path, device: str) -> features.Extractor:
    """The extractor that a set was made with; UserError when its weights are no longer the same."""
    extractor = features.load(read_json(place / COMPLETE)["spec"], device)
    if features.slug(extractor) != place.name:
        raise UserError(
            f"{extractor.label} is not what the reference set {reference.name} was made with",
            found=f"{features.slug(extractor)} instead of {place.name}",
            fix="make the set again under another name",
        )
    return extractor


def distances(images: Images, sets: Sequence[Ready], device: str) -> list[Distance]:
    """Every distance of a run to every set, on equally many images. Nothing is computed twice."""
    found = []
    for reference, place, extractor in sets:
        run = collect(images, extractor, images.cache(extractor), unique=False, title=extractor.label)
        found += [_distance(reference, extractor, kind, run, load(place), device) for kind in extractor.distances]
    return found


def _distance(
    reference: Reference, extractor: features.Extractor, kind: str, run: Features, theirs: Features, device: str
) -> Distance:
    n = min(run.count, theirs.count)
    half = min(n, theirs.count // 2)
    if half < 2:
        raise UserError(f"a distance to {reference.name} needs more images", found=f"{n} on the smaller side")
    key = f"{kind} {n} {fingerprint(theirs.folder / FEATURES)}"
    value = _once(run.folder, key, lambda: distance(kind, sample(run, n), sample(theirs, n, keep=True), device))
    halves = sample(theirs, half), sample(theirs, half, start=half)
    floor = _once(theirs.folder, f"{kind} {half}", lambda: distance(kind, *halves, device))
    prompts = {row["prompt"] for row in run.rows()} - {None}
    return Distance(
        reference=reference.name,
        metric=extractor.distances[kind],
        value=value,
        floor=floor,
        n=n,
        n_floor=half,
        n_run=run.count,
        n_reference=theirs.count,
        indicative=kind == "frechet" and n < INDICATIVE_BELOW,
        prompts=len(prompts),
        common_prompts=len(prompts & {row["prompt"] for row in theirs.rows()}),
        formats={"run": run.formats, "reference": theirs.formats},
        definition=f"{DEFINITIONS[kind]} on {extractor.label} features",
        conventions=dict(extractor.conventions),
    )


def _once(folder: Path, key: str, compute: Callable[[], float]) -> float:
    """A value that is kept beside the features it belongs to."""
    path = folder / "distances.json"
    known: dict[str, float] = read_json(path) if path.exists() else {}
    if key not in known:
        known[key] = compute()
        write_json(path, known)
    return known[key]
