"""Read the ablations: what each tests, and how its arms are trained. Each has a YAML file beside this module.

An arm lists its training steps as one would type them behind `glmkit pretrain`: the name of a recipe of base.yaml, then
overrides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from glmkit.config.values import override, read_yaml
from glmkit.errors import UserError, unknown
from glmkit.pretraining.config import PretrainRecipe, from_dict

HERE = Path(__file__).parent
# Posters per second on one H200, compiled where base.yaml says so (benchmarks/LOG.md).
THROUGHPUT = {"semantic_vq": 9_700, "autoregressive": 15_100}
THROUGHPUT |= {"decoder_128": 14_500, "decoder_256": 7_500, "everyday_128": 14_500, "everyday_256": 7_500}
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
class Arm:
    """One way of training: `pretrained` components come from the shipped model, the others start from random weights.

    `glyphs` and `preview` say how images are generated. An arm that has `same_as` (ABLATION/ARM) is that arm, under
    another name.
    """

    steps: tuple[str, ...] = ()
    pretrained: tuple[str, ...] = ()
    glyphs: bool = True
    preview: bool = True
    same_as: str | None = None


@dataclass(frozen=True)
class Ablation:
    """What an ablation's file says; `arms` is empty for an ablation that needs no training.

    Images are those of the first prompts of `splits`, which share them equally; of several, measures carry their names.

    `conclusion` is what the results show, written when they are there.
    """

    name: str
    title: str
    hypothesis: str
    setup: str
    limitations: str
    measures: tuple[str, ...]
    arms: Mapping[str, Arm]
    splits: tuple[str, ...] = ("simple",)
    conclusion: str = ""


def names() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.yaml") if path.stem != "base")


def load(name: str) -> Ablation:
    """Load the ablation of that name; UserError when there is none."""
    if name not in names():
        raise unknown("ablation", name, names())
    values = read_yaml(HERE / f"{name}.yaml")
    pretrained, arms = values.pop("pretrained", []), values.pop("arms", {})
    parsed = {arm: _parse_arm({"pretrained": pretrained, **fields}) for arm, fields in arms.items()}
    values |= {key: tuple(values[key]) for key in ("measures", "splits") if key in values}
    return Ablation(name, arms=parsed, **{"measures": (), **values})


def _parse_arm(values: dict[str, Any]) -> Arm:
    allowed = [field.name for field in fields(Arm)]
    for key in values:
        if key not in allowed:
            raise unknown("key of an arm", key, allowed)
    frozen: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Arm(**frozen)


def resolve(ablation: str, arm: str) -> tuple[str, str, Arm]:
    """Return ablation, name and definition behind an arm, which may be an arm of another ablation."""
    arms = load(ablation).arms
    if arm not in arms:
        raise unknown(f"arm of {ablation}", arm, arms)
    definition = arms[arm]
    if not definition.same_as:
        return ablation, arm, definition
    other_ablation, _, other_arm = definition.same_as.partition("/")
    return resolve(other_ablation, other_arm)


def recipe(step: str, model: str | Path, output: str | Path, seed: int, tiny: bool = False) -> PretrainRecipe:
    """Return the checked recipe of one step, which trains components of the folder `model` in place."""
    name, *overrides = step.split()
    recipes = read_yaml(HERE / "base.yaml")
    if name not in recipes:
        raise unknown("recipe of base.yaml", name, recipes)
    values = recipes[name]
    if "like" in values:
        values, overrides = recipes[values["like"]], [*values["changes"], *overrides]
    paths = [f"model={model}", f"save={model}", f"output={output}", f"seed={seed}"]
    if tiny:
        (stage,) = set(values) - {"data"}
        overrides += [f"{stage}.{key}={value}" for key, value in TINY.items()] + list(TINY_DATA)
    return from_dict(override(values, [*overrides, *paths]), f"step {step!r}")


def posters(step: PretrainRecipe) -> int:
    """Count the posters that a recipe trains on, repeats included."""
    (stage,) = step.stages.values()
    return stage.steps * stage.global_batch_size


def seconds(step: str) -> float:
    """Estimate the GPU seconds of one training step alone, by THROUGHPUT; data, compiling and validation come on top.

    A sequence without preview takes less time in proportion to its tokens.
    """
    planned = recipe(step, "model", "output", 0)
    share = 1.0
    if planned.autoregressive is not None and not planned.autoregressive.preview:
        share = (PROMPT + LARGE) / (PROMPT + PREVIEW + LARGE)
    return posters(planned) * share / THROUGHPUT[step.split()[0]]


def expected_seconds(arm: Arm) -> float:
    """Estimate the GPU seconds of all steps of an arm."""
    return sum(map(seconds, arm.steps))


def table() -> str:
    """Write one line per arm: what a run of it costs."""
    lines = ["expected GPU seconds per run (training alone, by the throughput measured on one H200):"]
    for name in names():
        for arm, definition in load(name).arms.items():
            cost = f"as {definition.same_as}" if definition.same_as else f"{expected_seconds(definition):.0f} s"
            lines.append(f"  {name:16} {arm:18} {cost}")
    lines.append("Posters, latents and compiling take about 60 s more, 128 images and their scores 60 to 120 s.")
    return "\n".join(lines)


def run_name(ablation: str, arm: str, seed: int) -> str:
    """Return the name of a run's folder and of its result file."""
    if seed < 0:
        raise UserError("a seed is a whole number from 0", found=seed)
    return f"{ablation}-{arm}-{seed}"
