"""`glmkit finetune RECIPE [key=value ...]`"""

from __future__ import annotations

import argparse
import json

HELP = "train adapters or whole parts by a recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file, for example recipes/poster_lora.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example decoder.steps=50")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", action="store_true", help="print the results as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    from glmkit import config

    recipe = config.load(arguments.recipe, arguments.overrides)
    from glmkit.models.devices import pick_device
    from glmkit.training.finetune import describe, finetune

    results = finetune(recipe, pick_device(arguments.device))
    print(json.dumps(results) if arguments.json else describe(results))
    return 0
