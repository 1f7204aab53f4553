"""What LoRA training of the published sizes costs on one GPU, with random weights: a row a setting, written at once.

    python benchmarks/train_h200.py OUT.jsonl [--model full|nano|FOLDER] [--toy] [--seconds 400]

In order of need: each stage on a bfloat16 base, with all layers computed again and at growing batches without, packed
sequences too; under a hard cap of 24 GiB on a base of 4 bits; the other bases; blocks that wait in the CPU's memory;
compiled. What fails, or would begin after `--seconds`, is a row with its reason. `--toy`: all of it on nano, in little.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from glmkit import runs
from glmkit.commands.bench import train_line, untrained
from glmkit.files import append_jsonl
from glmkit.models.devices import pick_device
from glmkit.training.speed import Job, rows


@dataclass(frozen=True)
class Scale:
    """Sides of pictures in pixels, and the batches that are tried to find the best one without recomputation."""

    large: int = 1024
    small: int = 512
    decoder: tuple[int, ...] = (1, 2, 4, 6)
    decoder_small: tuple[int, ...] = (4, 8, 16, 24)
    sequences: tuple[int, ...] = (1, 4, 8, 10)
    packed: tuple[int, ...] = (4, 8, 10)
    steps: int = 4
    compiled: bool = True


TOY = Scale(64, 32, (1, 2), (2,), (2,), (2,), 1, compiled=False)  # which takes minutes on a CPU
CAP_GIB = 24.0


def jobs(scale: Scale) -> Iterator[Job]:
    """What is measured; neighbours share a model where they can."""
    decoder = partial(Job, "decoder", scale.large, scale.large)
    codes = partial(Job, "autoregressive", scale.large, scale.large)
    yield codes(1, recompute_every=1)
    yield from (codes(batch, pack=True) for batch in scale.packed)
    yield from (codes(batch) for batch in scale.sequences)
    yield decoder(1, recompute_every=1)
    yield from (decoder(batch) for batch in scale.decoder)
    yield from (Job("decoder", scale.small, scale.small, batch) for batch in scale.decoder_small)
    for stage in (decoder, codes):
        yield stage(1, recompute_every=1, base="nf4", cap_gib=CAP_GIB)
    for base in ("fp8", "int8", "nf4"):
        for stage, batch in ((decoder, scale.decoder[-1]), (codes, scale.packed[-1])):
            yield stage(1, recompute_every=1, base=base)
            yield stage(batch, base=base, pack=stage is codes)
    for stage in (decoder, codes):
        yield stage(1, recompute_every=1, offload=True, cap_gib=CAP_GIB)
    if scale.compiled:
        yield decoder(scale.decoder[-2], compile=True)
        yield decoder(1, recompute_every=1, compile=True)
        yield codes(scale.sequences[-2], compile=True)
        yield Job("decoder", scale.small, scale.small, scale.decoder_small[-2], compile=True)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", help="default: full, with --toy nano")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    arguments = parser.parse_args(given)
    scale, device = TOY if arguments.toy else Scale(), pick_device(arguments.device)
    model = arguments.model or ("nano" if arguments.toy else "full")
    environment, measured = runs.environment(str(device)), False
    with tempfile.TemporaryDirectory() as scratch:
        build = partial(untrained, model, device, Path(scratch))
        for row in rows(jobs(scale), build, device, scale.steps, arguments.seconds):
            measured |= "error" not in row
            append_jsonl(arguments.out, {**row, "model": model, "environment": environment})
            print(train_line(row), flush=True)
    return 0 if measured else 1


if __name__ == "__main__":
    raise SystemExit(main())
