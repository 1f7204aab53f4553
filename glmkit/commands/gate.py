"""glmkit gate: an exit code for continuous integration, 1 when a run is worse than another by more than is allowed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

HELP = "End with 1 when a run is worse than another one by more than is allowed."
DESCRIPTION = """\
Compare one metric of two evaluations on the prompts that both scored, and decide by the 95 % interval of the drop:
how much worse RUN is than BASE, with the prompts resampled in pairs.

  exit 1   the whole interval lies above the allowed drop: RUN is worse by more than that
  exit 0   none of it does; or the allowed drop is inside it: then the prompts are too few to decide, which is
           printed, and ends with 1 under --strict
  exit 2   bad input
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description, parser.formatter_class = DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", metavar="RUN", type=Path, help="run folder of glmkit eval")
    parser.add_argument("--against", metavar="BASE", type=Path, required=True, help="the run that it is compared with")
    parser.add_argument("--metric", metavar="NAME", help="word_accuracy, ned, ... (default: the first of the suite)")
    parser.add_argument(
        "--max-drop", metavar="D", type=float, default=0.0, help="how much worse is allowed (default %(default)s)"
    )
    parser.add_argument("--strict", action="store_true", help="end with 1 also when the prompts are too few to decide")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the decision and what limits it; returns the exit code."""
    from glmkit.reporting.gate import compare_with_base

    gate = compare_with_base(arguments.folder, arguments.against, arguments.metric, arguments.max_drop)
    code = int(gate.outcome in (("failed", "undecided") if arguments.strict else ("failed",)))
    if arguments.json:
        print(json.dumps({**gate.to_dict(), "exit": code}, ensure_ascii=False))
    else:
        print(f"{gate.outcome}: {gate.sentence}")
        for note in gate.notes:
            print(f"  note: {note}", file=sys.stderr)
    return code
