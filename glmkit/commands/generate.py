"""glmkit generate: pictures from prompts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.errors import UserError

if TYPE_CHECKING:
    from glmkit.generation.jobs import Options

HELP = "Draw a picture from a prompt, or many from a file of prompts."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what to draw; texts to write go in quotes")
    parser.add_argument(
        "--prompts",
        metavar="FILE.jsonl",
        type=Path,
        help="one object a line: prompt, and optionally id, seed, size, steps, guidance, sources",
    )
    parser.add_argument("--out", metavar="PATH", type=Path, required=True, help="FILE.png; with --prompts a folder")
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=4, help="with --prompts: pictures at a time (%(default)s)"
    )
    add_shared_arguments(parser)


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default %(default)s)")
    parser.add_argument("--adapter", metavar="DIR", nargs="+", action="extend", default=[], help="adapters to add")
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="pixels, multiples of 32 (default: the model's)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="another seed, another picture (default 0)")
    parser.add_argument("--steps", metavar="N", type=int, help="steps of the diffusion decoder (default: the model's)")
    parser.add_argument("--guidance", metavar="G", type=float, help="how closely to follow (default: the model's)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise UserError(
            "give either a prompt or --prompts FILE.jsonl", fix='glmkit generate "a red poster" --out a.png'
        )
    if arguments.prompts is not None:
        return _run_file(arguments)
    check_file(arguments.out)
    options = options_of(arguments)
    folder = options.folder()
    request = options.request(folder, arguments.out.stem, arguments.prompt)

    from glmkit.generation.jobs import draw_file

    report(arguments, draw_file(options, folder, request, arguments.out))
    return 0


def options_of(arguments: argparse.Namespace) -> Options:
    from glmkit.generation.jobs import Options

    return Options(
        arguments.model,
        tuple(arguments.adapter),
        arguments.size,
        arguments.seed,
        arguments.steps,
        arguments.guidance,
        arguments.device,
        arguments.dtype,
    )


def check_file(path: Path) -> None:
    """UserError unless `path` can become a PNG file."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UserError("--out must be a PNG file", found=path, fix=f"--out {path.with_suffix('.png')}")


def report(arguments: argparse.Namespace, result: dict[str, object]) -> None:
    """One line about one picture."""
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print(f"{result['file']}: {result['width']}x{result['height']}, seed {result['seed']}, {result['seconds']} s")


def _run_file(arguments: argparse.Namespace) -> int:
    from glmkit.generation.jobs import bars, draw_folder, read_requests

    out: Path = arguments.out
    if arguments.batch_size < 1:
        raise UserError("--batch-size must be at least 1", found=arguments.batch_size)
    if out.is_file() or out.suffix.lower() == ".png":
        raise UserError("with --prompts, --out must be a folder", found=out, fix=f"--out {out.with_suffix('')}")
    options = options_of(arguments)
    folder = options.folder()
    requests = read_requests(arguments.prompts, options.request(folder, "", ""))
    with bars() as shown:
        signature = (options.model, options.adapters)
        drawn = draw_folder(lambda: options.load(folder), requests, out, signature, arguments.batch_size, shown)
    made = len(drawn.rows) - drawn.failed - drawn.skipped
    if arguments.json:
        print(json.dumps({"out": str(out), "drawn": made, "skipped": drawn.skipped, "failed": drawn.failed}))
    else:
        print(f"{out}: {made} drawn, {drawn.skipped} already there, {drawn.failed} failed")
    if drawn.failed:
        first = next(row for row in drawn.rows if row.error)
        print(f"{drawn.failed} failed, see `error` in {out}/images.jsonl; {first.id}: {first.error}", file=sys.stderr)
    return 1 if drawn.failed else 0
