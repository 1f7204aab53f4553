"""glmkit generate: images from prompts."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from glmkit.errors import UserError
from glmkit.generation.options import add_options, check_png, load_model_from

HELP = "Generate an image from a prompt, or many from a file of prompts."
BATCH_SIZE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what to generate; texts to render go in quotes")
    parser.add_argument(
        "--prompts",
        metavar="FILE.jsonl",
        type=Path,
        help="one object per line: prompt, and optionally id, seed, size, steps, guidance, condition_images",
    )
    parser.add_argument("--out", metavar="PATH", type=Path, required=True, help="FILE.png; with --prompts a folder")
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=BATCH_SIZE, help="prompts at a time (default %(default)s)"
    )
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Generate one image, or those of a file; returns 1 when some of them failed."""
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise UserError(
            "give either a prompt or --prompts FILE.jsonl", fix='glmkit generate "a red poster" --out a.png'
        )
    if arguments.prompts is not None:
        return _run_file(arguments)
    check_png(arguments.out)
    generate_file(arguments, arguments.prompt)
    return 0


def generate_file(arguments: argparse.Namespace, prompt: str, condition_images: tuple[str, ...] = ()) -> None:
    """Generate one image into the file `--out`, and print what was done, for people or as JSON."""
    from glmkit.generation.images import image_text, save_png, weights_digest
    from glmkit.generation.pipeline import generate_batch
    from glmkit.generation.requests import check_request, new_request
    from glmkit.inputs.images import read_image
    from glmkit.inputs.quotes import describe, quoted_texts
    from glmkit.models.checkpoint import resolve
    from glmkit.progress import stage_bars

    # 1. Make the request, with the model's defaults; an edit keeps the shape of its first image.
    folder = resolve(arguments.model)
    shapes = [read_image(path).size for path in condition_images]
    request = new_request(
        folder,
        arguments.out.stem,
        prompt,
        size=arguments.size,
        shape=shapes[0] if shapes else None,
        seed=arguments.seed,
        steps=arguments.steps,
        guidance=arguments.guidance,
        condition_images=condition_images,
    )
    check_request(request)
    # 2. Load the model and generate.
    started = time.perf_counter()
    hybrid = load_model_from(arguments, [request])
    texts = quoted_texts(prompt)
    print("\n".join(describe(prompt)), file=sys.stderr)
    with stage_bars() as bars:
        (image,) = generate_batch(hybrid, [request], bars.update)
    # 3. Save the image, which carries its request.
    weights = weights_digest(folder, hybrid.adapters)
    save_png(arguments.out, image, image_text(request, hybrid.name, hybrid.adapters, weights))
    seconds = round(time.perf_counter() - started, 2)
    if not arguments.json:
        print(f"{arguments.out}: {request.width}x{request.height}, seed {request.seed}, {seconds} s")
        return
    about = {"texts": texts, "model": hybrid.name, "adapters": hybrid.adapters}
    result = {"file": str(arguments.out), **request.to_dict(), **about}
    del result["id"]
    print(json.dumps({**result, "seconds": seconds}, ensure_ascii=False))


def _run_file(arguments: argparse.Namespace) -> int:
    prompts, out = arguments.prompts, arguments.out
    if arguments.batch_size < 1:
        raise UserError("--batch-size must be at least 1", found=arguments.batch_size)
    if out.is_file() or out.suffix.lower() == ".png":
        raise UserError("with --prompts, --out must be a folder", found=out, fix=f"--out {out.with_suffix('')}")

    from glmkit.distributed.process_group import ProcessGroup
    from glmkit.generation.batch import generate_many
    from glmkit.generation.hybrid_generator import HybridGenerator
    from glmkit.generation.images import is_image_of, is_ours, weights_digest
    from glmkit.generation.requests import new_request, read_requests
    from glmkit.inputs.quotes import describe_many
    from glmkit.models.checkpoint import resolve
    from glmkit.progress import stage_bars

    # 1. Read the requests, with the model's defaults.
    folder, is_main = resolve(arguments.model), ProcessGroup.from_environment().is_main
    base = new_request(
        folder,
        "",
        "",
        size=arguments.size,
        seed=arguments.seed,
        steps=arguments.steps,
        guidance=arguments.guidance,
    )
    requests = read_requests(prompts, base)
    if is_main:
        print("\n".join(describe_many({request.id: request.prompt for request in requests})), file=sys.stderr)
    # 2. Generate those whose images are not there.
    weights = weights_digest(folder, arguments.adapter)
    with stage_bars(disable=not is_main) as bars:
        images = generate_many(
            requests,
            out,
            lambda: HybridGenerator(load_model_from(arguments, requests), arguments.batch_size, bars.update),
            is_complete=lambda path, request: is_image_of(path, request, weights),
            may_replace=is_ours,
            bars=bars,
        )
    # 3. Tell what was done; the first of several processes speaks for all.
    if is_main:
        counts = {"generated": images.n_generated, "skipped": images.n_skipped, "failed": images.n_failed}
        text = f"{out}: {images.n_generated} generated, {images.n_skipped} already there, {images.n_failed} failed"
        print(json.dumps({"out": str(out), **counts}) if arguments.json else text)
        if images.n_failed:
            first = next(record for record in images.records if record.error)
            where = f"see `error` in {out}/images.jsonl"
            print(f"{images.n_failed} failed, {where}; {first.id}: {first.error}", file=sys.stderr)
    return 1 if images.n_failed else 0
