"""Run folders of evaluations for tests of what is computed from scores: one metric, images of one colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from reporting.conftest import manifest

from glmkit.evaluation import stats
from glmkit.evaluation.metrics.text import METRICS
from glmkit.files import write_json, write_jsonl
from glmkit.records import Generation, Score, Summary

METRIC = "word_accuracy"
Value = tuple[float, float] | str  # numerator and denominator of an image, or why it has no score


def write_run(
    folder: Path,
    values: Sequence[Value],
    *,
    name: str = "",
    direction: str = "higher",
    images: bool = False,
    settings: Mapping[str, Any] | None = None,
    **about: Any,
) -> Path:
    """A run with one image per prompt, p0 and so on; `settings` and `about` change those of the manifest."""
    made, scores = [], []
    for number, value in enumerate(values):
        common: dict[str, Any] = {"id": f"p{number}_0", "prompt_id": f"p{number}", "seed": 0}
        failed, file = (value, None) if isinstance(value, str) else (None, f"images/p{number}_0.png")
        made.append(Generation(prompt=f"a sign {number}", file=file, error=failed, seconds=1.0, **common))
        counts = {} if isinstance(value, str) else {METRIC: value}
        scores.append(Score(split="all", language="en", expected=("fox",), counts=counts, error=failed, **common))
        if file and images:
            (folder / "images").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (number % 256, len(folder.name), 9)).save(folder / file)
    pooled = stats.estimate(scores, METRIC)
    scored = sum(score.error is None for score in scores)
    summary = Summary(
        suite="text-render",
        model="nano",
        adapters=(),
        n_scored=scored,
        n_total=len(scores),
        n_prompts=pooled.n,
        scores={METRIC: {"value": pooled.value, "low": pooled.low, "high": pooled.high}},
        splits={},
        metrics={METRIC: {**METRICS[METRIC], "direction": direction}},
        ocr="fake",
        bootstrap={"unit": "prompt"},
        name=name or folder.name,
    )
    of_run = manifest("text-render", ())
    write_jsonl(folder / "images.jsonl", (image.to_dict() for image in made))
    write_jsonl(folder / "scores.jsonl", (score.to_dict() for score in scores))
    write_json(folder / "summary.json", summary.to_dict())
    write_json(folder / "manifest.json", {**of_run, **about, "settings": {**of_run["settings"], **(settings or {})}})
    return folder
