"""glmkit list: what an evaluation can name, and what is missing to run it."""

from __future__ import annotations

import argparse
import json

HELP = "List suites, metrics, OCR engines, judges, scorers, rewards, reference sets and models, and what each lacks."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print one line of JSON per name")


def run(arguments: argparse.Namespace) -> int:
    """Print the catalogue."""
    from glmkit.evaluation.catalogue import catalogue
    from glmkit.training.rl import rewards

    entries, kind = [*catalogue(), *rewards.catalogue()], ""
    if arguments.json:
        for entry in entries:
            print(json.dumps({**entry.to_dict(), "ready": not entry.missing}, ensure_ascii=False))
        return 0
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        if entry.kind != kind:
            kind = entry.kind
            print(f"{kind}s")
        print(f"  {'-' if entry.missing else '+'} {entry.name.ljust(width)}  {entry.about}")
        if entry.missing:
            print(f"      missing: {entry.missing}")
            if entry.fix:
                print(f"      try:     {entry.fix}")
    print("\n+ can run, - lacks something")
    return 0
