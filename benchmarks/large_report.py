"""How large a report of many images is, and how it opens: python benchmarks/large_report.py FOLDER RUNS... --out JSON

RUNS are folders with a run of `glmkit eval` for each split, of the same prompts in all of them. Their prompts are
repeated under new ids, with their records and their images, whose pixels are moved a little, so that no two files are
equal. `glmkit report` makes a page of these runs, and headless Chromium opens it from a file and scrolls through it.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from million_images import plan_of_nano
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from glmkit import runs
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.ocr.cache import FILE
from glmkit.files import read_json, read_jsonl, write_json, write_jsonl
from glmkit.hashing import file_sha256
from glmkit.records import Generation
from glmkit.reporting.build import write_report

COMMAND = "python benchmarks/large_report.py FOLDER RUNS... --prompts {} --side {} --out JSON"
STEPS, STEP = 200, 400  # of scrolling, and pixels of each
WATCH = """window.longTasks = [];
new PerformanceObserver(list => longTasks.push(...list.getEntries().map(one => one.duration)))
  .observe({type: "longtask", buffered: true});"""
SCROLL = """async ([steps, step]) => {
  const frames = [];
  let before = await new Promise(requestAnimationFrame);
  for (let number = 0; number < steps; number++) {
    scrollBy(0, step);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - before);
    before = now;
  }
  return frames;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--side", type=int, default=256, help="pixels; images are enlarged to it")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="executable")
    parser.add_argument("--out", type=Path, help="add the measurements to this JSON file")
    arguments = parser.parse_args()
    folder, started = arguments.folder, time.perf_counter()
    if not (folder / "page").exists():
        made = make(folder, arguments.runs, arguments.prompts, arguments.side)
        print(f"made in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        started = time.perf_counter()
        write_report(made, folder / "page.html", [path.name for path in made], as_zip=True)
        write_json(folder / "seconds.json", round(time.perf_counter() - started, 1))
    result = {"prompts": arguments.prompts, "runs": len(arguments.runs), "side": arguments.side}
    result |= {"report_seconds": read_json(folder / "seconds.json"), "megabytes": sizes(folder)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        result |= {"chromium": browser.version}
        result["opened"] = [opened(browser, folder / "page" / "index.html") for _ in range(3)]
        browser.close()
    print(result, file=sys.stderr)
    if arguments.out is not None:
        record = read_json(arguments.out) if arguments.out.exists() else {"pages": []}
        result |= {"date": datetime.now(UTC).isoformat(timespec="seconds"), "environment": runs.environment("cpu")}
        result |= {"command": COMMAND.format(arguments.prompts, arguments.side)}
        record["pages"].append(result)
        write_json(arguments.out, record)


def make(folder: Path, sources: Sequence[Path], count: int, side: int) -> list[Path]:
    """Write the runs with their scores; returns their folders."""
    names = [{path.name for path in source.iterdir() if (path / "summary.json").exists()} for source in sources]
    splits = sorted(set.intersection(*names))
    expected = {
        (split, score["prompt_id"]): score
        for split in splits
        for score in read_jsonl(sources[0] / split / "scores.jsonl")
    }
    plan = plan_of_nano(folder / "prompts.jsonl")
    keys = sorted(expected)
    wanted = [(f"p{number:05d}", keys[number % len(keys)], number // len(keys)) for number in range(count)]
    made: list[Path] = []
    for source in sources:
        images = {
            (split, image["prompt_id"]): image
            for split in splits
            for image in read_jsonl(source / split / "images.jsonl")
            if image["seed"] == expected[split, image["prompt_id"]]["seed"]
        }
        if not made:
            write_jsonl(folder / "prompts.jsonl", (prompt(name, expected[key], images[key]) for name, key, _ in wanted))
        run = folder / source.name
        runs.open_run(run, "eval", plan.settings(), "cpu")
        (run / "images").mkdir()
        recognized = {split: {line["sha256"]: line for line in read_jsonl(source / split / FILE)} for split in splits}
        records, lines = [], []
        for name, key, copy in wanted:
            old, new = source / key[0] / images[key]["file"], run / "images" / f"{name}_0.png"
            scale = moved(old, new, copy, side)
            records.append(Generation(f"{name}_0", name, images[key]["prompt"], 0, f"images/{new.name}", 1.0).to_dict())
            read = recognized[key[0]][file_sha256(old)]
            found = [{**line, "box": [round(edge * scale) for edge in line["box"]]} for line in read["lines"]]
            line = {"sha256": file_sha256(new), "max_tokens": read["max_tokens"], "engine": plan.engine_identity.key}
            lines.append({**line, "lines": found})
        write_jsonl(run / "images.jsonl", records)
        write_jsonl(run / FILE, lines)
        evaluate(plan, run)
        made.append(run)
    return made


def prompt(name: str, score: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
    """Return a line of the file of prompts."""
    texts, language = score["expected"], score["language"]
    return {"id": name, "prompt": image["prompt"], "texts": texts, "split": score["split"], "language": language}


def moved(old: Path, new: Path, copy: int, side: int) -> float:
    """Write an image whose pixels are moved by 3 x `copy`, enlarged until it is `side` wide; returns the scale."""
    with Image.open(old) as image:
        pixels = Image.fromarray(np.roll(np.asarray(image.convert("RGB")), (3 * copy, 3 * copy), (0, 1)))
    scale = side / pixels.width
    size = (side, round(pixels.height * scale))
    (pixels if scale == 1 else pixels.resize(size, Image.Resampling.LANCZOS)).save(new)
    return scale


def sizes(folder: Path) -> dict[str, float]:
    """Return megabytes: of all that the report wrote beside and in the folder of the page, and of kinds of files."""
    files = [path for path in (folder / "page").rglob("*") if path.is_file()]
    kinds = {"page": [path for path in files if path.suffix in (".html", ".js", ".css")]}
    kinds["tiles"] = [path for path in files if path.parent.name == "tiles"]
    kinds["data"] = [path for path in files if path.suffix in (".csv", ".json")]
    kinds |= {"all": files, "zip": [folder / "page.zip"]}
    counted = {name: round(sum(path.stat().st_size for path in some) / 1e6, 2) for name, some in kinds.items()}
    return {**counted, "n_tiles": len(kinds["tiles"])}


def opened(browser: Browser, path: Path) -> dict[str, Any]:
    """Open a page in a new context and scroll through it; returns seconds, milliseconds of long tasks and frames."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(WATCH)
    start = time.perf_counter()
    page.goto(path.resolve().as_uri())
    seconds = time.perf_counter() - start
    page.wait_for_timeout(1000)
    opening = page.evaluate("longTasks.splice(0)")
    frames = page.evaluate(SCROLL, [STEPS, STEP])
    scrolling = page.evaluate("longTasks.splice(0)")
    page.close()
    return {
        "seconds": round(seconds, 2),
        "long_tasks_ms": opening,
        "scrolling_long_tasks_ms": scrolling,
        "frames_ms": {"median": round(statistics.median(frames), 1), "largest": round(max(frames), 1)},
    }


if __name__ == "__main__":
    main()
