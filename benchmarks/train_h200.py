"""What LoRA training of the published sizes costs on one GPU, with random weights: a row a setting, written at once.

    python benchmarks/train_h200.py OUT.jsonl [--only PART ...] [--seconds 400]

What fails, or would begin after `--seconds`, is a row with its reason. `--toy`: all of it on nano, in little.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from glmkit import config, runs
from glmkit.commands.bench.train import train_line
from glmkit.files import append_jsonl
from glmkit.generation.random_model import open_model
from glmkit.models.devices import pick_device
from glmkit.models.hybrid import HybridModel
from glmkit.training.benchmark import TrainingCase, measure_cases


@dataclass(frozen=True)
class Scale:
    """Sides of images in pixels, and the batches that are tried to find the best one without recomputation."""

    large: int = 1024
    small: int = 512
    decoder: tuple[int, ...] = (1, 2, 4, 6)
    decoder_small: tuple[int, ...] = (4, 8, 16, 24)
    sequences: tuple[int, ...] = (1, 4, 8, 10)
    packed: tuple[int, ...] = (4, 8, 10)
    steps: int = 4
    compiled: bool = True


HERE = Path(__file__).parent
TOY = Scale(64, 32, (1, 2), (2,), (2,), (2,), 1, compiled=False)  # which takes minutes on a CPU
CAP_GIB = 24.0


def plain(scale: Scale) -> Iterator[TrainingCase]:
    """Each stage on a bfloat16 base: all layers computed again, growing batches without."""
    decoder, prior_tokens = stages(scale)
    yield prior_tokens(1, gradient_checkpointing=1)
    yield from (prior_tokens(batch) for batch in scale.sequences)
    yield decoder(1, gradient_checkpointing=1)
    yield from (decoder(batch) for batch in scale.decoder)
    yield from (TrainingCase("decoder", scale.small, scale.small, batch) for batch in scale.decoder_small)


def packed(scale: Scale) -> Iterator[TrainingCase]:
    """Sequences that share a row."""
    prior_tokens = stages(scale)[1]
    yield from (prior_tokens(batch, pack=True) for batch in scale.packed)
    if scale.compiled:
        yield from (prior_tokens(batch, pack=True, compile=True) for batch in scale.packed)


def bases(scale: Scale) -> Iterator[TrainingCase]:
    """Fewer bits, also under a hard cap of 24 GiB."""
    decoder, prior_tokens = stages(scale)
    for stage in (decoder, prior_tokens):
        yield stage(1, gradient_checkpointing=1, base="nf4", cap_gib=CAP_GIB)
    for base in ("fp8", "int8", "nf4"):
        for stage, batch in ((decoder, scale.decoder[-1]), (prior_tokens, scale.packed[-1])):
            yield stage(1, gradient_checkpointing=1, base=base)
            yield stage(batch, base=base, pack=stage is prior_tokens)


def products(scale: Scale) -> Iterator[TrainingCase]:
    """Products in 8 bits beside those in bfloat16, compiled and not."""
    decoder, prior_tokens = stages(scale)
    if scale.compiled:
        for base in ("fp8-compute", "auto"):
            yield from (decoder(batch, compile=True, base=base) for batch in scale.decoder[-2:])
            yield prior_tokens(scale.packed[-1], pack=True, compile=True, base=base)
        yield decoder(scale.decoder[-2], base="fp8-compute")


def offload(scale: Scale) -> Iterator[TrainingCase]:
    """Blocks that wait in the CPU's memory, under the same cap."""
    for stage in stages(scale):
        yield stage(1, gradient_checkpointing=1, offload=True, cap_gib=CAP_GIB)


def compiled(scale: Scale) -> Iterator[TrainingCase]:
    """The batches that were best without compilation, and more."""
    decoder, prior_tokens = stages(scale)
    if scale.compiled:
        yield from (decoder(batch, compile=True) for batch in scale.decoder[-2:])
        yield decoder(1, gradient_checkpointing=1, compile=True)
        yield prior_tokens(scale.sequences[-2], compile=True)
        yield TrainingCase("decoder", scale.small, scale.small, scale.decoder_small[-2], compile=True)


def recipes(scale: Scale) -> Iterator[TrainingCase]:
    """Recipes as they are, of which no other row tells."""
    for name in ("glyph_lora", "edit_lora", "poster_lora"):
        for stage, asked in config.load(HERE.parent / "recipes" / f"{name}.yaml").stages.items():
            yield TrainingCase.from_recipe(stage, asked, (scale.large, scale.large), edits=name == "edit_lora")


def stages(scale: Scale) -> tuple[Callable[..., TrainingCase], Callable[..., TrainingCase]]:
    """Jobs of the decoder and of the autoregressive model on large images, by their batch."""
    large = (scale.large, scale.large)
    return partial(TrainingCase, "decoder", *large), partial(TrainingCase, "autoregressive", *large)


PARTS = {part.__name__: part for part in (plain, packed, bases, products, offload, compiled, recipes)}


def jobs(scale: Scale, only: Sequence[str] = tuple(PARTS)) -> Iterator[TrainingCase]:
    """What is measured; neighbours share a model where they can."""
    for name in only:
        yield from PARTS[name](scale)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", help="default: full, with --toy nano")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts, in this order")
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    arguments = parser.parse_args(given)
    scale, device = TOY if arguments.toy else Scale(), pick_device(arguments.device)
    model = arguments.model or ("nano" if arguments.toy else "full")
    environment, measured = runs.environment(str(device)), False
    with tempfile.TemporaryDirectory() as scratch:

        def build(dtype: torch.dtype) -> HybridModel:
            return open_model(model, device, dtype, Path(scratch))

        for row in measure_cases(jobs(scale, arguments.only), build, device, scale.steps, arguments.seconds):
            measured |= "error" not in row
            append_jsonl(arguments.out, {**row, "model": model, "environment": environment})
            print(train_line(row), flush=True)
    return 0 if measured else 1


if __name__ == "__main__":
    raise SystemExit(main())
