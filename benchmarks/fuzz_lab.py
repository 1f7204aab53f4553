"""The laboratory of `fuzz.py`: small files of every kind that people bring, and the commands that take them.

in/ holds what a user brings, out/ what a command writes (some of it begun before), cache/ what glmkit keeps.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import random
import shutil
import signal
import socket
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import yaml
from fuzz_cases import Scenario

from glmkit.cli import main as glmkit
from glmkit.models.checkpoint import NANO

RunChild = Callable[[Callable[[], int | None], Path, dict[str, str]], tuple[int, str | None]]
SMALL = ("--size", "64x64", "--steps", "1", "--device", "cpu")
EVAL = ("eval", "--suite", "text-render", "--split", "simple", "--limit", "1", "--device", "cpu")
FEATURES = ("--features", "efficientnet-lite0", "--device", "cpu")
PROMPT = 'A red poster that says "OPEN"'
RECIPE: dict[str, Any] = {
    "model": "nano",
    "output": "out/run",
    "seed": 0,
    "data": {"train": ["in/set/train"], "validation": "in/set/validation", "size": "64x64"},
    "decoder": {
        "lora": {"rank": 2, "alpha": 2, "targets": ["to_q", "to_v"], "dropout": 0.0},
        "steps": 2,
        "global_batch_size": 2,
        "micro_batch_size": 1,
        "learning_rate": 1e-3,
        "warmup_steps": 1,
        "caption_dropout": 0.1,
        "text_weight": 1.0,
        "validation_every": 1,
        "save_every": 1,
    },
    "samples": {"prompts": [], "every": 0, "size": "64x64", "steps": 1},
}
PRETRAINING: dict[str, Any] = {
    "model": "nano",
    "save": "out/model",
    "output": "out/pretrained",
    "seed": 1,
    "data": {"posters": {"count": 4, "size": "64x64", "seed": 10}},
    "vae": {"steps": 1, "global_batch_size": 2, "learning_rate": 1e-3, "crop": 64, "kl_weight": 3e-5},
}
ADAPTER = tuple(
    f"in/adapter/decoder/{name}"
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.safetensors", "glmkit_adapter.json")
)
MODEL = (
    *("glmkit.json", "model_index.json", "scheduler/scheduler_config.json", "processor/tokenizer.json"),
    *("processor/chat_template.jinja", "processor/tokenizer_config.json", "processor/preprocessor_config.json"),
    *("text_encoder/config.json", "transformer/config.json", "vae/config.json", "vision_language_encoder/config.json"),
    *("text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
    *("tokenizer/tokenizer_config.json", "transformer/diffusion_pytorch_model.safetensors.index.json"),
)
RUN = ("summary.json", "manifest.json", "images.jsonl", "scores.jsonl", "images/simple-001_0.png")
SET = ("in/set/train/0.png", "in/set/train/metadata.jsonl", "in/set/validation/metadata.jsonl")
TUNED = ("manifest.json", "data.json", "decoder.log.jsonl", "decoder.state.pt", "recipe.yaml")


def _s(group: str, name: str, argv: str | tuple[str, ...], *targets: str, **more: Any) -> Scenario:
    return Scenario(group, name, tuple(argv.split()) if isinstance(argv, str) else argv, targets, **more)


def _generate(*more: str) -> tuple[str, ...]:
    return ("generate", PROMPT, "--out", "out/image.png", *SMALL, *more)


def _public(suite: str, data: str) -> tuple[str, ...]:
    return ("eval", "--suite", suite, "--data", data, "--images", "in/images", "--run", "out/new")


SCENARIOS = [
    _s("recipes", "validate", "validate in/recipe.yaml --device cpu", "in/recipe.yaml"),
    _s("recipes", "overrides", "validate in/recipe.yaml --device cpu"),
    _s("recipes", "finetune", "finetune in/recipe.yaml --device cpu", "in/recipe.yaml"),
    _s("recipes", "dry run", "finetune in/recipe.yaml --dry-run --device cpu", "in/recipe.yaml"),
    _s("recipes", "pretrain", "pretrain in/pretrain.yaml --device cpu", "in/pretrain.yaml"),
    _s("recipes", "bench", "bench train --recipe in/recipe.yaml --steps 1 --device cpu", "in/recipe.yaml"),
    _s("recipes", "copy", "recipe copy in/recipe.yaml out/copied", "in/recipe.yaml"),
    _s("adapters", "generate", _generate("--adapter", "in/adapter"), *ADAPTER, differs_from="in/plain.png"),
    _s("adapters", "merge", "merge nano --adapter in/adapter --out out/merged", *ADAPTER),
    _s("adapters", "export", "export in/adapter --format comfyui --out out/a.safetensors", *ADAPTER),
    _s("models", "generate", _generate("--model", "in/model"), *(f"in/model/{name}" for name in MODEL)),
    _s("models", "info", "info in/model --json", *(f"in/model/{name}" for name in MODEL if "config" in name)),
    _s("models", "merge", "merge in/model --adapter in/adapter --out out/merged", *(f"in/model/{n}" for n in MODEL)),
    _s(
        "prompts",
        "JSONL",
        ("generate", "--prompts", "in/prompts.jsonl", "--out", "out/new", *SMALL),
        "in/prompts.jsonl",
    ),
    _s(
        "prompts",
        "continue",
        ("generate", "--prompts", "in/prompts.jsonl", "--out", "out/many", *SMALL),
        *("out/many/images.jsonl", "out/many/first.png", "in/image.png"),
    ),
    _s("command line", "generate", _generate()),
    _s("command line", "prompts", ("generate", "--prompts", "in/prompts.jsonl", *SMALL, "--out", "out/new")),
    _s("command line", "edit", ("edit", "in/image.png", "Make it red.", "--out", "out/edit.png", *SMALL)),
    _s("command line", "eval", (*EVAL, "--images", "in/images", "--run", "out/new")),
    _s("command line", "report", "report in/run in/other --out out/report.html"),
    _s("command line", "reference", ("reference", "add", "new", "--images", "in/images", *FEATURES)),
    _s("command line", "merge", "merge nano --adapter in/adapter --out out/merged"),
    _s("command line", "export", "export in/adapter --format comfyui --out out/a.safetensors"),
    _s("command line", "recipe", "recipe copy nano/poster_lora out/copied"),
    _s("command line", "validate", "validate in/recipe.yaml --device cpu"),
    _s("command line", "pretrain", "pretrain in/pretrain.yaml --dry-run --device cpu"),
    _s("command line", "info", "info nano"),
    _s("command line", "list", "list --json"),
    _s("command line", "bench speed", ("bench", "speed", "--repeats", "1", *SMALL, "--compile", "none")),
    _s("command line", "bench train", "bench train --steps 1 --size 64x64 --device cpu"),
    _s("images", "validate", "validate in/recipe.yaml --device cpu", *SET),
    _s("images", "finetune", "finetune in/recipe.yaml decoder.steps=1 --device cpu", *SET),
    _s("images", "captions", "validate in/recipe.yaml data.train=in/captions --device cpu", "in/captions/a.txt"),
    _s("images", "parquet", "validate in/recipe.yaml data.train=in/table.parquet --device cpu", "in/table.parquet"),
    _s(
        "images",
        "edit",
        ("edit", "in/image.png", "Make it red.", "--out", "out/edit.png", *SMALL),
        "in/image.png",
    ),
    _s("images", "eval", (*EVAL, "--images", "in/images", "--run", "out/new"), "in/images/simple-001.png"),
    _s("benchmarks", "CVTG-2K", _public("cvtg-2k", "in/cvtg"), "in/cvtg/CVTG/2.json", "in/cvtg/CVTG-Style/5.json"),
    _s("benchmarks", "LongText", _public("longtext-en", "in/longtext"), "in/longtext/text_prompts.jsonl"),
    _s("benchmarks", "OneIG", _public("oneig-text-en", "in/oneig"), "in/oneig/text_content.csv"),
    _s(
        "caches and runs",
        "continue",
        (*EVAL, *SMALL[:4], "--run", "out/evaluated"),
        *(f"out/evaluated/{name}" for name in (*RUN, "recognized_lines.jsonl")),
    ),
    _s("caches and runs", "cache", (*EVAL, "--images", "in/images", "--run", "out/new"), "cache/*"),
    _s(
        "references",
        "folder",
        ("reference", "add", "new", "--images", "in/images", *FEATURES),
        "in/images/simple-001.png",
    ),
    _s(
        "references",
        "prompts",
        ("reference", "add", "new", "--images", "in/images", "--prompts", "in/shown.jsonl", *FEATURES),
        "in/shown.jsonl",
    ),
    _s(
        "references",
        "parquet",
        ("reference", "add", "new", "--parquet", "in/table.parquet", *FEATURES),
        "in/table.parquet",
    ),
    _s("references", "tar", ("reference", "add", "new", "--webdataset", "in/set.tar", *FEATURES), "in/set.tar"),
    _s("references", "list", "reference list --json", "cache/reference/*"),
    _s("reports", "one", "report in/run --out out/report.html", *(f"in/run/{name}" for name in RUN)),
    _s("reports", "two", "report in/run in/other --out out/report.html", *(f"in/other/{name}" for name in RUN)),
    _s("fine-tuning runs", "continue", "finetune in/tuned.yaml --device cpu", *(f"out/tuned/{name}" for name in TUNED)),
    _s("endpoint", "answer", (*EVAL, "--model", "openai:model", "--run", "out/new"), "in/answer.json"),
]
# How many cases a scenario gets, beside 1 of the others.
WEIGHTS_OF = {
    "validate": 3,
    "overrides": 4,
    "dry run": 2,
    "finetune": 1.5,
    "one": 5,
    "two": 5,
    "info": 1.5,
    "continue": 2.5,
    "generate": 4,
    "merge": 2,
    "export": 2,
    "JSONL": 4,
    "edit": 2,
    "eval": 2,
    "answer": 2,
    "cache": 1,
    "list": 1,
}


def prepare(base: Path, run_child: RunChild) -> Path:
    """Make the laboratory, if it is not there; its runs, caches and adapter by the commands themselves."""
    if (base / "ready").exists():
        _find_targets(base)
        return base
    shutil.rmtree(base, ignore_errors=True)
    _write_inputs(base)
    commands: list[tuple[str, ...]] = [
        ("generate", PROMPT, "--out", "in/plain.png", *SMALL),
        ("finetune", "in/recipe.yaml", "--device", "cpu", "output=in/first"),
        ("generate", "--prompts", "in/prompts.jsonl", "--out", "out/many", *SMALL),
        (*EVAL, *SMALL[:4], "--run", "out/evaluated"),
        (*EVAL, "--images", "in/images", "--run", "in/run"),
        (*EVAL, "--images", "in/images", "--run", "in/other", "--name", "other"),
        *(_public(suite, f"in/{name}") for suite, name in PUBLIC.items()),
        ("reference", "add", "stored", "--images", "in/images", *FEATURES),
    ]
    for command in commands:
        _must(run_child(lambda command=command: glmkit(list(command)), base, {}), base, command)  # type: ignore[misc]
    run_child(_stop_before_result, base, {})
    with endpoint(base, SCENARIOS[-1]) as env:
        answer = SCENARIOS[-1].argv
        _must(run_child(lambda: glmkit(list(answer)), base, env), base, answer)
    (base / "in/first/adapter").rename(base / "in/adapter")
    shutil.rmtree(base / "in/first")
    (base / "out/many/notes.txt").write_text("the user's own")
    (base / "ready").touch()
    _find_targets(base)
    return base


def _must(ended: tuple[int, str | None], base: Path, command: tuple[str, ...]) -> None:
    if ended != (0, None):
        raise SystemExit(f"{command}: {ended}\n{base.with_suffix('.err').read_text()}")
    shutil.rmtree(base / "out/new", ignore_errors=True)


def _stop_before_result() -> int:
    """Fine-tune, and stop when the last step's state is there and the result is not."""
    from glmkit.training import finetune

    module: Any = finetune
    write = module.write_json

    def stop(path: str | Path, value: Any) -> None:
        if Path(path).name == "decoder.json":
            raise KeyboardInterrupt
        write(path, value)

    module.write_json = stop
    return glmkit(["finetune", "in/tuned.yaml", "--device", "cpu"])


def _find_targets(base: Path) -> None:
    """Put files in the place of patterns: what a cache holds is called by its content."""
    for number, one in enumerate(SCENARIOS):
        if any("*" in target for target in one.targets):
            files = [path for target in one.targets for path in sorted(base.glob(target + "*/*")) if path.is_file()]
            files = files or [path for path in sorted((base / "cache").rglob("*")) if path.is_file()]
            small = [path for path in files if path.stat().st_size < 100_000]
            targets = tuple(str(path.relative_to(base)) for path in small)
            SCENARIOS[number] = Scenario(one.group, one.name, one.argv, targets)


PUBLIC = {"cvtg-2k": "cvtg", "longtext-en": "longtext", "oneig-text-en": "oneig"}


def _write_inputs(base: Path) -> None:
    folder = base / "in"
    shutil.copytree(NANO, folder / "model")
    for split, count in (("train", 2), ("validation", 1)):
        _write_set(folder / "set" / split, count)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "tuned.yaml").write_text(yaml.safe_dump({**RECIPE, "output": "out/tuned"}))
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(PRETRAINING))
    train = folder / "set" / "train"
    (folder / "captions").mkdir()
    shutil.copy(train / "0.png", folder / "captions" / "a.png")
    (folder / "captions" / "a.txt").write_text('A poster that says "OPEN"')
    shutil.copy(train / "1.png", folder / "image.png")
    (folder / "images").mkdir()
    for number in (1, 2, 3):
        shutil.copy(train / f"{number % 2}.png", folder / "images" / f"simple-{number:03d}.png")
    shown = [{"file_name": f"simple-{number:03d}.png", "prompt": "a sign"} for number in (1, 2, 3)]
    (folder / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shown))
    prompts = [
        {"id": "first", "prompt": PROMPT, "seed": 1, "size": "64x64", "steps": 1, "guidance": 1.5},
        {"id": "second", "prompt": "Make it blue.", "condition_images": ["image.png"], "size": "64x64"},
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    _write_benchmarks(folder)
    _write_tables(folder)
    encoded = base64.b64encode((train / "0.png").read_bytes()).decode()
    usage = {"input_tokens": 20, "output_tokens": 4160, "total_tokens": 4180}
    (folder / "answer.json").write_text(json.dumps({"created": 0, "data": [{"b64_json": encoded}], "usage": usage}))


def _write_set(folder: Path, count: int) -> None:
    from glmkit.posters import grammar, render

    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        rng = random.Random(f"{folder.name} {number}")
        scene = grammar.sample_scene(rng, height=64, width=64)
        render.render(scene).save(folder / f"{number}.png")
        boxes = [[4, 8, 40, 24]]
        rows.append({"file_name": f"{number}.png", "text": grammar.caption(scene, rng), "text_boxes": boxes})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_benchmarks(folder: Path) -> None:
    for part in ("CVTG", "CVTG-Style"):
        (folder / "cvtg" / part).mkdir(parents=True)
        for area in (2, 3, 4, 5):
            entry = {"index": 0, "prompt": "A street with 'Red Fox'", "carrier_list": [], "sentence_list": []}
            (folder / "cvtg" / part / f"{area}.json").write_text(json.dumps({"data_list": [entry]}))
    (folder / "longtext").mkdir()
    row = {"category": "sign", "length": "short", "prompt": "p 3", "text": ["FRESH Bread"], "prompt_id": 3}
    for name in ("text_prompts.jsonl", "text_prompts_zh.jsonl"):
        (folder / "longtext" / name).write_text(json.dumps({**row, "text_length": 3}) + "\n")
    (folder / "oneig").mkdir()
    for name, column in (("text_content.csv", "prompt_en"), ("text_content_zh.csv", "prompt_cn")):
        with (folder / "oneig" / name).open("w", encoding="utf-8", newline="") as handle:
            csv.writer(handle).writerows([["", "id", column, "text_content"], [0, "000", "a slide", "['Big Sale']"]])
    # An image under the name that each of them looks for; the same, so that it is read once.
    for name in ("CVTG/2/0", "CVTG-Style/5/0", "0003", "000"):
        path = folder / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "set" / "train" / "0.png", path)


def _write_tables(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    data = [(folder / "set" / "train" / f"{number}.png").read_bytes() for number in (0, 1)]
    images = [{"bytes": one, "path": None} for one in data]
    parquet.write_table(pyarrow.table({"image": images, "text": ["a", "b"]}), folder / "table.parquet")
    with tarfile.open(folder / "set.tar", "w") as archive:
        for number, one in enumerate(data):
            for name, content in ((f"{number}.png", one), (f"{number}.json", b'{"prompt": "a sign"}')):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@contextmanager
def endpoint(lab: Path, scenario: Scenario) -> Iterator[dict[str, str]]:
    """Serve in/answer.json as whatever an images endpoint is asked for, in a process of its own."""
    if scenario.group != "endpoint":
        yield {}
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        child = os.fork()
        if child == 0:
            _serve(listening, lab / "in" / "answer.json")
        port = listening.getsockname()[1]
        try:
            yield {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "secret"}
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _serve(listening: socket.socket, path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            try:
                body = b"" if not path.is_file() else path.open("rb").read(1 << 20)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                return

        def log_message(self, *_: object) -> None:
            return

    try:
        server = HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
        server.socket = listening
        server.serve_forever()
    finally:
        os._exit(0)
