"""Distances of a run to reference sets, on equally many images of both sides; nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from glmkit.errors import UserError
from glmkit.evaluation.features import extractors
from glmkit.evaluation.features.distances import DEFINITIONS, distance, sample
from glmkit.evaluation.features.store import COMPLETE, FEATURES, Features, collect, load
from glmkit.evaluation.reference_sets.sets import Reference, get
from glmkit.evaluation.reference_sets.sources import Images
from glmkit.files import read_json, write_json
from glmkit.hashing import fingerprint
from glmkit.records import Distance

INDICATIVE_BELOW = 2048  # images; with fewer, the covariance of 2048 features has no full rank

Ready = tuple[Reference, Path, extractors.Extractor]  # a set, the folder of its features, and what made them


def ready(names: Sequence[str], device: str) -> list[Ready]:
    """What distances to these sets need, so that anything missing shows before a model draws."""
    found: list[Ready] = []
    loaded: dict[str, extractors.Extractor] = {}
    for reference in map(get, names):
        if not reference.complete:
            fix = "repeat the glmkit reference add command that made it"
            raise UserError(f"the reference set {reference.name} is not finished", fix=fix)
        for place in reference.complete:
            if place.name not in loaded:
                loaded[place.name] = _extractor(reference, place, device)
            found.append((reference, place, loaded[place.name]))
    return found


def _extractor(reference: Reference, place: Path, device: str) -> extractors.Extractor:
    """The extractor that a set was made with; UserError when its weights are no longer the same."""
    extractor = extractors.load(read_json(place / COMPLETE)["spec"], device)
    if extractors.slug(extractor) != place.name:
        raise UserError(
            f"{extractor.label} is not what the reference set {reference.name} was made with",
            found=f"{extractors.slug(extractor)} instead of {place.name}",
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
    reference: Reference, extractor: extractors.Extractor, kind: str, run: Features, theirs: Features, device: str
) -> Distance:
    n = min(run.count, theirs.count)
    half = min(n, theirs.count // 2)
    if half < 2:
        raise UserError(f"a distance to {reference.name} needs more images", found=f"{n} on the smaller side")
    key = f"{kind} {n} {fingerprint(theirs.folder / FEATURES)}"
    value = _once(run.folder, key, lambda: distance(kind, sample(run, n), sample(theirs, n, keep=True), device))
    halves = sample(theirs, half), sample(theirs, half, start=half)
    self_distance = _once(theirs.folder, f"{kind} {half}", lambda: distance(kind, *halves, device))
    prompts = {row["prompt"] for row in run.rows()} - {None}
    return Distance(
        reference=reference.name,
        metric=extractor.distances[kind],
        value=value,
        self_distance=self_distance,
        n=n,
        n_self_distance=half,
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
