"""What kernels of our own between the products of a decoder's block save on this GPU, against compiled blocks.

    python benchmarks/block_kernels.py OUT.jsonl [--size 1024x1024 ...] [--layers 6] [--repeats 20]

Blocks of the published width with random weights, one row of image and glyph tokens. The compiled halves of the
denoiser and `glmkit.models.decoder.gpu` run in turns on the same weights; a row of the output holds milliseconds per
block of both, their relative difference, and how long the bytes that the kernels move take at the rate of a copy.
Without a GPU the kernels run in Triton's interpreter (TRITON_INTERPRET=1), and only the difference means anything.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from glmkit import runs
from glmkit.files import append_jsonl
from glmkit.models import checkpoint
from glmkit.models.decoder import compiled_blocks, eager, gpu
from glmkit.models.decoder.condition_cache import KeyValue
from glmkit.models.decoder.config import DecoderConfig
from glmkit.models.decoder.denoiser import best_attention
from glmkit.models.decoder.model import DecoderBlock, rotary_cos_sin
from glmkit.models.devices import dtype_for, pick_device
from glmkit.models.hardware import Clock
from glmkit.sizes import parse_size

GLYPHS = 32


def random_blocks(config: DecoderConfig, count: int, device: torch.device, dtype: torch.dtype) -> list[DecoderBlock]:
    """Blocks ready for drawing, their weights generated so that values keep their size."""
    blocks = []
    for _ in range(count):
        with torch.device(device):
            block = DecoderBlock(config).to(dtype).requires_grad_(False)
        for value in block.parameters():
            value.normal_(0, value.shape[-1] ** -0.5)
        block.attn1.fuse()
        block.ff.net[0].fuse()  # type: ignore[operator]
        blocks.append(block)
    return blocks


def measure(
    config: DecoderConfig, grid: tuple[int, int], layers: int, repeats: int, device: torch.device
) -> dict[str, float]:
    """Both ways in turns: the relative difference of their outputs, medians in milliseconds a block."""
    torch.manual_seed(0)
    dtype = dtype_for(device)
    blocks = random_blocks(config, layers, device, dtype)
    text, image = (torch.randn(1, n, config.width, device=device, dtype=dtype) for n in (GLYPHS, grid[0] * grid[1]))
    modulation = [0.3 * torch.randn(12 * config.width, device=device, dtype=dtype) for _ in blocks]
    rope = rotary_cos_sin(GLYPHS, *grid, config.attention_head_dim, device)
    by_torch = compiled_blocks if device.type == "cuda" else eager

    def attend(_: int, query: Tensor, own: KeyValue) -> Tensor:
        return F.scaled_dot_product_attention(query, *own)

    ways: dict[str, Callable[[], Tensor]] = {
        "compiled": lambda: by_torch.run_blocks(blocks, modulation, text, image, rope, attend),
        "kernels": lambda: gpu.run_blocks(blocks, modulation, text, image, rope, attend),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    clock = Clock(device)
    with torch.no_grad(), best_attention(device):
        outputs = {name: way().double() for name, way in ways.items()}
        for _ in range(repeats):
            for name, way in ways.items():
                started = clock.now()
                way()
                seconds[name].append(clock.now() - started)
    difference = (outputs["kernels"] - outputs["compiled"]).norm() / outputs["compiled"].norm()
    milliseconds = {name: 1e3 * statistics.median(own) / layers for name, own in seconds.items()}
    # A block's kernels read and write 12 times: twice x, update, x and norm; queries and keys before and after.
    moved = 12 * (text.numel() + image.numel()) * image.element_size()
    return {"difference": float(difference), **milliseconds, "bytes": moved, "copy": _copy(moved, clock)}


def _copy(size: int, clock: Clock) -> float:
    """Milliseconds that reading and writing `size` bytes in all takes: a copy of half as many."""
    source = torch.empty(size // 2, dtype=torch.uint8, device=clock.device)
    seconds = []
    for _ in range(5):
        started = clock.now()
        source.clone()
        seconds.append(clock.now() - started)
    return 1e3 * min(seconds)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", nargs="+", default=["1024x1024", "2048x2048"])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--toy", action="store_true", help="a narrow decoder, for a CPU")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    arguments = parser.parse_args(given)
    device = pick_device(arguments.device)
    values = dict(checkpoint.PUBLISHED["transformer"])
    if arguments.toy:
        values |= {"num_attention_heads": 3, "attention_head_dim": 16, "time_embed_dim": 32}
    config, environment = DecoderConfig.from_dict(values), runs.environment(str(device))
    for size in arguments.size:
        height, width = parse_size(size)
        row = measure(config, (height // 16, width // 16), arguments.layers, arguments.repeats, device)
        append_jsonl(arguments.out, {"size": size, **row, "environment": environment})
        print(f"{size}: " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
