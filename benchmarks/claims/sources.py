"""Time and memory of source attention: block-causal with a cache, against full attention in every step.

    python benchmarks/claims/sources.py                     # nano's decoder on the CPU, one thread
    python benchmarks/claims/sources.py --device cuda --decoder published --size 1024x1024   # drawing only

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

from glmkit import config, runs
from glmkit.errors import UserError
from glmkit.files import write_json
from glmkit.generation.random_model import RandomModel, published_folder
from glmkit.generation.sequence import MAX_SOURCES, grids
from glmkit.models import checkpoint
from glmkit.models.decoder.model import DiffusionDecoder, rotary_cos_sin
from glmkit.models.devices import dtype_for, pick_device

GLYPH_TOKENS = 16


class Peak(TorchDispatchMode):
    """Most bytes alive at once among the tensors that operations make while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {id(one.untyped_storage()) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and id(storage := tensor.untyped_storage()) not in given:
                self._made(storage)
        return result

    def _made(self, storage: torch.UntypedStorage) -> None:
        self.alive += storage.nbytes()
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._gone, storage.nbytes())

    def _gone(self, count: int) -> None:
        self.alive -= count


@dataclass(frozen=True)
class Inputs:
    """A target and its sources, all of one size: noisy or clean latents 1 C h w and prior codes 1 N."""

    latents: Sequence[Tensor]
    priors: Sequence[Tensor]
    glyph: Tensor
    timestep: Tensor
    size: Tensor
    crop: Tensor

    @classmethod
    def random(cls, decoder: DiffusionDecoder, height: int, width: int, sources: int) -> Inputs:
        device, dtype = decoder.proj_out.weight.device, decoder.proj_out.weight.dtype
        rows, columns = grids(height, width).large
        settings, count = decoder.config, 4 * rows * columns

        def noise(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=dtype)

        codes = settings.prior_vq_quantizer_codebook_size
        return cls(
            [noise(1, settings.in_channels, height // 8, width // 8) for _ in range(1 + sources)],
            [torch.randint(codes, (1, count), device=device) for _ in range(1 + sources)],
            noise(1, GLYPH_TOKENS, settings.text_embed_dim),
            torch.full((1,), 500.0, device=device),
            torch.tensor([[float(height), float(width)]], device=device),
            torch.zeros(1, 2, device=device),
        )


def block_causal(decoder: DiffusionDecoder, given: Inputs) -> tuple[Callable[[], Any], Callable[[Any], Tensor]]:
    """What is done once (the cache of the sources), and a step that is given the result."""
    prior_token_drop = torch.zeros(1, dtype=torch.bool, device=given.size.device)
    height, width = (int(side) for side in given.size[0].tolist())
    sources = [
        (latents, prior, (height, width)) for latents, prior in zip(given.latents[1:], given.priors[1:], strict=True)
    ]

    def once() -> Any:
        return decoder.cache_condition_images(sources) if sources else None

    def step(cache: Any) -> Tensor:
        prior, latents = given.priors[0], given.latents[0]
        return decoder(
            latents, given.glyph, None, prior, prior_token_drop, given.timestep, given.size, given.crop, cache
        )

    return once, step


def full(decoder: DiffusionDecoder, given: Inputs) -> tuple[Callable[[], Any], Callable[[Any], Tensor]]:
    """The same weights with all images in one sequence, where all tokens read all; nothing is done once.

    Each image has the rotary positions it would have alone, and all are modulated by the target's time.
    """

    def step(_: Any) -> Tensor:
        prior_token_drop = torch.zeros(1, dtype=torch.bool, device=given.size.device)
        parts = [
            decoder.image_projector(latents) + decoder.prior_embedding(prior, prior_token_drop)
            for latents, prior in zip(given.latents, given.priors, strict=True)
        ]
        text, image = decoder.glyph_projector(given.glyph), torch.cat(parts, dim=1)
        condition = decoder.time_condition_embed(given.timestep, given.size, given.crop).to(image.dtype)
        rows, columns = (side // decoder.config.patch_size for side in given.latents[0].shape[-2:])
        head, device = decoder.config.attention_head_dim, image.device
        tables = [rotary_cos_sin(text.shape[1] * (k == 0), rows, columns, head, device) for k in range(len(parts))]
        rope = (torch.cat([cos for cos, _ in tables]), torch.cat([sin for _, sin in tables]))
        for block in decoder.transformer_blocks:
            text, image = block(text, image, condition, rope, None, None)
        patches = decoder.proj_out(decoder.norm_out(image[:, : rows * columns], condition))
        latents = patches.transpose(1, 2).unflatten(2, (rows, columns))
        return torch.nn.functional.pixel_shuffle(latents, decoder.config.patch_size)

    return lambda: None, step


Way = Callable[[DiffusionDecoder, Inputs], tuple[Callable[[], Any], Callable[[Any], Tensor]]]
WAYS: dict[str, Way] = {"block-causal": block_causal, "full": full}


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """The result and the seconds it took; on a CPU the seconds of this process, whatever else the machine does."""
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
    """A row for each number of sources and way, with one entry a repeat: seconds of what is done once, of a step, and
    (where asked) of a training step, forward and backward through target and sources; and the peak bytes of both."""
    rows: list[dict[str, Any]] = []
    for sources in range(MAX_SOURCES + 1):
        given = Inputs.random(decoder, height, width, sources)
        found: dict[str, dict[str, Any]] = {
            name: {"sources": sources, "way": name, **_peaks(decoder, way, given, training)}
            for name, way in WAYS.items()
        }
        for _ in range(repeats):
            for name, way in WAYS.items():
                for key, seconds in _seconds(decoder, way, given, training).items():
                    found[name].setdefault(key, []).append(round(seconds, 6))
        rows += found.values()
    return rows


def _peaks(decoder: DiffusionDecoder, way: Way, given: Inputs, training: bool) -> dict[str, int]:
    once, step = way(decoder, given)
    with torch.no_grad(), Peak() as drawn:
        step(once())
    if not training:
        return {"peak_bytes": drawn.most}
    with Peak() as trained:
        step(once()).square().mean().backward()
    decoder.zero_grad()
    return {"peak_bytes": drawn.most, "train_peak_bytes": trained.most}


def _seconds(decoder: DiffusionDecoder, way: Way, given: Inputs, training: bool) -> dict[str, float]:
    device, (once, step) = given.size.device, way(decoder, given)
    with torch.no_grad():
        cache, prepare = timed(once, device)
        _, one_step = timed(lambda: step(cache), device)
    if not training:
        return {"prepare": prepare, "step": one_step}
    _, train = timed(lambda: step(once()).square().mean().backward(), device)
    decoder.zero_grad()
    return {"prepare": prepare, "step": one_step, "train": train}


def random_decoder(kind: str, device: torch.device) -> DiffusionDecoder:
    """A decoder of nano's or of the published sizes with random weights."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoint.NANO if kind == "nano" else published_folder(Path(temporary))
        return RandomModel(folder, device, dtype_for(device)).decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", choices=("nano", "published"), default="nano", help="sizes (default %(default)s)")
    parser.add_argument("--size", default="256x256", help="of target and sources (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="default %(default)s")
    parser.add_argument("--device", default="cpu", help="default %(default)s")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="default %(default)s")
    arguments = parser.parse_args()
    try:
        device, (height, width) = pick_device(arguments.device), config.parse_size(arguments.size)
        if device.type == "cpu":
            torch.set_num_threads(1)
        torch.manual_seed(0)
        training = arguments.decoder == "nano"  # the published one needs gradient checkpointing to train
        decoder = random_decoder(arguments.decoder, device).requires_grad_(training)
        rows = measure(decoder, height, width, arguments.repeats, training)
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, 1 thread, process time"
    result = {
        "claim": "block_causal",
        "decoder": arguments.decoder,
        "size": arguments.size,
        "where": where,
        "dtype": str(dtype_for(device)).removeprefix("torch."),
        "rows": rows,
        "environment": runs.environment(str(device)),
    }
    name = f"block_causal-{arguments.decoder}-{device.type}-{arguments.size}.json"
    write_json(arguments.results / name, result)
    for row in rows:
        timings = {key: statistics.median(row[key]) for key in ("prepare", "step", "train") if key in row}
        print(
            f"{row['sources']} {row['way']:12}",
            *(f"{key} {1000 * value:.0f} ms," for key, value in timings.items()),
            *(f"{row[key] / 2**20:.1f} MiB" for key in ("peak_bytes", "train_peak_bytes") if key in row),
        )


if __name__ == "__main__":
    main()
