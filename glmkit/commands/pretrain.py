"""`glmkit pretrain RECIPE [key=value ...]`"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from glmkit.commands.finetune import add_allow_changes

HELP = "Train components from fresh weights on synthetic posters, as nano was made."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("recipe", help="a YAML file, for example recipes/nano/pretrain/vae.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example vae.steps=50")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument("--phase", metavar="NAME", help="only this one of the recipe's phases")
    parser.add_argument("--dry-run", action="store_true", help="explain the recipe, and stop")
    add_allow_changes(parser)
    parser.add_argument("--json", action="store_true", help="print the results as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Pretrain phase after phase, or explain what would happen."""
    from glmkit.distributed.together import together
    from glmkit.generation.loading import device_of_rank
    from glmkit.pretraining import config

    device = device_of_rank(arguments.device)
    asked = (arguments.recipe, arguments.overrides, arguments.phase)
    if arguments.dry_run:
        from glmkit.pretraining.pretrain import explain

        for recipe in config.load(*asked).values():
            print("\n".join(explain(recipe, device)))
        return 0
    results = {}
    with together(device) as group:
        recipes = config.load(*asked)
        from glmkit.pretraining.pretrain import pretrain
        from glmkit.reporting.training import write_training_report
        from glmkit.training.finetune import describe

        for name, recipe in recipes.items():
            results[name] = pretrain(recipe, device, group, arguments.allow_changes)
            if group.is_main:
                if not arguments.json:
                    print(describe(results[name]))
                print(f"report: {write_training_report(Path(recipe.output))}", file=sys.stderr)
    if group.is_main and arguments.json:
        print(json.dumps(results.get("", results)))
    return 0
