"""Run folders as `glmkit eval` writes them, with posters rendered here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageColor, ImageDraw, ImageFont

from glmkit.evaluation import stats
from glmkit.evaluation.metrics import text as text_metrics
from glmkit.files import write_json, write_jsonl
from glmkit.hashing import file_sha256
from glmkit.records import Generation, Prompt, Score, Summary

BACKGROUNDS = ("#f3e2c7", "#24406b", "#7a2e2e", "#dfe8e0", "#efc94c", "#30343f")
Reading = Sequence[str] | Exception  # the lines that OCR read, or the failure
MakeRun = Callable[..., Path]


def render_poster(path: Path, lines: Sequence[str], index: int, side: int = 256) -> list[dict[str, Any]]:
    """Render a poster with the lines in it; returns them with their boxes, as OCR would."""
    background = BACKGROUNDS[index % len(BACKGROUNDS)]
    image = Image.new("RGB", (side, side), background)
    canvas = ImageDraw.Draw(image)
    dark = sum(ImageColor.getrgb(background)) < 380
    canvas.ellipse((side * 0.55, side * 0.5, side * 0.95, side * 0.9), fill="#c8553d" if dark else "#3f7d6e")
    recognized = []
    for line_index, line in enumerate(lines):
        colour = "white" if dark else "black"
        position = (side / 12, side * (0.12 + 0.16 * line_index))
        font = ImageFont.load_default(side / 10)
        canvas.text(position, line, fill=colour, font=font)
        box = [round(edge) for edge in canvas.textbbox(position, line, font=font)]
        recognized.append({"text": line, "confidence": 1.0, "box": box})
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return recognized


def summarise(scores: Sequence[Score], model: str, adapters: Sequence[str], suite: str) -> Summary:
    def pool(scores: Sequence[Score]) -> dict[str, Any]:
        estimates = {name: stats.estimate(scores, name) for name in text_metrics.METRICS}
        return {
            "n_scored": sum(score.error is None for score in scores),
            "n_total": len(scores),
            "n_prompts": max(estimate.n for estimate in estimates.values()),
            "scores": {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in estimates.items()},
        }

    splits = dict.fromkeys(score.split for score in scores)
    return Summary(
        suite=suite,
        model=model,
        adapters=tuple(adapters),
        **pool(scores),
        splits={split: pool([score for score in scores if score.split == split]) for split in splits},
        metrics=text_metrics.METRICS,
        ocr="pp-ocrv6-small/onnxruntime",
        bootstrap={"unit": "prompt", "resamples": stats.RESAMPLES, "level": stats.LEVEL, "seed": stats.SEED},
    )


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """make_run(name, [(prompt, reading), ...]) writes a finished run folder and returns its path."""

    def make(
        name: str,
        samples: Sequence[tuple[Prompt, Reading]],
        adapters: Sequence[str] = (),
        suite: str = "text-render",
        side: int = 256,
    ) -> Path:
        folder = tmp_path / name
        images, scores, journal = [], [], []
        for index, (prompt, reading) in enumerate(samples):
            failed = str(reading) if isinstance(reading, Exception) else None
            common: dict[str, Any] = {"id": f"{prompt.id}_0", "prompt_id": prompt.id, "seed": 0, "error": failed}
            file = None if failed else f"images/{index}.png"
            lines = () if isinstance(reading, Exception) else tuple(reading)
            images.append(Generation(prompt=prompt.prompt, file=file, seconds=1.5, **common))
            counts = {} if failed else text_metrics.counts(prompt.texts, lines, prompt.language)
            about: dict[str, Any] = {"split": prompt.split, "language": prompt.language, "expected": prompt.texts}
            scores.append(Score(recognized_lines=lines, counts=counts, **about, **common))
            if file:
                recognized = render_poster(folder / file, lines, index, side)
                journal.append({"sha256": file_sha256(folder / file), "engine": "0", "lines": recognized})
        write_jsonl(folder / "images.jsonl", (image.to_dict() for image in images))
        write_jsonl(folder / "scores.jsonl", (score.to_dict() for score in scores))
        write_jsonl(folder / "recognized_lines.jsonl", journal)
        write_json(folder / "summary.json", summarise(scores, "nano", adapters, suite).to_dict())
        write_json(folder / "manifest.json", manifest(suite, adapters))
        return folder

    return make


def manifest(suite: str, adapters: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": "eval",
        "settings": {
            "suite": suite,
            "suite_fingerprint": "5f0c9a",
            "model": "nano",
            "model_fingerprint": "77d1e2",
            "adapters": [{"path": path, "fingerprint": "0a1b2c"} for path in adapters],
            "split": None,
            "limit": None,
            "count": 1,
            "height": 256,
            "width": 320,
            "steps": 30,
            "guidance": 1.5,
            "ocr": "pp-ocrv6-small/onnxruntime",
        },
        "environment": {
            "glmkit": "0.1.0",
            "git": {"revision": "dad0708c0ffee123456", "dirty": False},
            "python": "3.12.3",
            "platform": "Linux",
            "device": "cpu",
            "versions": {"torch": "2.11.0", "transformers": "5.17.0"},
        },
        "started": "2026-01-02T03:04:05+00:00",
        "resumed": [],
    }


@pytest.fixture
def prompts() -> list[Prompt]:
    """Six prompts in two splits."""
    words = [("SUMMER SALE", "50 % off"), ("Jazz Night",), ("Fresh Bread", "every day"), ("Open",), ("Café",), ("GO",)]
    return [
        Prompt(f"p{i:02}", f'A poster that says "{" and ".join(texts)}".', texts, "simple" if i < 4 else "hard")
        for i, texts in enumerate(words)
    ]


@pytest.fixture
def two(make_run: MakeRun, prompts: list[Prompt]) -> tuple[Path, Path]:
    """Before: every text without its first letter. After: all right. One OCR failure in the first run."""
    before: list[tuple[Prompt, Reading]] = [(prompt, [text[1:] for text in prompt.texts]) for prompt in prompts]
    before[4] = (prompts[4], RuntimeError("engine <stopped>"))
    after = [(prompt, prompt.texts) for prompt in prompts]
    return make_run("before", before), make_run("after", after, adapters=["runs/poster_lora/adapter"])
