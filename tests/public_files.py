"""Prompt files and images of public benchmarks in miniature: their formats, our words."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import fake_ocr
from PIL import Image, ImageDraw

CVTG = {0: "A street with 'Red Fox' and 'Owl'", 7: "It shows 'red' twice: 'Red', and 'Hare!' above"}


def cvtg(folder: Path, style: str = "CVTG-Style") -> Path:
    """Two prompts in each of the eight files."""
    for part in ("CVTG", style):
        for area in (2, 3, 4, 5):
            entries = [
                {"index": i, "prompt": text, "carrier_list": [], "sentence_list": []} for i, text in CVTG.items()
            ]
            path = folder / part / f"{area}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"data_list": entries}), encoding="utf-8")
    return folder


def longtext(folder: Path) -> Path:
    rows = {
        "text_prompts.jsonl": [(3, "sign", ["FRESH Bread, daily", "Open"]), (120, "poster", ["Café text"])],
        "text_prompts_zh.jsonl": [(3, "sign", ["每日 Bread", "新鲜"])],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompts in rows.items():
        lines = [
            {
                "category": kind,
                "length": "short",
                "prompt": f"p {number}",
                "text": texts,
                "text_length": 3,
                "prompt_id": number,
            }
            for number, kind, texts in prompts
        ]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def oneig(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    cells = ["['Big Sale', 'Now']", '["It\'s a\\nb"]', f"['{'word ' * 61}']"]
    for name, column, texts in (
        ("text_content.csv", "prompt_en", cells),
        ("text_content_zh.csv", "prompt_cn", ["['中文 ABC']"]),
    ):
        with (folder / name).open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["", "id", column, "text_content"])
            writer.writerows([index, f"{index:03d}", f"a slide {index}", cell] for index, cell in enumerate(texts))
    return folder


def grid(path: Path, colours: tuple[str, str, str, str]) -> Path:
    """Four squares of one colour each, row by row."""
    image = Image.new("RGB", (80, 60))
    pen = ImageDraw.Draw(image)
    for number, colour in enumerate(colours):
        left, top = 40 * (number % 2), 30 * (number // 2)
        pen.rectangle((left, top, left + 39, top + 29), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, lossless=True)
    return path


def cvtg_images(folder: Path, *lines: str) -> Path:
    """An image for each prompt, in the benchmark's folders, in which `lines` are read."""
    for part in ("CVTG", "CVTG-Style"):
        for area in (2, 3, 4, 5):
            for index in CVTG:
                fake_ocr.write(folder / part / str(area) / f"{index}.png", *lines, f"{part} {area} {index}")
    return folder
