"""glmkit merge: a model folder with adapters in its weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from glmkit.generation.options import add_adapter_option

HELP = "Write a model folder whose weights hold the changes of adapters."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="nano, a model folder or a hub id")
    add_adapter_option(parser, required=True)
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="the model folder to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and print which components were changed."""
    from glmkit.models.checkpoint.adapters import Adapter
    from glmkit.models.checkpoint.export import write_merged_model

    components = write_merged_model(arguments.model, [Adapter.parse(text) for text in arguments.adapter], arguments.out)
    print(f"{arguments.out}: {arguments.model} with {' + '.join(arguments.adapter)} in its {' and '.join(components)}")
    return 0
