"""Rendered posters against damaged ones, by the real OCR engine: rewards order them as people would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from PIL import Image, ImageFilter
from scripts import load_script

from glmkit.config import RewardSettings
from glmkit.posters.everyday.render import render
from glmkit.records import Prompt
from glmkit.training.rl.rewards import Rewards, RewardSample, RewardScore

control = load_script("everyday_control")
WEIGHTS = {"text": 1.0, "attributes": 0.5, "content": 0.3, "letter-size": 0.1}
NAMED = [
    ("Harbour Cafe", "Open late", "ivory", "navy", "hexagon", "gold"),
    ("Sunday Market", "5 June", "white", "black", "circle", "red"),
    ("Vera Lund", "Piano", "navy", "white", "star", "yellow"),
    ("Moving Boxes", "Kitchen", "beige", "dark green", "triangle", "orange"),
    ("Zebra Club", "Friday 9 pm", "black", "gold", "burst", "red"),
]
PROMPTS = [
    Prompt(
        first,
        f"'{first}' above, '{second}' below, {ink} on {ground}, a {colour} {kind} between them",
        (first, second),
        named={
            "background": ground,
            "text_colours": [ink, ink],
            "places": ["top", "bottom"],
            "shapes": [{"kind": kind, "colour": colour, "place": "middle", "count": 1}],
        },
    )
    for first, second, ground, ink, kind, colour in NAMED
]


def shown(prompt: Prompt, *texts: str, **named: object) -> Image.Image:
    """A true image, but for other texts and what `named` changes."""
    scene = control.scene_of(replace(prompt, texts=texts or prompt.texts, named={**prompt.named, **named}))
    return render(scene)


def whole(prompt: Prompt) -> Image.Image:
    return shown(prompt)


def letter_swapped(prompt: Prompt) -> Image.Image:
    first, second = prompt.texts
    return shown(prompt, first[:2] + ("x" if first[2] != "x" else "o") + first[3:], second)


def word_wrong(prompt: Prompt) -> Image.Image:
    return shown(prompt, "Qzmtk" + prompt.texts[0][5:], prompt.texts[1])


def word_doubled(prompt: Prompt) -> Image.Image:
    first, second = prompt.texts
    return shown(prompt, first, f"{second} {second.split()[0]}")


def other_texts(prompt: Prompt) -> Image.Image:
    return shown(prompt, "Lorem", "Ipsum dolor")


def wrong_background(prompt: Prompt) -> Image.Image:
    return shown(prompt, background="light green")


def no_shape(prompt: Prompt) -> Image.Image:
    return shown(prompt, shapes=())


def swapped(prompt: Prompt) -> Image.Image:
    return shown(prompt, *prompt.texts[::-1])


def blurred(prompt: Prompt) -> Image.Image:
    return whole(prompt).filter(ImageFilter.GaussianBlur(6))


def blank(prompt: Prompt) -> Image.Image:
    return Image.new("RGB", whole(prompt).size, whole(prompt).getpixel((1, 1)))


Show = Callable[[Prompt], Image.Image]
ORDERED: list[tuple[Show, Show]] = [
    (whole, letter_swapped),
    (whole, wrong_background),
    (letter_swapped, other_texts),
    (other_texts, blank),
]
MORE: list[tuple[Show, Show]] = [
    (whole, word_doubled),
    (whole, no_shape),
    (whole, swapped),
    (whole, blurred),
    (letter_swapped, word_wrong),
    (word_wrong, other_texts),
    (word_doubled, other_texts),
    (swapped, other_texts),
    (no_shape, blank),
    (wrong_background, blurred),
]


@pytest.fixture(scope="module")
def rewards() -> Iterator[Rewards]:
    with Rewards(RewardSettings(weights=WEIGHTS)) as found:
        yield found


def score(
    rewards: Rewards, pairs: Sequence[tuple[Show, Show]], prompts: Sequence[Prompt]
) -> dict[tuple[Show, Prompt], RewardScore]:
    every = [(show, prompt) for show in dict.fromkeys(show for pair in pairs for show in pair) for prompt in prompts]
    scores = rewards.score([RewardSample(prompt, show(prompt), whole(prompt)) for show, prompt in every])
    return dict(zip(every, scores, strict=True))


@pytest.mark.parametrize(
    ("pairs", "prompts"),
    [
        pytest.param(ORDERED, PROMPTS[:1], id="one-poster"),
        pytest.param(ORDERED + MORE, PROMPTS, id="all", marks=pytest.mark.thorough),
    ],
)
def test_the_order_is_as_meant_in_95_percent(
    pairs: Sequence[tuple[Show, Show]], prompts: Sequence[Prompt], rewards: Rewards
) -> None:
    scored = score(rewards, pairs, prompts)
    assert all(one.error is None for one in scored.values())
    wrong = [
        f"{prompt.id}: {better.__name__} {high} <= {worse.__name__} {low}"
        for better, worse in pairs
        for prompt in prompts
        if (high := scored[better, prompt].total(WEIGHTS) or 0) <= (low := scored[worse, prompt].total(WEIGHTS) or 0)
    ]
    assert len(wrong) <= 0.05 * len(pairs) * len(prompts), wrong
    for prompt in prompts:
        assert {**scored[whole, prompt].parts, "text": 1.0} == dict.fromkeys(WEIGHTS, 1.0)  # OCR misreads one letter
        assert scored[letter_swapped, prompt].parts["text"] < 0.95
        assert scored[wrong_background, prompt].parts["attributes"] < 0.9
        assert scored[blank, prompt].is_empty
