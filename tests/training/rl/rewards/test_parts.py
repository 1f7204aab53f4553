"""Single rewards, on lines that are given, and on our own CLIP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageOps
from scripts import load_script

from glmkit.errors import UserError
from glmkit.evaluation.features.extractors.clip import OpenClip
from glmkit.evaluation.judges.messages import JudgeError
from glmkit.evaluation.metrics import clip as metric
from glmkit.evaluation.ocr.lines import EngineIdentity, RecognizedLine
from glmkit.posters.everyday.render import render
from glmkit.records import Prompt
from glmkit.training.rl.rewards import RewardSample, clip, judge, letter_size, scorer, similarity, text

control = load_script("everyday_control")
SIGN = Prompt(
    "sign",
    "A sign that says 'Vera Lund' and '5 June' in navy on ivory",
    ("Vera Lund", "5 June"),
    named={"background": "ivory", "text_colours": ["navy", "navy"]},
)
SCENE = control.scene_of(SIGN)
IMAGE = render(SCENE)
LINES = tuple(RecognizedLine(block.text, 0.99, tuple(map(round, block.box))) for block in SCENE.blocks)


def said(*lines: str) -> list[RecognizedLine]:
    return [RecognizedLine(line, 0.9, (0, 20 * n, 50, 20 * n + 10)) for n, line in enumerate(lines)]


@pytest.mark.parametrize(
    ("lines", "reward"),
    [
        (("Vera Lund", "5 June"), 1.0),
        (("5 June", "Vera Lund"), 1.0),
        (("Vera Lund",), (2 / 4 + 1 - 5 / 13) / 2),  # 5June is missing
        (("Vera Lund", "5 June", "5 June"), (1 + 1 - 5 / 13) / 2),  # and here twice
        (("Vera Lund", "5 June", "brought to you by"), 0.5),  # 14 letters that nobody asked for
        (("VeraLund", "5 June"), (2 / 4 + 1) / 2),
        ((), 0.0),
    ],
)
def test_text_counts_words_and_charges_whatever_else_is_read(lines: tuple[str, ...], reward: float) -> None:
    found = text.load("", "cpu").score(RewardSample(SIGN, IMAGE, lines=said(*lines)))
    assert found == pytest.approx(reward)


def test_text_says_nothing_of_prompts_without_texts() -> None:
    assert text.load("", "cpu").score(RewardSample(replace(SIGN, texts=()), IMAGE, lines=said("Sale"))) is None


@pytest.mark.parametrize(
    ("height", "reward"), [(20, 1.0), (10, 1.0), (40, 1.0), (80, 0.5), (5, 0.5), (200, 0.2)], ids=str
)
def test_letters_may_grow_or_shrink_to_a_half(height: int, reward: float) -> None:
    base = [RecognizedLine("Vera Lund", 0.9, (0, 0, 90, 20))]
    lines = [RecognizedLine("Vera Lund", 0.9, (0, 0, 90, height))]
    assert letter_size.load("", "cpu").score(RewardSample(SIGN, IMAGE, IMAGE, lines, base)) == pytest.approx(reward)


def test_letter_size_says_nothing_of_texts_that_one_image_lacks() -> None:
    assert letter_size.load("", "cpu").score(RewardSample(SIGN, IMAGE, IMAGE, LINES, ())) is None


def test_clip_is_the_cosine_of_evaluations() -> None:
    ours = OpenClip(metric.OURS, "cpu")
    found = clip.ClipReward(ours).score(RewardSample(SIGN, IMAGE))
    expected = ours.extract([IMAGE])[0] @ ours.encode_texts([f"A photo depicts {SIGN.prompt}"])[0]
    assert found == pytest.approx(float(expected))


def test_similarity_is_one_for_the_base_image_and_less_for_another() -> None:
    reward = similarity.load(f"clip:{metric.OURS}", "cpu")
    same, other = (
        reward.score(RewardSample(SIGN, image, IMAGE)) for image in (IMAGE.copy(), ImageOps.invert(IMAGE).rotate(90))
    )
    assert same == pytest.approx(1, abs=1e-6)
    assert other is not None
    assert other < 0.95


def test_a_judge_answers_questions_about_the_texts() -> None:
    reward = judge.load("posters", "cpu")
    assert reward.reads_text
    assert reward.score(RewardSample(SIGN, IMAGE, lines=LINES)) == 1.0
    # Missing: the second text with its colour, 2 of 5 questions.
    assert reward.score(RewardSample(SIGN, IMAGE, lines=LINES[:1])) == pytest.approx(3 / 5)
    with pytest.raises(JudgeError, match="not sure"):
        reward.score(RewardSample(SIGN, IMAGE, lines=[replace(line, confidence=0.6) for line in LINES]))
    assert reward.score(RewardSample(replace(SIGN, texts=()), IMAGE)) is None


def test_a_learned_scorer_is_asked_about_the_prompt() -> None:
    class Brightness:
        identity = EngineIdentity("brightness")

        def score(self, image: Image.Image, prompt: str) -> float:
            return float(np.asarray(image).mean()) + len(prompt)

    found = scorer.ScorerReward(Brightness()).score(RewardSample(SIGN, IMAGE))  # type: ignore[arg-type]
    assert found == float(np.asarray(IMAGE).mean()) + len(SIGN.prompt)


@pytest.mark.parametrize(
    ("module", "what", "message"),
    [
        (scorer, "", "needs the name of one"),
        (scorer, "pickscor:folder", "did you mean 'pickscore'"),
        (judge, "", "needs the name of one"),
        (judge, "poster", "did you mean 'posters'"),
        (similarity, "clop:glmkit", "did you mean 'clip'"),
    ],
)
def test_what_is_misspelt_is_named(module: object, what: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        module.check(what)  # type: ignore[attr-defined]
