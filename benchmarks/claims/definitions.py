"""The claims as files: what each says, and how its sides are trained. One YAML file a claim beside this module.

A side lists its training steps as one would type them behind `glmkit finetune`: the name of a recipe of base.yaml, then
overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glmkit import config
from glmkit.config import Recipe
from glmkit.errors import UserError, unknown
from glmkit.values import override, read_yaml

HERE = Path(__file__).parent
# Posters a second on one H200, compiled where base.yaml says so (benchmarks/LOG.md).
THROUGHPUT = {"semantic_vq": 9_700, "autoregressive": 15_100, "decoder_128": 14_500, "decoder_256": 7_500}
# Tokens that the autoregressive model reads of a 256x256 poster: prompt (padded), preview, large grid.
PROMPT, PREVIEW, LARGE = 64, 256, 64
# For a run that shows within seconds that everything fits together; it measures nothing.
TINY = {
    "steps": 2,
    "global_batch_size": 2,
    "warmup_steps": 0,
    "validation_every": 1,
    "save_every": 1,
    "compile": False,
}
TINY_DATA = ("data.posters.count=4", "data.posters.validation=2", "data.posters.size=64x64", "data.posters.workers=1")


@dataclass(frozen=True)
class Side:
    """One way of training. `keep` are the parts taken from the shipped model, the others start from fresh weights.

    `glyphs` and `preview` say how images are drawn. With `same_as` (CLAIM/SIDE) it is that side, under another name.
    """

    steps: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    glyphs: bool = True
    preview: bool = True
    same_as: str | None = None


@dataclass(frozen=True)
class Claim:
    """What a claim's file says; `sides` is empty for a claim that needs no training.

    `reading` is what we conclude from the rows, written when they are there.
    """

    name: str
    title: str
    claim: str
    setup: str
    not_shown: str
    measures: tuple[str, ...]
    sides: Mapping[str, Side]
    reading: str = ""


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.yaml") if path.stem != "base")


def load(name: str) -> Claim:
    """The claim of that name; UserError when there is none."""
    if name not in names():
        raise unknown("claim", name, names())
    values = read_yaml(HERE / f"{name}.yaml")
    keep, sides = values.pop("keep", []), values.pop("sides", {})
    known = {side: _side({"keep": keep, **given}) for side, given in sides.items()}
    return Claim(name, measures=tuple(values.pop("measures", ())), sides=known, **values)


def _side(values: dict[str, Any]) -> Side:
    allowed = [field.name for field in fields(Side)]
    for key in values:
        if key not in allowed:
            raise unknown("key of a side", key, allowed)
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Side(**given)


def resolve(claim: str, side: str) -> tuple[str, str, Side]:
    """Claim, name and definition behind a side, which may be a side of another claim."""
    sides = load(claim).sides
    if side not in sides:
        raise unknown(f"side of {claim}", side, sides)
    found = sides[side]
    return resolve(*found.same_as.split("/")) if found.same_as else (claim, side, found)  # type: ignore[arg-type]


def recipe(step: str, model: str | Path, output: str | Path, seed: int, tiny: bool = False) -> Recipe:
    """The checked recipe of one step, which trains parts of the folder `model` in place."""
    name, *overrides = step.split()
    known = read_yaml(HERE / "base.yaml")
    if name not in known:
        raise unknown("recipe of base.yaml", name, known)
    values = known[name]
    if "like" in values:
        values, overrides = known[values["like"]], [*values["changes"], *overrides]
    places = [f"model={model}", f"save={model}", f"output={output}", f"seed={seed}"]
    if tiny:
        (stage,) = set(values) - {"data"}
        overrides += [f"{stage}.{key}={value}" for key, value in TINY.items()] + list(TINY_DATA)
    return config.from_dict(override(values, [*overrides, *places]), f"step {step!r}")


def posters(step: Recipe) -> int:
    """How many posters a recipe trains on, repeats counted."""
    (stage,) = step.stages.values()
    return stage.steps * stage.global_batch_size


def seconds(step: str) -> float:
    """Expected GPU seconds of a step's training alone, by THROUGHPUT; data, compiling and validation losses come on top.

    A sequence without preview takes as much less time as it has fewer tokens.
    """
    planned = recipe(step, "model", "output", 0)
    share = 1.0
    if planned.autoregressive is not None and not planned.autoregressive.preview:
        share = (PROMPT + LARGE) / (PROMPT + PREVIEW + LARGE)
    return posters(planned) * share / THROUGHPUT[step.split()[0]]


def expected_seconds(side: Side) -> float:
    """GPU seconds of all steps of a side."""
    return sum(map(seconds, side.steps))


def table() -> str:
    """One line a side: what a run of it costs."""
    lines = ["expected GPU seconds a run (training alone, by the throughput measured on one H200):"]
    for name in names():
        for side, given in load(name).sides.items():
            cost = f"as {given.same_as}" if given.same_as else f"{expected_seconds(given):.0f} s"
            lines.append(f"  {name:16} {side:18} {cost}")
    lines.append("Posters, latents and compiling take about 60 s more, 128 images and their scores 60 to 120 s.")
    return "\n".join(lines)


def run_name(claim: str, side: str, seed: int) -> str:
    """The name of a run's folder and of its row."""
    if seed < 0:
        raise UserError("a seed is a whole number from 0", found=seed)
    return f"{claim}-{side}-{seed}"
