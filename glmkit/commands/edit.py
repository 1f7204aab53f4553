"""glmkit edit: a picture from one to three pictures and an instruction."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from glmkit.commands import generate
from glmkit.errors import UserError

HELP = "Change one picture, or combine two or three, as a prompt says."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="SOURCE.png", nargs="+", help="one to three pictures")
    parser.add_argument("prompt", metavar="PROMPT", help="what to make of them")
    parser.add_argument("--out", metavar="FILE.png", type=Path, required=True, help="the file to write")
    generate.add_shared_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    generate.check_file(arguments.out)
    if Path(arguments.prompt).is_file():
        raise UserError(
            "the last argument is the prompt", found=f"the file {arguments.prompt}", fix='glmkit edit A.png "..."'
        )

    from glmkit.generation.jobs import draw_file, size_like
    from glmkit.generation.pictures import read_picture
    from glmkit.models import defaults

    options = generate.options_of(arguments)
    folder = options.folder()
    request = replace(options.request(folder, arguments.out.stem, arguments.prompt), sources=tuple(arguments.sources))
    pictures = [read_picture(path) for path in request.sources]
    if options.size is None:
        height, width = size_like(*pictures[0].size, defaults.of(folder))
        request = replace(request, height=height, width=width)
    generate.report(arguments, draw_file(options, folder, request, arguments.out))
    return 0
