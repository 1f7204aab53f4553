"""glmkit reference: sets of images of other models, to measure distances to them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit import shipped
from glmkit.errors import UserError
from glmkit.files import exists

if TYPE_CHECKING:
    from glmkit.evaluation.features.store import ImageSource
    from glmkit.evaluation.reference_sets.sets import ReferenceSet

HELP = "Make and list reference sets of other models' images, for FID, KID and CMMD."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="read images into a set", description="Make or continue a reference set.")
    add.add_argument("name", metavar="NAME", help="what the set is called")
    files = add.add_mutually_exclusive_group(required=True)
    files.add_argument("--images", metavar="DIR", type=Path, help="a folder of images")
    files.add_argument("--parquet", metavar="FILE", type=Path, nargs="+", help="parquet files with an image column")
    files.add_argument("--webdataset", metavar="FILE", type=Path, nargs="+", help="tar files of images with captions")
    add.add_argument("--column", help="image column of the parquet files (default image)")
    add.add_argument("--prompt-column", metavar="NAME", help="prompt column, or key in the .json of a webdataset")
    add.add_argument("--prompts", metavar="FILE", type=Path, help="prompts of --images: JSONL, or line N for image N")
    add.add_argument("--preset", help="a known layout: rapidata, openai-dalle3, open-image-preferences")
    add.add_argument("--model", help="whose images of the preset: dalle3, sd3, ... (default: the preset's first)")
    add.add_argument("--limit", metavar="N", type=int, help="only the first N images")
    add.add_argument(
        "--features",
        metavar="SPEC",
        nargs="+",
        help="inception[:FILE], clip:MODEL, efficientnet-lite0 (default: inception clip:ViT-L-14-336/openai)",
    )
    add.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    show = actions.add_parser("list", help="show the sets", description="Show the reference sets.")
    show.add_argument("--json", action="store_true", help="print one line of JSON per set")


def run(arguments: argparse.Namespace) -> int:
    """Add to a reference set, or list the sets."""
    from glmkit.evaluation.reference_sets import sets

    if arguments.action == "list":
        known = [sets.get(name) for name in sets.names()]
        for reference in known:
            print(json.dumps(about(reference), ensure_ascii=False) if arguments.json else describe(reference))
        if not known and not arguments.json:
            print("no reference sets; glmkit reference add NAME --images DIR makes one")
        return 0
    from glmkit.evaluation.features.extractors import DEFAULT
    from glmkit.models.devices import pick_device

    if arguments.limit is not None and arguments.limit < 1:
        raise UserError("--limit must be at least 1", found=arguments.limit)
    images, settings = source(arguments)
    device = str(pick_device(arguments.device))
    specs = arguments.features or DEFAULT
    print(describe(sets.add(arguments.name, images, settings, specs, device, arguments.limit)))
    return 0


def source(arguments: argparse.Namespace) -> tuple[ImageSource, dict[str, Any]]:
    """Choose what to read, and the JSON values that identify it; UserError for options that do not belong together."""
    from glmkit.evaluation.reference_sets import presets, sources

    kind = next(kind for kind in ("images", "parquet", "webdataset") if getattr(arguments, kind))
    named = getattr(arguments, kind)
    # A Path raises for a link to itself.
    paths = tuple(
        Path(os.path.realpath(shipped.find(path))) for path in (named if isinstance(named, list) else [named])
    )
    if missing := [path for path in paths if not exists(path)]:
        raise UserError(f"{missing[0]} does not exist", fix=f"--{kind} with the files of the set")
    refuse(arguments, kind)
    prompts = sources.read_prompts(arguments.prompts) if arguments.prompts else {}  # before anything is hashed
    options = {name: getattr(arguments, name) for name in ("preset", "model", "column", "prompt_column")}
    settings = {
        kind: [str(path) for path in paths],
        **options,
        "content": [sources.source_fingerprint(path) for path in paths],
    }
    if arguments.prompts:
        settings["prompts"] = sources.source_fingerprint(arguments.prompts)
    if arguments.preset:
        return presets.build(arguments.preset, arguments.model, {kind: paths}), settings
    if kind == "images":
        return sources.FolderSource(paths[0], prompts), settings
    if kind == "parquet":
        return sources.ParquetSource(
            paths, (sources.ImageColumn(arguments.column or "image", arguments.prompt_column),)
        ), settings
    return sources.WebDatasetSource(paths, arguments.prompt_column), settings


def refuse(arguments: argparse.Namespace, kind: str) -> None:
    """Raise UserError for an option that would be passed over."""
    belongs = {"column": {"parquet"}, "prompt_column": {"parquet", "webdataset"}, "prompts": {"images"}}
    for name, kinds in belongs.items():
        option = f"--{name.replace('_', '-')}"
        if getattr(arguments, name) is not None and (kind not in kinds or arguments.preset):
            beside = f"--preset {arguments.preset}" if arguments.preset else f"--{kind}"
            raise UserError(f"{option} does nothing beside {beside}", fix=f"leave out {option}")
    if arguments.model is not None and not arguments.preset:
        raise UserError("--model chooses among the models of a preset", fix="--preset rapidata --model sd3")


def about(reference: ReferenceSet) -> dict[str, Any]:
    """Collect the facts of a set as JSON values."""
    from glmkit.evaluation.features.store import read_complete

    features: list[Mapping[str, Any]] = [read_complete(folder) for folder in reference.complete]
    settings = {key: value for key, value in reference.settings.items() if value is not None}
    return {"name": reference.name, "folder": str(reference.folder), "settings": settings, "features": features}


def describe(reference: ReferenceSet) -> str:
    """Describe the set in a few lines: where it comes from, and what it can measure."""
    facts = about(reference)
    settings = facts["settings"]
    kind = next(kind for kind in ("images", "parquet", "webdataset") if kind in settings)
    origin = f"{settings[kind][0]}" + (f" and {len(settings[kind]) - 1} more" if len(settings[kind]) > 1 else "")
    chosen = " ".join(settings[key] for key in ("preset", "model", "column") if key in settings)
    lines = [f"{reference.name}: {kind} {origin}" + (f" ({chosen})" if chosen else "")]
    for features in facts["features"]:
        counts = {"repeated": features["repeats"], "not readable": features["errors"]}
        excluded = [f"{count} {name}" for name, count in counts.items() if count]
        lines.append(
            f"  {features['label']}: {features['count']} images" + (f"; {', '.join(excluded)}" if excluded else "")
        )
    lines.append(f"  stored in {reference.folder}")
    if not facts["features"]:
        lines.append("  unfinished; repeat the glmkit reference add command to continue")
    return "\n".join(lines)
