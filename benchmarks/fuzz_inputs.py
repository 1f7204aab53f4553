"""What users of the laboratory of `fuzz.py` bring: small files of every kind."""

from __future__ import annotations

import base64
import csv
import io
import json
import random
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import yaml
from fuzz_scenarios import PROMPT

from glmkit.models.checkpoint import NANO

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
REWARDS: dict[str, Any] = {
    "model": "nano",
    "output": "out/rewarded",
    "seed": 0,
    "data": {"prompts": "in/asked.jsonl", "validation": "in/asked.jsonl", "size": "64x64"},
    "autoregressive": {
        "lora": {"rank": 2, "targets": ["q_proj"]},
        "steps": 1,
        "global_batch_size": 2,
        "micro_batch_size": 2,
        "learning_rate": 1e-4,
        "rl": {"rewards": {"weights": {"content": 1}}, "group_size": 2, "denoising_steps": 1, "guidance": 1.5},
    },
}
PREFERENCES: dict[str, Any] = {
    "model": "nano",
    "output": "out/preferred",
    "seed": 0,
    "data": {"train": "in/pairs", "validation": "in/pairs", "size": "64x64"},
    "autoregressive": {
        "lora": {"rank": 2, "targets": ["q_proj"]},
        "steps": 1,
        "global_batch_size": 1,
        "learning_rate": 1e-4,
        "dpo": {"beta": 20},
    },
}


def write_inputs(base: Path) -> None:
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
    _write_rewarded(folder)
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


def _write_rewarded(folder: Path) -> None:
    """Write prompts with images of two seeds, pairs, the recipes that learn from them, and what judges answer."""
    (folder / "rewards.yaml").write_text(yaml.safe_dump(REWARDS))
    (folder / "preferences.yaml").write_text(yaml.safe_dump(PREFERENCES))
    caption = json.loads((folder / "set/train/metadata.jsonl").read_text().splitlines()[0])["text"]
    texts = re.findall('"(.*?)"', caption)  # image 0 has them, image 1 has others
    asked = [{"id": "fox", "prompt": caption, "texts": texts, "named": {"text_colours": ["red"]}, "seed": 1}]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    for name in ("seeds", "pairs/chosen", "pairs/rejected"):
        (folder / name).mkdir(parents=True)
    for seed, name in enumerate(("chosen", "rejected")):
        image = folder / "set/train" / f"{seed}.png"
        shutil.copy(image, folder / "seeds" / f"fox_{seed}.png")
        shutil.copy(image, folder / "pairs" / name / "00000.png")
    pair = {f"{name}_file_name": f"{name}/00000.png" for name in ("chosen", "rejected")}
    (folder / "pairs/metadata.jsonl").write_text(json.dumps({"prompt": caption, "texts": ["OPEN"], **pair}) + "\n")
    questions = ("1-there", "1-text_colour", *(f"{number}-there" for number in range(2, 1 + len(texts))), "other")
    answers = [
        {"prompt_id": "fox", "image": seed, "question_id": name, "answer": "Yes, it does."}
        for seed in (0, 1)
        for name in questions
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    message = {"role": "assistant", "content": 'Yes: a red poster that says "OPEN"'}
    usage = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    chat = {"id": "a", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    (folder / "chat.json").write_text(json.dumps(chat))
    fields = {"prompt": PROMPT, "size": "64x64", "num_inference_steps": 1, "n": 1, "seed": 3, "texts": ["OPEN"]}
    (folder / "request.json").write_text(json.dumps({**fields, "lora": [{"name": "poster", "weight": 0.5}]}))


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
