"""glmkit report: evaluation runs side by side on one HTML page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from glmkit.errors import UserError
from glmkit.extras import require

HELP = "Compare evaluation runs on one HTML page."

# Options that a page of votes or of a history would pass over.
REFUSED = {"history": ("blind", "names", "max_mb", "zip", "paper"), "blind": ("max_mb", "zip", "paper")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RUN ..., --blind, --seed, --pairs, --history, --out, --name, --max-mb, --zip and --paper."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", type=Path, help="run folder of glmkit eval; the first is the baseline"
    )
    parser.add_argument(
        "--blind", action="store_true", help="a page on which people vote blindly on pairs of images, for glmkit votes"
    )
    parser.add_argument("--seed", metavar="N", type=int, help="of --blind: which pairs, order and sides (default 0)")
    parser.add_argument("--pairs", metavar="N", type=int, help="of --blind: how many (default 100)")
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
        help="the file to write; its data go to FILE.csv and .json. A page above --max-mb is FILE/index.html instead",
    )
    parser.add_argument(
        "--name",
        dest="names",
        metavar="NAME",
        action="append",
        default=[],
        help="what the page calls a run, once for each in their order (default: --name of glmkit eval, else its model)",
    )
    parser.add_argument(
        "--max-mb",
        metavar="MB",
        type=float,
        help="size of one file; a larger page is a folder whose images load as one scrolls (default 25)",
    )
    parser.add_argument("--zip", action="store_true", help="pack all of it into FILE.zip, to send it")
    parser.add_argument(
        "--paper",
        metavar="DIR",
        type=Path,
        help="write scores, seconds and memory as Markdown and LaTeX tables and as figures (SVG, PNG)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page and its data, and say where they are."""
    require("matplotlib", "a report")
    from glmkit.reporting.blind import write_blind
    from glmkit.reporting.build import write_report
    from glmkit.reporting.history import write_history

    _check(arguments)
    if arguments.blind:
        page, unreadable = write_blind(
            arguments.runs, arguments.out, arguments.names, seed=arguments.seed or 0, pairs=arguments.pairs
        )
        if unreadable:
            print(f"no votes on what cannot be read: {', '.join(map(str, unreadable))}", file=sys.stderr)
        print(f"wrote {page}; send it to voters, and give the files that they export to glmkit votes")
        return 0
    if arguments.history:
        page, *data = write_history(arguments.history, arguments.out)
        print(f"wrote {page}; its data in {' and '.join(map(str, data))}")
        return 0
    page, table, values, *zipped = write_report(
        arguments.runs,
        arguments.out,
        arguments.names,
        max_mb=arguments.max_mb,
        as_zip=arguments.zip,
        paper=arguments.paper,
    )
    print(f"wrote {page}; its data in {table} and {values}{''.join(f'; all of it in {path}' for path in zipped)}")
    if arguments.paper is not None:
        print(f"tables and figures in {arguments.paper}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for options that do not go together."""
    if bool(arguments.runs) == bool(arguments.history):
        found = "both" if arguments.runs else "neither"
        raise UserError("a report compares runs, or shows a history", found=found, fix="RUN RUN, or --history RUNS")
    for page, options in REFUSED.items():
        for option in options:
            if getattr(arguments, page) and getattr(arguments, option):
                flag = "--name" if option == "names" else f"--{option.replace('_', '-')}"
                raise UserError(f"a page of --{page} takes no {flag}", fix=f"leave out {flag}")
    for option in ("seed", "pairs"):
        if getattr(arguments, option) is not None and not arguments.blind:
            raise UserError(f"--{option} is of pages for votes", fix=f"--blind, or leave out --{option}")
