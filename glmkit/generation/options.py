"""The command line options that `glmkit generate` and `glmkit edit` share. Imports nothing heavy."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from glmkit.errors import UserError

COMPILE = ("auto", "off", "blocks")
MEMORY = ("high", "low")


@dataclass(frozen=True)
class InferenceOptions:
    """Trade time against memory, without changing the image: `compile` is one of COMPILE, `memory` one of MEMORY.

    Compiling costs time once, seconds where kernels of glmkit run and else a minute, and saves some at every step.
    "low" memory keeps one component of the model on the device at a time.
    """

    compile: str = "auto"
    memory: str = "high"

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> InferenceOptions:
        """Read what `add_inference_options` adds."""
        return cls(arguments.compile, arguments.memory)

    def compiles_on(self, device_type: str) -> bool:
        """Tell whether to compile; "auto" does on a GPU, where an image takes long enough."""
        return device_type == "cuda" if self.compile == "auto" else self.compile == "blocks"

    @property
    def low_memory(self) -> bool:
        """Whether one component of the model may be on the device at a time."""
        return self.memory == "low"


@dataclass(frozen=True)
class Options:
    """What was asked for; None means the model's default."""

    model: str
    adapters: tuple[str, ...]
    size: str | None
    seed: int
    steps: int | None
    guidance: float | None
    device: str
    dtype: str
    inference: InferenceOptions
    json: bool

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Options:
        return cls(
            arguments.model,
            tuple(arguments.adapter),
            arguments.size,
            arguments.seed,
            arguments.steps,
            arguments.guidance,
            arguments.device,
            arguments.dtype,
            InferenceOptions.from_arguments(arguments),
            arguments.json,
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `Options.of` reads, and --json."""
    parser.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default %(default)s)")
    parser.add_argument(
        "--adapter", metavar="DIR[:WEIGHT]", nargs="+", action="extend", default=[], help="adapters to add"
    )
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="pixels, multiples of 32 (default: the model's)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="another seed, another image (default 0)")
    parser.add_argument("--steps", metavar="N", type=int, help="steps of the diffusion decoder (default: the model's)")
    parser.add_argument("--guidance", metavar="G", type=float, help="how closely to follow (default: the model's)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: bfloat16 on a GPU, else float32"
    )
    add_inference_options(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Add --compile and --memory."""
    parser.add_argument(
        "--compile",
        choices=COMPILE,
        default="auto",
        help="auto: blocks on a GPU (15 to 60 s once, then faster), else off (default: auto; of bench: blocks)",
    )
    parser.add_argument(
        "--memory",
        choices=MEMORY,
        default="high",
        help="low: one component of the model at a time, slower (default high)",
    )


def check_png(path: Path) -> None:
    """UserError unless `path` can become a PNG file."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UserError("--out must be a PNG file", found=path, fix=f"--out {path.with_suffix('.png')}")
