"""glmkit eval: draw the prompts of a suite, or take images made elsewhere, and score them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.config import parse_size
from glmkit.errors import UserError
from glmkit.evaluation.metrics import clip
from glmkit.generation.options import InferenceOptions, add_inference_options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from glmkit.evaluation.baselines import Usual
    from glmkit.evaluation.images import Drawing
    from glmkit.records import Summary

HELP = "Score the images of a suite by OCR and by pixels."
MODELS = "nano, a model folder, a hub id, diffusers:HUB_ID_OR_FOLDER or openai:MODEL (default nano)"
DRAWING_OPTIONS = ("model", "adapter", "size", "steps", "guidance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suite", required=True, help="text-render, nano-edit, cvtg-2k, longtext-en, oneig-text-en, ..."
    )
    parser.add_argument("--data", metavar="DIR", type=Path, help="prompt files of a public benchmark")
    parser.add_argument("--model", help=MODELS)
    parser.add_argument("--adapter", metavar="DIR[:WEIGHT]", nargs="+", action="extend", help="adapters to add")
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help="score these images: <prompt id>.png, <prompt id>_<seed>.png or the benchmark's own layout",
    )
    parser.add_argument(
        "--ocr", metavar="ENGINE[:WHERE]", help="paddleocr (the default), cvtg-paddleocr:PYTHON or qwen2-5-vl[:FOLDER]"
    )
    parser.add_argument("--split", help="only this split of the suite")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N prompts of each split")
    parser.add_argument(
        "--seeds",
        metavar="K",
        type=int,
        help="images a prompt, seeds 0 to K-1 (default 1; of --images: what most have)",
    )
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="pixels (default: the prompt's, else the model's)")
    parser.add_argument("--steps", metavar="N", type=int, help="decoder steps (default: the model's)")
    parser.add_argument("--guidance", metavar="G", type=float, help="decoder guidance (default: the model's)")
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        nargs="?",
        const=clip.DEFAULT,
        help=f"CLIP alignment, too: {clip.DEFAULT} (the default), {clip.OURS} (ours), ARCHITECTURE/TAG or a folder",
    )
    parser.add_argument("--reference", metavar="NAME", nargs="+", help="distances to these sets (glmkit reference)")
    parser.add_argument("--run", metavar="DIR", type=Path, dest="folder", help="run folder (default: one in reports/)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    add_inference_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    from glmkit.evaluation import suites
    from glmkit.evaluation.evaluate import ENGINE, Plan, evaluate
    from glmkit.evaluation.ocr import engines

    suites.load(arguments.suite).files(arguments.data)  # what is misspelt or missing must not cost a download
    for name in ("limit", "seeds"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            raise UserError(f"--{name} must be at least 1", found=number)
    given = [name for name in DRAWING_OPTIONS if getattr(arguments, name) is not None]
    if arguments.images is not None and given:
        raise UserError("--images scores images as they are", found=f"--{given[0]}", fix=f"leave out --{given[0]}")
    device, drawing = (_device(arguments), None) if arguments.images is not None else _drawing(arguments)
    plan = Plan(
        suite=arguments.suite,
        engine=ENGINE if arguments.ocr is None else engines.resolve(arguments.ocr),
        data=arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        drawing=drawing,
        images=arguments.images,
        seeds=arguments.seeds,
        clip=arguments.clip,
        references=tuple(dict.fromkeys(arguments.reference or ())),
    )
    folder = arguments.folder or plan.default_folder()
    summary = evaluate(plan, folder, device, InferenceOptions.from_arguments(arguments))
    if arguments.json:
        print(json.dumps({"run": str(folder), **summary.to_dict()}, ensure_ascii=False))
    else:
        print(f"{table(summary)}\n\nrun folder: {folder}")
    if summary.n_scored < summary.n_total:
        missing = f"{summary.n_total - summary.n_scored} of {summary.n_total} images"
        print(f"{missing} have no score; `error` in {folder / 'scores.jsonl'} says why", file=sys.stderr)
    return 0 if summary.n_scored else 1


def _device(arguments: argparse.Namespace) -> str:
    """Where the features of given images are extracted; without features nothing needs torch."""
    if arguments.clip is None and not arguments.reference:
        return "cpu"
    from glmkit.models.devices import pick_device

    return str(pick_device(arguments.device))


def _drawing(arguments: argparse.Namespace) -> tuple[str, Drawing]:
    """The device, and the model's own size, steps and guidance unless others were given."""
    from glmkit.evaluation import baselines
    from glmkit.evaluation.images import Drawing

    model = arguments.model or "nano"
    baseline = baselines.find(model)
    if baseline is None:
        from glmkit.models import checkpoint
        from glmkit.models.checkpoint import defaults

        usual: Usual | defaults.Defaults = defaults.of(checkpoint.resolve(model))
    else:
        usual = baseline.usual
        _refuse(arguments, usual)
    device, dtype = _drawing_device(arguments, baseline is None or baseline.local)
    height, width = parse_size(arguments.size) if arguments.size else (usual.height, usual.width)
    drawing = Drawing(
        model=model,
        adapters=tuple(arguments.adapter or ()),
        seeds=arguments.seeds or 1,
        height=height,
        width=width,
        steps=usual.steps if arguments.steps is None else arguments.steps,
        guidance=usual.guidance if arguments.guidance is None else arguments.guidance,
        dtype=dtype,
        own_sizes=arguments.size is None and baseline is None,  # prompts name sizes that our models know
    )
    return device, drawing


def _drawing_device(arguments: argparse.Namespace, local: bool) -> tuple[str, str]:
    """The device, and the numbers that a model on this machine calculates with."""
    if not local:
        return _device(arguments), ""
    from glmkit.models.devices import dtype_for, pick_device

    device = pick_device(arguments.device)
    return str(device), str(dtype_for(device)).removeprefix("torch.")


def _refuse(arguments: argparse.Namespace, usual: Usual) -> None:
    """UserError for options that a baseline would pass over."""
    given = {name: getattr(arguments, name) for name in ("steps", "guidance") if getattr(usual, name) is None}
    given |= {"adapter": arguments.adapter, "compile": arguments.compile if arguments.compile == "blocks" else None}
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{arguments.model} knows no --{name}", found=value, fix=f"leave out --{name}")


def table(summary: Summary) -> str:
    """Scores with their intervals, one line a split and one for all."""
    from glmkit.evaluation.stats import as_text

    rows = [("", "images", *(f"{name} ({summary.metrics[name]['direction']})" for name in summary.scores))]
    parts: list[tuple[str, Mapping[str, Any]]] = list(summary.splits.items())
    if len(parts) != 1:
        parts.append(("all", summary.to_dict()))
    for name, part in parts:
        rows.append((name, f"{part['n_scored']}/{part['n_total']}", *map(as_text, part["scores"].values())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    title = " + ".join((summary.model, *summary.adapters))
    heading = f"{summary.suite}: {title}; 95 % intervals over prompts"
    name = f"scores: {summary.family}" + "".join(f"\n  not official: {why}" for why in summary.why_not_official)
    more = [_alignment(summary.alignment)] if summary.alignment else []
    more += map(_distance, summary.distances)
    return "\n".join((heading, name, "", *lines, *([""] if more else []), *more))


def _alignment(about: Mapping[str, Any]) -> str:
    """Which CLIP gave the cosine, and what must be known about it."""
    from glmkit.evaluation.stats import as_text

    score = about["clipscore"]
    scale = "not comparable with published CLIPScores" if score is None else f"CLIPScore {as_text(score)}"
    return (
        f"{about['metric']}: {scale}; {about['truncated_prompts']} of {about['prompts']} prompts were longer than the "
        "model reads"
    )


def _distance(row: Mapping[str, Any]) -> str:
    """One distance with what it must be read against."""
    few = "; indicative" if row["indicative"] else ""
    return (
        f"{row['metric']} to {row['reference']}: {row['value']:.4g} (lower is nearer; {row['n']} images a side{few}; "
        f"the set against itself: {row['self_distance']:.4g} with {row['n_self_distance']} a side)"
    )
