"""Show what rewards taught nano on one page: scores beside those of the controls, images, curves and monitors.

    python benchmarks/rl_page.py OUT reports/example/rl.html [--prompts 24]

OUT is a folder of `rl_nano.py`, all of whose arms that are done are shown, `base` among them. The images are those of
the first prompts of each split that all of these arms generated; where they are missing, the page has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_nano import ARMS, HALVES, SUITE
from rl_nano_parts import METRICS

from glmkit import __version__
from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.stats import Estimate
from glmkit.files import atomic_path, read_json, read_jsonl
from glmkit.records import Prompt
from glmkit.reporting import wording
from glmkit.reporting.templates import template_environment
from glmkit.reporting.thumbnails import Thumbnail, reencoded
from glmkit.reporting.training import PLOT_HEIGHT, PLOT_WIDTH, StageReport, stage_report

TEMPLATE = Path(__file__).with_suffix(".html")
SIDE = 224  # pixels of an image
LOOKS = ("diversity", "edge_density", "colour_entropy", "brightness")
READER = "PP-OCRv6 small"


@dataclass(frozen=True)
class Arm:
    """Hold an arm with its result, its `looks` as shares of those of the base, and its trainings by rewards."""

    name: str
    result: Mapping[str, Any]
    looks: Mapping[str, float]
    stages: Sequence[StageReport]


@dataclass(frozen=True)
class Shown:
    """One prompt and its images: of which arm, the image, and what was read in it."""

    text: str
    images: Sequence[tuple[str, Thumbnail, str]]


def page(out: Path, count: int) -> str:
    """Return the page as HTML. UserError when there is no base to compare with."""
    done = {name: read_json(out / f"{name}.json") for name in ARMS if (out / f"{name}.json").exists()}
    base = done.pop("base", None)
    if base is None:
        raise UserError(f"{out} has no base", found=sorted(done), fix=f"python benchmarks/rl_nano.py {out} --arms base")
    settings = read_json(out / "settings.json")
    arms = [Arm(name, result, shares(result, base), stages(out / name)) for name, result in done.items()]
    environment = template_environment()
    environment.filters |= {
        "signed": lambda value: wording.number(value, signed=True),
        "minutes": lambda value: wording.count(round(value), "minute") if value >= 1 else "less than a minute",
    }
    environment.tests["resolved"] = is_resolved
    device = base["environment"]["device"]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        base=base,
        arms=arms,
        splits=[*(name for name in base["splits"] if name != "all"), "all"],
        metrics=[name for name in METRICS if name != "word_accuracy"],
        looks=[name for name in LOOKS if name in base.get("looks", {})],
        prompts=images(out, ["base", *(arm.name for arm in arms)], count),
        ended=[(f"{arm.name}, {half}", why) for arm in arms for half, why in limits(arm.result)],
        minutes=settings["minutes"],
        seeds=settings["seeds"],
        device=f"one {device}" if device.startswith("NVIDIA") else device,
        reader=READER,
        version=__version__,
        width=PLOT_WIDTH,
        height=PLOT_HEIGHT,
    )


def is_resolved(gap: Mapping[str, Any]) -> bool:
    """Tell whether the interval of a difference does not hold zero."""
    return wording.difference("base", "", Estimate(**gap), higher_is_better=True).outcome != "unresolved"


def shares(result: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float]:
    """Divide how images look, and how far those of a prompt are apart, by what the base has."""
    own, before = result.get("looks", {}), base.get("looks", {})
    return {name: own[name] / before[name] for name in LOOKS if own.get(name) is not None and before.get(name)}


def stages(folder: Path) -> list[StageReport]:
    """Read the curves of what an arm learnt by rewards."""
    runs = {half: folder / half for half in HALVES if (folder / half / f"{half}.log.jsonl").exists()}
    found = [stage_report(run, half) for half, run in runs.items()]
    return [one for one in found if one.measure == "reward"]


def limits(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say which trainings of an arm a limit ended, and why."""
    training = result.get("training", {})
    return [(half, training[f"{half}.ended"]["why"]) for half in HALVES if f"{half}.ended" in training]


def images(out: Path, arms: Sequence[str], count: int) -> list[Shown]:
    """Return the first prompts of each split, `count` in all, with the image of seed 0 of every arm."""
    read = {arm: lines_read(out / arm) for arm in arms}
    folders = {arm: out / arm / "images" for arm in arms if (out / arm / "images").is_dir()}
    by_split: dict[str, list[Prompt]] = {}
    for prompt in suites.prompts(suites.load(SUITE)):
        if folders and all((folder / f"{prompt.id}_0.png").exists() for folder in folders.values()):
            by_split.setdefault(prompt.split, []).append(prompt)
    shares_of = [count // len(by_split) + (number < count % len(by_split)) for number in range(len(by_split))]
    chosen = [one for prompts, share in zip(by_split.values(), shares_of, strict=True) for one in prompts[:share]]
    return [
        Shown(
            prompt.prompt,
            [
                (arm, reencoded(folder / f"{prompt.id}_0.png", SIDE), read[arm].get(f"{prompt.id}_0", ""))
                for arm, folder in folders.items()
            ],
        )
        for prompt in chosen
    ]


def lines_read(folder: Path) -> dict[str, str]:
    """Return what was read in each image of an arm, by its name."""
    path = folder / "scores.jsonl"
    records = read_jsonl(path) if path.exists() else []
    return {one["id"]: one["error"] or " / ".join(one["recognized_lines"]) or "(nothing read)" for one in records}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--prompts", type=int, default=24, help="with their images (default %(default)s)")
    arguments = parser.parse_args(given)
    try:
        html = page(arguments.out, arguments.prompts)
        with atomic_path(arguments.page) as temporary:
            temporary.write_text(html, encoding="utf-8")
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    print(arguments.page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
