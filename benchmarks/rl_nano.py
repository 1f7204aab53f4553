"""What rewards teach nano, beside what the same minutes teach it otherwise: one GPU, one arm after the other.

    python benchmarks/rl_nano.py OUT --minutes 2 [--arms base rl-ar rl-decoder rl-both ...] [--limit 48]

An arm trains adapters for so many minutes per half of the model, generates images of the held-out prompts of
`text-render`, has OCR read them, and writes OUT/ARM.json: every metric of every split with its interval, and the paired
difference from `base`. Images of one prompt and seed start from the same noise in all arms. Whatever is cut goes on
when the command is repeated: the minutes of a training count together, and images that are there stay. `OUT/table.md`
has all arms that are done.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from rl_nano_parts import Experiment, generate, generation, looks, result, run_for, table, write_posters

from glmkit import config
from glmkit.api.pairs import pairs_by_rewards, write_pairs
from glmkit.api.rewards import reward_images
from glmkit.errors import UserError, one_line
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import evaluate
from glmkit.evaluation.ocr import engines
from glmkit.evaluation.plan import EvaluationPlan, GenerationSettings
from glmkit.files import read_json, read_jsonl, write_json, write_jsonl
from glmkit.models.devices import pick_device
from glmkit.posters.prompt_set import sample_sets, write_prompts
from glmkit.records import Prompt, Score
from glmkit.training.finetune import finetune
from glmkit.training.rl.rewards import text

SUITE = "text-render"
RECIPES = Path(__file__).parents[1] / "recipes" / "nano"
HALVES = {"autoregressive": "rl_ar", "decoder": "rl_decoder"}  # stage -> the recipe that teaches it by rewards
GRID = {"guidance": (1.5, 2.5, 3.5), "temperature": (0.6, 0.9, 1.0)}
MOST_STEPS = 100_000  # of a training that its minutes end
MOST_EPOCHS = 10  # of images to learn from: 4,000 of the same 103 pairs cost 0.07 of the words
VALIDATION = 64  # prompts
NO_SETTINGS = ("out", "device", "loaded")  # of an experiment: it may go on in another folder, on another device


# Training


def learn(e: Experiment, arm: str, stage: str, recipe: config.Recipe, charged: float = 0.0) -> str:
    """Train one half of the model for its minutes, less those that were `charged`; returns its adapter."""
    e.free()
    seconds, ended = 60 * e.minutes - charged, e.out / arm / f"{stage}.ended.json"
    try:
        if not ended.exists():
            run_for(seconds, e.out / arm / f"{stage}.seconds.json", lambda: finetune(recipe, e.device))
    except UserError as error:  # such as a limit: what was saved before is what the arm has
        write_json(ended, {"why": one_line(error)})
    adapter = Path(recipe.output) / "adapter" / stage
    if not adapter.exists():
        why = read_json(ended)["why"] if ended.exists() else f"{e.minutes:g} minutes"
        raise UserError(f"{arm}: {stage} ended before it was saved once", found=why, fix="--minutes MORE, or --set")
    return str(adapter)


def by_rewards(e: Experiment, arm: str, stage: str) -> str:
    """Let one half learn from rewards; returns its adapter."""
    values: dict[str, Any] = {
        "model": e.model,
        "output": e.out / arm / stage,
        "data.prompts": e.out / "prompts" / "train.jsonl",
        "data.validation": e.out / "prompts" / "validation.jsonl",
        "samples.prompts": "[]",
        f"{stage}.steps": e.steps,
        f"{stage}.decay_fraction": 0,
        f"{stage}.global_batch_size": e.batch,
        f"{stage}.micro_batch_size": e.micro_batch,
        f"{stage}.validation_every": 50,
        f"{stage}.save_every": 5,
        f"{stage}.rl.group_size": e.group,
        f"{stage}.rl.generate_at_once": e.at_once,
        f"{stage}.rl.rewards.ocr": e.ocr,
    }
    changes = [f"{key}={value}" for key, value in values.items()]
    changes += [change for change in e.changes if change.startswith((f"{stage}.", "seed="))]
    return learn(e, arm, stage, config.load(RECIPES / f"{HALVES[stage]}.yaml", changes))


def by_images(
    e: Experiment, arm: str, train: Path, charged: float = 0.0, dpo: Mapping[str, float] | None = None
) -> list[str]:
    """Let both halves learn from images, or from pairs of them, with the adapters that learn from rewards elsewhere."""
    adapters, batch = [], min(64, e.batch)
    epoch = -(-len(read_jsonl(train / "metadata.jsonl")) // batch)
    for stage, name in HALVES.items():
        like = getattr(config.load(RECIPES / f"{name}.yaml"), stage)
        values: dict[str, Any] = {
            "lora": like.lora.model_dump(),
            "steps": min(e.steps, MOST_EPOCHS * epoch),
            "decay_fraction": 0,
            "learning_rate": like.learning_rate,
            "warmup_steps": like.warmup_steps,
            "weight_decay": 0,
            "global_batch_size": batch,
            "micro_batch_size": min(batch, e.micro_batch),
            "save_every": 50,
        }
        values |= {"dpo": {"beta": dpo[stage]}} if dpo is not None else {}
        recipe = {"model": e.model, "output": str(e.out / arm / stage), "data": {"train": str(train)}, stage: values}
        adapters.append(learn(e, arm, stage, config.from_dict(recipe), charged))
    return adapters


def posters(e: Experiment) -> Path:
    """Return true posters of the prompts that rewards teach."""
    write_posters(e.out / "train", sample_sets(_counts(e), _side(e))["train"])
    return e.out / "train"


def own_pairs(e: Experiment) -> tuple[Path, float]:
    """Return pairs of the best and the worst of a group of nano's own images, and the seconds that they took.

    They are at most half of the minutes of both halves, but for the round of images that is begun then.
    """
    folder, record, size = e.out / "pairs", e.out / "pairs.seconds.json", max(1, 4 * e.batch // e.group)
    recipe = config.load(RECIPES / "rl_ar.yaml", [one for one in e.changes if one.startswith("autoregressive.rl.")])
    assert recipe.autoregressive is not None
    assert recipe.autoregressive.rl is not None
    given = recipe.autoregressive.rl.rewards.weights
    # These are the base's own images: nothing has changed their content.
    weights = {name: weight for name, weight in given.items() if name != "content"}

    def make() -> None:
        records, pairs = read_jsonl(e.out / "prompts" / "train.jsonl"), []
        settings = generation(e, e.model_with(()), e.group)
        for number, start in enumerate(range(0, len(records), size)):
            if number and read_json(record)["seconds"] > 60 * e.minutes:
                break
            images, some = e.out / "rollouts" / f"{number}", records[start : start + size]
            prompts = [Prompt(one["id"], one["prompt"], tuple(one["texts"])) for one in some]
            generate(e, (), [settings.request(one, seed) for one in prompts for seed in range(e.group)], images)
            write_jsonl(images / "prompts.jsonl", some)
            report = reward_images(images, images / "prompts.jsonl", weights, ocr=e.ocr, device=str(e.device))
            pairs += pairs_by_rewards(report, 0.0)
        write_pairs(pairs, folder)

    if not folder.exists():
        run_for(float("inf"), record, make)
    return folder, read_json(record)["seconds"]


# Images to measure


def measure(e: Experiment, arm: str, adapters: Sequence[str], **others: float) -> list[Score]:
    """Score images of held-out prompts by a model with adapters; `others` are settings that are not the model's own."""
    folder, file = e.out / arm / "images", e.out / arm / "scores.jsonl"
    if file.exists():
        return [Score.from_dict(record) for record in read_jsonl(file)]
    settings = generation(e, e.model_with(adapters), e.seeds, **others)
    reader = engines.resolve(e.ocr)

    def read(split: str | None) -> list[dict[str, Any]]:
        run = e.out / arm / "runs" / (split or "all")
        evaluate(EvaluationPlan(SUITE, reader, split=split, limit=e.limit, images=folder, count=e.seeds, name=arm), run)
        return read_jsonl(run / "scores.jsonl")

    with ThreadPoolExecutor(1) as pool:  # one split is read while images of the next are generated
        waiting = []
        for split in e.splits:
            prompts = suites.prompts(suites.load(SUITE), split, e.limit)
            requests = [settings.request(prompt, seed) for prompt in prompts for seed in range(e.seeds)]
            generate(e, adapters, requests, folder)
            waiting.append(pool.submit(read, split))
        records = [record for one in waiting for record in one.result()]
    write_jsonl(file, records)
    return [Score.from_dict(record) for record in records]


# Arms


def adapted(train: Callable[[Experiment, str], list[str]]) -> Callable[[Experiment, str], dict[str, Any]]:
    """Make an arm of what trains adapters."""

    def arm(e: Experiment, name: str) -> dict[str, Any]:
        adapters = train(e, name)
        scores = measure(e, name, adapters)
        about = {path.stem: read_json(path) for path in sorted((e.out / name).glob("*.json"))}
        return result(e, scores, base_scores(e), {"training": about, "looks": looks(e.out / name / "images", scores)})

    return arm


def base_scores(e: Experiment) -> list[Score]:
    """Return the scores of nano as it is."""
    return measure(e, "base", ())


def best_of_seeds(e: Experiment, _: str) -> dict[str, Any]:
    """Take nano's best image of each prompt by the reward `text`: one image for the price of several.

    The reward has the reader that measures, which flatters this arm.
    """
    base = base_scores(e)
    best: dict[str, Score] = {}
    for score in base:
        known = best.get(score.prompt_id)
        if score.error is None and (known is None or text.of_counts(score.counts) > text.of_counts(known.counts)):
            best[score.prompt_id] = score
    chosen = [
        replace(best[score.prompt_id], id=score.id, seed=score.seed) if score.prompt_id in best else score
        for score in base
    ]
    return result(e, chosen, base, {"images_per_prompt": e.seeds})


def best_setting(e: Experiment, name: str) -> dict[str, Any]:
    """Give nano the guidance and the temperature that validation prompts like best."""
    folder, model = e.out / name / "grid", e.model_with(())
    records = read_jsonl(e.out / "prompts" / "validation.jsonl")
    cells = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    prompts: list[dict[str, Any]] = []
    for number, cell in enumerate(cells):
        settings = generation(e, model, e.seeds, **cell)
        own = [{**record, "id": f"cell{number}-{record['id']}"} for record in records]
        asked = [Prompt(one["id"], one["prompt"], tuple(one["texts"])) for one in own]
        generate(e, (), [settings.request(one, seed) for one in asked for seed in range(e.seeds)], folder)
        prompts += own
    write_jsonl(e.out / name / "grid.jsonl", prompts)
    report = reward_images(folder, e.out / name / "grid.jsonl", ocr=e.ocr, device=str(e.device))
    totals: dict[str, list[float]] = {}
    for image in report.images:
        totals.setdefault(image.prompt_id.partition("-")[0], []).append(image.total or 0.0)
    means = [mean(totals.get(f"cell{number}", [0.0])) for number in range(len(cells))]
    grid = [{**cell, "reward": value} for cell, value in zip(cells, means, strict=True)]
    best = cells[means.index(max(means))]
    scores = measure(e, name, (), **best)
    return result(
        e, scores, base_scores(e), {"grid": grid, "chosen": best, "looks": looks(e.out / name / "images", scores)}
    )


def of_rewards(e: Experiment, _: str) -> list[str]:
    """Train both halves by rewards, apart: the adapters of the two arms before."""
    return [by_rewards(e, "rl-ar", "autoregressive"), by_rewards(e, "rl-decoder", "decoder")]


def of_pairs(dpo: Mapping[str, float] | None) -> Callable[[Experiment, str], list[str]]:
    """Train on nano's own images: by DPO, or on the better ones alone. Making them is paid by both halves."""

    def train(e: Experiment, name: str) -> list[str]:
        folder, seconds = own_pairs(e)
        return by_images(e, name, folder, seconds / len(HALVES), dpo)

    return train


ARMS: Mapping[str, Callable[[Experiment, str], dict[str, Any]]] = {
    "base": adapted(lambda _e, _name: []),
    "rl-decoder": adapted(lambda e, name: [by_rewards(e, name, "decoder")]),
    "rl-ar": adapted(lambda e, name: [by_rewards(e, name, "autoregressive")]),
    "rl-both": adapted(of_rewards),
    "best-of-seeds": best_of_seeds,
    "supervised": adapted(lambda e, name: by_images(e, name, posters(e))),
    "best-of-group": adapted(of_pairs(None)),
    "dpo": adapted(of_pairs({"autoregressive": 20, "decoder": 500})),
    "best-setting": best_setting,
}


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="in this order (default: all)")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training per half (default %(default)s)")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    parser.add_argument("--group", type=int, default=16, help="images of a prompt (default %(default)s)")
    parser.add_argument("--batch", type=int, default=512, help="images of a round (default %(default)s)")
    parser.add_argument("--micro-batch", type=int, default=64, help="images per forward pass (default %(default)s)")
    parser.add_argument("--at-once", type=int, default=128, help="images generated together (default %(default)s)")
    parser.add_argument("--steps", type=int, default=MOST_STEPS, help="end a training after so many")
    parser.add_argument("--prompts", type=int, default=1024, help="to learn from (default %(default)s)")
    parser.add_argument("--limit", type=int, default=128, help="prompts of each split (default %(default)s)")
    parser.add_argument("--splits", nargs="+", default=[None], help="of text-render (default: all)")
    parser.add_argument("--seeds", type=int, default=4, help="images of each prompt (default %(default)s)")
    parser.add_argument("--ocr", default="paddleocr", help="the reader of rewards and of scores (default %(default)s)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the recipes with rewards")
    arguments = vars(parser.parse_args(given))
    arms, changes, splits = (arguments.pop(name) for name in ("arms", "set", "splits"))
    arguments["device"] = pick_device(arguments["device"])
    experiment = Experiment(**arguments, splits=tuple(splits), changes=tuple(changes))
    try:
        _open(experiment)
        if not (experiment.out / "prompts" / "train.jsonl").exists():  # the last file
            write_prompts(experiment.out / "prompts", _counts(experiment), _side(experiment))
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    done = [_write(experiment, name) for name in arms]
    print(table(experiment.out, ARMS))
    return 0 if all(done) else 1


def _side(e: Experiment) -> int:
    """Return the side of the model's images in pixels."""
    return GenerationSettings.with_defaults(e.model, str(e.device)).height


def _counts(e: Experiment) -> dict[str, int]:
    return {"train": e.prompts, "validation": min(VALIDATION, e.prompts)}


def _write(e: Experiment, name: str) -> bool:
    """Measure an arm unless it is done; False when it has failed, which does not keep the others from it."""
    path = e.out / f"{name}.json"
    try:
        if not path.exists():
            write_json(path, ARMS[name](e, name))
    except UserError as error:
        print(f"{name}: {error}", flush=True)
        return False
    (e.out / "table.md").write_text(table(e.out, ARMS), encoding="utf-8")
    print(f"{name}: {path}", flush=True)
    return True


def _open(e: Experiment) -> None:
    """Begin the experiment, or go on with it; UserError when it was begun with other settings."""
    settings = {one.name: getattr(e, one.name) for one in fields(e) if one.name not in NO_SETTINGS}
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    path = e.out / "settings.json"
    if path.exists() and (before := read_json(path)) != settings:
        changed = {name: (before.get(name), value) for name, value in settings.items() if before.get(name) != value}
        raise UserError(f"{e.out} was begun with other settings", found=changed, fix="another OUT, or the same options")
    write_json(path, settings)


if __name__ == "__main__":
    raise SystemExit(main())
