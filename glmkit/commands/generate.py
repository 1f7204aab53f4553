"""glmkit generate: images from prompts."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.errors import UserError
from glmkit.files import called
from glmkit.generation.options import (
    add_options,
    add_rewrite_options,
    check_name,
    check_png,
    load_model_from,
    run_by_parallel,
)
from glmkit.inputs.prompts import SEEDS_HELP
from glmkit.shortcuts import EXACT_REQUEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from glmkit.records import Request

HELP = "Generate an image from a prompt, or many from a file of prompts or with several seeds."
BATCH_SIZE = 64
PROMPT_FILES = (".txt", ".jsonl", ".json", ".csv", ".tsv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="what to generate; texts to render go in quotes")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="a .txt file with a prompt per line; or a .jsonl, .json or .csv file of prompt, and optionally id, texts, "
        "seed, size, steps, guidance, condition_images",
    )
    parser.add_argument(
        "--out", metavar="PATH", type=Path, required=True, help="FILE.png; a folder with --prompts, --count or --seeds"
    )
    parser.add_argument("--count", metavar="N", type=int, default=1, help="images of each prompt, of seeds one by one")
    parser.add_argument("--seeds", metavar="LIST", help=SEEDS_HELP)
    parser.add_argument(
        "--batch-size", metavar="N", type=int, default=BATCH_SIZE, help="prompts at a time (default %(default)s)"
    )
    add_options(parser)
    add_rewrite_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Generate one image, or those of a file or of several seeds; returns 1 when some of them failed."""
    return run_by_parallel(arguments, lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    if (arguments.prompt is None) == (arguments.prompts is None):
        raise UserError("give either a prompt or --prompts FILE", fix='glmkit generate "a red poster" --out a.png')
    _check_prompt(arguments)
    if arguments.prompts is not None or arguments.count != 1 or arguments.seeds is not None:
        return _run_many(arguments)
    if arguments.rewrite or arguments.rewrite_instruction:
        fix = "--prompts FILE --out FOLDER, or --seeds 0 --out FOLDER"
        raise UserError("--rewrite keeps rewritten prompts in a folder of images", found=arguments.out, fix=fix)
    check_png(arguments.out)
    generate_file(arguments, arguments.prompt)
    return 0


def _check_prompt(arguments: argparse.Namespace) -> None:
    """Raise UserError for a prompt that is the name of what belongs to an option."""
    prompt = str(arguments.prompt)
    if arguments.adapter and os.path.exists(prompt):
        raise UserError("the prompt is a path", found=prompt, fix="--adapter once for each adapter, and a prompt")
    if prompt.lower().endswith(PROMPT_FILES) and os.path.isfile(prompt):
        raise UserError("the prompt is a file", found=prompt, fix=f"--prompts {shlex.quote(prompt)} --out FOLDER")


def generate_file(arguments: argparse.Namespace, prompt: str, condition_images: tuple[str, ...] = ()) -> None:
    """Generate one image into the file `--out`, and print what was done, for people or as JSON."""
    from glmkit.generation.images import image_text, save_png
    from glmkit.generation.pipeline import generate_one
    from glmkit.generation.requests import check_request, new_request
    from glmkit.inputs.images import read_image
    from glmkit.inputs.quotes import describe, rendered_texts
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
        texts=arguments.texts,
        reuse=arguments.reuse,
        guided=arguments.guided,
        vae_tiling=arguments.vae_tiling,
    )
    check_request(request)
    # 2. Load the model and generate.
    started = time.perf_counter()
    weights = _weights(arguments, folder)
    hybrid = load_model_from(arguments, [request])
    texts = rendered_texts(prompt, request.texts)
    print("\n".join(describe(prompt, request.texts)), file=sys.stderr)
    with stage_bars() as bars:
        image = generate_one(hybrid, request, bars.update)
    # 3. Save the image, which carries its request.
    save_png(arguments.out, image, image_text(request, hybrid.name, hybrid.adapters, weights, hybrid.precision))
    seconds = round(time.perf_counter() - started, 2)
    if not arguments.json:
        print(f"{arguments.out}: {request.width}x{request.height}, seed {request.seed}, {seconds} s")
        return
    about = {"texts": texts, "model": hybrid.name, "adapters": hybrid.adapters, "precision": hybrid.precision}
    result = {"file": str(arguments.out), **request.to_dict(), **about}
    del result["id"]
    print(json.dumps({**result, "seconds": seconds}, ensure_ascii=False))


def _weights(arguments: argparse.Namespace, folder: Path) -> str:
    """Name the weights that the options choose, before they are read: what changes them later is not in the image."""
    from glmkit.generation.images import weights_digest
    from glmkit.generation.loading import device_of_rank, dtype_named, precision_of
    from glmkit.models.checkpoint.adapters import Adapter, check_adapter
    from glmkit.models.hybrid import arithmetic

    adapters = arguments.adapter or ()
    for adapter in adapters:
        check_adapter(folder, Adapter.parse(adapter).folder)
    dtype = dtype_named(arguments.dtype, device_of_rank(arguments.device))
    return weights_digest(folder, adapters, arithmetic(dtype, precision_of(folder, arguments.precision)))


def _requests(arguments: argparse.Namespace, folder: Path) -> tuple[list[Request], dict[str, UserError]]:
    """Make the requests of the options, and by their ids the errors of those that cannot be served."""
    from glmkit.generation.requests import check_request, new_request, read_requests, requests_of
    from glmkit.inputs.prompts import MAX_COUNT, parse_seeds

    if arguments.texts and arguments.prompts is not None:
        fix = '"texts": [...] beside each prompt of the file'
        raise UserError("--text is for one prompt", found=f"--prompts {arguments.prompts}", fix=fix)
    options = {key: getattr(arguments, key) for key in ("size", "seed", "steps", "guidance", "texts", *EXACT_REQUEST)}
    base = new_request(folder, "", arguments.prompt or "", **options)
    if not 1 <= arguments.count <= MAX_COUNT:
        raise UserError(f"--count must be 1 to {MAX_COUNT}", found=arguments.count, fix="--count 4")
    seeds = parse_seeds(arguments.seeds) if arguments.seeds is not None else []
    if seeds and arguments.count != 1:
        raise UserError("--count and --seeds do not go together", found=f"--count {arguments.count}", fix="one of them")
    if arguments.prompts is not None:
        return read_requests(arguments.prompts, base, arguments.count, seeds)
    requests = requests_of(base, arguments.count, seeds)
    for request in requests:
        check_request(request)
    return requests, {}


def _rewritten(
    arguments: argparse.Namespace, requests: Sequence[Request], failed: Mapping[str, Exception]
) -> tuple[list[Request], dict[str, Exception]]:
    """Put rewritten prompts into the requests, where that is asked for; adds the errors of those without one."""
    from glmkit.evaluation.rewriting.rewriters import rewriter_of

    rewriter = rewriter_of(arguments.rewrite, arguments.rewrite_instruction)
    if rewriter is None:
        return list(requests), dict(failed)
    if edit := next((request for request in requests if request.condition_images), None):
        raise UserError("prompts that edit an image are not rewritten", found=edit.id, fix="leave out --rewrite")

    from glmkit.evaluation.rewriting.rewrite import put_into, rewrite_prompts
    from glmkit.generation.batch import WORK

    prompts = {one.id: (one.prompt, one.texts) for one in requests if one.id not in failed}
    return put_into(requests, rewrite_prompts(arguments.out, prompts, rewriter, arguments.out / WORK), failed)


def _run_many(arguments: argparse.Namespace) -> int:
    out = arguments.out
    if arguments.batch_size < 1:
        raise UserError("--batch-size must be at least 1", found=arguments.batch_size)
    check_name(out)
    if out.is_file() or out.suffix.lower() == ".png":
        what = "with --prompts, --count or --seeds, --out must be a folder"
        raise UserError(what, found=out, fix=f"--out {called(out, '', 'images')}")

    from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
    from glmkit.distributed.shared_folder import check_shared_by_launched
    from glmkit.generation.batch import generate_many
    from glmkit.generation.hybrid_generator import HybridGenerator
    from glmkit.generation.images import is_image_of, is_ours
    from glmkit.inputs.quotes import describe_many
    from glmkit.models.checkpoint import resolve
    from glmkit.progress import stage_bars

    # 1. Make the requests, with the model's defaults.
    group = ProcessGroup.from_environment() if arguments.partners is None else SINGLE_PROCESS
    folder, is_main = resolve(arguments.model), group.is_main
    asked, unusable = _requests(arguments, folder)
    originals = {request.id: request.prompt for request in asked}
    if arguments.partners is None:
        check_shared_by_launched(out)
    requests, failed = _rewritten(arguments, asked, unusable)
    if is_main:
        quoting = {one.id: one.prompt for one in requests if one.texts is None}
        print("\n".join(describe_many(quoting, len(requests) - len(quoting))), file=sys.stderr)
    # 2. Generate those whose images are not there.
    weights = _weights(arguments, folder)
    with stage_bars(disable=not is_main) as bars:
        images = generate_many(
            requests,
            out,
            lambda: HybridGenerator(load_model_from(arguments, requests), arguments.batch_size, bars.update),
            is_complete=lambda path, request: is_image_of(path, request, weights),
            may_replace=is_ours,
            failed=failed,
            originals=originals,
            bars=bars,
            group=group,
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
