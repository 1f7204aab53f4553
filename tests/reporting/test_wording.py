"""The sentences say what the numbers say."""

from __future__ import annotations

import pytest

from glmkit.evaluation.stats import Estimate
from glmkit.reporting import wording


@pytest.mark.parametrize(
    ("estimate", "higher_is_better", "outcome"),
    [
        (Estimate(0.12, 0.05, 0.19, 64), True, "better"),
        (Estimate(0.12, 0.05, 0.19, 64), False, "worse"),
        (Estimate(-0.12, -0.19, -0.05, 64), True, "worse"),
        (Estimate(-0.12, -0.19, -0.05, 64), False, "better"),
        (Estimate(0.12, -0.01, 0.19, 64), True, "unresolved"),
        (Estimate(0.12, 0.0, 0.19, 64), True, "unresolved"),
        (Estimate(0.12, None, None, 1), True, "unresolved"),
    ],
)
def test_outcome(estimate: Estimate, higher_is_better: bool, outcome: str) -> None:
    assert wording.difference("a", "b", estimate, higher_is_better).outcome == outcome


def test_a_resolved_difference_in_words() -> None:
    change = wording.difference("nano", "lora", Estimate(-0.12, -0.19, -0.05, 64), higher_is_better=False)
    expected = "lora is better than nano by 0.120 (95 % interval 0.050 to 0.190, 64 prompts)"
    assert wording.difference_sentence(change) == expected
    assert wording.pair_verdict("cer", change, False) == (
        "lora is better than nano: CER is lower by 0.120 (95 % interval 0.050 to 0.190, 64 prompts)."
    )


def test_an_unresolved_difference_in_words() -> None:
    change = wording.difference("nano", "lora", Estimate(0.02, -0.05, 0.09, 64), higher_is_better=True)
    assert wording.difference_sentence(change) == (
        "lora against nano: difference not resolved, +0.020 (95 % interval −0.050 to +0.090, 64 prompts)"
    )


def test_too_few_prompts_and_nothing_scored() -> None:
    change = wording.difference("a", "b", Estimate(0.5, None, None, 1), True)
    assert wording.difference_sentence(change).endswith("+0.500 (1 prompt, too few for an interval)")
    nothing = wording.difference("a", "b", Estimate(None, None, None, 0), True)
    assert wording.difference_sentence(nothing) == "b against a: no common scored prompt"
    assert wording.verdict("ned", {"a": nothing.estimate}, None, True) == "No image could be scored."


def test_numbers() -> None:
    values = [(0.12345, False), (-0.5, True), (0.5, True), (-0.0001, True), (None, False)]
    assert [wording.number(*value) for value in values] == ["0.123", "−0.500", "+0.500", "0.000", "–"]


def test_control_characters_become_visible_and_letters_stay() -> None:
    assert wording.show_control_characters("a\u202eb\x07 שלום 👩\u200d🍳\n") == "a[U+202E]b[U+0007] שלום 👩\u200d🍳\n"


@pytest.mark.parametrize(
    ("metric", "label", "in_sentence"),
    [
        ("word_accuracy", "Word accuracy", "word accuracy"),
        ("ned", "NED", "NED"),
        ("won", "Won", "won"),
        ("clip_cosine", "CLIP cosine", "CLIP cosine"),
        ("clipscore", "CLIPScore", "CLIPScore"),
        ("oneig_text_en", "OneIG text EN", "OneIG text EN"),
        ("cmmd", "CMMD", "CMMD"),
        ("frechet_efficientnet_lite0", "Fréchet EfficientNet Lite0", "Fréchet EfficientNet Lite0"),
        ("kernel_efficientnet_lite0", "Kernel EfficientNet Lite0", "kernel EfficientNet Lite0"),
    ],
)
def test_names_of_metrics(metric: str, label: str, in_sentence: str) -> None:
    assert (wording.label(metric), wording.label_in_sentence(metric)) == (label, in_sentence)


def test_the_evidence_of_a_verdict_is_set_apart_and_the_rest_escaped() -> None:
    verdict = wording.verdict("ned", {"<b> (x)": Estimate(0.5, 0.4, 0.6, 9)}, None, True)
    assert wording.headline(verdict) == (
        '&lt;b&gt; (x) reaches a NED of 0.500 <span class="evidence">(95 % interval 0.400 to 0.600, 9 prompts).</span>'
    )
    few = wording.verdict("ned", {"x": Estimate(0.5, None, None, 1)}, None, True)
    assert wording.headline(few).endswith('<span class="evidence">(1 prompt, too few for an interval).</span>')
    assert (
        wording.headline("its lead over \u202e (r2) is not resolved.") == "its lead over [U+202E] (r2) is not resolved."
    )
