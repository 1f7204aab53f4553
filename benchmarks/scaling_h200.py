"""What training, evaluation and one image gain from more GPUs, at the published sizes with random weights.

    python benchmarks/scaling_h200.py OUT.json [--gpus 1 2] [--only lora full eval image] [--seconds 460]

Each GPU has as much work as one alone: batches and prompts grow with the GPUs. `efficiency` is the gain by all GPUs
over their number. `lora`: adapters of both transformers, with all weights on each GPU (replicas) and, from two GPUs on,
in shards. `full`: all weights, in shards. `eval`: images generated and read, warm, without the loading of weights.
`image`: the denoising of one large image, by each mode of `--parallel`; all GPUs together have the work of one there.
Every part is a process for each GPU, and its rows are written when it ends; one that fails leaves its error. `--toy`:
all of it on nano, in little, by processes on a CPU.
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from speed_h200 import line, measured_on

from glmkit.commands.bench.train import train_line
from glmkit.distributed.together import together
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.plan import EvaluationPlan, GenerationSettings
from glmkit.files import read_json, read_jsonl, write_json, write_jsonl
from glmkit.generation.denoising import decode_prior_tokens
from glmkit.generation.hybrid_generator import IMAGES_BATCH
from glmkit.generation.loading import device_of_rank
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.generation.random_model import open_model
from glmkit.models import checkpoint
from glmkit.models.devices import dtype_for, pick_device
from glmkit.reporting.wording import count

Row = dict[str, Any]
SUITE, SPLIT = "text-render", "simple"
STAGES = ("decoder", "autoregressive")
REPLICAS: dict[str, str] = {}
SHARDS = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
MODES = {1: ("images",), 2: ("guidance", "sequence"), 4: ("guidance+sequence", "sequence")}  # of one image, by GPUs


@dataclass(frozen=True)
class Scale:
    """The work of one GPU: images per step with adapters and of all weights, prompts to evaluate; sides in pixels.

    `large` is the side of the image that GPUs share.
    """

    model: str = "full"
    side: int = 1024
    lora: int = 4
    full: int = 2
    prompts: int = 16
    denoising_steps: int = 20
    steps: int = 5
    large: int = 2048
    repeats: int = 2


TOY = Scale("nano", 64, 1, 1, 2, 2, 1, 64, 1)


@dataclass(frozen=True)
class Launch:
    """Start a part for each GPU, of at most so many seconds."""

    scale: Scale
    device: str
    seconds: float
    scratch: Path

    def run(self, gpus: int, name: str, command: Sequence[str], environment: dict[str, str]) -> list[Row]:
        """Return the rows that `command` writes to the file that is its last argument, and an error where it fails."""
        rows, began = self.scratch / f"{name}-{gpus}.json", time.perf_counter()
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(gpus)]
        launcher += ["--master_port", _free_port()]
        said, log = "", self.scratch / f"{name}-{gpus}.txt"
        with log.open("w") as output:
            process = subprocess.Popen(
                [*launcher, *command, str(rows)], stdout=output, stderr=output, env={**os.environ, **environment}
            )
            try:
                if code := process.wait(self.seconds):
                    said = f"exit code {code}: {log.read_text()[-600:]}"
            except subprocess.TimeoutExpired:
                said = f"took longer than {self.seconds:g} s"
                process.terminate()  # the launcher ends its processes then
                process.wait()
        took = {"gpus": gpus, "seconds_in_all": time.perf_counter() - began}
        found: list[Row] = []
        if rows.exists():
            found = read_jsonl(rows) if rows.read_text().startswith('{"') else [read_json(rows)]
        failed = [{"case": f"{name}, {count(gpus, 'GPU')}", "error": said}] if said else []
        return [{**row, **took} for row in [*found, *failed]]


def lora(launch: Launch, gpus: int) -> Iterator[Row]:
    """Train adapters."""
    yield from _training(launch, gpus, "replicas", launch.scale.lora, REPLICAS)
    if gpus > 1:
        yield from _training(launch, gpus, "shards", launch.scale.lora, SHARDS)


def full(launch: Launch, gpus: int) -> Iterator[Row]:
    """Train all weights, which no GPU alone has room for."""
    if gpus > 1:
        options = ("--full-finetuning", "--gradient-checkpointing", "1")
        yield from _training(launch, gpus, "full, shards", launch.scale.full, SHARDS, *options)


def _training(
    launch: Launch, gpus: int, mode: str, batch: int, environment: dict[str, str], *options: str
) -> Iterator[Row]:
    side = launch.scale.side
    command = ["-m", "glmkit", "bench", "train", "--model", launch.scale.model, "--stage", *STAGES, *options]
    command += ["--size", f"{side}x{side}", "--batch", str(batch * gpus), "--steps", str(launch.scale.steps)]
    for row in launch.run(gpus, mode, [*command, "--device", launch.device, "--out"], environment):
        if "stage" in row:
            gain = None if options else row.get("samples_per_second")
            row = {"case": f"{row['stage']}, {mode}", "alone": f"{row['stage']}, replicas", "gain": gain, **row}
        yield row


def eval_(launch: Launch, gpus: int) -> Iterator[Row]:
    """Generate images and read them."""
    command = [str(Path(__file__)), "--evaluate", *(["--toy"] if launch.scale == TOY else [])]
    for row in launch.run(gpus, "eval", [*command, "--device", launch.device], REPLICAS):
        yield {"case": "eval", "alone": "eval", "gain": row.get("images_per_hour"), **row}


def image(launch: Launch, gpus: int) -> Iterator[Row]:
    """Denoise one image."""
    size = f"{launch.scale.large}x{launch.scale.large}"
    for mode in MODES.get(gpus, ()):
        command = ["-m", "glmkit", "bench", "speed", "--model", launch.scale.model, "--size", size]
        command += ["--steps", str(launch.scale.denoising_steps), "--repeats", str(launch.scale.repeats)]
        command += ["--parallel", mode, "--device", launch.device, "--out"]
        for row in launch.run(gpus, mode, command, REPLICAS):
            if "stages" in row:
                seconds = row["stages"]["denoising"]["glmkit"]
                whole = {"seconds": row["glmkit"], "gpus": gpus, "seconds_in_all": row["seconds_in_all"]}
                row = {"denoising": seconds, "gain": 1 / seconds, **whole}
            yield {"case": f"{size}, {mode}", "alone": f"{size}, images", **row}


def evaluate_here(out: Path, scale: Scale, name: str) -> None:
    """Be one of the processes that evaluate; the first one writes the row."""
    device = device_of_rank(name)
    with together(device) as group, tempfile.TemporaryDirectory() as scratch:
        hybrid = open_model(scale.model, device, dtype_for(device), Path(scratch))
        hybrid.optimize_for_inference(device.type == "cuda")
        for component in checkpoint.COMPONENTS:
            getattr(hybrid, component)
        total = scale.prompts * group.world_size
        size = f"{scale.side}x{scale.side}"
        settings = GenerationSettings.with_defaults(hybrid, str(device), size=size, steps=scale.denoising_steps)
        settings = replace(settings, prompt_sizes=False)
        prompts = suites.prompts(suites.load(SUITE), SPLIT, total)
        requests = [settings.request(prompt, 0) for prompt in prompts]
        # Warm: compiled, and with the recorded steps of this batch.
        prior_tokens = generate_prior_tokens(hybrid, requests[: scale.prompts])[:IMAGES_BATCH]
        decode_prior_tokens(hybrid, [replace(one, steps=2) for one in requests[: len(prior_tokens)]], prior_tokens)
        plan = EvaluationPlan(SUITE, engines.resolve("paddleocr"), split=SPLIT, limit=total, generation=settings)
        folder = out.with_suffix("")
        group.barrier()
        began, began_at = time.perf_counter(), time.time()
        evaluate(plan, folder, str(device), model=hybrid)
        group.barrier()
        seconds = time.perf_counter() - began
        if group.is_main:
            generated = max(path.stat().st_mtime for path in (folder / "images").glob("*.png")) - began_at
            row = {"images": len(list((folder / "images").glob("*.png"))), "seconds": seconds}
            row |= {"generate_images_per_hour": 3600 * total / generated, "images_per_hour": 3600 * total / seconds}
            write_jsonl(out, [row])


def with_efficiency(rows: Sequence[Row]) -> list[Row]:
    """Add to every row its gain over that of one GPU, the case `alone`, by its GPUs."""
    by_case = {row["case"]: row["gain"] for row in rows if row["gpus"] == 1 and row.get("gain")}
    found = []
    for row in rows:
        alone = by_case.get(row.get("alone", ""))
        if row.get("gain") and alone:
            row = {**row, "efficiency": row["gain"] / (row["gpus"] * alone)}
        found.append(row)
    return found


def describe(part: str, row: Row) -> str:
    """Write a row for people."""
    if "step" not in row:
        return line(part, row)
    return train_line(row) + (f", efficiency {row['efficiency']:.3f}" if "efficiency" in row else "")


PARTS = {"lora": lora, "full": full, "eval": eval_, "image": image}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gpus", nargs="+", type=int, help="default: 1, 2, 4, ... up to all")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts, in this order")
    parser.add_argument("--seconds", type=float, default=460, help="no part begins later")
    parser.add_argument("--toy", action="store_true", help="nano, in little")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument("--evaluate", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    scale = TOY if arguments.toy else Scale()
    if arguments.evaluate:
        evaluate_here(arguments.out, scale, arguments.device)
        return 0
    device = pick_device(arguments.device)
    most = torch.cuda.device_count() if device.type == "cuda" else 2
    counts = arguments.gpus or [2**power for power in range(most.bit_length()) if 2**power <= most]
    rows: list[Row] = []
    ends = time.perf_counter() + arguments.seconds
    with tempfile.TemporaryDirectory() as scratch:
        for part in arguments.only:
            for gpus in counts:
                left = ends - time.perf_counter()
                late: Row = {"case": f"{part}, {count(gpus, 'GPU')}", "gpus": gpus, "error": "no time left"}
                launch = Launch(scale, device.type, left, Path(scratch))
                for row in PARTS[part](launch, gpus) if left > 0 else [late]:
                    rows.append(row)
                    done = with_efficiency(rows)
                    write_json(arguments.out, {"rows": done} | measured_on(scale.model, device))
                    print(describe(part, done[-1]), flush=True)
    return 1 if any("error" in row for row in rows) else 0


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


if __name__ == "__main__":
    print(shlex.join(["python", *sys.argv]), file=sys.stderr)
    raise SystemExit(main())
