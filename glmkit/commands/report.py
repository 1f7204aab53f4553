"""glmkit report: evaluation runs side by side in one HTML file."""

from __future__ import annotations

import argparse
from pathlib import Path

from glmkit.errors import UserError
from glmkit.extras import require

HELP = "Compare evaluation runs in one self-contained HTML file."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RUN ..., --out and --name."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", type=Path, help="run folder of glmkit eval; the first is the baseline"
    )
    parser.add_argument(
        "--history",
        metavar="RUNS",
        nargs="+",
        type=Path,
        help="the scores of all evaluations in these folders over time, instead of a comparison",
    )
    parser.add_argument(
        "--out",
        metavar="FILE.html",
        type=Path,
        required=True,
        help="the file to write; its data go to FILE.csv and .json",
    )
    parser.add_argument(
        "--name",
        dest="names",
        metavar="NAME",
        action="append",
        default=[],
        help="what the page calls a run, once for each in their order (default: --name of glmkit eval, else its model)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page and its data, and say where they are."""
    require("matplotlib", "a report")
    from glmkit.reporting.build import write_report
    from glmkit.reporting.history import write_history

    if bool(arguments.runs) == bool(arguments.history):
        found = "both" if arguments.runs else "neither"
        raise UserError("a report compares runs, or shows a history", found=found, fix="RUN RUN, or --history RUNS")
    if arguments.history:
        page, *data = write_history(arguments.history, arguments.out)
    else:
        page, *data = write_report(arguments.runs, arguments.out, arguments.names)
    print(f"wrote {page}; its data in {' and '.join(map(str, data))}")
    return 0
