"""glmkit sweep: which checkpoint of an adapter, at what weight and guidance."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from glmkit.distributed.process_group import ProcessGroup
from glmkit.distributed.shared_folder import check_shared_by_launched
from glmkit.generation.options import add_inference_options
from glmkit.inputs.prompts import SEEDS_HELP, parse_seeds

PLANNED = (
    *("prompts", "texts_from", "model", "adapter", "weights", "checkpoints", "guidance", "data", "split", "limit"),
    *("size", "ocr", "judge", "device", "compile", "memory"),
)
HELP = "Find the best checkpoint, weight and guidance of an adapter, by the scores of a suite."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--suite", help="as in glmkit eval: text-render, ...")
    parser.add_argument("--prompts", metavar="FILE", type=Path, help="your own prompts instead of a suite")
    parser.add_argument("--texts-from", choices=["quotes"], help="as in glmkit eval")
    parser.add_argument("--data", metavar="DIR", type=Path, help="prompt files of a public benchmark")
    parser.add_argument("--model", default="nano", help="nano, a model folder or a hub id (default %(default)s)")
    parser.add_argument("--adapter", metavar="RUN", help="a run of glmkit finetune, or an adapter, which is swept")
    parser.add_argument(
        "--weights", metavar="W", nargs="+", default=["1"], help="of it: 0.5 1, or 0.25:1.25:0.25; 0 is without it"
    )
    parser.add_argument(
        "--checkpoints",
        metavar="STEPS",
        nargs="+",
        default=["last"],
        help="last (the default), all, or numbers of steps; kept by STAGE.keep_checkpoints=true",
    )
    parser.add_argument("--guidance", metavar="G", nargs="+", default=[], help="numbers (default: the model's)")
    parser.add_argument(
        "--with", metavar="DIR[:WEIGHT]", dest="constant", action="append", help="an adapter of every combination"
    )
    parser.add_argument("--split", help="only this split of the suite")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N prompts of each split")
    parser.add_argument("--count", metavar="N", type=int, help="images per prompt, of seeds one by one (default 1)")
    parser.add_argument("--seeds", metavar="LIST", help=SEEDS_HELP)
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="pixels (default: the prompt's, else the model's)")
    parser.add_argument("--steps", metavar="N", type=int, help="decoder steps (default: the model's)")
    parser.add_argument("--ocr", metavar="ENGINE[:LOCATION]", help="paddleocr (the default), ...")
    parser.add_argument("--judge", metavar="JUDGE[:WHAT]", help="of suites with questions")
    parser.add_argument("--metric", metavar="NAME", help="what decides (default: the first of the suite)")
    parser.add_argument(
        "--prefer",
        choices=("best", "strongest"),
        default="best",
        help="the best score, or the largest weight that may be as good (default %(default)s)",
    )
    parser.add_argument(
        "--run",
        metavar="DIR",
        type=Path,
        dest="folder",
        help="where the runs and the page go (default: one in reports/)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say how many images and how long, and write nothing")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    add_inference_options(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate every combination and print the recommendation, or only what it would take."""
    from glmkit.api.sweeps import plan_sweep

    seeds = () if arguments.seeds is None else parse_seeds(arguments.seeds)
    planned = plan_sweep(
        arguments.suite,
        adapters=arguments.constant or (),
        num_images_per_prompt=arguments.count,
        seeds=seeds,
        num_inference_steps=arguments.steps,
        **{name: getattr(arguments, name) for name in PLANNED},
    )
    if len(seeds) == 1 and ProcessGroup.from_environment().is_main:
        print(f"seed {seeds[0]} only; two seeds: --count 2, or --seeds 0,1", file=sys.stderr)
    if arguments.dry_run:
        estimate = planned.estimate()
        print(json.dumps(estimate) if arguments.json else _in_words(**estimate))
        return 0
    folder = planned.folder(arguments.folder)
    check_shared_by_launched(folder)
    sweep = planned.run(folder, arguments.metric, arguments.prefer)
    if not ProcessGroup.from_environment().is_main:  # the first of several processes speaks for all
        return 0
    if arguments.json:
        about = {"run": str(sweep.folder), "page": str(sweep.page), "adapters": sweep.adapters}
        print(json.dumps({**about, "guidance": sweep.guidance, "sentence": sweep.sentence}, ensure_ascii=False))
    else:
        print(f"{sweep.sentence}\n\npage: {sweep.page}\noptions: {sweep.folder / 'recommended.txt'}")
    return 0


def _in_words(combinations: int, images: int, prior_tokens: int, seconds: float) -> str:
    from glmkit.training.units import duration

    return (
        f"{combinations} combinations, {images} images; prior tokens for {prior_tokens} of them, which the others "
        f"share\nabout {duration(seconds)} to generate by one image here and now; loading and reading come on top"
    )
