"""glmkit votes: what people say of blind pairs of images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.text import aligned

if TYPE_CHECKING:
    from glmkit.evaluation.stats import Estimate
    from glmkit.reporting.votes import VoteResults

HELP = "Win rates and Bradley-Terry scores of the votes that pages of glmkit report --blind export."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add FILE ... and --json."""
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="exported votes, one file per voter")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print what the votes say."""
    from glmkit.reporting.votes import evaluate_votes

    results = evaluate_votes(arguments.files)
    print(json.dumps(results.to_dict(), ensure_ascii=False) if arguments.json else in_words(results))
    return 0


def in_words(results: VoteResults) -> str:
    """Lay out the results; intervals are 95 % over prompts."""
    votes = sum(n for n, _ in results.voters.values())
    ties = sum(ties for _, ties in results.voters.values())
    prompts = next(iter(results.scores.values())).n
    blocks = [f"{votes} votes, {ties} of them ties, by {len(results.voters)} voters on {prompts} prompts"]
    blocks.append(aligned([("Bradley-Terry score", ""), *((run, _text(results.scores[run])) for run in results.order)]))
    rates = [(f"{a} against {b}", _text(rate), f"{n} votes") for (a, b), (rate, n) in results.wins.items()]
    blocks.append(aligned([("win rate, a tie is half", "", ""), *rates]))
    agreements = []
    if between := results.between_voters:
        alpha = "" if between.alpha is None else f"Krippendorff's alpha {_text(between.alpha)}"
        agreements.append(("voters with each other", _text(between.share), f"{between.n} pairs", alpha))
    agreements += [(name, _text(one.share), f"{one.n} votes", "") for name, one in results.with_metrics.items()]
    if agreements:
        blocks.append(aligned([("agreement", "", "", ""), *agreements]))
    return "\n\n".join(blocks)


def _text(estimate: Estimate) -> str:
    from glmkit.evaluation.stats import as_text

    return as_text(estimate._asdict())
