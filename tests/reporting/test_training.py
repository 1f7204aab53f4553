"""The report of a fine-tuning run: its numbers are those of the run folder, and nothing in it is taken for HTML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glmkit.files import write_json, write_jsonl
from glmkit.reporting.templates import CONTENT_POLICY
from glmkit.reporting.training import content_metrics, write_training_report
from glmkit.runs import open_run

RECIPE = """model: nano
output: /home/alice/runs/mine
data:
  train:
  - path: /home/alice/photos
  validation: '~/validation'
samples:
  prompts: ['<script>alert(1)</script>', '/imagine a/b']
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two stages, one of them under way; samples that become empty; scores before and after."""
    run = tmp_path / "a<b"
    manifest = open_run(run, "finetune", {}, "cpu").manifest
    environment = {**manifest["environment"], "versions": {"torch": "2.15"}}
    resumed = [{"at": "later", "environment": environment}]
    write_json(run / "manifest.json", {**manifest, "environment": environment, "resumed": resumed})
    (run / "recipe.yaml").write_text(RECIPE)
    log: list[dict[str, Any]] = [
        {"step": 0, "validation": {"loss": 3.0, "preview": 2.0, "large": 1.0}},
        {"step": 20, "loss": 2.5},
        {"step": 40, "loss": 2.0},
        {"step": 40, "validation": {"loss": 1.25, "preview": 0.75, "large": 0.5}},
    ]
    write_jsonl(run / "autoregressive.log.jsonl", log)
    write_jsonl(run / "decoder.log.jsonl", log[:1])
    write_json(
        run / "autoregressive.json",
        {"steps": 40, "before": {"loss": 3.0}, "after": {"loss": 1.25}, "seconds": 61.5, "peak_bytes": 3 * 2**30},
    )
    noise = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    for step, pixels in ((0, noise), (40, np.full_like(noise, 200))):
        (run / "samples").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(run / "samples" / f"autoregressive_{step:06d}.png")
    for when, value in (("before", 0.25), ("after", 0.75)):
        images = run / "eval" / when / "images"
        images.mkdir(parents=True)
        Image.fromarray(noise).save(images / "a_0.png")
        scores = {"word_accuracy": {"value": value, "low": value - 0.1, "high": value + 0.1}}
        write_json(run / "eval" / when / "summary.json", {"scores": scores})
    return run


def text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_the_page_holds_the_numbers_of_the_run_folder(run: Path) -> None:
    path = write_training_report(run)
    page = path.read_text(encoding="utf-8")
    assert path == run / "report.html"
    assert page == write_training_report(run).read_text(encoding="utf-8")
    assert "alice" not in page
    assert "/imagine a/b" in page
    page_text = text(page)
    for expected in (
        "loss 3.0000 1.2500",
        "preview 2.0000 0.7500",
        "large 1.0000 0.5000",
        "steps 40, time 62 s, peak memory 3.0 GiB",
        "word accuracy 0.250 [0.150, 0.350] 0.750 [0.650, 0.850]",
        "decoder Not done yet.",
        "resumed 1 time",
    ):
        assert expected in page_text, expected
    assert page_text.count("images became emptier") == 2, "the samples did, the evaluated images did not"
    assert page.count("data:image/webp;base64,") == 2
    assert "<script" not in page
    assert f'http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}"' in page
    assert "&lt;script&gt;" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_curves(run: Path) -> None:
    """Steps 0 to 40 over the width; the highest loss on top, the lowest at the bottom."""
    page = write_training_report(run).read_text(encoding="utf-8")
    assert '<polyline class="validation" points="0.0,0.0 640.0,180.0"/>' in page
    assert f'<polyline class="train" points="320.0,{180 * 0.5 / 1.75:.1f} 640.0,{180 / 1.75:.1f}"/>' in page


def test_a_curve_of_equal_values_is_in_the_middle(run: Path) -> None:
    write_jsonl(run / "decoder.log.jsonl", [{"step": step, "loss": 0.25} for step in (0, 20, 40)])
    page = write_training_report(run).read_text(encoding="utf-8")
    assert '<polyline class="train" points="0.0,90.0 320.0,90.0 640.0,90.0"/>' in page


def test_content_metrics_are_means(tmp_path: Path) -> None:
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    Image.new("RGB", (8, 8), "red").save(paths[0])
    halves = Image.new("RGB", (8, 8), "red")
    halves.paste("blue", (0, 0, 8, 4))
    halves.save(paths[1])
    entropy = content_metrics(paths, paths[:1])[1]
    assert (entropy.before, entropy.after, entropy.emptier) == ("0.5000", "0.0000", True)
