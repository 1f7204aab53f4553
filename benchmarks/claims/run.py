"""Train one side of a claim, draw images with it, score them; a small JSON row and a strip of images come out.

    python benchmarks/claims/run.py glyphs on --seed 0

Everything continues where it stopped: a run that is killed, or ends itself after --minutes, goes on when the same
command is given again. Training and drawing need a GPU, scoring needs OCR: with --no-score the first machine leaves
WORK/CLAIM-SIDE-SEED with its images, and the same command on another machine that has this folder only scores.
Then `python benchmarks/claims/page.py` writes curves and page.
"""

from __future__ import annotations

import argparse
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import definitions
import torch
from definitions import HERE, Side
from PIL import Image, ImageOps
from torch import Tensor

from glmkit import runs
from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import ENGINE, Plan, evaluate
from glmkit.files import atomic_path, read_json, read_jsonl, write_json
from glmkit.generation import pipeline
from glmkit.generation.prior_tokens import prior_token_decoder, sampling_of
from glmkit.generation.sampling import uniforms
from glmkit.generation.sequence import grids, prompt_positions
from glmkit.models import checkpoint
from glmkit.models.checkpoint import adapters, defaults
from glmkit.models.devices import dtype_for, pick_device
from glmkit.models.hybrid import HybridModel
from glmkit.posters import simple
from glmkit.records import Request
from glmkit.training import features
from glmkit.training.data import PosterImages
from glmkit.training.finetune import finetune

PROMPTS, BATCH = 128, 32
SAMPLES, SAMPLE_HEIGHT = 8, 112  # images of a run that the page shows, and their height in pixels
HELD_OUT_CODES = 256  # posters behind the entropy of the codes


def start_model(folder: Path, keep: Sequence[str], source: Path) -> None:
    """A model folder with the configs and tokenizers of `source`, and the weights of its parts `keep`."""
    if folder.exists():
        return
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished, ignore=shutil.ignore_patterns("*.safetensors*"))
    for part in keep:
        checkpoint.save_component(unfinished, part, checkpoint.load_component(source, part), torch.bfloat16)
    unfinished.rename(folder)


def train(folder: Path, side: Side, seed: int, device: torch.device, tiny: bool) -> None:
    """Every step of the side that is not done yet; the parts come to folder/model."""
    for number, step in enumerate(side.steps):
        place = folder / f"{number}_{step.split()[0]}"
        finetune(definitions.recipe(step, folder / "model", place, seed, tiny), device)


def requests_of(model: Path, seed: int, tiny: bool) -> list[Request]:
    """The held-out `simple` prompts, one image each, as the model usually draws."""
    usual = defaults.of(model)
    height, width, steps = (64, 64, 2) if tiny else (usual.height, usual.width, usual.steps)
    prompts = suites.prompts(suites.load("text-render"), "simple", 2 if tiny else PROMPTS)
    return [
        Request(prompt.id, prompt.prompt, seed, height, width, steps=steps, guidance=usual.guidance)
        for prompt in prompts
    ]


@torch.inference_mode()
def draw(images: Path, hybrid: HybridModel, side: Side, requests: Sequence[Request]) -> None:
    """images/<prompt id>.png for every request that has none yet."""
    missing = [request for request in requests if not (images / f"{request.id}.png").exists()]
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        priors = pipeline.prior_tokens(hybrid, batch) if side.preview else raster_tokens(hybrid, batch)
        # The decoder reads nothing of a prompt but its quoted texts.
        told = batch if side.glyphs else [replace(request, prompt="") for request in batch]
        for request, image in zip(batch, pipeline.decode_prior(hybrid, told, priors), strict=True):
            with atomic_path(images / f"{request.id}.png") as temporary:
                image.save(temporary)


def raster_tokens(hybrid: HybridModel, requests: Sequence[Request]) -> list[Tensor]:
    """The large grid h w of every request, written at once, by a model that was trained so."""
    tokenizer, model = pipeline.prompt_tokenizer(hybrid.folder), hybrid.autoregressive
    shape = grids(requests[0].height, requests[0].width).large
    prompts = tokenizer.text_to_image_batch(
        [request.prompt for request in requests], requests[0].height, requests[0].width
    )
    positions = [prompt_positions(ids, [], model.config.image_start_token_id) for ids in prompts]
    numbers = torch.stack([uniforms(request.seed, shape[0] * shape[1]) for request in requests])
    written = prior_token_decoder(hybrid).write(prompts, positions, [shape], numbers, sampling_of(requests[0]), None)
    return [row.view(shape) for row in written]


def codes(hybrid: HybridModel, tiny: bool) -> dict[str, float]:
    """Entropy in nats of the codes of held-out posters on their own, without any context, on both grids."""
    count, size = (2, 64) if tiny else (HELD_OUT_CODES, 256)
    posters = PosterImages(count, size, size, 21, 1, "held-out")
    cache = features.FeatureCache(hybrid.device)
    parts = {
        "preview_entropy": features.precompute_preview_tokens(hybrid, posters, cache),
        "large_entropy": features.precompute_large_tokens(hybrid, posters, cache),
    }
    return {name: entropy(part[list(range(count))]) for name, part in parts.items()}


def entropy(ids: Tensor) -> float:
    """Of the distribution of whole numbers, in nats."""
    shares = torch.bincount(ids.flatten().long()).double() / ids.numel()
    return float(-(shares * shares.clamp_min(1e-12).log()).sum())


def described(images: Path) -> dict[str, float]:
    """Share of the images that have each property their caption names, and of all properties together."""
    passed: dict[str, list[bool]] = {}
    for path in sorted(images.glob("*.png")):
        with Image.open(path) as image:
            for name, right in simple.attribute_checks()[path.stem](image).items():
                passed.setdefault(name, []).append(right)
    passed["attribute_accuracy"] = [right for rights in list(passed.values()) for right in rights]
    return {name: sum(rights) / len(rights) for name, rights in passed.items()}


def curve(folder: Path, number: int, step: str, seed: int, tiny: bool) -> dict[str, Any]:
    """What is kept of a step: its overrides, cost, and validation losses by the posters seen."""
    name, *overrides = step.split()
    place = folder / f"{number}_{name}"
    recipe = definitions.recipe(step, folder / "model", place, seed, tiny)
    ((stage, settings),) = recipe.stages.items()
    rows = [row for row in read_jsonl(place / f"{stage}.log.jsonl", partial=True) if "validation" in row]
    return {
        "recipe": name,
        "overrides": overrides,
        "posters": definitions.posters(recipe),
        "seconds": read_json(place / f"{stage}.json")["seconds"],
        "validation": [
            [
                row["step"] * settings.global_batch_size,
                {key: round(value, 5) for key, value in row["validation"].items()},
            ]
            for row in rows
        ],
    }


def score(folder: Path, steps: Sequence[Mapping[str, Any]], limit: int) -> dict[str, float]:
    """Every measure of a run by name: last validation losses, codes, words read, properties checked."""
    plan = Plan("text-render", ENGINE, split="simple", limit=limit, images=folder / "images", seeds=1)
    summary = evaluate(plan, folder / "scores")
    found: dict[str, float] = {}
    for step in steps:
        found.update(step["validation"][-1][1])
    if (folder / "codes.json").exists():
        found.update(read_json(folder / "codes.json"))
    found.update({name: float(value["value"] or 0) for name, value in summary.scores.items()})
    return {**found, **described(folder / "images")}


def samples(images: Sequence[Path]) -> Image.Image:
    """The images side by side, SAMPLE_HEIGHT high, in few colours."""
    strip = Image.new("RGB", (len(images) * SAMPLE_HEIGHT, SAMPLE_HEIGHT))
    for place, path in enumerate(images):
        with Image.open(path) as image:
            strip.paste(ImageOps.contain(image, (SAMPLE_HEIGHT, SAMPLE_HEIGHT)), (place * SAMPLE_HEIGHT, 0))
    return strip.quantize(96, kmeans=4)


def stop_after(minutes: float) -> None:
    """End this process by then; what it has finished stays."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(f"stopped after {minutes:g} minutes; the same command continues")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)


def run(claim: str, side_name: str, arguments: argparse.Namespace) -> None:
    """Training and drawing unless all images are there, then the row."""
    claim, side_name, side = definitions.resolve(claim, side_name)
    seed, tiny = arguments.seed, arguments.tiny
    name = definitions.run_name(claim, side_name, seed)
    folder, results = arguments.work / name, arguments.work if tiny else arguments.results
    images, model = folder / "images", checkpoint.resolve(arguments.model)
    requests = requests_of(model, seed, tiny)
    if not all((images / f"{request.id}.png").exists() for request in requests):
        device = pick_device(arguments.device)
        start_model(folder / "model", side.keep, model)
        train(folder, side, seed, device, tiny)
        hybrid = HybridModel(folder / "model", device, dtype_for(device))
        if any(step.startswith("semantic_vq") for step in side.steps):
            write_json(folder / "codes.json", codes(hybrid, tiny))
        draw(images, hybrid, side, requests)
        kept = {part: adapters.fingerprint(model, part) for part in side.keep}
        drawn = {"kept": kept, "environment": runs.environment(str(device))}
        write_json(folder / "drawn.json", drawn)
    if arguments.no_score:
        return
    steps = [curve(folder, number, step, seed, tiny) for number, step in enumerate(side.steps)]
    row = {
        "claim": claim,
        "side": side_name,
        "seed": seed,
        "prompts": len(requests),
        "steps": steps,
        "measures": {name: round(value, 5) for name, value in score(folder, steps, len(requests)).items()},
        **read_json(folder / "drawn.json"),
    }
    write_json(results / f"{name}.json", row)
    with atomic_path(results / f"{name}.png") as temporary:
        samples([images / f"{request.id}.png" for request in requests[:SAMPLES]]).save(temporary, optimize=True)
    print(f"{results / name}.json: " + ", ".join(f"{key} {value:.4g}" for key, value in row["measures"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=definitions.table(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("claim", choices=[name for name in definitions.names() if definitions.load(name).sides])
    parser.add_argument("side", help="as in the claim's file, or `all`")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order of posters, and images")
    parser.add_argument("--minutes", type=float, default=8, help="end by itself after this time (default %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("reports/claims"), help="default %(default)s")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="default %(default)s")
    parser.add_argument("--model", default="nano", help="where kept parts come from (default %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-score", action="store_true", help="train and draw only")
    parser.add_argument("--tiny", action="store_true", help="two steps on four posters, the row stays in WORK")
    arguments = parser.parse_args()
    stop_after(arguments.minutes)
    try:
        sides = definitions.load(arguments.claim).sides if arguments.side == "all" else [arguments.side]
        for side in sides:
            run(arguments.claim, side, arguments)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
