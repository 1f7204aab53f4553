"""glmkit quantize: a model folder in 8 bits."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Write a model folder with its layers in 8 bits, which diffusers and transformers load with torchao, too."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="nano, a model folder or a hub id")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="the model folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and print how much smaller it is."""
    from glmkit.models import checkpoint
    from glmkit.models.checkpoint.torchao import write_quantized_model
    from glmkit.progress import stage_bars

    with stage_bars() as bars:
        write_quantized_model(arguments.model, arguments.out, bars.update)
    before, after = (sum(size.bytes for size in checkpoint.describe(name)) for name in (arguments.model, arguments.out))
    print(f"{arguments.out}: {arguments.model} in 8 bits, {after / 2**20:,.0f} MiB of {before / 2**20:,.0f}")
    return 0
