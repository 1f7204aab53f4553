"""glmkit pairs: a data set of better and rejected images, by rewards or by votes, for stages with dpo."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from glmkit.commands.reward import add_reward_options, report_of
from glmkit.errors import UserError
from glmkit.runs import check_new

HELP = "Make a data set of better and rejected images, by rewards or by votes."
MARGIN = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_reward_options(parser, required=False)
    parser.add_argument(
        "--margin",
        metavar="M",
        type=float,
        help=f"the least by which the weighted rewards of a pair differ (default {MARGIN})",
    )
    parser.add_argument(
        "--votes",
        metavar="FILE",
        nargs="+",
        type=Path,
        help="by votes of a page of glmkit report --blind",
    )
    parser.add_argument("--runs", metavar="RUN", nargs="+", type=Path, help="the run folders of that page")
    parser.add_argument(
        "--name",
        dest="names",
        metavar="NAME",
        action="append",
        default=[],
        help="what the page calls them, in order",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the pairs, and say how many there are and what to type next."""
    from glmkit.api import pairs

    _check(arguments)
    if arguments.votes:
        found = pairs.pairs_by_votes(arguments.votes, arguments.runs, arguments.names)
        of = "the pairs with votes, ties aside"
    else:
        report = report_of(arguments)
        found = pairs.pairs_by_rewards(report, MARGIN if arguments.margin is None else arguments.margin)
        of = f"{len({image.prompt_id for image in report.images})} prompts"
    pairs.write_pairs(found, arguments.out)
    print(f"wrote {len(found)} pairs of {of}; glmkit finetune nano/dpo {shlex.quote(f'data.train={arguments.out}')}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """UserError for options that do not go together, a margin that is none, and an output that is there."""
    from glmkit.api.pairs import check_margin

    by_votes = bool(arguments.votes)
    needed = ("runs",) if by_votes else ("images", "prompts")
    refused = ("images", "prompts", "reward", "base", "margin", "texts_from") if by_votes else ("runs", "names")
    for name in needed:
        if not getattr(arguments, name):
            raise UserError(f"pairs need --{name}", fix="--images DIR --prompts FILE, or --votes FILE --runs RUN RUN")
    for name in refused:
        if getattr(arguments, name) not in (None, []):  # --margin 0 is given, too
            flag = "--" + {"names": "name"}.get(name, name).replace("_", "-")
            raise UserError(f"pairs by {'votes' if by_votes else 'rewards'} take no {flag}", fix=f"leave out {flag}")
    # Before any reward is computed, which may take hours.
    if arguments.margin is not None:
        check_margin(arguments.margin)
    check_new(arguments.out)
