"""What a server gives on one GPU at full size, beside the engine under it: random weights, one run below eight minutes.

    python benchmarks/serve_h200.py OUT_FOLDER [--concurrency 16 4 1] [--images 30 6 3] [--steps 20] [--seconds 460]

The engine comes first, with a batch of prior tokens for each concurrency, then the server in the same process, with
clients in another (`serve_clients.py`). Each result is printed and written to OUT_FOLDER/serve.json as soon as it is
measured; the whole file is printed at the end. On an H200, with 1024x1024 and 20 steps, it is reckoned to take 35 s to
start and make the weights, 90 s for the engine, and 205, 65 and 40 s for 16, 4 and 1 clients.

By default two images for each client but one are measured, since a batch has all clients but the one that got the last
image of the batch before. It needs what `glmkit serve` needs: fastapi, uvicorn, python-multipart.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import speed_h200 as speed
import torch
import uvicorn
from speed_h200 import Row, Rows

from glmkit.generation.benchmark import PROMPT
from glmkit.generation.denoising import decode_prior_tokens
from glmkit.generation.hybrid_generator import IMAGES_BATCH
from glmkit.generation.prior_tokens import generate_prior_tokens
from glmkit.generation.random_model import open_model
from glmkit.generation.requests import new_request
from glmkit.generation.sequence import TOKEN_PIXELS
from glmkit.models import checkpoint
from glmkit.models.devices import dtype_for, pick_device
from glmkit.models.hardware import Clock
from glmkit.models.hybrid import HybridModel
from glmkit.records import Request
from glmkit.serving.adapters import AdapterSwitch
from glmkit.serving.app import create_app
from glmkit.serving.scheduler import Scheduler
from glmkit.serving.settings import ServerSettings

CLIENTS = Path(__file__).with_name("serve_clients.py")
OFFLINE_IMAGES = 8  # timed for the rate of the engine, as `speed_h200.batch` does


def serve(hybrid: HybridModel, images: Mapping[int, int], size: str, steps: int, ends: float) -> Rows:
    """Measure the engine, then the server with as many clients and images as `images` says."""
    clock = Clock(hybrid.device)
    with clock.stage("weights_s"):
        for component in checkpoint.COMPONENTS:
            getattr(hybrid, component)
    yield {"case": "weights"} | clock.seconds
    requests = [
        new_request(hybrid.folder, str(seed), PROMPT, size=size, seed=seed, steps=steps)
        for seed in range(max(*images, OFFLINE_IMAGES))
    ]
    per_image: dict[int, float] = {}
    for offline in engine(hybrid, sorted(images), requests):
        per_image[offline["batch"]] = offline["seconds_per_image"]
        yield offline
    with running(hybrid) as (port, scheduler):
        for clients, count in images.items():
            seconds = max(1.0, ends - time.perf_counter())
            options = {"clients": clients, "images": count, "size": size, "steps": steps, "prompt": PROMPT}
            row: Row = {"case": f"server, {clients} clients"} | ask(port, seconds=seconds, **options)
            row["engine_images_per_hour"] = 3600 / per_image[clients]
            if row["errors"]:
                row["error"] = row["errors"][0]
            if row["images_per_hour"]:
                row["share_of_engine"] = row["images_per_hour"] / row["engine_images_per_hour"]
            yield row
            while scheduler.held:  # what the clients left behind is dropped at its next step
                time.sleep(0.05)


def engine(hybrid: HybridModel, batches: Sequence[int], requests: Sequence[Request]) -> Rows:
    """Time the prior tokens of each batch, warm, and a few images in the batches of `glmkit eval`.

    The seconds of an image in a long run without a server are its share of both.
    """
    few, clock = requests[:OFFLINE_IMAGES], Clock(hybrid.device)
    height, width = few[0].height // TOKEN_PIXELS, few[0].width // TOKEN_PIXELS
    prior_token_ids = torch.zeros(height, width, dtype=torch.int64, device=hybrid.device)

    def decode(some: Sequence[Request]) -> None:
        decode_prior_tokens(hybrid, some, [prior_token_ids] * len(some))

    decode([replace(one, steps=2) for one in few[:IMAGES_BATCH]])  # compiles
    with clock.stage("images"):
        for start in range(0, len(few), IMAGES_BATCH):
            decode(few[start : start + IMAGES_BATCH])
    for batch in batches:
        for name in ("first", "tokens"):  # the first records the steps of this batch
            clock.seconds[name] = 0.0
            with clock.stage(name):
                generate_prior_tokens(hybrid, requests[:batch])
        image, seconds = clock.seconds["images"] / len(few), clock.seconds["tokens"]
        row: Row = {"case": f"engine, prior tokens by {batch}", "batch": batch, "prior_tokens_s": seconds}
        row |= {"first_prior_tokens_s": clock.seconds["first"], "image_s": image}
        each = image + seconds / batch
        yield row | {"seconds_per_image": each, "images_per_hour": 3600 / each}


def ask(port: int, **options: Any) -> Row:
    """Run clients in a process of their own, and return what they measured."""
    named = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, str(CLIENTS), str(port), *named]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if not done.stdout:
        raise RuntimeError(done.stderr[-500:])
    row: Row = json.loads(done.stdout)
    return row


@contextmanager
def running(hybrid: HybridModel) -> Iterator[tuple[int, Scheduler]]:
    """Serve a model on a port of its own, with the settings of `glmkit serve`."""
    settings = ServerSettings(warm_up=False)
    scheduler = Scheduler(hybrid, AdapterSwitch(hybrid, {}), settings)
    server = uvicorn.Server(uvicorn.Config(create_app(scheduler, settings), log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield listening.getsockname()[1], scheduler
        finally:
            server.should_exit = True
            thread.join()


def main(argv: list[str] | None = None) -> int:
    """Measure, and print the file of results at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="full", help="full (random weights), nano or a folder")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 4, 1], metavar="CLIENTS")
    parser.add_argument("--images", type=int, nargs="+", metavar="N", help="measured of each concurrency")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", default="1024x1024")
    parser.add_argument("--seconds", type=float, default=460, help="after which it ends with the images it has")
    parser.add_argument("--compile", choices=("off", "blocks"), default="blocks")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(argv)
    counts = given.images or [2 * (clients - 1) or 3 for clients in given.concurrency]
    if len(counts) != len(given.concurrency):
        parser.error(f"--images names {len(counts)} numbers for {len(given.concurrency)} of --concurrency")
    images = dict(zip(given.concurrency, counts, strict=True))
    device, ends = pick_device(given.device), time.perf_counter() + given.seconds
    facts = {"compile": given.compile} | speed.measured_on(given.model, device)
    with tempfile.TemporaryDirectory() as scratch:
        hybrid = open_model(given.model, device, dtype_for(device), Path(scratch))
        hybrid.optimize_for_inference(given.compile == "blocks")
        rows = partial(serve, hybrid, images, given.size, given.steps, ends)
        failed = speed.measure(given.out, {"serve": rows}, facts, ends)
    print((given.out / "serve.json").read_text())
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
