"""glmkit eval: generate images for the prompts of a suite, or take images made elsewhere, and score them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.shared_folder import check_shared_by_launched
from glmkit.errors import UserError
from glmkit.evaluation.metrics import clip
from glmkit.generation.options import (
    add_adapter_option,
    add_inference_options,
    add_rewrite_options,
    add_shortcut_options,
)
from glmkit.inputs.prompts import SEEDS_HELP, parse_seeds
from glmkit.shortcuts import shortcuts
from glmkit.sizes import parse_size
from glmkit.text import aligned

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from glmkit.records import Summary

HELP = "Score the images of a suite by OCR, by pixels, or by questions to a judge."
MODELS = "nano, a model folder, a hub id, diffusers:HUB_ID_OR_FOLDER or openai:MODEL (default nano)"
JUDGES = "who answers the questions of dpg, tiif, ...: openai:MODEL, transformers:FOLDER, golden:FILE or posters"
GENERATION_OPTIONS = ("model", "adapter", "size", "steps", "guidance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--suite", help="text-render, nano-edit, everyday-edit, cvtg-2k, longtext-en, oneig-text-en, ..."
    )
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help="your own prompts instead of a suite, in a file as `glmkit generate` takes it, with texts for each",
    )
    parser.add_argument(
        "--texts-from", choices=["quotes"], help="of prompts without texts, those in quotes must be in the image"
    )
    parser.add_argument("--data", metavar="DIR", type=Path, help="prompt files of a public benchmark")
    parser.add_argument("--model", help=MODELS)
    add_adapter_option(parser)
    parser.add_argument(
        "--images",
        metavar="DIR",
        type=Path,
        help="score these images: <prompt id>.png, <prompt id>_<seed>.png or the benchmark's own layout",
    )
    parser.add_argument(
        "--ocr",
        metavar="ENGINE[:LOCATION]",
        help="paddleocr (the default), paddleocr:orientation, cvtg-paddleocr:PYTHON or qwen2-5-vl[:FOLDER]",
    )
    parser.add_argument("--judge", metavar="JUDGE[:WHAT]", help=JUDGES)
    parser.add_argument("--answers", metavar="DIR", type=Path, help="score answers that a benchmark publishes (tiif)")
    parser.add_argument("--split", help="only this split of the suite")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N prompts of each split")
    parser.add_argument(
        "--count", metavar="N", type=int, help="images per prompt, of seeds one by one (default 1; of --images: all)"
    )
    parser.add_argument("--seeds", metavar="LIST", help=SEEDS_HELP)
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="pixels (default: the prompt's, else the model's)")
    parser.add_argument("--steps", metavar="N", type=int, help="decoder steps (default: the model's)")
    parser.add_argument("--guidance", metavar="G", type=float, help="decoder guidance (default: the model's)")
    add_shortcut_options(parser)
    add_rewrite_options(parser)
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        nargs="?",
        const=clip.DEFAULT,
        help=f"CLIP alignment, too: {clip.DEFAULT} (the default), {clip.OURS} (ours), ARCHITECTURE/TAG or a folder",
    )
    parser.add_argument(
        "--scorer", metavar="NAME:WEIGHTS", nargs="+", help="learned scores, too: aesthetic-v2, pickscore, hpsv2-1, ..."
    )
    parser.add_argument("--reference", metavar="NAME", nargs="+", help="distances to these sets (glmkit reference)")
    parser.add_argument("--run", metavar="DIR", type=Path, dest="folder", help="run folder (default: one in reports/)")
    parser.add_argument("--name", default="", help='what reports call the run, like "with adapter"')
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    add_inference_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the scores; 1 when no image has any."""
    from glmkit.api.evaluation import evaluate

    for source in ("images", "answers"):
        given = [name for name in GENERATION_OPTIONS if getattr(arguments, name) is not None]
        for name in [*given, *shortcuts(vars(arguments))] if getattr(arguments, source) is not None else ():
            raise UserError(
                f"--{source} scores {source} as they are",
                found=(option := f"--{name.replace('_', '-')}"),
                fix=f"leave out {option}",
            )
    height, width = parse_size(arguments.size) if arguments.size else (None, None)
    check_shared_by_launched(arguments.folder or Path("reports"))
    evaluation = evaluate(
        arguments.suite,
        prompts=arguments.prompts,
        texts_from=arguments.texts_from,
        model=arguments.model or "nano",
        adapters=arguments.adapter or (),
        images=arguments.images,
        data=arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        num_images_per_prompt=arguments.count,
        seeds=() if arguments.seeds is None else parse_seeds(arguments.seeds),
        height=height,
        width=width,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        reuse=arguments.reuse,
        guided=arguments.guided,
        vae_tiling=arguments.vae_tiling,
        precision=arguments.precision,
        ocr=arguments.ocr,
        judge=arguments.judge,
        answers=arguments.answers,
        rewrite=arguments.rewrite,
        rewrite_instruction=arguments.rewrite_instruction,
        clip=arguments.clip,
        scorers=arguments.scorer or (),
        references=arguments.reference or (),
        output=arguments.folder,
        name=arguments.name,
        device=arguments.device,
        compile=arguments.compile,
        memory=arguments.memory,
    )
    folder, summary = evaluation.folder, evaluation.summary
    if ProcessGroup.from_environment().is_main:  # the first of several processes speaks for all
        if arguments.json:
            print(json.dumps({"run": str(folder), **summary.to_dict()}, ensure_ascii=False))
        else:
            print(f"{table(summary)}\n\nrun folder: {folder}")
        if summary.n_scored < summary.n_total:
            missing = f"{summary.n_total - summary.n_scored} of {summary.n_total} images"
            print(f"{missing} have no score; `error` in {folder / 'scores.jsonl'} says why", file=sys.stderr)
    return 0 if summary.n_scored else 1


def table(summary: Summary) -> str:
    """Lay out scores with their intervals, one line per split and one for all."""
    from glmkit.evaluation.stats import as_text, percent

    def column(metric: str) -> str:
        return f"{metric} ({summary.metrics[metric]['direction']})"

    has_no = summary.no_share is not None  # judges that grade edits say neither yes nor no
    lines = [("", "images", *(["no"] * has_no), *map(column, summary.scores))]
    for split, pooled in summary.by_split().items():
        coverage = f"{pooled['n_scored']}/{pooled['n_total']}"
        no = [percent(pooled.get("no_share"))] if has_no else []
        lines.append((split, coverage, *no, *map(as_text, pooled["scores"].values())))
    title = " + ".join((summary.model, *summary.adapters))
    title = f"{summary.suite}: {title}; 95 % intervals over prompts"
    family = f"scores: {summary.family}" + "".join(f"\n  not official: {why}" for why in summary.why_not_official)
    family += "".join(f"\n  not read: {limit}" for limit in summary.ocr_limits)
    if has_no:
        family += "\n  no: share of the judge's answers that are no"
    family += "".join(f"\n  note: {note}" for note in summary.notes)
    if about := summary.rewriting:
        family += f"\n  prompts: {about['rewritten']} of {about['prompts']} rewritten by {about['rewriter']}"
    more = [_alignment(summary.alignment)] if summary.alignment else []
    more += map(_distance, summary.distances)
    return "\n".join((title, family, "", aligned(lines), *([""] if more else []), *more))


def _alignment(about: Mapping[str, Any]) -> str:
    """Say which CLIP gave the cosine, and what must be known about it."""
    from glmkit.evaluation.stats import as_text

    score = about["clipscore"]
    scale = "not comparable with published CLIPScores" if score is None else f"CLIPScore {as_text(score)}"
    return (
        f"{about['metric']}: {scale}; {about['truncated_prompts']} of {about['prompts']} prompts were longer than the "
        "model reads"
    )


def _distance(distance: Mapping[str, Any]) -> str:
    """Give one distance with what it must be read against."""
    few = "; indicative" if distance["indicative"] else ""
    return (
        f"{distance['metric']} to {distance['reference']}: {distance['value']:.4g} (lower is nearer; {distance['n']} "
        f"images per side{few}; the set against itself: {distance['self_distance']:.4g} with "
        f"{distance['n_self_distance']} per side)"
    )
