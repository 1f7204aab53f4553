"""glmkit generate: images from prompts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from glmkit.errors import UserError
from glmkit.generation.options import Options, add_options, check_png

HELP = "Draw an image from a prompt, or many from a file of prompts."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what to draw; texts to write go in quotes")
    parser.add_argument(
        "--prompts",
        metavar="FILE.jsonl",
        type=Path,
        help="one object a line: prompt, and optionally id, seed, size, steps, guidance, condition_images",
    )
    parser.add_argument("--out", metavar="PATH", type=Path, required=True, help="FILE.png; with --prompts a folder")
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=64, help="prompts at a time (default %(default)s)"
    )
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise UserError(
            "give either a prompt or --prompts FILE.jsonl", fix='glmkit generate "a red poster" --out a.png'
        )
    options = Options.of(arguments)
    if arguments.prompts is not None:
        return _run_file(options, arguments.prompts, arguments.out, arguments.batch_size)
    check_png(arguments.out)

    from glmkit.models.checkpoint import resolve

    folder = resolve(options.model)

    from glmkit.generation.requests import draw_file, request_of

    request = request_of(options, folder, arguments.out.stem, arguments.prompt)
    print(draw_file(options, request, arguments.out))
    return 0


def _run_file(options: Options, prompts: Path, out: Path, batch_size: int) -> int:
    if batch_size < 1:
        raise UserError("--batch-size must be at least 1", found=batch_size)
    if out.is_file() or out.suffix.lower() == ".png":
        raise UserError("with --prompts, --out must be a folder", found=out, fix=f"--out {out.with_suffix('')}")

    from glmkit.models.checkpoint import resolve

    folder = resolve(options.model)

    from glmkit.distributed.process_group import ProcessGroup
    from glmkit.generation.requests import bars, draw_folder, read_requests, request_of

    requests = read_requests(prompts, request_of(options, folder, "", ""))
    with bars() as shown:
        drawn = draw_folder(options, requests, out, batch_size, shown)
    if not ProcessGroup.from_environment().is_main:  # the first of several processes speaks for all
        return 1 if drawn.failed else 0
    made = len(drawn.rows) - drawn.failed - drawn.skipped
    if options.json:
        print(json.dumps({"out": str(out), "drawn": made, "skipped": drawn.skipped, "failed": drawn.failed}))
    else:
        print(f"{out}: {made} drawn, {drawn.skipped} already there, {drawn.failed} failed")
    if drawn.failed:
        first = next(row for row in drawn.rows if row.error)
        print(f"{drawn.failed} failed, see `error` in {out}/images.jsonl; {first.id}: {first.error}", file=sys.stderr)
    return 1 if drawn.failed else 0
