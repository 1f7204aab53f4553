"""glmkit edit: an image from one to three images and an instruction."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from glmkit.errors import UserError
from glmkit.generation.options import Options, add_options, check_png

HELP = "Change one image, or combine two or three, as a prompt says."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("condition_images", metavar="IMAGE.png", nargs="+", help="one to three images")
    parser.add_argument("prompt", metavar="PROMPT", help="what to make of them")
    parser.add_argument("--out", metavar="FILE.png", type=Path, required=True, help="the file to write")
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    options = Options.of(arguments)
    check_png(arguments.out)
    if Path(arguments.prompt).is_file():
        raise UserError("the prompt comes last", found=f"the file {arguments.prompt}", fix='glmkit edit A.png "..."')

    from glmkit.generation.requests import draw_file, request_of, size_like
    from glmkit.inputs.images import read_image
    from glmkit.models.checkpoint import defaults, resolve

    folder = resolve(options.model)
    images = [read_image(path) for path in arguments.condition_images]
    request = request_of(options, folder, arguments.out.stem, arguments.prompt)
    request = replace(request, condition_images=tuple(arguments.condition_images))
    if options.size is None:
        height, width = size_like(*images[0].size, defaults.of(folder))
        request = replace(request, height=height, width=width)
    print(draw_file(options, request, arguments.out))
    return 0
