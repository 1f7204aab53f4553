"""glmkit quantize: a model folder in 8 bits."""

from __future__ import annotations

import argparse
from pathlib import Path

from glmkit.errors import UserError
from glmkit.shortcuts import PRECISIONS

HELP = "Write a model folder with its layers in 8 bits, which diffusers and transformers load with torchao, too."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="nano, a model folder or a hub id")
    parser.add_argument(
        "--precision", choices=PRECISIONS[1:], default=PRECISIONS[1], help="8bit is what files can be in (default 8bit)"
    )
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="the model folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and print how much smaller it is."""
    from glmkit.models import checkpoint
    from glmkit.models.checkpoint.torchao import write_quantized_model
    from glmkit.progress import stage_bars

    if arguments.precision != PRECISIONS[1]:
        # Of torchao 0.18: Int4Tensor for MSLK's kernels on a Hopper, Int4TilePackedTo4dTensor in tiles that CUDA packs,
        # IntxUnpackedToInt8Tensor with a byte for each value.
        what = "torchao's 4 bits are laid out for single GPU kernels, or take 8 in a file: files are in 8 bits"
        fix = "--precision 8bit; glmkit generate --precision 4bit packs exact weights when it loads them"
        raise UserError(what, found=f"--precision {arguments.precision}", fix=fix)
    with stage_bars() as bars:
        write_quantized_model(arguments.model, arguments.out, bars.update)
    before, after = (sum(size.bytes for size in checkpoint.describe(name)) for name in (arguments.model, arguments.out))
    print(f"{arguments.out}: {arguments.model} in 8 bits, {after / 2**20:,.0f} MiB of {before / 2**20:,.0f}")
    return 0
