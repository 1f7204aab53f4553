"""Measure attention to condition images: block-causal with a cache, against full attention in every step.

    python benchmarks/ablations/condition_attention.py  # nano's decoder on the CPU, one thread
    python benchmarks/ablations/condition_attention.py --device cuda --decoder published --size 1024x1024  # no training

Random weights: cost does not depend on them. Memory is the peak of all tensors alive beside weights and inputs, counted
operation by operation (what a kernel uses inside is not seen). B batch, N image tokens, D width.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from definitions import HERE
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glmkit import runs
from glmkit.errors import UserError
from glmkit.files import write_json
from glmkit.generation.random_model import RandomModel, published_folder
from glmkit.generation.sequence import MAX_CONDITION_IMAGES, grids
from glmkit.models import checkpoint
from glmkit.models.decoder.model import DiffusionDecoder, rotary_cos_sin
from glmkit.models.devices import dtype_for, pick_device
from glmkit.sizes import parse_size

GLYPH_TOKENS = 16


class PeakMemory(TorchDispatchMode):
    """Counts the most bytes alive at once among the tensors that operations make while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(storage := tensor.untyped_storage()) not in inputs:
                self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._uncount, storage.nbytes())

    def _uncount(self, size: int) -> None:
        self.alive -= size


@dataclass(frozen=True)
class Inputs:
    """A target and its condition images, all of one size: noisy or clean latents 1 C H W and prior tokens 1 N."""

    latents: Sequence[Tensor]
    priors: Sequence[Tensor]
    glyph: Tensor
    timestep: Tensor
    size: Tensor
    crop: Tensor

    @classmethod
    def random(cls, decoder: DiffusionDecoder, height: int, width: int, condition_images: int) -> Inputs:
        device, dtype = decoder.proj_out.weight.device, decoder.proj_out.weight.dtype
        rows, columns = grids(height, width).large
        settings, count = decoder.config, 4 * rows * columns

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=dtype)

        codebook_size = settings.prior_vq_quantizer_codebook_size
        return cls(
            [noise(1, settings.in_channels, height // 8, width // 8) for _ in range(1 + condition_images)],
            [torch.randint(codebook_size, (1, count), device=device) for _ in range(1 + condition_images)],
            noise(1, GLYPH_TOKENS, settings.text_embed_dim),
            torch.full((1,), 500.0, device=device),
            torch.tensor([[float(height), float(width)]], device=device),
            torch.zeros(1, 2, device=device),
        )


# A pass before all steps, and one step that gets its result.
Passes = tuple[Callable[[], Any], Callable[[Any], Tensor]]


def block_causal(decoder: DiffusionDecoder, inputs: Inputs) -> Passes:
    """Return the pass that caches the condition images, and one step that reads the cache."""
    prior_token_drop = torch.zeros(1, dtype=torch.bool, device=inputs.size.device)
    height, width = (int(length) for length in inputs.size[0].tolist())
    condition_images = [
        (latents, prior, (height, width)) for latents, prior in zip(inputs.latents[1:], inputs.priors[1:], strict=True)
    ]

    def fill_cache() -> Any:
        return decoder.cache_condition_images(condition_images) if condition_images else None

    def step(cache: Any) -> Tensor:
        prior, latents = inputs.priors[0], inputs.latents[0]
        velocity: Tensor = decoder(
            latents, inputs.glyph, None, prior, prior_token_drop, inputs.timestep, inputs.size, inputs.crop, cache
        )
        return velocity

    return fill_cache, step


def full(decoder: DiffusionDecoder, inputs: Inputs) -> Passes:
    """Return one step that runs the same weights over all images in one sequence, where all tokens read all.

    Each image has the rotary positions it would have alone, and all are modulated by the target's time.
    """

    def step(_: Any) -> Tensor:
        prior_token_drop = torch.zeros(1, dtype=torch.bool, device=inputs.size.device)
        images = [
            decoder.image_projector(latents) + decoder.prior_embedding(prior, prior_token_drop)
            for latents, prior in zip(inputs.latents, inputs.priors, strict=True)
        ]
        text, image = decoder.glyph_projector(inputs.glyph), torch.cat(images, dim=1)
        condition = decoder.time_condition_embed(inputs.timestep, inputs.size, inputs.crop).to(image.dtype)
        rows, columns = (length // decoder.config.patch_size for length in inputs.latents[0].shape[-2:])
        head, device = decoder.config.attention_head_dim, image.device
        rotations = [rotary_cos_sin(text.shape[1] * (k == 0), rows, columns, head, device) for k in range(len(images))]
        rope = (torch.cat([cos for cos, _ in rotations]), torch.cat([sin for _, sin in rotations]))
        for block in decoder.transformer_blocks:
            text, image = block(text, image, condition, rope, None, None)
        patches = decoder.proj_out(decoder.norm_out(image[:, : rows * columns], condition))
        latents = patches.transpose(1, 2).unflatten(2, (rows, columns))
        return torch.nn.functional.pixel_shuffle(latents, decoder.config.patch_size)

    return lambda: None, step


Attention = Callable[[DiffusionDecoder, Inputs], Passes]
ATTENTIONS: dict[str, Attention] = {"block-causal": block_causal, "full": full}


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return the result and the seconds it took; on a CPU the seconds of this process alone."""
    if device.type != "cuda":
        started = time.process_time()
        return work(), time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = work()
    torch.cuda.synchronize(device)
    return result, time.perf_counter() - started


def measure(
    decoder: DiffusionDecoder, height: int, width: int, repeats: int, training: bool = True
) -> list[dict[str, Any]]:
    """Measure every number of condition images and every attention.

    Each row has the peak bytes of generation, and a list with one entry per repeat of the seconds of the cache and of a
    step. Where asked, it has the same of a training step: forward and backward through target and condition images.
    """
    rows: list[dict[str, Any]] = []
    for count in range(MAX_CONDITION_IMAGES + 1):
        inputs = Inputs.random(decoder, height, width, count)
        by_attention: dict[str, dict[str, Any]] = {
            name: {"condition_images": count, "attention": name, **_peaks(decoder, attention, inputs, training)}
            for name, attention in ATTENTIONS.items()
        }
        for _ in range(repeats):
            for name, attention in ATTENTIONS.items():
                for key, seconds in _seconds(decoder, attention, inputs, training).items():
                    by_attention[name].setdefault(key, []).append(round(seconds, 6))
        rows += by_attention.values()
    return rows


def _peaks(decoder: DiffusionDecoder, attention: Attention, inputs: Inputs, training: bool) -> dict[str, int]:
    fill_cache, step = attention(decoder, inputs)
    with torch.no_grad(), PeakMemory() as generation:
        step(fill_cache())
    if not training:
        return {"peak_bytes": generation.peak}
    with PeakMemory() as trained:
        step(fill_cache()).square().mean().backward()
    decoder.zero_grad()
    return {"peak_bytes": generation.peak, "train_peak_bytes": trained.peak}


def _seconds(decoder: DiffusionDecoder, attention: Attention, inputs: Inputs, training: bool) -> dict[str, float]:
    device, (fill_cache, step) = inputs.size.device, attention(decoder, inputs)
    with torch.no_grad():
        cache, cache_seconds = timed(fill_cache, device)
        _, step_seconds = timed(lambda: step(cache), device)
    if not training:
        return {"cache_seconds": cache_seconds, "step_seconds": step_seconds}
    _, train_step_seconds = timed(lambda: step(fill_cache()).square().mean().backward(), device)
    decoder.zero_grad()
    return {"cache_seconds": cache_seconds, "step_seconds": step_seconds, "train_step_seconds": train_step_seconds}


def random_decoder(kind: str, device: torch.device) -> DiffusionDecoder:
    """Return a decoder of nano's or of the published sizes with random weights."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoint.NANO if kind == "nano" else published_folder(Path(temporary))
        return RandomModel(folder, device, dtype_for(device)).decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", choices=("nano", "published"), default="nano", help="sizes (default %(default)s)")
    parser.add_argument("--size", default="256x256", help="of target and condition images (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="default %(default)s")
    parser.add_argument("--device", default="cpu", help="default %(default)s")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="default %(default)s")
    arguments = parser.parse_args()
    try:
        device, (height, width) = pick_device(arguments.device), parse_size(arguments.size)
        if device.type == "cpu":
            torch.set_num_threads(1)
        torch.manual_seed(0)
        training = arguments.decoder == "nano"  # the published one needs gradient checkpointing to train
        decoder = random_decoder(arguments.decoder, device).requires_grad_(training)
        rows = measure(decoder, height, width, arguments.repeats, training)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, 1 thread, process time"
    result = {
        "ablation": "block_causal",
        "decoder": arguments.decoder,
        "size": arguments.size,
        "hardware": hardware,
        "dtype": str(dtype_for(device)).removeprefix("torch."),
        "rows": rows,
        "environment": runs.environment(str(device)),
    }
    name = f"block_causal-{arguments.decoder}-{device.type}-{arguments.size}.json"
    write_json(arguments.results / name, result)
    for row in rows:
        timings = {key.removesuffix("_seconds"): statistics.median(row[key]) for key in row if key.endswith("_seconds")}
        print(
            f"{row['condition_images']} {row['attention']:12}",
            *(f"{key} {1000 * value:.0f} ms," for key, value in timings.items()),
            *(f"{row[key] / 2**20:.1f} MiB" for key in ("peak_bytes", "train_peak_bytes") if key in row),
        )


if __name__ == "__main__":
    main()
