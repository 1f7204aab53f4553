"""Distances of the runs to reference sets, for the tables of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glmkit.records import Distance
from glmkit.reporting import words
from glmkit.reporting.load import EvalRun


@dataclass(frozen=True)
class Table:
    """One kind of distance to one set: a row for each run that has it, and what limits the comparison."""

    title: str
    definition: str
    rows: tuple[tuple[str, Distance], ...]
    notes: tuple[str, ...]


def distance_tables(runs: Sequence[EvalRun]) -> tuple[Table, ...]:
    """Tables in the order of the first run that has them. Features with other conventions are another distance."""
    found: dict[tuple[str, str, str], list[tuple[str, Distance]]] = {}
    for run in runs:
        for row in run.summary.distances:
            distance = Distance.from_dict(dict(row))
            conventions = repr(sorted(distance.conventions.items()))
            found.setdefault((distance.metric, distance.reference, conventions), []).append((run.name, distance))
    return tuple(_table(rows) for rows in found.values())


def _table(rows: Sequence[tuple[str, Distance]]) -> Table:
    first = rows[0][1]
    return Table(
        f"{words.label(first.metric)} to {first.reference}", first.definition, tuple(rows), tuple(_notes(rows))
    )


def _notes(rows: Sequence[tuple[str, Distance]]) -> list[str]:
    """What a reader must know before trusting these numbers."""
    said = []
    distances = [distance for _, distance in rows]
    if any(distance.indicative for distance in distances):
        said.append("Indicative only: fewer than 2,048 images a side, so the covariances have no full rank.")
    if len({distance.n for distance in distances}) > 1:
        said.append("The runs have different numbers of images; such distances cannot be compared with each other.")
    if not all(distance.common_prompts == distance.prompts for distance in distances):
        said.append("Other prompts than those of the set: part of the distance is what the images show.")
    if any(len({kind for kinds in distance.formats.values() for kind in kinds}) > 1 for distance in distances):
        said.append("Files of several kinds (PNG, JPEG ...): part of the distance is their compression.")
    return said
