"""Blind pages and their votes: what the page hides, and what simulated voters let recover."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from PIL import Image, PngImagePlugin
from plain_runs import METRIC, write_run

from glmkit.cli import main
from glmkit.reporting.blind import decode
from glmkit.reporting.votes import evaluate_votes, read_votes

RUNS = ("strong-run", "middle-run", "weak-run")
PLANTED = {"strong-run": 0.9, "middle-run": 0.0, "weak-run": -0.9}  # Bradley-Terry scores of mean 0
VALUES = {"strong-run": 1.0, "middle-run": 0.5, "weak-run": 0.5}  # of the metric
PROMPTS = 60


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all 180 pairs of three runs of 60 prompts."""
    folder = tmp_path_factory.mktemp("blind")
    for name in RUNS:
        write_run(folder / name, [(VALUES[name], 1.0)] * PROMPTS, images=True)
    secret = PngImagePlugin.PngInfo()
    secret.add_text("adapter", "strong-adapter")
    Image.open(folder / "strong-run/images/p0_0.png").save(folder / "strong-run/images/p0_0.png", pnginfo=secret)
    out = folder / "blind.html"
    runs = [str(folder / name) for name in RUNS]
    assert main(["report", *runs, "--blind", "--pairs", "500", "--out", str(out)]) == 0
    return out


def key_of(page: Path) -> Any:
    match = re.search('data-page="(.*?)" data-key="(.*?)"', page.read_text())
    assert match is not None
    return match[1], match[2], decode(match[2], "key")


Chooser = Callable[[dict[str, Any]], str]


def vote(page: Path, voter: str, choose: Chooser, pairs: int = 10**6) -> Path:
    """The file that a voter exports, who has voted on the first pairs."""
    name, text, key = key_of(page)
    votes = [{"pair": pair_id, "choice": choose(pair)} for pair_id, pair in list(key["pairs"].items())[:pairs]]
    path = page.with_name(f"{voter}.json")
    path.write_text(json.dumps({"page": name, "voter": voter, "votes": votes, "key": text}))
    return path


def by_chance(seed: int) -> Chooser:
    generator = random.Random(seed)

    def choose(pair: dict[str, Any]) -> str:
        difference = PLANTED[pair["left"]["run"]] - PLANTED[pair["right"]["run"]]
        return "left" if generator.random() < 1 / (1 + math.exp(-difference)) else "right"

    return choose


def test_the_page_says_nothing_of_the_runs(page: Path) -> None:
    text = page.read_text()
    assert not [name for name in (*RUNS, "strong-adapter") if name in text]
    assert "image/png" not in text  # whose texts hold adapters
    key = key_of(page)[2]
    sides = [pair["left"]["run"] for pair in key["pairs"].values()]
    assert len(sides) == 3 * PROMPTS
    assert {side: sides.count(side) for side in RUNS} == {side: pytest.approx(PROMPTS, abs=20) for side in RUNS}
    assert sides != sorted(sides)
    again, other = page.with_name("again.html"), page.with_name("other.html")
    runs = [str(page.with_name(name)) for name in RUNS]
    assert main(["report", *runs, "--blind", "--pairs", "500", "--out", str(again)]) == 0
    assert again.read_text() == text
    assert main(["report", *runs, "--blind", "--pairs", "7", "--seed", "1", "--out", str(other)]) == 0
    few = key_of(other)[2]["pairs"].values()
    assert len(few) == 7
    assert len({frozenset((pair["left"]["run"], pair["right"]["run"])) for pair in few}) == 3


def test_what_is_no_image_is_in_no_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A photo of a telephone by another name, and a file that is gone, leave the others to vote on."""
    runs = [write_run(tmp_path / name, [(1.0, 1.0)] * 4, images=True) for name in ("one", "other")]
    (runs[0] / "images/p1_0.png").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (runs[1] / "images/p2_0.png").unlink()
    out = tmp_path / "blind.html"
    assert main(["report", *map(str, runs), "--blind", "--out", str(out)]) == 0
    assert {pair["prompt_id"] for pair in key_of(out)[2]["pairs"].values()} == {"p0", "p3"}
    assert out.read_text().count('<section class="vote-pair"') == 2
    said = capsys.readouterr().err
    assert [name in said for name in ("p0_0.png", "p1_0.png", "p2_0.png")] == [False, True, True]
    assert main(["report", *map(str, runs), "--blind", "--pairs", "1", "--out", str(out)]) == 0
    assert len(key_of(out)[2]["pairs"]) == 1
    for path in (runs[0] / "images").iterdir():
        path.write_text("no image")
    assert main(["report", *map(str, runs), "--blind", "--out", str(out)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_three_voters_recover_a_planted_order(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [vote(page, voter, by_chance(seed)) for seed, voter in enumerate(("Ann", "Ben", "Cai"))]
    assert main(["votes", *map(str, files), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [one["run"] for one in printed["scores"]] == list(RUNS)
    for one in printed["scores"]:
        assert one["low"] < PLANTED[one["run"]] < one["high"]
        assert one["n"] == PROMPTS
    votes, _ = read_votes(files)
    assert len(votes) == 3 * 3 * PROMPTS

    # Bradley-Terry is logistic regression: half a vote more for either side of each two runs.
    def against(scores: np.ndarray) -> float:
        level = dict(zip(RUNS, (*scores, -sum(scores)), strict=True))
        loss = sum(0.5 * np.logaddexp(0, level[b] - level[a]) for a, b in permutations(RUNS, 2))
        for one in votes:
            left, right = level[one.pair["left"]["run"]], level[one.pair["right"]["run"]]
            loss += np.logaddexp(0, -one.sign * (left - right))
        return float(loss)

    fitted = scipy.optimize.minimize(against, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-6}).x
    assert [one["value"] for one in printed["scores"]] == pytest.approx([*fitted, -sum(fitted)], abs=1e-3)

    # Win rates, and the share of votes for the run with the higher metric, which two of the runs share.
    won = []
    for one in votes:
        sides = (one.pair["left"]["run"], one.pair["right"]["run"])
        won.append(sides if one.sign > 0 else sides[::-1])
    for rate in printed["win_rates"]:
        count = won.count((rate["run"], rate["against"]))
        assert rate["value"] == pytest.approx(count / (3 * PROMPTS))
        assert rate["low"] < 1 / (1 + math.exp(PLANTED[rate["against"]] - PLANTED[rate["run"]])) < rate["high"]
    agreement = printed["with_metrics"][METRIC]
    for_higher = sum(VALUES[winner] > VALUES[loser] for winner, loser in won)
    assert agreement["n"] == 2 * 3 * PROMPTS
    assert agreement["share"]["value"] == pytest.approx(for_higher / agreement["n"])

    # Krippendorff's alpha as his definition has it: disagreement within pairs over that of all votes with all.
    signs: dict[Any, list[int]] = {}
    for one in votes:
        signs.setdefault(one.id, []).append(one.sign)
    within = np.mean([(a - b) ** 2 for on_pair in signs.values() for a, b in permutations(on_pair, 2)])
    every = np.mean([(a - b) ** 2 for a, b in permutations([one.sign for one in votes], 2)])
    between = printed["between_voters"]
    assert between["alpha"]["value"] == pytest.approx(1 - within / every)
    assert between["alpha"]["low"] < between["alpha"]["value"] < between["alpha"]["high"]
    same = np.mean([a == b for on_pair in signs.values() for a, b in permutations(on_pair, 2)])
    assert (between["share"]["value"], between["n"]) == (pytest.approx(same), 3 * PROMPTS)
    assert main(["votes", *map(str, files)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("strong-run ") < shown.index("middle-run ") < shown.index("weak-run ")


def test_ties_are_half_and_one_voter_has_no_agreement(page: Path) -> None:
    """`strong-run` always wins but for ties with `middle-run`: scores stay finite, though no vote is against it."""

    def choose(pair: dict[str, Any]) -> str:
        runs = [pair["left"]["run"], pair["right"]["run"]]
        if set(runs) == {"strong-run", "middle-run"}:
            return "tie"
        return "right" if runs[0] == "weak-run" else "left"

    results = evaluate_votes([vote(page, "Dee", choose)])
    assert results.voters == {"Dee": (3 * PROMPTS, PROMPTS)}
    assert results.wins["strong-run", "middle-run"][0] == (0.5, 0.5, 0.5, PROMPTS)
    assert results.wins["strong-run", "weak-run"][0].value == 1
    assert results.scores["strong-run"].value == pytest.approx(results.scores["middle-run"].value)
    # 60.5 to 0.5 against weak, by both: the odds of the model are those of the votes.
    difference = (results.scores["strong-run"].value or 0) - (results.scores["weak-run"].value or 0)
    assert difference == pytest.approx(math.log(60.5 / 0.5))
    assert results.between_voters is None


def test_the_last_file_of_a_voter_counts(page: Path) -> None:
    first = vote(page, "Eve", lambda _: "left")
    first = first.rename(first.with_name("old.json"))
    votes, _ = read_votes([first, vote(page, "Eve", lambda _: "tie", pairs=5)])
    assert [one.sign for one in votes] == [0] * 5


def broken(page: Path, **changes: Any) -> Path:
    path = vote(page, "Fay", lambda _: "left", pairs=3)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": "!"}, "the key of the votes is broken"),
        ({"key": "bnVsbA=="}, "holds no votes: its key"),
        ({"votes": [{"pair": "pair-1", "choice": "both"}]}, "must be left or right or tie"),
        ({"votes": [{"pair": "pair-9999", "choice": "tie"}]}, "has a vote on no pair of its page"),
        ({"votes": []}, "there are no votes"),
        ({"voter": None}, "voter must be text"),
    ],
)
def test_files_that_hold_no_votes(
    changes: dict[str, Any], message: str, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["votes", str(broken(page, **changes))]) == 2
    assert message in capsys.readouterr().err


def test_runs_that_no_votes_connect(page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x", "y"):
        write_run(tmp_path / name, [(1, 1)] * 2, images=True)
    out = tmp_path / "other.html"
    assert main(["report", str(tmp_path / "x"), str(tmp_path / "y"), "--blind", "--out", str(out)]) == 0
    files = [str(vote(one, "Gil", lambda _: "left")) for one in (page, out)]
    assert main(["votes", *files]) == 2
    assert "found: " in (shown := capsys.readouterr().err)
    assert "no votes compare some runs with the others" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["TMP/strong-run", "--blind"], "votes compare runs"),
        (["TMP/strong-run", "TMP/weak-run", "--blind", "--pairs", "0"], "at least one pair"),
        (["TMP/strong-run", "TMP/weak-run", "--pairs", "3"], "--pairs is of pages for votes"),
        (["--history", "TMP", "--blind"], "a page of --history takes no --blind"),
        (["--history", "TMP", "--max-mb", "9"], "a page of --history takes no --max-mb"),
        (["TMP", "TMP", "--blind", "--zip"], "a page of --blind takes no --zip"),
    ],
)
def test_bad_options(
    words: list[str], message: str, page: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [word.replace("TMP", str(page.parent)) for word in words]
    assert main(["report", *argv, "--out", str(tmp_path / "a.html")]) == 2
    assert message in capsys.readouterr().err
