"""glmkit recipe: the recipes that come with glmkit."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from glmkit import shipped
from glmkit.errors import UserError

HELP = "List the recipes that come with glmkit, or copy one, with its data set, to edit it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="show their names", description="Show the recipes by name.")
    copy = actions.add_parser("copy", help="copy one", description="Copy a recipe with its data set.")
    copy.add_argument("name", metavar="NAME", help="for example poster_lora, or nano/poster_lora for the small model")
    copy.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=Path(), help="where to (default: here)")


def run(arguments: argparse.Namespace) -> int:
    """List the recipes, or copy one."""
    if arguments.action == "list":
        width = max(map(len, shipped.recipes()))
        for name, path in shipped.recipes().items():
            print(f"{name.ljust(width)}  {path.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}")
        return 0
    from glmkit import config

    if not arguments.name:
        raise UserError("NAME is empty", fix="glmkit recipe list")
    # The data set comes along, as an example of what a folder of training images looks like.
    data = config.load(arguments.name).data
    named = [*(source.path for source in data.train), data.prompts, data.validation]
    files = [path for path in named if isinstance(path, str)]
    recipe, *copied = shipped.copy_recipe(arguments.name, files, arguments.folder)
    print(f"wrote {recipe}" + (f" and its data: {', '.join(map(str, copied))}" if copied else ""))
    print(f"edit it, then: glmkit finetune {shlex.quote(str(recipe))}")
    return 0
