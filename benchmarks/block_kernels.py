"""What kernels of our own between the products of a decoder's block would save on this GPU, against compiled blocks.

    python benchmarks/block_kernels.py OUT.jsonl [--size 1024x1024 ...] [--layers 6] [--repeats 20]

An experiment, used nowhere: blocks of the published width with random weights, one row of image and glyph tokens. The
compiled halves of the denoiser and these kernels run in turns on the same weights; a row of the output holds
milliseconds a block of both, their relative difference, and how long the bytes that the kernels move take at the rate
of a copy. Without a GPU the kernels run in Triton's interpreter, and only the difference means anything.

Text and image stay one stream from block to block. `stream_kernel` adds an update by its gate and gives the norm that
the next product reads; `heads_kernel` normalises and rotates queries and keys. Everything else is cuBLAS and cuDNN.

Shapes: B rows, L tokens, T of them glyphs in front, D width, K heads, d head width. Vectors of a block at one step are
12 x D as `Modulation` gives them: 2 i for the image and 2 i + 1 for the text, i from attention's shift, scale and gate
to the feed-forward's.
"""

# Triton reads annotations, so they are no strings here.
import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from glmkit import runs
from glmkit.config import parse_size
from glmkit.files import append_jsonl
from glmkit.generation.speed import Clock
from glmkit.models import checkpoint
from glmkit.models.compiling import compiled
from glmkit.models.decoder import NORM_EPS, Block, DecoderConfig, rotary_table
from glmkit.models.denoiser import best_attention
from glmkit.models.devices import dtype_for, pick_device

SHIFT, GATE = (0, 3), (2, 5)  # of attention, of the feed-forward
GLYPHS = 32
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@triton.jit
def stream_kernel(
    x, update, new, normed, gates, norms, length, text, width, eps,
    GATE: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: `new` = x + gate * update where GATE >= 0, and `normed`, its modulated norm, where SHIFT >= 0; rounded
    where PyTorch's operations round."""
    row = tl.program_id(0).to(tl.int64)
    told = (row % length < text).to(tl.int32)
    c = tl.arange(0, BLOCK)
    inside = c < width
    value = tl.load(x + row * width + c, mask=inside, other=0.0)
    if GATE >= 0:
        gate = tl.load(gates + (2 * GATE + told) * width + c, mask=inside, other=0.0).to(tl.float32)
        more = tl.load(update + row * width + c, mask=inside, other=0.0).to(tl.float32)
        value = (value.to(tl.float32) + gate * more).to(value.dtype)
        tl.store(new + row * width + c, value, mask=inside)
    if SHIFT >= 0:
        whole = value.to(tl.float32)
        far = tl.where(inside, whole - tl.sum(whole, axis=0) / width, 0.0)
        unit = far * tl.rsqrt(tl.sum(far * far, axis=0) / width + eps)
        shift = tl.load(norms + (2 * SHIFT + told) * width + c, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(norms + (2 * SHIFT + 2 + told) * width + c, mask=inside, other=0.0)
        scale = (1 + scale.to(tl.float32)).to(value.dtype).to(tl.float32)
        unit = unit.to(value.dtype).to(tl.float32)
        tl.store(normed + row * width + c, (shift + unit * scale).to(value.dtype), mask=inside)


@triton.jit
def heads_kernel(qkv, query, key, cos, sin, length, heads, eps, HEADS: tl.constexpr, HALF: tl.constexpr):
    """One token: the norm of every head of its query and its key, rotated by the token's angles."""
    row = tl.program_id(0).to(tl.int64)
    k, i = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = (k < heads) & (i < HALF)
    width = heads * 2 * HALF
    place = k * 2 * HALF + i
    c = tl.load(cos + row % length * HALF + i)
    s = tl.load(sin + row % length * HALF + i)
    for part in tl.static_range(2):
        first = tl.load(qkv + row * 3 * width + part * width + place, mask=inside, other=0.0)
        second = tl.load(qkv + row * 3 * width + part * width + place + HALF, mask=inside, other=0.0)
        a, b = first.to(tl.float32), second.to(tl.float32)
        mean = (tl.sum(a, axis=1) + tl.sum(b, axis=1))[:, None] / (2 * HALF)
        a, b = a - mean, b - mean
        unit = tl.rsqrt((tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1))[:, None] / (2 * HALF) + eps)
        a, b = (a * unit).to(first.dtype).to(tl.float32), (b * unit).to(first.dtype).to(tl.float32)
        out = query if part == 0 else key
        tl.store(out + row * width + place, (a * c - b * s).to(first.dtype), mask=inside)
        tl.store(out + row * width + place + HALF, (b * c + a * s).to(first.dtype), mask=inside)


def stream(
    x: Tensor, text: int, update: tuple[Tensor, Tensor, int] | None, norm: tuple[Tensor, int] | None
) -> tuple[Tensor, Tensor]:
    """x B L D with an `update` (B L D, vectors, number of its gate), and its modulated `norm` (vectors, number of its
    shift); each as it was where nothing is asked for."""
    rows, length, width = x.shape
    more, gates, gate = update or (x, x, -1)
    norms, shift = norm or (x, -1)
    new, normed = (torch.empty_like(x) if asked >= 0 else x for asked in (gate, shift))
    block = triton.next_power_of_2(width)
    stream_kernel[(rows * length,)](
        x, more, new, normed, gates, norms, length, text, width, NORM_EPS, gate, shift, block,
        num_warps=8 if block > 1024 else 4,
    )  # fmt: skip
    return new, normed


def heads(qkv: Tensor, rope: tuple[Tensor, Tensor], count: int) -> tuple[Tensor, Tensor, Tensor]:
    """B L 3D -> queries, keys and values B K L d; `rope` both L x d / 2."""
    rows, length, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    query, key = (qkv.new_empty(rows, length, count, width // count) for _ in range(2))
    heads_kernel[(rows * length,)](
        qkv, query, key, *rope, length, count, NORM_EPS, triton.next_power_of_2(count), width // count // 2
    )
    value = qkv[..., 2 * width :].unflatten(-1, (count, -1))
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def by_kernels(
    blocks: Sequence[Block],
    vectors: Sequence[Tensor],
    x: Tensor,
    text: int,
    rope: tuple[Tensor, Tensor],
    attend: Attend,
) -> Tensor:
    """The stream B L D behind all blocks, `text` of its tokens glyphs; `vectors` 12 x D a block."""
    x, normed = stream(x, text, None, (vectors[0], SHIFT[0]))
    for index, (block, own) in enumerate(zip(blocks, vectors, strict=True)):
        attention, enter, leave = block.attn1, block.ff.net[0], block.ff.net[2]
        assert attention.fused is not None
        mixed = attend(*heads(F.linear(normed, *attention.fused), rope, attention.heads))
        update = attention.output(mixed)
        x, normed = stream(x, text, (update, own, GATE[0]), (own, SHIFT[1]))
        update = leave(enter(normed))
        following = (vectors[index + 1], SHIFT[0]) if index + 1 < len(blocks) else None
        x, normed = stream(x, text, (update, own, GATE[1]), following)
    return x


def by_torch(
    before: Callable[..., tuple[Tensor, tuple[Tensor, Tensor]]],
    after: Callable[..., tuple[Tensor, Tensor]],
    blocks: Sequence[Block],
    vectors: Sequence[Tensor],
    streams: tuple[Tensor, Tensor],
    rope: tuple[Tensor, Tensor],
    attend: Attend,
) -> Tensor:
    """The same as the denoiser goes through the blocks, by the two halves of each."""
    text, image = streams
    for block, own in zip(blocks, vectors, strict=True):
        query, (key, value) = before(block, text, image, own.flatten()[None], rope)
        text, image = after(block, text, image, attend(query, key, value), own.flatten()[None])
    return torch.cat([text, image], dim=1)


def random_blocks(config: DecoderConfig, count: int, device: torch.device, dtype: torch.dtype) -> list[Block]:
    """Blocks ready for drawing, their weights drawn so that values keep their size."""
    blocks = []
    for _ in range(count):
        with torch.device(device):
            block = Block(config).to(dtype).requires_grad_(False)
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
    vectors = [0.3 * torch.randn(12, config.width, device=device, dtype=dtype) for _ in blocks]
    rope = rotary_table(GLYPHS, *grid, config.attention_head_dim, device)
    flat = tuple(table.flatten(1).contiguous() for table in rope)
    halves: tuple[Callable[..., Any], Callable[..., Any]] = Block.before_attention, Block.after_attention
    if device.type == "cuda":
        halves = compiled(halves[0]), compiled(halves[1])
    joint, attend = torch.cat([text, image], dim=1), F.scaled_dot_product_attention
    ways: dict[str, Callable[[], Tensor]] = {
        "compiled": lambda: by_torch(*halves, blocks, vectors, (text, image), rope, attend),
        "kernels": lambda: by_kernels(blocks, vectors, joint, GLYPHS, (flat[0], flat[1]), attend),
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
    moved = 12 * joint.numel() * joint.element_size()  # twice x, update, x, norm; queries and keys in and out
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
