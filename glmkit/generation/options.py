"""The command line options that commands which generate share. Imports torch only to load a model."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.errors import UserError
from glmkit.files import called, check_writable
from glmkit.shortcuts import EXACT, PRECISIONS

if TYPE_CHECKING:
    import torch

    from glmkit.models.hybrid import HybridModel
    from glmkit.records import Request

COMPILE = ("auto", "off", "blocks")
MEMORY = ("high", "low")
PARALLEL = ("images", "guidance", "sequence", "guidance+sequence")


@dataclass(frozen=True)
class InferenceOptions:
    """Trade time against memory, without changing the image: `compile` is one of COMPILE, `memory` one of MEMORY.

    Compiling costs time once, seconds where kernels of glmkit run and else a minute, and saves some at every step.
    "low" memory keeps one component of the model on the device at a time. Many images share the folder `prior_tokens`
    with those of other runs that need the same; None: a run keeps its own, while it lasts.
    """

    compile: str = "auto"
    memory: str = "high"
    prior_tokens: Path | None = None

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> InferenceOptions:
        """Read what `add_inference_options` adds."""
        return cls(arguments.compile, arguments.memory)

    def compiles_on(self, device: torch.device) -> bool:
        """Tell whether to compile; "auto" does on a GPU, where an image takes long enough, if Triton runs there.

        UserError when "blocks" cannot be compiled there.
        """
        from glmkit.models.devices import check_compile, triton_runs

        if self.compile == "auto":
            return triton_runs(device)
        if self.compile == "blocks":
            check_compile("--compile blocks", device, "--compile off")
        return self.compile == "blocks"

    @property
    def low_memory(self) -> bool:
        """Tell whether one component of the model may be on the device at a time."""
        return self.memory == "low"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a model, a request and its inference, and --json."""
    parser.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default %(default)s)")
    add_adapter_option(parser)
    parser.add_argument(
        "--text",
        metavar="TEXT",
        dest="texts",
        action="append",
        help="a text to render, once for each, in place of what stands in quotes",
    )
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="pixels, multiples of 32 (default: the model's)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="another seed, another image (default 0)")
    parser.add_argument("--steps", metavar="N", type=int, help="denoising steps (default: the model's)")
    parser.add_argument(
        "--guidance",
        metavar="G",
        type=float,
        help="scale of classifier-free guidance, 1 for none (default: the model's)",
    )
    add_shortcut_options(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument(
        "--dtype", default="auto", help="auto, float32 or bfloat16; auto is bfloat16 on a GPU that has it, else float32"
    )
    add_inference_options(parser)
    add_parallel_option(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def add_adapter_option(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add --adapter, which takes one value, so that it swallows no word behind it."""
    text = "an adapter to add; once for each"
    parser.add_argument("--adapter", metavar="DIR[:WEIGHT]", action="append", help=text, required=required)


def add_shortcut_options(parser: argparse.ArgumentParser) -> None:
    """Add --reuse, --guided, --vae-tiling and --precision."""
    parser.add_argument(
        "--reuse",
        metavar="N",
        type=int,
        default=EXACT["reuse"],
        help="quicker, not exact: 2 or 3 runs the decoder's blocks in every 2nd or 3rd step (default %(default)s)",
    )
    parser.add_argument(
        "--guided",
        metavar="SHARE",
        type=float,
        default=EXACT["guided"],
        help="quicker, not exact: the share of the steps that use guidance, from the first (default %(default)s)",
    )
    add_tiling_option(parser)
    add_precision_option(parser)


def add_tiling_option(parser: argparse.ArgumentParser) -> None:
    """Add --vae-tiling."""
    parser.add_argument(
        "--vae-tiling",
        action="store_true",
        help="not exact: decode images above the size that the VAE was trained on in tiles, which takes less memory",
    )


def add_precision_option(parser: argparse.ArgumentParser) -> None:
    """Add --precision."""
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=EXACT["precision"],
        help="not exact: 8bit holds the layers in half the memory, and is quicker on GPUs that multiply 8-bit numbers; "
        "4bit holds those of the AR model in a quarter (default %(default)s)",
    )


def add_rewrite_options(parser: argparse.ArgumentParser) -> None:
    """Add --rewrite and --rewrite-instruction."""
    parser.add_argument(
        "--rewrite",
        metavar="endpoint:MODEL|FILE",
        help="let a language model rewrite the prompts first, or take rewritten ones from a file; texts stay",
    )
    parser.add_argument(
        "--rewrite-instruction",
        metavar="FILE",
        type=Path,
        help="what the endpoint's model is asked to do, like GLM-Image's examples/prompt_utils.py (default: our own)",
    )


def add_parallel_option(parser: argparse.ArgumentParser) -> None:
    """Add --parallel, and `partners`, other processes by `glmkit.generation.parallel_denoising`."""
    parser.add_argument(
        "--parallel",
        choices=PARALLEL,
        default=PARALLEL[0],
        help="what processes of torchrun share: whole images, or of each image the halves of guidance (two processes), "
        "its tokens (two or more), or both (four or more) (default %(default)s)",
    )
    parser.set_defaults(partners=None)


def add_inference_options(parser: argparse.ArgumentParser) -> None:
    """Add --compile and --memory."""
    parser.add_argument(
        "--compile",
        choices=COMPILE,
        default="auto",
        help="auto: blocks where Triton runs (15 to 60 s once, then faster), else off (default auto; of bench: blocks)",
    )
    parser.add_argument(
        "--memory",
        choices=MEMORY,
        default="high",
        help="low: one component of the model at a time, slower (default high)",
    )


def load_model_from(arguments: argparse.Namespace, requests: Sequence[Request]) -> HybridModel:
    """Load the model that `add_options` names, with every component that the requests need."""
    from glmkit.generation.loading import components_for, load_model

    if arguments.parallel.startswith("guidance") and all(one.guidance <= 1 for one in requests):
        what, fix = "without guidance there are no two halves to share", "--parallel sequence, or leave it out"
        raise UserError(what, found=f"guidance {requests[0].guidance}", fix=fix)
    options, components = InferenceOptions.from_arguments(arguments), components_for(requests)
    adapters = arguments.adapter or ()
    hybrid = load_model(
        arguments.model,
        arguments.device,
        arguments.dtype,
        adapters,
        options=options,
        components=components,
        precision=arguments.precision,
    )
    hybrid.denoising_partners = arguments.partners
    if hybrid.compiled:
        note = "the first image of each size compiles kernels, which takes 15 to 60 s; --compile off does without"
        print(note, file=sys.stderr)
    return hybrid


def run_by_parallel(arguments: argparse.Namespace, command: Callable[[], int]) -> int:
    """Run a command that `add_options` describes as its --parallel says; returns its exit code."""
    if arguments.parallel == PARALLEL[0]:
        return command()
    from glmkit.generation import parallel_denoising
    from glmkit.generation.loading import load_model

    def load() -> HybridModel:
        options, adapters = InferenceOptions.from_arguments(arguments), arguments.adapter or ()
        model, components = (arguments.model, arguments.device, arguments.dtype, adapters, options), ("decoder",)
        return load_model(*model, components, arguments.precision)

    return parallel_denoising.run(arguments, command, load)


def adapter_names(adapters: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """Return adapters as texts; one may stand alone, without a list around it."""
    return tuple(map(str, [adapters] if isinstance(adapters, (str, Path)) else adapters))


def check_png(path: Path) -> None:
    """Raise UserError unless `path` can become a PNG file, before work is done for it."""
    check_name(path)
    if path.suffix.lower() != ".png" or path.is_dir():
        fix = f"--out {called(path, '.png', 'image')}"
        raise UserError("--out must be a PNG file", found=path, fix=fix)
    check_writable(path)


def check_name(path: Path) -> None:
    """Raise UserError for a path that no disk takes, before work is done for it."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            "--out is no name of a file", found=f"{str(path)[:80]!r}: {reason}", fix="--out image.png"
        ) from error
