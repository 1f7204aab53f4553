"""The rows behind a report, for spreadsheets (CSV) and programs (JSON): one row an image, those of all prompts."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glmkit.files import atomic_path, write_json
from glmkit.reporting.compare import Comparison
from glmkit.reporting.leaderboard import Leaderboard
from glmkit.reporting.load import EvalRun

Row = dict[str, Any]


def image_rows(runs: Sequence[EvalRun], comparison: Comparison) -> list[Row]:
    """What was asked, drawn, read and scored. `compared` is false for prompts that not all runs have.

    `image` is relative to the run folder; the score of a failed image is None, its `error` says why.
    """
    common = set(comparison.prompts)
    metrics = metric_names(runs)
    rows = []
    for run in runs:
        scores = {score.id: score for score in run.scores}
        for image in run.images:
            score = scores[image.id]
            rows.append(
                {
                    "run": run.name,
                    "prompt_id": image.prompt_id,
                    "seed": image.seed,
                    "split": score.split,
                    "language": score.language,
                    "compared": image.prompt_id in common,
                    "prompt": image.prompt,
                    "expected": list(score.expected),
                    "read": list(score.recognized_lines),
                    "image": image.file,
                    "error": score.error,
                    **{name: score.value(name) for name in metrics},
                }
            )
    return rows


def metric_names(runs: Sequence[EvalRun]) -> list[str]:
    """Every metric of any run, compared or not."""
    return list(dict.fromkeys(name for run in runs for name in run.summary.metrics))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """UTF-8 with a byte order mark, which spreadsheets need; lists of texts are JSON."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            texts = {name: json.dumps(row[name], ensure_ascii=False) for name in ("expected", "read")}
            writer.writerow({**row, **texts})


def write_all_json(
    path: Path, runs: Sequence[EvalRun], comparison: Comparison, board: Leaderboard, rows: Sequence[Row]
) -> None:
    """The leaderboard and the differences as they stand on the page, with published scores apart, and `rows`."""
    names = [name for name, _ in board.columns]
    standings = [
        {
            "rank": standing.rank,
            "run": standing.run,
            "images": [standing.n_scored, standing.n_total],
            "scores": {
                name: estimate._asdict()
                for name, estimate in zip(names, standing.estimates, strict=True)
                if estimate is not None
            },
        }
        for standing in board.standings
    ]
    described = [
        {
            "run": run.name,
            "model": run.summary.model,
            "adapters": list(run.summary.adapters),
            "ocr": run.summary.ocr,
            "family": run.summary.family,
        }
        for run in runs
    ]
    whole = {
        "suite": runs[0].summary.suite,
        "runs": described,
        "metrics": {name: about for run in runs for name, about in run.summary.metrics.items()},
        "leaderboard": standings,
        "differences": [
            {"metric": metric.name, "base": change.base, "other": change.other, **change.estimate._asdict()}
            for metric in comparison.metrics
            for change in metric.differences
        ],
        "published": [source.to_dict() for source, _ in board.published],
        "rows": list(rows),
    }
    write_json(path, whole)
