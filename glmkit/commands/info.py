"""glmkit info: the components of a model, their parameters and bytes."""

from __future__ import annotations

import argparse
import json

HELP = "List the components of a model with their parameters and bytes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="nano, a model folder, a hub id, or glm-image (published sizes, no download)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print a table, or one line of JSON."""
    from glmkit.models.checkpoint import describe

    sizes = describe(arguments.model)
    parameters, size = sum(one.parameters for one in sizes), sum(one.bytes for one in sizes)
    if arguments.json:
        components = [{"component": one.component, "parameters": one.parameters, "bytes": one.bytes} for one in sizes]
        result = {"model": arguments.model, "components": components, "parameters": parameters, "bytes": size}
        print(json.dumps(result))
        return 0
    print(f"{'component':<16}{'parameters':>18}{'bytes':>18}")
    for one in sizes:
        print(f"{one.component:<16}{one.parameters:>18,}{one.bytes:>18,}")
    print(f"{'all':<16}{parameters:>18,}{size:>18,}")
    return 0
