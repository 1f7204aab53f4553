"""Train one arm of an ablation, generate images, score them; a small JSON result and a strip of images come out.

    python benchmarks/ablations/run.py glyphs on --seed 0

Everything continues where it stopped: a run that is killed, or ends itself after --minutes, goes on when the same
command is given again. Training and generation need a GPU, scoring needs OCR: with --no-score the first machine leaves
WORK/ABLATION-ARM-SEED with its images, and the same command on another machine that has this folder only scores.
Then `python benchmarks/ablations/page.py` writes curves and page.
"""

from __future__ import annotations

import argparse
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any

import definitions
import torch
from definitions import HERE, Arm
from PIL import Image, ImageOps
from torch import Tensor

from glmkit import runs
from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.plan import DEFAULT_ENGINE, EvaluationPlan
from glmkit.files import atomic_path, read_json, read_jsonl, write_json
from glmkit.generation.denoising import decode_prior_tokens
from glmkit.generation.prior_tokens import generate_prior_tokens, prior_token_decoder, prompt_tokenizer
from glmkit.generation.requests import sampling_of
from glmkit.generation.sampling import uniforms
from glmkit.generation.sequence import grids, prompt_positions
from glmkit.models import checkpoint
from glmkit.models.checkpoint import defaults, identity
from glmkit.models.devices import dtype_for, pick_device
from glmkit.models.hybrid import HybridModel
from glmkit.posters import simple
from glmkit.pretraining.posters import PosterDataset
from glmkit.pretraining.pretrain import pretrain
from glmkit.records import Request
from glmkit.training import features, model_folder

PROMPTS, BATCH = 128, 32
SAMPLES, SAMPLE_HEIGHT = 8, 112  # images of a run that the page shows, and their height in pixels
ENTROPY_POSTERS = 256  # held-out posters behind the entropy of the prior tokens


def start_model(folder: Path, pretrained: Sequence[str], shipped: Path) -> None:
    """Write a model folder: configs and tokenizers of `shipped`, and its weights of the components `pretrained`."""
    if folder.exists():
        return
    unfinished = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(shipped, unfinished, ignore=shutil.ignore_patterns("*.safetensors*"))
    for component in pretrained:
        weights = checkpoint.load_component(shipped, component)
        checkpoint.save_component(unfinished, component, weights, torch.bfloat16)
    model_folder.claim(unfinished, model_folder.PRETRAINING)
    unfinished.rename(folder)


def train(folder: Path, arm: Arm, seed: int, device: torch.device, tiny: bool) -> None:
    """Train every step of the arm that is not done yet; the components come to folder/model."""
    for number, step in enumerate(arm.steps):
        output = folder / f"{number}_{step.split()[0]}"
        pretrain(definitions.recipe(step, folder / "model", output, seed, tiny), device)


def requests_of(model: Path, seed: int, tiny: bool, splits: Sequence[str] = ("simple",)) -> list[Request]:
    """Return held-out prompts of the splits, one image each, with the model's default settings."""
    settings = defaults.load(model)
    height, width, steps = (64, 64, 2) if tiny else (settings.height, settings.width, settings.steps)
    limit = (2 if tiny else PROMPTS) // len(splits)
    prompts = [prompt for split in splits for prompt in suites.prompts(suites.load("text-render"), split, limit)]
    return [
        Request(prompt.id, prompt.prompt, seed, height, width, steps=steps, guidance=settings.guidance)
        for prompt in prompts
    ]


@torch.inference_mode()
def generate(images: Path, hybrid: HybridModel, arm: Arm, requests: Sequence[Request]) -> None:
    """Write images/<prompt id>.png for every request that has none yet."""
    missing = [request for request in requests if not (images / f"{request.id}.png").exists()]
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        priors = generate_prior_tokens(hybrid, batch) if arm.preview else raster_tokens(hybrid, batch)
        # The decoder reads nothing of a prompt but its quoted texts.
        decoded = batch if arm.glyphs else [replace(request, prompt="") for request in batch]
        for request, image in zip(batch, decode_prior_tokens(hybrid, decoded, priors), strict=True):
            with atomic_path(images / f"{request.id}.png") as temporary:
                image.save(temporary)


def raster_tokens(hybrid: HybridModel, requests: Sequence[Request]) -> list[Tensor]:
    """Generate the large grid h w of every request without a preview, by a model that was trained so."""
    tokenizer, model = prompt_tokenizer(hybrid.folder), hybrid.autoregressive
    shape = grids(requests[0].height, requests[0].width).large
    prompts = tokenizer.text_to_image_batch(
        [request.prompt for request in requests], requests[0].height, requests[0].width
    )
    positions = [prompt_positions(ids, [], model.config.image_start_token_id) for ids in prompts]
    numbers = torch.stack([uniforms(request.seed, shape[0] * shape[1]) for request in requests])
    tokens = prior_token_decoder(hybrid).generate(prompts, positions, [shape], numbers, sampling_of(requests[0]), None)
    return [token_ids.view(shape) for token_ids in tokens]


def token_entropy(hybrid: HybridModel, tiny: bool) -> dict[str, float]:
    """Measure the entropy in nats of held-out posters' tokens on both grids, without any context."""
    count, size = (2, 64) if tiny else (ENTROPY_POSTERS, 256)
    posters = PosterDataset(count, size, size, 21, 1, "held-out")
    cache = features.FeatureCache(hybrid.device)
    tokens_by_grid = {
        "preview_entropy": features.precompute_preview_tokens(hybrid, posters, cache),
        "large_entropy": features.precompute_large_tokens(hybrid, posters, cache),
    }
    return {name: entropy(tokens[list(range(count))]) for name, tokens in tokens_by_grid.items()}


def entropy(ids: Tensor) -> float:
    """Return the entropy of the distribution of whole numbers, in nats."""
    shares = torch.bincount(ids.flatten().long()).double() / ids.numel()
    return float(-(shares * shares.clamp_min(1e-12).log()).sum())


def attribute_accuracy(images: Path) -> dict[str, float]:
    """Return the share of the images that have each attribute their caption names, and of all attributes together."""
    passed: dict[str, list[bool]] = {}
    for path in sorted(images.glob("*.png")):
        with Image.open(path) as image:
            for name, right in simple.attribute_checks()[path.stem](image).items():
                passed.setdefault(name, []).append(right)
    passed["attribute_accuracy"] = list(chain.from_iterable(passed.values()))
    return {name: sum(values) / len(values) for name, values in passed.items()}


def curve(folder: Path, number: int, step: str, seed: int, tiny: bool) -> dict[str, Any]:
    """Summarise a finished training step: its overrides, cost, and validation losses by the posters seen."""
    name, *overrides = step.split()
    output = folder / f"{number}_{name}"
    recipe = definitions.recipe(step, folder / "model", output, seed, tiny)
    ((stage, settings),) = recipe.stages.items()
    rows = [row for row in read_jsonl(output / f"{stage}.log.jsonl", partial=True) if "validation" in row]
    return {
        "recipe": name,
        "overrides": overrides,
        "posters": definitions.posters(recipe),
        "seconds": read_json(output / f"{stage}.json")["seconds"],
        "validation": [
            [
                row["step"] * settings.global_batch_size,
                {key: round(value, 5) for key, value in row["validation"].items()},
            ]
            for row in rows
        ],
    }


def score(folder: Path, steps: Sequence[Mapping[str, Any]], splits: Sequence[str], limit: int) -> dict[str, float]:
    """Return every measure of a run by name: last validation losses, token entropy, words read, attributes checked.

    `limit` prompts of each split have an image.
    """
    measures: dict[str, float] = {}
    for step in steps:
        measures.update(step["validation"][-1][1])
    if (folder / "token_entropy.json").exists():
        measures.update(read_json(folder / "token_entropy.json"))
    for split in splits:
        images, scores = folder / "images", folder / "scores"
        plan = EvaluationPlan("text-render", DEFAULT_ENGINE, split=split, limit=limit, images=images, count=1)
        summary = evaluate(plan, scores if len(splits) == 1 else scores / split)
        behind = "" if len(splits) == 1 else f" {split}"
        measures |= {f"{name}{behind}": float(value["value"] or 0) for name, value in summary.scores.items()}
    return measures | (attribute_accuracy(folder / "images") if tuple(splits) == ("simple",) else {})


def samples(images: Sequence[Path]) -> Image.Image:
    """Paste the images side by side, SAMPLE_HEIGHT high, in few colours."""
    strip = Image.new("RGB", (len(images) * SAMPLE_HEIGHT, SAMPLE_HEIGHT))
    for column, path in enumerate(images):
        with Image.open(path) as image:
            strip.paste(ImageOps.contain(image, (SAMPLE_HEIGHT, SAMPLE_HEIGHT)), (column * SAMPLE_HEIGHT, 0))
    return strip.quantize(96, kmeans=4)


def stop_after(minutes: float) -> None:
    """End this process by then; what it has finished stays."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise SystemExit(f"stopped after {minutes:g} minutes; the same command continues")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)


def run(ablation: str, arm_name: str, arguments: argparse.Namespace) -> None:
    """Train and generate unless all images are there, then write the result."""
    ablation, arm_name, arm = definitions.resolve(ablation, arm_name)
    seed, tiny = arguments.seed, arguments.tiny
    name = definitions.run_name(ablation, arm_name, seed)
    folder, results = arguments.work / name, arguments.work if tiny else arguments.results
    images, model = folder / "images", checkpoint.resolve(arguments.model)
    splits = definitions.load(ablation).splits
    requests = requests_of(model, seed, tiny, splits)
    if not all((images / f"{request.id}.png").exists() for request in requests):
        device = pick_device(arguments.device)
        start_model(folder / "model", arm.pretrained, model)
        train(folder, arm, seed, device, tiny)
        hybrid = HybridModel(folder / "model", device, dtype_for(device))
        if any(step.startswith("semantic_vq") for step in arm.steps):
            write_json(folder / "token_entropy.json", token_entropy(hybrid, tiny))
        generate(images, hybrid, arm, requests)
        pretrained = {component: identity.fingerprint(model, component) for component in arm.pretrained}
        write_json(folder / "generated.json", {"pretrained": pretrained, "environment": runs.environment(str(device))})
    if arguments.no_score:
        return
    steps = [curve(folder, number, step, seed, tiny) for number, step in enumerate(arm.steps)]
    limit = len(requests) // len(splits)
    measures = score(folder, steps, splits, limit)
    result = {
        "ablation": ablation,
        "arm": arm_name,
        "seed": seed,
        "prompts": len(requests),
        "steps": steps,
        "measures": {name: round(value, 5) for name, value in measures.items()},
        **read_json(folder / "generated.json"),
    }
    write_json(results / f"{name}.json", result)
    firsts = [one for start in range(0, len(requests), limit) for one in requests[start:][: SAMPLES // len(splits)]]
    with atomic_path(results / f"{name}.webp") as temporary:
        samples([images / f"{request.id}.png" for request in firsts]).save(temporary, quality=85)
    print(f"{results / name}.json: " + ", ".join(f"{key} {value:.4g}" for key, value in result["measures"].items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=definitions.table(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ablation", choices=[name for name in definitions.names() if definitions.load(name).arms])
    parser.add_argument("arm", help="as in the ablation's file, or `all`")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order of posters, and images")
    parser.add_argument("--minutes", type=float, default=8, help="end by itself after this time (default %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("reports/ablations"), help="default %(default)s")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="default %(default)s")
    parser.add_argument("--model", default="nano", help="where pretrained components come from (default %(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-score", action="store_true", help="train and generate only")
    parser.add_argument("--tiny", action="store_true", help="two steps on four posters, the result stays in WORK")
    arguments = parser.parse_args()
    stop_after(arguments.minutes)
    try:
        arms = definitions.load(arguments.ablation).arms if arguments.arm == "all" else [arguments.arm]
        for arm in arms:
            run(arguments.ablation, arm, arguments)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
