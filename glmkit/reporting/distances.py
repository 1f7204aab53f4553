"""Distances of the runs to reference sets, for the tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glmkit.records import Distance
from glmkit.reporting import wording
from glmkit.reporting.load import EvalRun


@dataclass(frozen=True)
class DistanceTable:
    """One kind of distance to one reference set: (run, distance) for each run that has it, and what limits it."""

    title: str
    definition: str
    distances: tuple[tuple[str, Distance], ...]
    notes: tuple[str, ...]


def distance_tables(runs: Sequence[EvalRun]) -> tuple[DistanceTable, ...]:
    """Collect tables in the order of the first run that has them; other conventions make another distance."""
    tables: dict[tuple[str, str, str], list[tuple[str, Distance]]] = {}
    for run in runs:
        for record in run.summary.distances:
            distance = Distance.from_dict(dict(record))
            conventions = repr(sorted(distance.conventions.items()))
            tables.setdefault((distance.metric, distance.reference, conventions), []).append((run.name, distance))
    return tuple(_table(distances) for distances in tables.values())


def _table(distances: Sequence[tuple[str, Distance]]) -> DistanceTable:
    _, first = distances[0]
    title = f"{wording.label(first.metric)} to {first.reference}"
    return DistanceTable(title, first.definition, tuple(distances), tuple(_notes([d for _, d in distances])))


def _notes(distances: Sequence[Distance]) -> list[str]:
    """Say what a reader must know before trusting these numbers."""
    notes = []
    if any(distance.indicative for distance in distances):
        notes.append("Indicative only: fewer than 2,048 images per side, so the covariances have no full rank.")
    if len({distance.n for distance in distances}) > 1:
        notes.append("The runs have different numbers of images; such distances cannot be compared with each other.")
    if not all(distance.common_prompts == distance.prompts for distance in distances):
        notes.append("Other prompts than those of the set: part of the distance is what the images show.")
    if any(len({kind for kinds in distance.formats.values() for kind in kinds}) > 1 for distance in distances):
        notes.append("Files of several kinds (PNG, JPEG ...): part of the distance is their compression.")
    return notes
