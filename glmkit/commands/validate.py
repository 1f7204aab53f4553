"""`glmkit validate RECIPE [key=value ...]`"""

from __future__ import annotations

import argparse
import json

HELP = "explain what a recipe would do: values, data, trained parameters, sequence lengths, memory, time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("recipe", help="a YAML file, or a name of glmkit recipe list such as nano/poster_lora")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example decoder.steps=50")
    parser.add_argument("--json", action="store_true", help="print values as one line of JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Explain a recipe."""
    from glmkit import config

    recipe = config.load(arguments.recipe, arguments.overrides)
    from glmkit.models.devices import pick_device
    from glmkit.training import plan

    device = pick_device(arguments.device)
    if arguments.json:
        print(json.dumps(plan.explain_as_values(recipe, device), ensure_ascii=False))
    else:
        print("\n".join(plan.explain(recipe, device)))
    return 0
