"""`glmkit finetune RECIPE [key=value ...]`"""

from __future__ import annotations

import argparse
import json
import sys

from glmkit.commands import validate

HELP = "Fine-tune adapters or whole components by a recipe."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    validate.add_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="explain the recipe as glmkit validate does, and stop")
    parser.add_argument("--from", dest="start_from", metavar="ADAPTER_OR_RUN", help="begin with an adapter's weights")
    add_allow_changes(parser)


def add_allow_changes(parser: argparse.ArgumentParser) -> None:
    """Declare the word that a run needs to go on in another way than it began."""
    parser.add_argument(
        "--allow-changes",
        action="store_true",
        help="continue the run in the output folder with other steps, learning_rate, warmup_steps, decay_fraction or "
        "max_grad_norm; the manifest records them",
    )


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune, or explain what would happen."""
    if arguments.start_from is not None:
        arguments.overrides = [*arguments.overrides, f"start_from={json.dumps(arguments.start_from)}"]
    if arguments.dry_run:
        return validate.run(arguments)
    from glmkit import config
    from glmkit.distributed.process_group import ProcessGroup

    # A wrong key is refused before torch is imported, which takes long. Of several processes, each has to join the
    # others first: one that ends alone would be waited for.
    if ProcessGroup.from_environment().world_size == 1:
        config.load(arguments.recipe, arguments.overrides)
    from glmkit.api.training import finetune
    from glmkit.evaluation import before_after
    from glmkit.training.finetune import describe

    run = finetune(
        arguments.recipe,
        overrides=arguments.overrides,
        device=arguments.device,
        allow_changes=arguments.allow_changes,
    )
    if ProcessGroup.from_environment().is_main:
        print(json.dumps(run.results) if arguments.json else describe(run.results))
        if run.before is not None and run.after is not None:
            print(before_after.describe(run.before, run.after), file=sys.stderr)
        print(f"report: {run.report}", file=sys.stderr)
        if run.card is not None:
            print(f"model card: {run.card}", file=sys.stderr)
    return 0
