"""The model card of an adapter: RUN/adapter/README.md in the hub's format, so that the folder can be uploaded as it is.

Everything is read from the run folder. The last line of a card holds a hash of the text above it: a card that its
reader has changed stays as it is.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData
from markupsafe import Markup

from glmkit import __version__, config
from glmkit.config import Lora, Recipe
from glmkit.evaluation.stats import as_text, paired_difference
from glmkit.files import atomic_path, read_json, shareable_path
from glmkit.hashing import json_sha256
from glmkit.reporting import wording
from glmkit.reporting.card_samples import CardSample, copy_samples
from glmkit.reporting.load import EvalRun, load_run
from glmkit.reporting.templates import template_environment
from glmkit.sizes import parse_size

FILE = "README.md"
COMPONENTS = {"autoregressive": "the AR model", "decoder": "the decoder", "glyph": "the glyph encoder"}
EDIT_PROMPT, IMAGE_PROMPT = "Make the background red.", 'A poster that says "OPEN"'  # where a run has no prompt
VERSIONS = ("glmkit", "torch", "transformers", "diffusers", "peft")  # that images depend on; the OCR engine has its own
# What Markdown or HTML may read as more than a letter. As entities they are letters everywhere, also in tables.
SPECIAL = re.compile(r"[\\`*_\[\]<>|&~$]")


@dataclass(frozen=True)
class BaseModel:
    """Describe the adapted model: `hub_id` None for nano and for folders, and its defaults (size in pixels)."""

    hub_id: str | None
    height: int
    width: int
    steps: int
    guidance: float


def is_edited(card: Path) -> bool:
    """Tell whether there is a card that is not as `write_model_card` left it."""
    if not card.exists():
        return False
    text, _, last_line = card.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")
    return last_line != _marker(f"{text}\n")


def write_model_card(run: Path, base: BaseModel) -> bool:
    """Write RUN/adapter/README.md and the samples that it shows; returns False for a card that a user has edited."""
    folder = run / "adapter"
    if is_edited(folder / FILE):
        return False
    recipe, evaluation = config.load(run / "recipe.yaml"), _evaluation(run)
    samples = copy_samples(run, recipe, evaluation, folder)
    text = render_card(run, recipe, base, samples, evaluation)
    with atomic_path(folder / FILE) as temporary:
        temporary.write_text(text + _marker(text) + "\n", encoding="utf-8")
    return True


def render_card(
    run: Path,
    recipe: Recipe,
    base: BaseModel,
    samples: Sequence[CardSample],
    evaluation: tuple[EvalRun, EvalRun] | None,
) -> str:
    """Return the card's text; what users wrote (prompts, names, paths) is escaped by where it stands."""
    data, title = read_json(run / "data.json"), run.resolve().name
    is_edit = data["train"]["edits"] == data["train"]["images"]
    has_edits = data["train"]["edits"] > 0
    prompt = samples[0].prompt if samples else EDIT_PROMPT if is_edit else IMAGE_PROMPT
    height, width = parse_size(recipe.samples.size) if recipe.samples.size else (base.height, base.width)
    recipe_text = _shareable_recipe(recipe)
    # A fence is longer than every run of backticks between two of them.
    longest = max((len(ticks) for ticks in re.findall("`+", recipe_text + prompt + recipe.model)), default=0)
    loras = {name: stage.lora for name, stage in recipe.stages.items() if stage.lora is not None}
    environment = template_environment().overlay(autoescape=False, finalize=_escape)
    environment.filters["path"] = Markup  # of our own making
    text = environment.get_template("model_card.md").render(
        front_matter=Markup(_front_matter(title, recipe, base, samples, evaluation, is_edit, has_edits)),
        title=title,
        version=__version__,
        components=wording.join_with_and([COMPONENTS[name] for name in loras]),
        base=_base_texts(recipe.model, base),
        data={name: _examples(data[name], recipe) for name in ("train", "validation")},
        has_validation=recipe.data.validation is not None,
        stages=[_stage_texts(run, name, lora) for name, lora in loras.items()],
        folders=tuple(loras),
        has_peft=not loras.keys() <= {"decoder"},
        in_comfyui="decoder" in loras and _in_comfyui(loras["decoder"]),
        samples=samples,
        evaluation=_evaluation_texts(*evaluation) if evaluation else None,
        is_edit=is_edit,
        prompt={"shell": Markup(shlex.quote(prompt)), "python": Markup(_python(prompt))},
        height=height,
        width=width,
        steps=recipe.samples.steps or base.steps,
        options=Markup(_options(recipe)),
        file_name=Markup(re.sub(r"[^\w.-]", "_", title)),
        recipe=Markup(recipe_text),
        fence=Markup("`" * max(3, longest + 1)),
    )
    return text.rstrip("\n") + "\n\n"


def _marker(text: str) -> str:
    return f"<!-- glmkit finetune writes this file again unless it was edited: {json_sha256(text)[:16]} -->"


def _escape(value: Any) -> Any:
    """Turn a plain string into text on one line of Markdown; Markup is printed as it is."""
    if type(value) is not str:
        return value
    line = wording.show_control_characters(" ".join(value.split()))
    return SPECIAL.sub(lambda match: f"&#{ord(match[0])};", line)


def _python(text: str) -> str:
    """Write a string of Python in double quotes where it can be, and on one line."""
    return repr(text) if '"' in text or not text.isprintable() else json.dumps(text, ensure_ascii=False)


def _front_matter(
    title: str,
    recipe: Recipe,
    base: BaseModel,
    samples: Sequence[CardSample],
    evaluation: tuple[EvalRun, EvalRun] | None,
    is_edit: bool,
    has_edits: bool,
) -> str:
    """Return the YAML that the hub reads: https://huggingface.co/docs/hub/model-cards."""
    task = "image-to-image" if is_edit else "text-to-image"
    tags = [task, "image-to-image" if has_edits else task, "lora", "template:diffusion-lora", "glm-image"]
    results = list(_eval_results(task, evaluation[1])) if evaluation else []
    card = ModelCardData(
        license=recipe.license,
        base_model=base.hub_id,
        base_model_relation="adapter" if base.hub_id else None,
        # Not diffusers or PEFT, for which the hub would show code that does not load these folders.
        library_name="glmkit",
        pipeline_tag=task,
        tags=tags if base.hub_id or recipe.model != "nano" else [*tags, "nano"],
        widget=[{"text": sample.prompt, "output": {"url": sample.images["after"]}} for sample in samples] or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    return str(card.to_yaml())


def _eval_results(task: str, run: EvalRun) -> Iterator[EvalResult]:
    """Yield the scores after training; a `model-index` has room for the value alone."""
    for metric, score in run.summary.scores.items():
        if score["value"] is not None:
            yield EvalResult(
                task_type=task,
                dataset_type=run.summary.suite,
                dataset_name=f"{run.summary.suite}, {wording.count(run.summary.n_prompts, 'prompt')}",
                metric_type=metric,
                metric_name=wording.label(metric),
                metric_value=round(score["value"], 4),
            )


def _evaluation(run: Path) -> tuple[EvalRun, EvalRun] | None:
    """Read the evaluations before and after training, where both are finished."""
    before, after = (run / "eval" / when for when in ("before", "after"))
    if not all((folder / "summary.json").exists() for folder in (before, after)):
        return None
    return load_run(before), load_run(after)


def _evaluation_texts(before: EvalRun, after: EvalRun) -> dict[str, Any]:
    summary, environment = after.summary, after.manifest["environment"]
    scores = [
        {
            "name": wording.label(metric),
            "before": Markup(as_text(value)),
            "after": Markup(as_text(summary.scores[metric])),
            "difference": Markup(_difference(before, after, metric)),
        }
        for metric, value in before.summary.scores.items()
        if metric in summary.scores
    ]
    versions = {"glmkit": environment["glmkit"], **environment["versions"]}
    named = [f"{name} {versions[name]}" for name in VERSIONS if name in versions]
    return {
        "suite": summary.suite,
        "n_prompts": summary.n_prompts,
        "scored": wording.join_with_and(
            [
                f"{run.summary.n_scored} of {run.summary.n_total} images scored {when}"
                for when, run in (("before", before), ("after", after))
            ]
        ),
        "scores": scores,
        "family": summary.family or "unofficial",
        "ocr": summary.ocr,
        "versions": ", ".join(named),
    }


def _difference(before: EvalRun, after: EvalRun, metric: str) -> str:
    change = paired_difference(before.scores, after.scores, metric)
    return as_text({"value": change.difference, "low": change.low, "high": change.high})


def _base_texts(model: str, base: BaseModel) -> dict[str, Any]:
    """Return how the base model is called in prose and in code; a link only where there is something behind it."""
    is_nano = model == "nano"
    name = base.hub_id or ("nano" if is_nano else Path(model).name)
    link: str = f"{name}, a small GLM-Image model" if is_nano else f"{name}, a GLM-Image model"
    if base.hub_id:
        link = Markup(f"[{base.hub_id}](https://huggingface.co/{base.hub_id})")
    return {
        "link": link,
        "is_nano": is_nano,
        "is_folder": not is_nano and base.hub_id is None,
        "code": name,
        "shell": Markup(shlex.quote(name)),
        "python": Markup(_python(name)),
        "guidance": base.guidance,
    }


def _stage_texts(run: Path, name: str, lora: Lora) -> dict[str, Any]:
    result = read_json(run / f"{name}.json")
    measure = "reward" if "reward" in result["before"] else "loss"
    losses = {when: f"{measure} {result[when][measure]:.4f}" for when in ("before", "after")}
    return {
        "component": COMPONENTS[name].removeprefix("the "),
        "folder": Markup(f"`{name}`"),
        "rank": lora.rank,
        "alpha": lora.alpha,
        "steps": result["steps"],
        **losses,
    }


def _examples(data: dict[str, Any], recipe: Recipe) -> str:
    if recipe.data.prompts is not None:
        return wording.count(data["images"], "prompt")
    edits = f" ({data['edits']} of them edits)" if data["edits"] else ""
    return wording.count(data["images"], "image") + edits


def _in_comfyui(lora: Lora) -> bool:
    """Tell whether ComfyUI's keys can say what this adapter is (see `glmkit.models.checkpoint.export`)."""
    return not (lora.dora or lora.rank_pattern or lora.alpha_pattern)


def _options(recipe: Recipe) -> str:
    """Return the options of the command that differ from the base model's defaults."""
    size, steps = recipe.samples.size, recipe.samples.steps
    return (f" --size {size}" if size else "") + (f" --steps {steps}" if steps else "")


def _shareable_recipe(recipe: Recipe) -> str:
    """Return the recipe without what concerns the author's machine alone: output, tracker, absolute paths, license."""
    values = recipe.model_dump(mode="json", exclude_none=True, exclude={"output", "wandb", "license"})
    values["model"] = shareable_path(recipe.model)
    data = values["data"]
    data["train"] = [{**source, "path": shareable_path(source["path"])} for source in data["train"]]
    if isinstance(data.get("validation"), str):
        data["validation"] = shareable_path(data["validation"])
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110).rstrip("\n")
