"""glmkit bench price: what quicker settings cost in words."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from glmkit.errors import UserError

HELP = "what quicker settings cost in words, and what they save"


def add_arguments(price: argparse.ArgumentParser) -> None:
    """Add the arguments of `glmkit bench price`."""
    price.add_argument(
        "--settings", nargs="+", metavar="KEY=VALUE,...", help="reuse, guided, precision, steps, guidance"
    )
    price.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default %(default)s)")
    price.add_argument("--suite", default="text-render", help="whose metrics are compared (default %(default)s)")
    price.add_argument("--data", metavar="DIR", type=Path, help="prompt files of a public benchmark")
    price.add_argument("--split", metavar="NAME", nargs="+", help="only these splits of the suite")
    price.add_argument("--limit", metavar="N", type=int, help="only the first N prompts of each split")
    price.add_argument("--count", metavar="N", type=int, default=1, help="images per prompt (default %(default)s)")
    price.add_argument("--size", metavar="WIDTHxHEIGHT", help="pixels (default: the prompt's, else the model's)")
    price.add_argument("--ocr", metavar="ENGINE[:LOCATION]", help="paddleocr (the default), ...")
    price.add_argument("--repeats", metavar="N", type=int, default=3, help="timed images each (default %(default)s)")
    price.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    price.add_argument("--run", metavar="DIR", type=Path, required=True, dest="folder", help="where the images stay")
    price.add_argument("--out", metavar="FILE.json", type=Path, help="write the result there")
    price.add_argument("--figure", metavar="FILE.svg", type=Path, help="draw seconds against words there; or .png")
    price.add_argument("--json", action="store_true", help="print one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compare quicker settings with exact generation, and print a table or JSON."""
    if arguments.repeats < 1:
        raise UserError("--repeats must be at least 1", found=arguments.repeats)

    from glmkit.api.evaluation import price
    from glmkit.extras import require
    from glmkit.files import write_json
    from glmkit.reporting.price import check_figure, price_table, write_price_figure

    if arguments.figure:
        require("matplotlib", "a figure")
        check_figure(arguments.figure)
    names = ("model", "suite", "data", "split", "limit", "size", "ocr", "repeats", "device")
    options = {name: getattr(arguments, name) for name in names} | {"num_images_per_prompt": arguments.count}
    result = price(arguments.folder, arguments.settings, **options)
    result |= {"command": shlex.join(["glmkit", *sys.argv[1:]])}
    if arguments.out:
        write_json(arguments.out, result)
    if arguments.figure:
        write_price_figure(result, arguments.figure)
    print(json.dumps(result) if arguments.json else price_table(result))
    return 0
