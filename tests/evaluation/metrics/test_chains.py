"""Chains of reductions: the totals of public benchmarks by their declared steps, and intervals of the whole chain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from glmkit.evaluation import stats
from glmkit.evaluation.metrics.chains import Array, Chain, Step, mean, micro, pool
from glmkit.records import Score


def scores(*images: tuple[str, Mapping[str, float | tuple[float, float]]]) -> list[Score]:
    """One image each: (prompt, counts); a plain number is counted once."""
    made = []
    for number, (prompt, counts) in enumerate(images):
        pairs = {name: value if isinstance(value, tuple) else (value, 1) for name, value in counts.items()}
        made.append(Score(f"{prompt}_{number}", prompt, number, "all", "en", (), counts=pairs))
    return made


def value(chain: Chain, given: list[Score], monkeypatch: pytest.MonkeyPatch) -> float | None:
    monkeypatch.setattr(stats, "CHAINS", {"m": chain})
    return stats.estimate(given, "m").value


def lowest(values: Array) -> Array:
    least: Array = values.min(axis=-1)
    return least


def root_of_product(values: Array) -> Array:
    root: Array = np.sqrt(values.prod(axis=-1))
    return root


def geometric(values: Array) -> Array:
    product: Array = values.prod(axis=-1) ** (1 / values.shape[-1])
    return product


def test_a_metric_without_a_chain_is_a_micro_average(monkeypatch: pytest.MonkeyPatch) -> None:
    given = scores(("a", {"m": (1, 1)}), ("b", {"m": (1, 9)}))
    assert stats.estimate(given, "m").value == value(micro("m"), given, monkeypatch) == 2 / 10


def test_means_of_images_prompts_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompt a: images 1/2 and 1, mean 3/4. Prompt b: 0. Pooled over questions it would be 2 of 4."""
    given = scores(("a", {"g/1": 1, "g/2": 0}), ("a", {"g/1": 1}), ("b", {"g/1": 0}))
    by_image, by_prompt = Step(mean, ("prompt", "image")), Step(mean, ("prompt",))
    assert value(Chain(("g",), (by_image, by_prompt, Step(mean, scale=100))), given, monkeypatch) == 37.5
    assert value(Chain(("g",), (by_image, Step(mean))), given, monkeypatch) == 0.5
    assert value(Chain(("g",), (Step(pool),)), given, monkeypatch) == 0.5
    assert value(Chain(("g",), (Step(pool),), last_image=True), given, monkeypatch) == 0.5  # of a only its second image
    assert value(Chain(("other",), (Step(pool),)), given, monkeypatch) is None


def test_missing_groups_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(
        ("x", "y", "z", "w"),
        (Step(pool, ("group",)), Step(mean, ("group",), into={"x": "first", "y": "first", "z": "second"}), Step(mean)),
    )
    given = scores(("a", {"x/1": 1, "x/2": 0}), ("b", {"y/1": 1}), ("c", {"z/1": 0, "z/2": 0}))
    assert value(chain, given, monkeypatch) == (0.75 + 0) / 2
    assert stats.partial_means(given, ["m"]) == ()
    assert stats.partial_means(given[:2], ["m", "other"]) == ("m is a mean of 1 of 2 dimensions: no score of second",)
    assert chain.passed_over(given[2:]) == (("first",), 2)


def test_rounding_is_that_of_a_printed_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """1/160 is a little above 0.00625 in binary; scaled by 10,000 it would be a tie and go down."""
    chain = Chain(("g",), (Step(pool, digits=4),))
    assert value(chain, scores(("a", {"g": (1, 160)})), monkeypatch) == 0.0063 == float(f"{1 / 160:.4f}")


GEDIT = (Step(lowest, ("prompt", "group")),)
EDIT_TASKS = (*(f"task {number}" for number in range(10)), "text_change")


@pytest.mark.parametrize(
    ("what", "expected"),
    [("SC", 7.454545454545), ("PQ", 8.068181818182), ("O", 7.454545454545)],
)
def test_gedit(what: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven tasks with one item 8/8, and three more items 0/9 in the last; O is the root of the product per item."""
    items = [(f"{task}-0", task, 8, 8) for task in EDIT_TASKS] + [(f"t-{n}", "text_change", 0, 9) for n in (1, 2, 3)]
    wanted = ("SC", "PQ") if what == "O" else (what,)
    given = scores(
        *(
            (name, {f"SC {task}/1": sc, f"SC {task}/2": sc, f"PQ {task}/1": pq, f"PQ {task}/2": pq + 1})
            for name, task, sc, pq in items
        )
    )
    groups = tuple(f"{part} {task}" for part in wanted for task in EDIT_TASKS)
    into = {group: group[3:] for group in groups}
    steps = (*GEDIT, Step(root_of_product if what == "O" else mean, ("prompt", "group"), into=into))
    chain = Chain(groups, (*steps, Step(mean, ("group",), into=into), Step(mean)))
    assert value(chain, given, monkeypatch) == pytest.approx(expected, abs=1e-12)


def test_geneval2(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = ([0.9, 0.8], [1, 0, 0.5], [0.25] * 4)
    given = scores(*((f"p{n}", {f"q/{i}": p for i, p in enumerate(of)}) for n, of in enumerate(probabilities)))
    for how, expected in ((mean, 53.333333333333336), (geometric, 36.61760458079524)):
        chain = Chain(("q",), (Step(how, ("prompt",)), Step(mean, scale=100)))
        assert value(chain, given, monkeypatch) == pytest.approx(expected, abs=1e-12)


def test_imgedit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three grades an image, mean with 2 decimals; types the same; the overall is a plain mean of types."""
    given = scores(
        ("a", {"add/1": 5, "add/2": 4, "add/3": 4}),
        ("b", {"add/1": 5}),
        ("c", {"style/1": 1}),
        ("d", {"style/1": 5, "style/2": 4, "style/3": 2}),
    )
    steps = (Step(mean, ("prompt", "group"), digits=2), Step(mean, ("group",), digits=2))
    assert value(Chain(("add",), steps), given, monkeypatch) == 4.67  # of 4.33 and 5
    assert value(Chain(("style",), steps), given, monkeypatch) == 2.33  # of 1 and 3.67
    assert value(Chain(("add", "style"), (*steps, Step(mean))), given, monkeypatch) == pytest.approx(3.5)


def groups_of(generator: np.random.Generator, sizes: Mapping[str, int], shift: float = 0.0) -> list[Score]:
    """Each prompt is of one group; its value varies around a mean of the group."""
    images = [
        (f"{group}-{number}", {f"{group}/1": float(generator.normal(rank + shift, 1 + rank))})
        for rank, (group, size) in enumerate(sizes.items())
        for number in range(size)
    ]
    return scores(*images)


SIZES = {"small": 40, "large": 400}
MEAN_OF_GROUPS = Chain(tuple(SIZES), (Step(pool, ("group",)), Step(mean)))


def test_groups_are_resampled_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interval of a mean of group means is that of independent groups: variances over n, added up."""
    monkeypatch.setattr(stats, "CHAINS", {"m": MEAN_OF_GROUPS})
    given = groups_of(np.random.default_rng(1), SIZES)
    by_group = [
        np.array([s.counts[f"{group}/1"][0] for s in given if s.prompt_id.startswith(group)]) for group in SIZES
    ]
    half = 1.959964 * np.sqrt(sum(values.var() / len(values) for values in by_group)) / 2
    middle = np.mean([values.mean() for values in by_group])
    result = stats.estimate(given, "m")
    assert result.value == pytest.approx(middle)
    assert (result.low, result.high) == pytest.approx((middle - half, middle + half), abs=0.08 * half)
    assert result.n == 440
    shuffled = [given[index] for index in np.random.default_rng(2).permutation(len(given))]
    assert stats.estimate(shuffled, "m").value == pytest.approx(middle)


def test_pairs_of_chains_use_common_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "CHAINS", {"m": MEAN_OF_GROUPS})
    before = groups_of(np.random.default_rng(3), SIZES)
    after = groups_of(np.random.default_rng(3), SIZES, shift=0.25)
    assert stats.paired_difference(before, after[10:], "m") == pytest.approx((0.25, 0.25, 0.25, 430))
    only_large = [score for score in after if score.prompt_id.startswith("large")]
    assert stats.paired_difference(before, only_large, "m") == pytest.approx((0.25, 0.25, 0.25, 400))


def test_groups_of_one_prompt_have_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "CHAINS", {"m": MEAN_OF_GROUPS})
    given = scores(("a", {"small/1": 1}), ("b", {"large/1": 0}))
    assert stats.estimate(given, "m") == (0.5, None, None, 2)


def test_the_score_of_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "CHAINS", {"m": MEAN_OF_GROUPS})
    (image,) = scores(("a", {"small/1": 1, "small/2": 0, "n": (1, 4), "zero": (0, 0)}))
    assert [stats.image_value(image, name) for name in ("m", "n", "zero", "absent")] == [0.5, 0.25, None, None]
    assert stats.required_counts("m") == ("small", "large")
    assert stats.required_counts("n") == ("n",)
