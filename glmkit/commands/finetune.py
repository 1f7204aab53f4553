"""`glmkit finetune RECIPE [key=value ...]`"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from glmkit.commands import validate

HELP = "train adapters or whole parts by a recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a YAML file, for example recipes/nano/poster_lora.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example decoder.steps=50")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dry-run", action="store_true", help="explain the recipe as glmkit validate does, and stop")
    parser.add_argument("--json", action="store_true", help="print the results as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        return validate.run(arguments)
    from glmkit import config
    from glmkit.generation.loading import device_of_rank
    from glmkit.training import distributed as processes

    device = device_of_rank(arguments.device)
    with processes.together(device) as team:
        recipe = config.load(arguments.recipe, arguments.overrides)
        from glmkit.evaluation import before_after
        from glmkit.reporting.training import write_training_report
        from glmkit.training.finetune import describe, finetune

        if recipe.eval is not None:
            before_after.check(recipe.eval)
        results = finetune(recipe, device, team)
    if not team.is_main:
        return 0
    print(json.dumps(results) if arguments.json else describe(results))
    report = write_training_report(Path(recipe.output))
    if recipe.eval is not None:
        scores = before_after.evaluate_before_after(recipe, recipe.eval, str(device))
        report = write_training_report(Path(recipe.output))
        print(before_after.describe(*scores), file=sys.stderr)
    print(f"report: {report}", file=sys.stderr)
    return 0
