"""The data behind a report, for spreadsheets (CSV) and programs (JSON): one record per image, those of all prompts."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from glmkit.evaluation import stats
from glmkit.files import atomic_path, json_list, shareable_path
from glmkit.reporting.compare import Comparison
from glmkit.reporting.leaderboard import Leaderboard
from glmkit.reporting.load import EvalRun

# What begins a formula, also behind a white space that spreadsheets drop; full-width signs count in some countries.
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
ImageRecord = dict[str, Any]
FIRST_COLUMNS = "run,prompt_id,seed,split,language,compared,"
REPORT_FIELDS = {"suite", "runs", "leaderboard", "differences", "images"}


def image_records(runs: Sequence[EvalRun], comparison: Comparison) -> Iterator[ImageRecord]:
    """Yield prompt, image, reading and scores of every image; `compared`: every run has the prompt.

    `image` is relative to the run folder; the score of a failed image is None, its `error` says why.
    """
    common = set(comparison.prompts)
    metrics = dict.fromkeys(name for run in runs for name in run.summary.metrics)  # compared or not
    is_rewritten = any(run.summary.rewriting for run in runs)
    for run in runs:
        scores = {score.id: score for score in run.scores}
        for image in run.images:
            score = scores[image.id]
            yield {
                "run": run.name,
                "prompt_id": image.prompt_id,
                "seed": image.seed,
                "split": score.split,
                "language": score.language,
                "compared": image.prompt_id in common,
                "prompt": image.prompt,
                **({"rewritten": image.rewritten} if is_rewritten else {}),
                "expected": list(score.expected),
                "recognized_lines": list(score.recognized_lines),
                "image": image.file,
                "error": score.error,
                **{name: stats.image_value(score, name) for name in metrics},
            }


def is_data(path: Path) -> bool:
    """Tell whether `write_data` wrote this file, or the history of runs; reads no further than the first record."""
    keys = set()
    try:
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix == ".csv":
                return file.read(len(FIRST_COLUMNS)) == FIRST_COLUMNS
            for line in file if file.readline(3) == "{\n" else ():
                if line.startswith('  "'):  # a field of the whole
                    keys.add(line.split('"')[1])
                if "history" in keys or keys >= REPORT_FIELDS:
                    return True
    except (OSError, ValueError):
        pass
    return False


def write_data(table: Path, report: Path, about: Mapping[str, Any], records: Iterable[ImageRecord]) -> None:
    """Write the records as CSV, and as JSON beside what is said `about` the runs, one after the other.

    The CSV is UTF-8 with a byte order mark, which spreadsheets need; lists of texts are JSON. A text that a spreadsheet
    would take for a formula has an apostrophe before it.
    """
    with (
        atomic_path(table) as temporary,
        temporary.open("w", encoding="utf-8-sig", newline="") as file,
        json_list(report, about, "images") as add_object,
    ):
        writer = csv.writer(file)
        for number, record in enumerate(records):
            if number == 0:
                writer.writerow(map(_cell, record))
            writer.writerow(map(_cell, record.values()))
            add_object(record)


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def report_values(runs: Sequence[EvalRun], comparison: Comparison, board: Leaderboard) -> dict[str, Any]:
    """Collect the leaderboard and the differences of the page, published scores apart."""
    metrics = [name for name, _ in board.columns]
    return {
        "suite": runs[0].summary.suite,
        "runs": [
            {
                "run": run.name,
                "model": shareable_path(run.summary.model),
                "adapters": list(map(shareable_path, run.summary.adapters)),
                "ocr": run.summary.ocr,
                "family": run.summary.family,
                **({"judge": run.summary.judge} if run.summary.judge else {}),
            }
            for run in runs
        ],
        "metrics": {name: about for run in runs for name, about in run.summary.metrics.items()},
        "leaderboard": [
            {
                "rank": standing.rank,
                "run": standing.run,
                "n_scored": standing.n_scored,
                "n_total": standing.n_total,
                **({} if standing.no_share is None else {"no_share": standing.no_share}),
                "scores": {
                    metric: estimate._asdict()
                    for metric, estimate in zip(metrics, standing.estimates, strict=True)
                    if estimate is not None
                },
            }
            for standing in board.standings
        ],
        "differences": [
            {"metric": metric.name, "baseline": change.baseline, "run": change.run, **change.estimate._asdict()}
            for metric in comparison.metrics
            for change in metric.differences
        ],
        "published": [source.to_dict() for below in board.published.values() for source, _ in below],
        "published_related": [source.to_dict() for _, sources, _ in board.related for source in sources],
    }
