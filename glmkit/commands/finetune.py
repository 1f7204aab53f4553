"""`glmkit finetune RECIPE [key=value ...]`"""

from __future__ import annotations

import argparse
import json
import sys

from glmkit.commands import validate

HELP = "fine-tune adapters or whole components by a recipe"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    validate.add_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="explain the recipe as glmkit validate does, and stop")


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, or explain what would happen."""
    if arguments.dry_run:
        return validate.run(arguments)
    from glmkit.api.training import finetune
    from glmkit.distributed.process_group import ProcessGroup
    from glmkit.evaluation import before_after
    from glmkit.training.finetune import describe

    run = finetune(arguments.recipe, overrides=arguments.overrides, device=arguments.device)
    if ProcessGroup.from_environment().is_main:
        print(json.dumps(run.results) if arguments.json else describe(run.results))
        if run.before is not None and run.after is not None:
            print(before_after.describe(run.before, run.after), file=sys.stderr)
        print(f"report: {run.report}", file=sys.stderr)
        if run.card is not None:
            print(f"model card: {run.card}", file=sys.stderr)
    return 0
