"""Learned scores of a run: beside the others, once per image and prompt, with a note on what a scorer does not read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fake_ocr
import pytest
import tiny_clip
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation import preference, scorers
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.ocr.lines import EngineIdentity
from glmkit.evaluation.plan import EvaluationPlan
from glmkit.files import read_jsonl
from glmkit.records import Generation, Score

pytestmark = pytest.mark.usefixtures("ocr_log")


class Brightness:
    """A scorer for tests: how light the image is, and how long the prompt."""

    metric, definition, most_tokens = "brightness", "light", 2
    identity = EngineIdentity("brightness")

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(self, image: Image.Image, prompt: str) -> float:
        self.asked.append(prompt)
        return float("nan") if "nothing" in prompt else sum(image.getpixel((0, 0))) + len(prompt) / 7  # type: ignore[arg-type]

    def count_tokens(self, prompt: str) -> int:
        return len(prompt.split())


def test_scores_stand_beside_the_others_and_are_kept(tmp_path: Path) -> None:
    for name, colour in (("a", 1), ("b", 2), ("c", 3), ("d", 4)):
        Image.new("RGB", (4, 4), (colour, 0, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "d.png").write_bytes(b"broken")
    prompts = {"a": "fox", "b": "a red fox", "c": "nothing", "d": "x", "e": "y"}
    images = [
        Generation(f"{name}_0", name, prompt, 0, f"{name}.png", rewritten="something longer")
        for name, prompt in prompts.items()
    ]
    scores = [Score(one.id, one.prompt_id, 0, "all", "en", (), counts={"ned": (1, 2)}) for one in images[:4]]
    scores.append(Score("e_0", "e", 0, "all", "en", (), error="generation: lost"))
    scorer = Brightness()
    after = preference.add_scores([scorer], tmp_path, images, scores)
    assert [score.counts for score in after] == [
        {"ned": (1, 2), "brightness": (pytest.approx(1 + 3 / 7, abs=1e-6), 1)},
        {"ned": (1, 2), "brightness": (pytest.approx(2 + 9 / 7, abs=1e-6), 1)},
        {},
        {},
        {},
    ]
    assert [score.error and score.error.split(":")[0] for score in after[2:]] == ["brightness"] * 2 + ["generation"]
    assert sorted(scorer.asked) == ["a red fox", "fox", "nothing"]  # the prompts as they were written
    scorer.asked.clear()
    assert preference.add_scores([scorer], tmp_path, images, scores) == after
    assert scorer.asked == ["nothing"]
    assert len(read_jsonl(tmp_path / preference.FILE)) == 2


@pytest.mark.usefixtures("suite")
def test_a_run_has_the_metric_and_the_share_of_prompts_that_are_cut(
    tmp_path: Path,
) -> None:
    fake_ocr.write(tmp_path / "images" / "a.png", "red", "fox")
    fake_ocr.write(tmp_path / "images" / "b.png", "owl")
    clip = tiny_clip.build(tmp_path / "clip")
    torch.save({"layers.0.weight": torch.ones(1, 16), "layers.0.bias": torch.zeros(1)}, tmp_path / "head.pth")
    spec = scorers.resolve(f"aesthetic-v2:{tmp_path / 'head.pth'},{clip}")
    plan = EvaluationPlan("text-render", "fake_ocr", images=tmp_path / "images", scorers=(spec,))
    summary = evaluate(plan, tmp_path / "run")
    assert list(summary.scores)[-1] == "aesthetic_v2"
    assert summary.n_scored == 2
    assert summary.splits["short"]["scores"]["aesthetic_v2"] == summary.scores["aesthetic_v2"]
    assert "Weights: aesthetic_v2 weights " in summary.metrics["aesthetic_v2"]["definition"]
    assert not summary.notes
    rows = [Score.from_dict(row) for row in read_jsonl(tmp_path / "run" / "scores.jsonl")]
    images = [Generation.from_dict(row) for row in read_jsonl(tmp_path / "run" / "images.jsonl")]
    noted = preference.summarize(summary, [Brightness()], images, rows)
    assert noted.notes == ("brightness reads 2 tokens; 2 of 2 prompts are longer",)
    assert noted.to_dict()["notes"] == noted.notes
    with pytest.raises(UserError, match="does not exist"):
        evaluate(replace(plan, scorers=(scorers.resolve("hpsv2-1:nowhere.pt"),)), tmp_path / "other")
    assert not (tmp_path / "other").exists()
