"""Distances of a run to reference sets, on equally many images of both sides; nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from glmkit.errors import UserError
from glmkit.evaluation.features import extractors
from glmkit.evaluation.features.distances import DEFINITIONS, distance, sample
from glmkit.evaluation.features.run_images import run_features
from glmkit.evaluation.features.store import FEATURES, StoredFeatures, load, read_complete
from glmkit.evaluation.reference_sets.sets import ReferenceSet, get
from glmkit.files import read_json, write_json
from glmkit.hashing import fingerprint
from glmkit.records import Distance, Generation
from glmkit.shapes import check_shape

INDICATIVE_BELOW = 2048  # images; with fewer, the covariance of 2048 features has no full rank


class LoadedSet(NamedTuple):
    """Hold a set, the folder of its features of one kind, and the extractor that made them."""

    reference: ReferenceSet
    features: Path
    extractor: extractors.Extractor


def load_sets(names: Sequence[str], device: str) -> list[LoadedSet]:
    """Load what distances to these sets need; UserError for a set that is unknown or unfinished."""
    loaded: list[LoadedSet] = []
    by_features: dict[str, extractors.Extractor] = {}
    for reference in map(get, names):
        if not reference.complete:
            fix = "repeat the glmkit reference add command that made it"
            raise UserError(f"the reference set {reference.name} is not finished", fix=fix)
        for features in reference.complete:
            if features.name not in by_features:
                by_features[features.name] = _extractor(reference, features, device)
            loaded.append(LoadedSet(reference, features, by_features[features.name]))
    return loaded


def _extractor(reference: ReferenceSet, features: Path, device: str) -> extractors.Extractor:
    """Load the extractor that a set was made with; UserError when its weights are no longer the same."""
    extractor = extractors.load(read_complete(features)["spec"], device)
    if extractors.slug(extractor) != features.name:
        raise UserError(
            f"{extractor.label} is not what the reference set {reference.name} was made with",
            found=f"{extractors.slug(extractor)} instead of {features.name}",
            fix="make the set again under another name",
        )
    return extractor


def distances(folder: Path, images: Sequence[Generation], sets: Sequence[LoadedSet], device: str) -> list[Distance]:
    """Measure every distance of the images of a run to every set."""
    measured = []
    for reference, features, extractor in sets:
        ours, theirs = run_features(folder, images, extractor), load(features)
        measured += [_distance(reference, extractor, kind, ours, theirs, device) for kind in extractor.distances]
    return measured


def _distance(
    reference: ReferenceSet,
    extractor: extractors.Extractor,
    kind: str,
    ours: StoredFeatures,
    theirs: StoredFeatures,
    device: str,
) -> Distance:
    n = min(ours.count, theirs.count)
    half = min(n, theirs.count // 2)
    if half < 2:
        raise UserError(
            f"a distance to {reference.name} needs more images",
            found=f"{n} on the smaller side",
            fix="at least 2 images here, and 4 in the set",
        )
    content = fingerprint(theirs.folder / FEATURES)
    value = _once(
        ours.folder,
        f"{kind} {n} {content}",
        lambda: distance(kind, sample(ours, n), sample(theirs, n, cached=True), device),
    )
    halves = sample(theirs, half), sample(theirs, half, start=half)
    self_distance = _once(theirs.folder, f"{kind} {half} {content}", lambda: distance(kind, *halves, device))
    prompts = {record["prompt"] for record in ours.records()} - {None}
    return Distance(
        reference=reference.name,
        metric=extractor.distances[kind],
        value=value,
        self_distance=self_distance,
        n=n,
        n_self_distance=half,
        n_run=ours.count,
        n_reference=theirs.count,
        indicative=kind == "frechet" and n < INDICATIVE_BELOW,
        prompts=len(prompts),
        common_prompts=len(prompts & {record["prompt"] for record in theirs.records()}),
        formats={"run": ours.formats, "reference": theirs.formats},
        definition=f"{DEFINITIONS[kind]} on {extractor.label} features",
        conventions=dict(extractor.conventions),
    )


def _once(folder: Path, key: str, compute: Callable[[], float]) -> float:
    """Compute a value, or take the one beside the features it belongs to."""
    path = folder / "distances.json"
    known: dict[str, float] = {}
    with suppress(UserError):  # missing or damaged: computed again
        stored = read_json(path)
        check_shape(stored, Mapping[str, float], str(path))
        known = stored
    if key not in known:
        known[key] = compute()
        write_json(path, known)
    return known[key]
