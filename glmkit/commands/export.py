"""glmkit export: an adapter as one file for another program."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Write an adapter in the style of diffusers, ComfyUI or PEFT."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "adapter", metavar="ADAPTER[:WEIGHT]", help="an adapter of glmkit finetune or of another program"
    )
    parser.add_argument(
        "--format", choices=("diffusers", "comfyui", "peft"), required=True, help="the program that reads it"
    )
    parser.add_argument(
        "--out", metavar="FILE.safetensors", type=Path, required=True, help="the file to write; for peft a folder"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and print what it holds and what it leaves out."""
    from glmkit.models.checkpoint.adapter_files import read
    from glmkit.models.checkpoint.adapters import Adapter
    from glmkit.models.checkpoint.export import export_adapter

    adapter = Adapter.parse(arguments.adapter)
    layers = export_adapter(adapter, arguments.format, arguments.out)
    written = list(read(adapter.folder)) if arguments.format == "peft" else ["decoder"]
    print(f"{arguments.out}: {layers} layers of the {' and the '.join(written)}, {arguments.format} keys")
    if others := [name for name in read(adapter.folder) if name not in written]:
        print(f"left out: {' and '.join(others)}, which --format peft writes")
    return 0
