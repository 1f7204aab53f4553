"""What LoRA training of the published sizes costs on one GPU, with random weights: a row a setting, written at once.

    python benchmarks/train_h200.py OUT.jsonl [--model full|FOLDER] [--seconds 460]

In order of need: batch 1 with all layers computed again; the largest batches without; both stages under a cap of 24 GiB
with a base in 4 bits; compiled. What does not fit is a row with its error; no row begins after `--seconds`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from glmkit import runs
from glmkit.files import append_jsonl
from glmkit.generation.random_model import RandomModel, published_folder
from glmkit.generation.speed import capped
from glmkit.models import checkpoint
from glmkit.models.devices import pick_device
from glmkit.models.hybrid import HybridModel
from glmkit.training import frozen
from glmkit.training.speed import Job, measure

STEPS = 6


def jobs(full: bool) -> list[tuple[Job, float | None]]:
    """What is measured, and the GiB that it may use."""
    large, small = (1024, 512) if full else (128, 64)
    capped = [Job(name, large, large, 1, 1, "nf4") for name in ("decoder", "autoregressive")] if full else []
    plain = [
        *(Job(name, large, large, 1, 1) for name in ("decoder", "autoregressive")),
        *(Job("decoder", large, large, batch) for batch in (1, 4)),
        *(Job("decoder", small, small, batch) for batch in (4, 16)),
        *(Job("autoregressive", large, large, batch) for batch in (1, 4, 8)),
    ]
    compiled = [
        Job("decoder", large, large, 4, compile=True),
        Job("autoregressive", large, large, 8, compile=True),
        Job("decoder", small, small, 16, compile=True),
        Job("decoder", large, large, 1, 1, compile=True),
    ]
    return [(job, None) for job in plain] + [(job, 24.0) for job in capped] + [(job, None) for job in compiled]


def row_of(job: Job, cap_gib: float | None, model: str) -> dict[str, Any]:
    device = pick_device("auto")
    lora = job.stage.lora
    assert lora is not None
    with tempfile.TemporaryDirectory() as scratch, capped(device, cap_gib):
        dtype, folder = frozen.dtype(lora, device), Path(scratch)
        try:
            frozen.check(lora, device)
            hybrid: HybridModel = (
                RandomModel(published_folder(folder / "full"), device, dtype, "full")
                if model == "full"
                else HybridModel(checkpoint.resolve(model), device, dtype)
            )
            return {**measure(hybrid, job, STEPS, folder), "cap_gib": cap_gib}
        except Exception as error:  # a row with its error is worth more than no other rows
            return {**vars(job), "cap_gib": cap_gib, "error": f"{type(error).__name__}: {str(error)[:300]}"}


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="full")
    parser.add_argument("--seconds", type=float, default=460)
    arguments = parser.parse_args(given)
    started, environment = time.monotonic(), runs.environment(str(pick_device("auto")))
    for job, cap_gib in jobs(arguments.model == "full"):
        if time.monotonic() - started > arguments.seconds:
            print(f"no time left for {job}")
            continue
        row = row_of(job, cap_gib, arguments.model)
        append_jsonl(arguments.out, {**row, "environment": environment})
        print(row, flush=True)


if __name__ == "__main__":
    main()
