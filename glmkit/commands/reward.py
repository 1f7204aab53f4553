"""glmkit reward: what rewards think of images, before anyone trains on them."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.errors import UserError
from glmkit.text import aligned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from glmkit.api.rewards import RewardReport

HELP = "Show what the rewards of reinforcement learning give to images."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_reward_options(parser, required=True)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def add_reward_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Declare which images are rewarded, and by what."""
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        required=required,
        help="images of several seeds, <prompt id>_<seed>.png, as glmkit generate --prompts writes them",
    )
    parser.add_argument(
        "--prompts", metavar="FILE", type=Path, required=required, help="their prompts, with texts for each"
    )
    parser.add_argument("--texts-from", choices=["quotes"], help="of prompts without texts, those in quotes count")
    parser.add_argument(
        "--reward",
        metavar="NAME=WEIGHT",
        nargs="+",
        help="text=1 content=0.3 clip:glmkit=0.2 scorer:pickscore:DIR=0.1 ... (default text=1; glmkit list shows all)",
    )
    parser.add_argument(
        "--base", metavar="DIR", type=Path, help="images of the base model by the same names, for rewards that compare"
    )
    parser.add_argument("--ocr", metavar="ENGINE[:LOCATION]", default="paddleocr", help="default %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")


def weights_of(arguments: argparse.Namespace) -> dict[str, float]:
    """Read NAME=WEIGHT; UserError for anything else, and for a reward that is there twice."""
    from glmkit.api.rewards import DEFAULT_WEIGHTS

    weights: dict[str, float] = {}
    for text in arguments.reward or ():
        name, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not 0 < weight < math.inf:
            raise UserError(
                "a reward is NAME=WEIGHT, its weight above 0", found=text, fix="--reward text=1 content=0.3"
            )
        if name in weights:
            raise UserError(f"the reward {name} is given twice", fix="once each")
        weights[name] = weight
    return weights or dict(DEFAULT_WEIGHTS)


def report_of(arguments: argparse.Namespace) -> RewardReport:
    """Reward the images that the options name, and say which could not be."""
    from glmkit.api.rewards import reward_images
    from glmkit.reporting.wording import count

    report = reward_images(
        arguments.images,
        arguments.prompts,
        weights_of(arguments),
        base=arguments.base,
        texts_from=arguments.texts_from,
        ocr=arguments.ocr,
        device=arguments.device,
    )
    for image in report.images:
        if image.error is not None:
            print(f"{image.file} has no reward: {image.error}", file=sys.stderr)
    if silent := [image.file for image in report.images if image.error is None and image.total is None]:
        about = f"{count(len(silent), 'image')}, such as {silent[0]}"
        print(f"these rewards say nothing of the prompts of {about}", file=sys.stderr)
    if report.missing:
        missing = count(len(report.missing), "prompt")
        print(f"without an image: {missing}, such as {report.missing[0]}", file=sys.stderr)
    if report.unmatched:
        print(report.unmatched, file=sys.stderr)
    return report


def run(arguments: argparse.Namespace) -> int:
    """Print the rewards of every image, and how they vary; 1 when no image has any."""
    report = report_of(arguments)
    if arguments.json:
        spreads = {name: spread.to_dict() for name, spread in report.spreads.items()}
        values = {"images": [image.to_dict() for image in report.images], "rewards": spreads}
        print(json.dumps(values, ensure_ascii=False))
    else:
        print(in_words(report, weights_of(arguments)))
    return 0 if report.spreads else 1


def in_words(report: RewardReport, weights: Mapping[str, float]) -> str:
    """Lay out the images of each prompt, the best first, and below them how each reward varies."""
    lines = [("image", *weights, "total", "advantage", "")]
    scored = [image for image in report.images if image.error is None]
    order = {image.prompt_id: number for number, image in reversed([*enumerate(scored)])}
    for image in sorted(scored, key=lambda image: (order[image.prompt_id], -(image.total or 0), image.seed)):
        values = (image.rewards.get(name) for name in weights)
        numbers = map(_number, (*values, image.total, image.advantage))
        lines.append((f"{image.prompt_id}_{image.seed}", *numbers, "empty" if image.is_empty else ""))
    spreads = [("reward", "weight", "mean", "spread within a prompt", "prompts where all images are equal")]
    for name, spread in report.spreads.items():
        constant = "" if spread.constant is None else f"{spread.constant:.0%}"
        weight = f"{weights[name]:g}" if name in weights else ""
        spreads.append((name, weight, _number(spread.mean), _number(spread.within), constant))
    return f"{aligned(lines)}\n\n{aligned(spreads)}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
