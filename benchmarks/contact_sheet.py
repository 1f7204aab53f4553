"""Show the first images of finished evaluations side by side, none left out, and print their prompts as table rows.

    glmkit eval --suite text-render --split everyday-en --run reports/nano/everyday-en
    glmkit eval --suite text-render --split everyday-zh --run reports/nano/everyday-zh
    python benchmarks/contact_sheet.py reports/nano/everyday-en reports/nano/everyday-zh --out data/nano/prompts.webp

Images are in the order of their ids. One that failed leaves a gap.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from glmkit.files import read_jsonl

COLUMNS, SIDE, GAP = 6, 192, 6  # images in a row; pixels


def first_images(run: Path, count: int) -> list[dict[str, str]]:
    """Return the first records of `images.jsonl` by their ids; those without an image stay, as gaps."""
    return sorted(read_jsonl(run / "images.jsonl"), key=lambda record: record["id"])[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    parser.add_argument("--first", metavar="N", type=int, default=12, help="images of each run, default %(default)s")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True)
    arguments = parser.parse_args()
    records = [(run, record) for run in arguments.runs for record in first_images(run, arguments.first)]
    step = SIDE + GAP
    canvas = Image.new("RGB", (COLUMNS * step - GAP, -(-len(records) // COLUMNS) * step - GAP), "white")
    for index, (run, record) in enumerate(records):
        row, column = divmod(index, COLUMNS)
        if record["file"]:
            with Image.open(run / record["file"]) as image:
                canvas.paste(
                    image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (column * step, row * step)
                )
        print(f"| {row + 1}.{column + 1} | {record['prompt']} |")
    canvas.save(arguments.out, quality=88)


if __name__ == "__main__":
    main()
