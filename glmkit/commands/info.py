"""glmkit info: the parts of a model, their parameters and bytes."""

from __future__ import annotations

import argparse
import json

HELP = "List the parts of a model with their parameters and bytes."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="nano, a model folder, a hub id, or glm-image (published sizes, no download)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    from glmkit.models.checkpoint import describe

    rows = describe(arguments.model)
    parameters, size = sum(row.parameters for row in rows), sum(row.bytes for row in rows)
    if arguments.json:
        parts = [{"part": row.component, "parameters": row.parameters, "bytes": row.bytes} for row in rows]
        print(json.dumps({"model": arguments.model, "parts": parts, "parameters": parameters, "bytes": size}))
        return 0
    print(f"{'part':<16}{'parameters':>18}{'bytes':>18}")
    for row in rows:
        print(f"{row.component:<16}{row.parameters:>18,}{row.bytes:>18,}")
    print(f"{'all':<16}{parameters:>18,}{size:>18,}")
    return 0
