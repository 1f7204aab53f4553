"""glmkit export: an adapter as one file for another program."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Write an adapter in the key style of diffusers or ComfyUI."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("adapter", metavar="ADAPTER[:WEIGHT]", help="an adapter folder of glmkit finetune")
    parser.add_argument("--format", choices=("diffusers", "comfyui"), required=True, help="the program that reads it")
    parser.add_argument("--out", metavar="FILE.safetensors", type=Path, required=True, help="the file to write")


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and print what it holds and what it leaves out."""
    from glmkit.models.checkpoint.adapters import Adapter, components_of
    from glmkit.models.checkpoint.export import export_adapter

    adapter = Adapter.parse(arguments.adapter)
    layers = export_adapter(adapter, arguments.format, arguments.out)
    print(f"{arguments.out}: {layers} layers of the decoder, {arguments.format} keys")
    if others := [name for name in components_of(adapter.folder) if name != "decoder"]:
        print(f"left out: {' and '.join(others)}, which PEFT loads from {adapter.folder}")
    return 0
