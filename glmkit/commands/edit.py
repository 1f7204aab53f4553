"""glmkit edit: an image from one to three images and an instruction."""

from __future__ import annotations

import argparse
from pathlib import Path

from glmkit.commands.generate import generate_file
from glmkit.errors import UserError
from glmkit.generation.options import add_options, check_png, run_by_parallel

HELP = "Change one image, or combine two or three, as a prompt says."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("condition_images", metavar="IMAGE.png", nargs="+", help="one to three images to edit")
    parser.add_argument("prompt", metavar="PROMPT", help="what to make of them")
    parser.add_argument("--out", metavar="FILE.png", type=Path, required=True, help="the file to write")
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Generate the edited image."""
    return run_by_parallel(arguments, lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    check_png(arguments.out)
    if Path(arguments.prompt).is_file():
        raise UserError("the prompt comes last", found=f"the file {arguments.prompt}", fix='glmkit edit A.png "..."')
    generate_file(arguments, arguments.prompt, tuple(arguments.condition_images))
    return 0
