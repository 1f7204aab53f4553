"""What the files of a large evaluation cost: python benchmarks/million_images.py FOLDER --images 1000000 --out JSON

A synthetic run of that many images, as `glmkit eval --prompts` leaves it when the last image is there: prompts of one
to three texts in four splits, image files of 32x32 pixels, and recognized lines for each. Then the commands of every
later day, each in a process of its own: `eval` finds that nothing is missing, scores and pools; `report` writes the
page. Seconds are those of the processor, so that what else the machine does counts little; bytes are the peak of the
process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glmkit import runs
from glmkit.evaluation import evaluate as evaluation
from glmkit.evaluation.ocr.cache import FILE
from glmkit.evaluation.plan import DEFAULT_ENGINE, EvaluationPlan, GenerationSettings
from glmkit.files import write_json, write_jsonl
from glmkit.generation.images import is_whole_image
from glmkit.hashing import file_sha256
from glmkit.records import Generation
from glmkit.reporting.build import write_report

WORDS = ("OPEN", "CAFE", "SALE", "MUSEUM", "JAZZ NIGHT", "FRESH BREAD", "EXIT", "LIBRARY", "SUMMER", "BOOKS")
CONTENTS = 64  # different image files; the others are further names of them, at most 65,000 each
STAGES = ("image", "make", "eval", "report")
STEPS = ("generate_images", "_recognize", "score", "summarize", "write_jsonl")  # of `evaluate`, timed one by one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--stage", choices=STAGES, help="only this, in this process")
    parser.add_argument("--out", type=Path, help="add the measurements to this JSON file")
    arguments = parser.parse_args()
    if arguments.stage:
        print(json.dumps(stage(arguments.stage, arguments.folder, arguments.images)))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in STAGES:
        command = [sys.executable, __file__, str(arguments.folder), "--images", str(arguments.images), "--stage", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, results[name], file=sys.stderr)
    if arguments.out is not None:
        record = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": []}
        record |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "environment": runs.environment("cpu")}
        record["command"] = "python benchmarks/million_images.py FOLDER --images N --out JSON"
        record["runs"].append({"images": arguments.images, **results})
        write_json(arguments.out, record)


def plan_of_nano(prompts: Path) -> EvaluationPlan:
    """Plan one image by nano of each prompt of a file."""
    settings = GenerationSettings.with_defaults("nano", "cpu")
    return EvaluationPlan("own-prompts", DEFAULT_ENGINE, prompts, generation=settings, count=1)


def stage(name: str, folder: Path, count: int) -> dict[str, Any]:
    """Do one part, and return what it cost."""
    if name == "image":
        return large_image(folder / "large.png")
    plan = plan_of_nano(folder / "prompts.jsonl")
    run = folder / "run"
    steps: dict[str, float] = {}
    start, wall = time.process_time(), time.perf_counter()
    if name == "make":
        make(plan, folder, count)
    elif name == "eval":
        with timed(evaluation, steps):
            evaluation.evaluate(plan, run)
    else:
        write_report([run], folder / "report.html")
    return {
        "seconds": round(time.process_time() - start, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        **({"steps": {step: round(seconds, 1) for step, seconds in steps.items()}} if steps else {}),
        "file_mib": {path.name: round(path.stat().st_size / 2**20, 1) for path in files(folder)},
    }


def large_image(path: Path, repeats: int = 10) -> dict[str, Any]:
    """Return the size of a 1024x1024 PNG as noisy as a photo, and the seconds that resuming spends on it."""
    noise = np.random.default_rng(0).normal(128, 8, (1024, 1024, 3))
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)
    seconds = {}
    for work in (is_whole_image, file_sha256):
        start = time.process_time()
        for _ in range(repeats):
            work(path)
        seconds[work.__name__] = (time.process_time() - start) / repeats
    return {"bytes": path.stat().st_size, "seconds": seconds}


def files(folder: Path) -> list[Path]:
    """List what grows with the images, but for the images."""
    found = [folder / "prompts.jsonl", *sorted((folder / "run").glob("*.jsonl")), *sorted(folder.glob("report.*"))]
    return [path for path in [*found, *sorted((folder / "report").glob("*.*"))] if path.is_file()]


@contextmanager
def timed(module: Any, seconds: dict[str, float]) -> Iterator[None]:
    """Add up the processor seconds of the functions `STEPS` of a module."""
    before = {name: getattr(module, name) for name in STEPS}

    def measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.process_time() - start

        return call

    for name, function in before.items():
        setattr(module, name, measured(name, function))
    yield
    for name, function in before.items():
        setattr(module, name, function)


def make(plan: EvaluationPlan, folder: Path, count: int) -> None:
    """Write prompts and the run, but for its scores."""
    choose = random.Random(0)
    prompts: list[dict[str, Any]] = []
    for number in range(count):
        texts = [choose.choice(WORDS) for _ in range(choose.randint(1, 3))]
        said = f"Poster {number} that says " + " and ".join(f'"{text}"' for text in texts)
        prompts.append({"id": f"p{number:07d}", "prompt": said, "texts": texts, "split": f"s{number % 4}"})
    write_jsonl(folder / "prompts.jsonl", prompts)
    run = folder / "run"
    runs.open_run(run, "eval", plan.settings(), "cpu")
    images = run / "images"
    images.mkdir()
    sources = [folder / f"source{number}.png" for number in range(CONTENTS)]
    for number, path in enumerate(sources):
        Image.new("RGB", (32, 32), (number, 3 * number, 255 - number)).save(path)
    for number, prompt in enumerate(prompts):
        os.link(sources[number % CONTENTS], images / f"{prompt['id']}_0.png")
    write_jsonl(
        run / "images.jsonl",
        (
            Generation(f"{p['id']}_0", p["id"], p["prompt"], 0, f"images/{p['id']}_0.png", 11.8).to_dict()
            for p in prompts
        ),
    )
    key = plan.engine_identity.key
    write_jsonl(
        run / FILE,
        ({"sha256": file_sha256(path), "max_tokens": 1024, "engine": key, "lines": lines(choose)} for path in sources),
    )


def lines(choose: random.Random) -> list[dict[str, Any]]:
    """Make up what OCR found in one image."""
    return [
        {"text": choose.choice(WORDS), "box": [2, 8 * line, 30, 8 * line + 7], "confidence": 0.97}
        for line in range(choose.randint(0, 3))
    ]


if __name__ == "__main__":
    main()
