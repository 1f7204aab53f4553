"""`glmkit validate RECIPE [key=value ...]`"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.errors import UserError

if TYPE_CHECKING:
    from glmkit.reporting.preview import PreviewImage
    from glmkit.training.data.image_files import TrainingExample

MAX_SHOWN = 200  # images of each origin in a preview
HELP = "Explain what a recipe would do: values, data, trained parameters, sequence lengths, memory, time."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("recipe", help="a YAML file, or a name of glmkit recipe list such as nano/poster_lora")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for example decoder.steps=50")
    parser.add_argument("--json", action="store_true", help="print values as one line of JSON")
    parser.add_argument(
        "--preview", type=Path, metavar="FILE.html", help="write a page with the images as training will see them"
    )
    parser.add_argument(
        "--shards", type=int, default=1, metavar="N", help="memory and time for N GPUs that hold the weights in shards"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Explain a recipe."""
    from glmkit import config

    recipe = config.load(arguments.recipe, arguments.overrides)
    from glmkit.models.devices import pick_device
    from glmkit.reporting.preview import PreviewSet, check_preview, write_preview
    from glmkit.training import explanation, plan
    from glmkit.training.data import summary

    if arguments.preview and recipe.data.prompts is not None:
        raise UserError("there are no images to preview", found="data.prompts", fix="leave out --preview")
    device = pick_device(arguments.device)
    if arguments.preview:
        check_preview(arguments.preview)
    datasets = plan.load_data(recipe, device)
    if arguments.json:
        print(json.dumps(explanation.explain_as_values(recipe, datasets, device, arguments.shards), ensure_ascii=False))
    else:
        print("\n".join(explanation.explain(recipe, datasets, device, arguments.shards)))
    if arguments.preview:
        parts = dict.fromkeys(part for images in datasets for part in summary.file_sets(images))
        sets = [PreviewSet(part.where, len(part.examples), _spread(part.examples)) for part in parts]
        write_preview(arguments.preview, arguments.recipe, summary.lines(datasets, recipe.largest_batch), sets)
        print(f"images as training sees them: {arguments.preview}", file=sys.stderr)
    return 0


def _spread(examples: Sequence[TrainingExample]) -> list[PreviewImage]:
    """Show at most `MAX_SHOWN` images, evenly spread."""
    count = min(len(examples), MAX_SHOWN)
    return [_preview_image(examples[index * len(examples) // count]) for index in range(count)]


def _preview_image(example: TrainingExample) -> PreviewImage:
    from PIL import Image

    from glmkit.inputs.quotes import quoted_texts
    from glmkit.reporting.preview import PreviewImage

    target, about = example.target, example.about
    sizes = dict.fromkeys((example.size, target.fit.scaled, target.fit.size))
    return PreviewImage.create(
        Path(about.name).name,
        about.captions,
        [text for caption in about.captions for text in quoted_texts(caption)] if about.texts is None else about.texts,
        [" → ".join(f"{width}x{height}" for height, width in sizes), *example.changes],
        Image.fromarray(target.pixels()),
        Image.fromarray(target.text_mask()) if target.has_text_positions else None,
        [Image.fromarray(image.pixels()) for image in example.condition_images],
        None if example.rejected is None else Image.fromarray(example.rejected.pixels()),
    )
