"""What people voted on blind pairs: win rates, Bradley-Terry scores, agreement with each other and with metrics.

Every interval is a percentile bootstrap over prompts (see `stats`): the votes on the pairs of a prompt stay together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np

from glmkit.errors import UserError
from glmkit.evaluation import stats
from glmkit.evaluation.stats import Estimate
from glmkit.files import read_json
from glmkit.reporting.blind import Key, Pair, decode
from glmkit.shapes import check_shape

FIX = "a file that a page of glmkit report --blind has exported"
HALF = 0.5  # of a vote more for either side of two runs that were compared: scores stay finite (Anscombe 1956)
VALUES = {"left": 1, "tie": 0, "right": -1}
STEPS = 50  # of Newton's method, which needs about 6
LARGEST_STEP = 2.0  # of it in a score


class Choice(TypedDict):
    """One vote."""

    pair: str
    choice: Literal["left", "right", "tie"]


class VotesFile(TypedDict):
    """Hold what a page exports."""

    page: str
    voter: str
    key: str
    votes: list[Choice]


@dataclass(frozen=True)
class Vote:
    """One vote: `sign` is 1 for the left image, -1 for the right one, and 0 for a tie. `id` names the pair in all."""

    voter: str
    id: tuple[str, str]
    pair: Pair
    sign: int


@dataclass(frozen=True)
class Agreement:
    """How often two judgements agree, and `n` of what; `alpha` is Krippendorff's, where it is one of voters."""

    share: Estimate
    n: int
    alpha: Estimate | None = None


@dataclass(frozen=True)
class VoteResults:
    """Hold what the votes say. `voters` maps each to (votes, ties); `order` are the runs, best first.

    `scores` are Bradley-Terry scores: a difference d of two of them means that the first wins in 1 / (1 + exp(-d)) of
    the votes; their mean is 0. `wins` are shares of the votes for the first of two runs, ties half. `n` of an interval
    is the number of prompts.
    """

    voters: Mapping[str, tuple[int, int]]
    order: tuple[str, ...]
    scores: Mapping[str, Estimate]
    wins: Mapping[tuple[str, str], tuple[Estimate, int]]
    between_voters: Agreement | None
    with_metrics: Mapping[str, Agreement]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        between = self.between_voters
        return {
            "voters": [{"voter": name, "votes": n, "ties": ties} for name, (n, ties) in self.voters.items()],
            "scores": [{"run": run, **self.scores[run]._asdict()} for run in self.order],
            "win_rates": [
                {"run": a, "against": b, "votes": votes, **rate._asdict()}
                for (a, b), (rate, votes) in self.wins.items()
            ],
            "between_voters": between and _as_json(between),
            "with_metrics": {name: _as_json(one) for name, one in self.with_metrics.items()},
        }


def _as_json(one: Agreement) -> dict[str, Any]:
    alpha = {} if one.alpha is None else {"alpha": one.alpha._asdict()}
    return {"share": one.share._asdict(), "n": one.n, **alpha}


def read_votes(paths: Sequence[Path]) -> tuple[list[Vote], dict[str, Mapping[str, str]]]:
    """Read the votes of exported files, and their metrics; of a voter's files of one page the last one counts.

    UserError for a file that no page has exported, or without any vote in all.
    """
    by_voter: dict[tuple[str, str], list[Vote]] = {}
    metrics: dict[str, Mapping[str, str]] = {}
    for path in paths:
        exported = read_json(path)
        check_shape(exported, VotesFile, f"{path} holds no votes", fix=FIX)
        key: Key = decode(exported["key"], f"{path}: the key of the votes")
        check_shape(key, Key, f"{path} holds no votes: its key", fix=FIX)
        metrics |= key["metrics"]
        voter, page = exported["voter"].strip() or path.stem, exported["page"]
        votes = {}
        for one in exported["votes"]:
            if one["pair"] not in key["pairs"]:
                raise UserError(f"{path} has a vote on no pair of its page", found=one["pair"], fix=FIX)
            pair = key["pairs"][one["pair"]]
            votes[one["pair"]] = Vote(voter, (page, one["pair"]), pair, VALUES[one["choice"]])
        by_voter[voter, page] = list(votes.values())
    every = [vote for votes in by_voter.values() for vote in votes]
    if not every:
        raise UserError("there are no votes", found=", ".join(map(str, paths)), fix="vote, then export")
    return every, metrics


def evaluate_votes(paths: Sequence[Path]) -> VoteResults:
    """Read exported files and compute everything; UserError when no votes connect some runs with the others."""
    votes, metrics = read_votes(paths)
    runs = list(dict.fromkeys(side["run"] for vote in votes for side in (vote.pair["left"], vote.pair["right"])))
    voters = {vote.voter: (0, 0) for vote in votes}
    for vote in votes:
        n, ties = voters[vote.voter]
        voters[vote.voter] = n + 1, ties + (vote.sign == 0)
    scores = bradley_terry(votes, runs)
    order = sorted(runs, key=lambda run: -(scores[run].value or 0.0))
    return VoteResults(
        voters,
        tuple(order),
        scores,
        {(a, b): rate for a, b in combinations(order, 2) if (rate := win_rate(votes, a, b)) is not None},
        agreement_of_voters(votes),
        {name: one for name in metrics if (one := agreement_with(votes, name, metrics[name])) is not None},
    )


def bradley_terry(votes: Sequence[Vote], runs: Sequence[str]) -> dict[str, Estimate]:
    """Fit the model of Bradley and Terry (1952) by maximum likelihood; a tie is half a vote for either run.

    UserError when no votes connect some runs with the others.
    """
    number = {run: index for index, run in enumerate(runs)}
    size = len(runs)

    def wins_of(vote: Vote) -> np.ndarray:
        wins = np.zeros((size, size))
        left, right = number[vote.pair["left"]["run"]], number[vote.pair["right"]["run"]]
        wins[left, right], wins[right, left] = (1 + vote.sign) / 2, (1 - vote.sign) / 2
        flat: np.ndarray = wins.ravel()
        return flat

    whole, resampled, prompts = _totals((vote.pair["prompt_id"], wins_of(vote)) for vote in votes)
    compared = whole.reshape(size, size) + whole.reshape(size, size).T > 0
    _check_connected(compared, runs)
    scores = fit_scores(whole.reshape(1, size, size) + HALF * compared)[0]
    low, high = np.full((2, size), np.nan)
    if resampled is not None:
        low, high = _ends(fit_scores(resampled.reshape(-1, size, size) + HALF * compared))
    return {run: _estimate(scores[index], low[index], high[index], prompts) for run, index in number.items()}


def fit_scores(wins: np.ndarray) -> np.ndarray:
    """Return the scores R x K of mean 0 that maximise the likelihood of wins R x K x K, by Newton's method.

    `wins[r, i, j]` are the votes for i against j; every two of the K must be connected by votes in both directions.
    """
    size = wins.shape[-1]
    votes = wins + wins.transpose(0, 2, 1)
    scores = np.zeros(wins.shape[:2])
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(scores[:, None, :] - scores[:, :, None]))
        gradient = (wins - votes * chance).sum(axis=2)
        curvature = votes * chance * (1 - chance)
        laplacian = np.eye(size) * curvature.sum(axis=2)[:, :, None] - curvature
        # The scores have no absolute level: adding a constant matrix fixes their mean, and changes nothing else.
        step = np.linalg.solve(laplacian + 1 / size, gradient[:, :, None])[:, :, 0]
        scores = scores + np.clip(step, -LARGEST_STEP, LARGEST_STEP)
        if np.abs(step).max() < 1e-9:
            break
    centred: np.ndarray = scores - scores.mean(axis=1, keepdims=True)
    return centred


def _check_connected(compared: np.ndarray, runs: Sequence[str]) -> None:
    reached = np.arange(len(runs)) == 0
    for _ in runs:
        reached |= (compared & reached[:, None]).any(axis=0)
    if not reached.all():
        groups = [
            ", ".join(run for run, is_in in zip(runs, reached, strict=True) if is_in == side) for side in (True, False)
        ]
        fix = "votes of a page with a run of each"
        raise UserError("no votes compare some runs with the others", found=" | ".join(groups), fix=fix)


def win_rate(votes: Iterable[Vote], run: str, other: str) -> tuple[Estimate, int] | None:
    """Return the share of the votes for `run` against `other`, a tie as half, and their number; None without any."""
    signs = []
    for vote in votes:
        left, right = vote.pair["left"]["run"], vote.pair["right"]["run"]
        if {left, right} == {run, other}:
            signs.append((vote.pair["prompt_id"], np.array([(1 + (vote.sign if left == run else -vote.sign)) / 2, 1])))
    return (_share(signs), len(signs)) if signs else None


def agreement_of_voters(votes: Iterable[Vote]) -> Agreement | None:
    """Compare the votes of several voters on the same pairs; None where there are none.

    The share is that of two votes on a pair that are the same, and Krippendorff's alpha (2011, interval data: a tie is
    between left and right) is 0 by chance and 1 at best.
    """
    by_pair: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        by_pair.setdefault(vote.id, []).append(vote)
    several = [on_pair for on_pair in by_pair.values() if len(on_pair) > 1]
    if not several:
        return None

    def coincidences(on_pair: Sequence[Vote]) -> np.ndarray:
        counts = np.bincount([vote.sign + 1 for vote in on_pair], minlength=3).astype(np.float64)
        table: np.ndarray = (np.outer(counts, counts) - np.diag(counts)) / (len(on_pair) - 1)
        return table.ravel()

    whole, resampled, prompts = _totals((one[0].pair["prompt_id"], coincidences(one)) for one in several)
    totals = np.vstack([whole, *([] if resampled is None else [resampled])])
    with np.errstate(invalid="ignore", divide="ignore"):
        same, alpha = _same(totals), _alpha(totals)
    return Agreement(_of_resamples(same, prompts), len(several), _of_resamples(alpha, prompts))


def _same(tables: np.ndarray) -> np.ndarray:
    shares: np.ndarray = tables[:, [0, 4, 8]].sum(axis=1) / tables.sum(axis=1)
    return shares


def _alpha(tables: np.ndarray) -> np.ndarray:
    """Return Krippendorff's alpha of coincidences R x 9; NaN where all votes are the same."""
    squares = np.subtract.outer(np.arange(3), np.arange(3)) ** 2
    counts = tables.reshape(-1, 3, 3).sum(axis=2)
    observed = tables @ squares.ravel()
    expected = np.einsum("ri,ij,rj->r", counts, squares, counts) / (counts.sum(axis=1) - 1)
    alpha: np.ndarray = 1 - observed / expected
    return alpha


def agreement_with(votes: Iterable[Vote], metric: str, about: Mapping[str, str]) -> Agreement | None:
    """Compare votes with the order of the two images by a metric; None where it orders none.

    Ties count on neither side, nor pairs of which an image has no value, or both have the same.
    """
    better = 1 if about["direction"] == "higher" else -1
    signs = []
    for vote in votes:
        left, right = (vote.pair[side]["values"].get(metric) for side in ("left", "right"))
        if vote.sign and left is not None and right is not None and left != right:
            agrees = (better * (left - right) > 0) == (vote.sign > 0)
            signs.append((vote.pair["prompt_id"], np.array([float(agrees), 1])))
    return Agreement(_share(signs), len(signs)) if signs else None


def _share(fractions: Iterable[tuple[str, np.ndarray]]) -> Estimate:
    """Pool (prompt, [numerator, denominator]) to a share with its interval."""
    whole, resampled, prompts = _totals(fractions)
    totals = np.vstack([whole, *([] if resampled is None else [resampled])])
    return _of_resamples(totals[:, 0] / totals[:, 1], prompts)


def _totals(rows: Iterable[tuple[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Add up rows of numbers by prompt: all of them, R resamples of the prompts (None of one), and the prompts."""
    by_prompt: dict[str, np.ndarray] = {}
    for prompt_id, row in rows:
        by_prompt[prompt_id] = by_prompt.get(prompt_id, 0) + row
    sums = np.array(list(by_prompt.values()))
    resampled = stats.resampled_totals(sums, (len(sums),)) if len(sums) > 1 else None
    return sums.sum(axis=0), resampled, len(sums)


def _of_resamples(values: np.ndarray, prompts: int) -> Estimate:
    """Make an estimate of a value and, behind it, its resamples, if there are any."""
    low, high = _ends(values[1:]) if len(values) > 1 and not np.isnan(values[1:]).all() else (np.nan, np.nan)
    return _estimate(values[0], low, high, prompts)


def _ends(values: np.ndarray) -> Any:
    """Return the ends of the 95 % intervals of R resamples."""
    tail = (1 - stats.LEVEL) / 2
    return np.nanquantile(values, (tail, 1 - tail), axis=0)


def _estimate(value: float, low: float, high: float, n: int) -> Estimate:
    value_, low_, high_ = (None if np.isnan(number) else float(number) for number in (value, low, high))
    return Estimate(value_, low_, high_, n)
