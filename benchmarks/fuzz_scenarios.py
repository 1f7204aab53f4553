"""The commands that `fuzz.py` tries, each with the files that are broken for it (`fuzz_lab.py` makes them)."""

from __future__ import annotations

from typing import Any

from fuzz_cases import Scenario

SMALL = ("--size", "64x64", "--steps", "1", "--device", "cpu")
EVAL = ("eval", "--suite", "text-render", "--split", "simple", "--limit", "1", "--device", "cpu")
FEATURES = ("--features", "efficientnet-lite0", "--device", "cpu")
PROMPT = 'A red poster that says "OPEN"'
ADAPTER = tuple(
    f"in/adapter/decoder/{name}"
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.safetensors", "glmkit_adapter.json")
)
MODEL = (
    *("glmkit.json", "model_index.json", "scheduler/scheduler_config.json", "processor/tokenizer.json"),
    *("processor/chat_template.jinja", "processor/tokenizer_config.json", "processor/preprocessor_config.json"),
    *("text_encoder/config.json", "transformer/config.json", "vae/config.json", "vision_language_encoder/config.json"),
    *("text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
    *("tokenizer/tokenizer_config.json", "transformer/diffusion_pytorch_model.safetensors.index.json"),
)
RUN = ("summary.json", "manifest.json", "images.jsonl", "scores.jsonl", "images/simple-001_0.png")
SET = ("in/set/train/0.png", "in/set/train/metadata.jsonl", "in/set/validation/metadata.jsonl")
TUNED = ("manifest.json", "data.json", "decoder.log.jsonl", "decoder.state.pt", "recipe.yaml")


def _s(group: str, name: str, argv: str | tuple[str, ...], *targets: str, **more: Any) -> Scenario:
    return Scenario(group, name, tuple(argv.split()) if isinstance(argv, str) else argv, targets, **more)


def _generate(*more: str) -> tuple[str, ...]:
    return ("generate", PROMPT, "--out", "out/image.png", *SMALL, *more)


def public(suite: str, data: str) -> tuple[str, ...]:
    """Score in/images by a public benchmark in the folder `data`."""
    return ("eval", "--suite", suite, "--data", data, "--images", "in/images", "--run", "out/new")


def sweep(*more: str) -> tuple[str, ...]:
    """Sweep the adapter over two weights."""
    return ("sweep", "--prompts", "in/asked.jsonl", "--adapter", "in/adapter", "--weights", "0", "1", *SMALL, *more)


def _serve(*more: str) -> tuple[str, ...]:
    return ("serve", "--adapter", "poster=in/adapter", "--port", "0", "--no-warm-up", "--device", "cpu", *more)


REWARD = ("--images", "in/seeds", "--prompts", "in/asked.jsonl")
VOTED = ("--runs", "in/run", "out/evaluated")
PAIRS = ("in/pairs/metadata.jsonl", "in/pairs/chosen/00000.png", "in/pairs/rejected/00000.png")
LOOKS = ("eval", "--suite", "text-attributes", "--data", "in/asked.jsonl", "--images", "in/seeds", "--run", "out/new")
UNWEIGHTED = "validate in/recipe.yaml decoder.text_weight=0"  # where no boxes are known
PUBLIC = {"cvtg-2k": "cvtg", "longtext-en": "longtext", "oneig-text-en": "oneig"}


SCENARIOS = [
    _s("recipes", "validate", "validate in/recipe.yaml --device cpu", "in/recipe.yaml"),
    _s("recipes", "overrides", "validate in/recipe.yaml --device cpu"),
    _s("recipes", "finetune", "finetune in/recipe.yaml --device cpu", "in/recipe.yaml"),
    _s("recipes", "dry run", "finetune in/recipe.yaml --dry-run --device cpu", "in/recipe.yaml"),
    _s("recipes", "pretrain", "pretrain in/pretrain.yaml --device cpu", "in/pretrain.yaml"),
    _s("recipes", "bench", "bench train --recipe in/recipe.yaml --steps 1 --device cpu", "in/recipe.yaml"),
    _s("adapters", "generate", _generate("--adapter", "in/adapter"), *ADAPTER, differs_from="in/plain.png"),
    _s("adapters", "merge", "merge nano --adapter in/adapter --out out/merged", *ADAPTER),
    _s("adapters", "export", "export in/adapter --format comfyui --out out/a.safetensors", *ADAPTER),
    _s("models", "generate", _generate("--model", "in/model"), *(f"in/model/{name}" for name in MODEL)),
    _s("models", "info", "info in/model --json", *(f"in/model/{name}" for name in MODEL if "config" in name)),
    _s("models", "merge", "merge in/model --adapter in/adapter --out out/merged", *(f"in/model/{n}" for n in MODEL)),
    _s(
        "prompts",
        "JSONL",
        ("generate", "--prompts", "in/prompts.jsonl", "--out", "out/new", *SMALL),
        "in/prompts.jsonl",
    ),
    _s(
        "prompts",
        "continue",
        ("generate", "--prompts", "in/prompts.jsonl", "--out", "out/many", *SMALL),
        *("out/many/images.jsonl", "out/many/first.png", "in/image.png"),
    ),
    _s("command line", "generate", _generate()),
    _s("command line", "prompts", ("generate", "--prompts", "in/prompts.jsonl", *SMALL, "--out", "out/new")),
    _s("command line", "edit", ("edit", "in/image.png", "Make it red.", "--out", "out/edit.png", *SMALL)),
    _s("command line", "eval", (*EVAL, "--images", "in/images", "--run", "out/new")),
    _s("command line", "report", "report in/run in/other --out out/report.html"),
    _s("command line", "reference", ("reference", "add", "new", "--images", "in/images", *FEATURES)),
    _s("command line", "merge", "merge nano --adapter in/adapter --out out/merged"),
    _s("command line", "export", "export in/adapter --format comfyui --out out/a.safetensors"),
    _s("command line", "recipe", "recipe copy nano/poster_lora out/copied"),
    _s("command line", "validate", "validate in/recipe.yaml --device cpu"),
    _s("command line", "pretrain", "pretrain in/pretrain.yaml --dry-run --device cpu"),
    _s("command line", "info", "info nano"),
    _s("command line", "list", "list --json"),
    _s("command line", "bench speed", ("bench", "speed", "--repeats", "1", *SMALL, "--compile", "off")),
    _s("command line", "bench train", "bench train --steps 1 --size 64x64 --device cpu"),
    _s("images", "validate", "validate in/recipe.yaml --device cpu", *SET),
    _s("images", "finetune", "finetune in/recipe.yaml decoder.steps=1 --device cpu", *SET),
    _s("images", "captions", f"{UNWEIGHTED} data.train=in/captions --device cpu", "in/captions/a.txt"),
    _s("images", "parquet", f"{UNWEIGHTED} data.train=in/table.parquet --device cpu", "in/table.parquet"),
    _s(
        "images",
        "edit",
        ("edit", "in/image.png", "Make it red.", "--out", "out/edit.png", *SMALL),
        "in/image.png",
    ),
    _s("images", "eval", (*EVAL, "--images", "in/images", "--run", "out/new"), "in/images/simple-001.png"),
    _s("benchmarks", "CVTG-2K", public("cvtg-2k", "in/cvtg"), "in/cvtg/CVTG/2.json", "in/cvtg/CVTG-Style/5.json"),
    _s("benchmarks", "LongText", public("longtext-en", "in/longtext"), "in/longtext/text_prompts.jsonl"),
    _s("benchmarks", "OneIG", public("oneig-text-en", "in/oneig"), "in/oneig/text_content.csv"),
    _s(
        "caches and runs",
        "continue",
        (*EVAL, *SMALL[:4], "--run", "out/evaluated"),
        *(f"out/evaluated/{name}" for name in (*RUN, "recognized_lines.jsonl")),
    ),
    _s("caches and runs", "cache", (*EVAL, "--images", "in/images", "--run", "out/new"), "cache/*"),
    _s(
        "references",
        "folder",
        ("reference", "add", "new", "--images", "in/images", *FEATURES),
        "in/images/simple-001.png",
    ),
    _s(
        "references",
        "prompts",
        ("reference", "add", "new", "--images", "in/images", "--prompts", "in/shown.jsonl", *FEATURES),
        "in/shown.jsonl",
    ),
    _s(
        "references",
        "parquet",
        ("reference", "add", "new", "--parquet", "in/table.parquet", *FEATURES),
        "in/table.parquet",
    ),
    _s("references", "tar", ("reference", "add", "new", "--webdataset", "in/set.tar", *FEATURES), "in/set.tar"),
    _s("references", "list", "reference list --json", "cache/reference/*"),
    _s("reports", "one", "report in/run --out out/report.html", *(f"in/run/{name}" for name in RUN)),
    _s("reports", "two", "report in/run in/other --out out/report.html", *(f"in/other/{name}" for name in RUN)),
    _s("fine-tuning runs", "continue", "finetune in/tuned.yaml --device cpu", *(f"out/tuned/{name}" for name in TUNED)),
    _s(
        "command line",
        "bench price",
        (
            "bench",
            "price",
            "--settings",
            "steps=1",
            "--size",
            "64x64",
            *EVAL[3:7],
            "--repeats",
            "1",
            "--run",
            "out/price",
        ),
    ),
    _s("command line", "quantize", "quantize nano --out out/quantized"),
    _s("command line", "sweep", sweep("--run", "out/new")),
    _s("command line", "reward", ("reward", *REWARD)),
    _s("command line", "pairs", ("pairs", *REWARD, "--out", "out/pairs")),
    _s("command line", "votes", "votes in/votes.json"),
    _s("command line", "gate", "gate in/run --against in/other"),
    _s("command line", "blind", "report in/run out/evaluated --blind --out out/blind.html"),
    _s("command line", "serve", _serve(), request="in/request.json"),
    _s("models", "quantize", "quantize in/model --out out/quantized", *(f"in/model/{name}" for name in MODEL)),
    _s("prompts", "own prompts", ("eval", "--prompts", "in/asked.jsonl", *SMALL, "--run", "out/new"), "in/asked.jsonl"),
    _s("sweeps", "new", sweep("--run", "out/new"), "in/asked.jsonl", *ADAPTER),
    _s("sweeps", "continue", sweep("--run", "out/swept"), "out/swept/*"),
    _s("rewards", "reward", ("reward", *REWARD), "in/asked.jsonl", "in/seeds/fox_0.png"),
    _s("rewards", "pairs", ("pairs", *REWARD, "--out", "out/pairs"), "in/asked.jsonl", "in/seeds/fox_0.png"),
    _s("rewards", "recipe", "validate in/rewards.yaml --device cpu", "in/rewards.yaml", "in/asked.jsonl"),
    _s("rewards", "rounds", "finetune in/rewards.yaml --device cpu", "in/rewards.yaml", "in/asked.jsonl"),
    _s("preferences", "recipe", "validate in/preferences.yaml --device cpu", "in/preferences.yaml", *PAIRS),
    _s("preferences", "finetune", "finetune in/preferences.yaml --device cpu", "in/preferences.yaml", *PAIRS),
    _s("votes", "votes", "votes in/votes.json", "in/votes.json"),
    _s("votes", "pairs", ("pairs", "--votes", "in/votes.json", *VOTED, "--out", "out/pairs"), "in/votes.json"),
    _s("votes", "blind", "report in/run out/evaluated --blind --out out/b.html", *(f"in/run/{name}" for name in RUN)),
    _s("reports", "gate", "gate in/other --against in/run --json", *(f"in/run/{name}" for name in RUN[1:4])),
    _s("reports", "history", "report --history in --out out/history.html", *(f"in/run/{name}" for name in RUN[:2])),
    _s("reports", "paper", "report in/run in/other --paper out/paper --out out/a.html", *(f"in/run/{n}" for n in RUN)),
    _s("servers", "generate", _serve(), "in/request.json", request="in/request.json"),
    _s("servers", "edit", _serve(), "in/image.png", request="in/image.png"),
    _s("servers", "adapter", _serve(), *ADAPTER, request="in/request.json"),
    _s("judges", "file", (*LOOKS, "--judge", "golden:in/answers.jsonl"), "in/answers.jsonl", "in/asked.jsonl"),
    _s("judges", "endpoint", (*LOOKS, "--judge", "openai:model"), "in/chat.json", answer="in/chat.json"),
    _s(
        "endpoint",
        "rewrite",
        (*EVAL, *SMALL[:4], "--rewrite", "endpoint:model", "--run", "out/new"),
        "in/chat.json",
        answer="in/chat.json",
    ),
    _s(
        "endpoint",
        "images",
        (*EVAL, "--model", "openai:model", "--run", "out/new"),
        "in/answer.json",
        answer="in/answer.json",
    ),
]
# How many cases a scenario gets, beside 1 of the others.
WEIGHTS_OF = {
    "validate": 3,
    "overrides": 4,
    "dry run": 2,
    "finetune": 1.5,
    "one": 5,
    "two": 5,
    "info": 1.5,
    "continue": 2.5,
    "generate": 4,
    "merge": 2,
    "export": 2,
    "JSONL": 4,
    "edit": 2,
    "eval": 2,
    "images": 2,
    "cache": 1,
    "list": 1,
}
