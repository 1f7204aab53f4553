"""glmkit bench: how fast images are generated, and how fast adapters are trained, here."""

from __future__ import annotations

import argparse

from glmkit.commands.bench import price, speed, train
from glmkit.files import check_writable

HELP = "Measure the latency of images, beside diffusers' pipeline on the same weights, or the throughput of training."
KINDS = {"speed": speed, "price": price, "train": train}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, kind in KINDS.items():
        kind.add_arguments(kinds.add_parser(name, help=kind.HELP))


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark of the kind that was named."""
    if arguments.out:
        check_writable(arguments.out)
    code: int = KINDS[arguments.kind].run(arguments)
    return code
