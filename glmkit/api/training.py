"""Fine-tune by a recipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.generation.loading import device_of_rank
from glmkit.records import Summary

if TYPE_CHECKING:
    from pandas import DataFrame

    from glmkit.config import Recipe

CARD = Path("adapter", "README.md")  # in the run folder


@dataclass(frozen=True)
class FinetuneRun:
    """Hold what a fine-tuning left in its folder `output`.

    `results` maps a stage to its steps, seconds, and validation losses `before` and `after`. `adapter` is what `load`
    takes, None when whole components were trained. `report` is the page that shows the run. `before` and `after` are
    the evaluations of the recipe's section `eval`, None without one. `card` is the model card in the folder `adapter`,
    None unless every stage trained an adapter.
    """

    output: Path
    results: Mapping[str, Mapping[str, Any]]
    adapter: Path | None
    report: Path
    before: Summary | None = None
    after: Summary | None = None
    card: Path | None = None

    def to_pandas(self) -> DataFrame:
        """Give the logged losses as a table, one line per logged step and stage."""
        from glmkit.extras import require
        from glmkit.files import read_jsonl

        require("pandas", "a table")
        import pandas as pd

        logs = {stage: read_jsonl(self.output / f"{stage}.log.jsonl", partial=True) for stage in self.results}
        return pd.json_normalize([{"stage": stage, **line} for stage, log in logs.items() for line in log])


def finetune(
    recipe: str | Path | Mapping[str, Any],
    *,
    model: str | Path | None = None,
    output: str | Path | None = None,
    overrides: Mapping[str, Any] | Sequence[str] | None = None,
    device: str = "auto",
    start_from: str | Path | None = None,
    allow_changes: bool = False,
) -> FinetuneRun:
    """Fine-tune the stages of a recipe, or continue the run that is in its output folder.

    `recipe` is a YAML file or its values. `model` and `output` replace the recipe's, as do `overrides`, such as
    `{"decoder.steps": 50}` or `["decoder.steps=50"]`. Started by torchrun or `accelerate launch`, processes train
    together; all return the same but for `before` and `after`, which only the first one computes.

    `start_from` is an adapter, or the run that made it, to begin with. `allow_changes` lets a run go on with other
    steps, learning_rate, warmup_steps, decay_fraction or max_grad_norm than it began with; the manifest records them.

    Raises UserError that names the key when the recipe is wrong, before anything is loaded.
    """
    from glmkit import config
    from glmkit.config.values import override
    from glmkit.distributed.together import together
    from glmkit.evaluation import before_after
    from glmkit.training.finetune import finetune as run_stages

    named = {"model": model, "output": output, "start_from": start_from}
    changes: dict[str, Any] = {key: str(value) for key, value in named.items() if value is not None}
    if isinstance(overrides, Mapping):
        changes |= overrides
        overrides = ()
    assignments = [*(overrides or ()), *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
    used = device_of_rank(device)
    # 1. Train the stages that are not done yet, in one process or several.
    with together(used) as group:
        if isinstance(recipe, Mapping):
            settings = config.from_dict(override(recipe, assignments))
        else:
            settings = config.load(recipe, assignments)
        if settings.eval is not None:
            before_after.check(settings.eval)
        results = run_stages(settings, used, group, allow_changes)
    # 2. Evaluate what it did to images, where the recipe asks for it, and 3. write the pages that show the run.
    folder = Path(settings.output)
    before = after = None
    if group.is_main:
        if settings.eval is not None:
            _write_pages(settings)  # which are there even if the evaluation is stopped
            before, after = before_after.evaluate_before_after(settings, settings.eval, str(used))
        if not _write_pages(settings):
            print(f"{folder / CARD} was edited and stays as it is; delete it for a new one", file=sys.stderr)
    adapter, report = folder / "adapter", folder / "report.html"
    card = folder / CARD if settings.is_lora_only else None
    return FinetuneRun(folder, results, adapter if adapter.is_dir() else None, report, before, after, card)


def _write_pages(recipe: Recipe) -> bool:
    """Write the report of a run and the model card of its adapters; returns False for a card that a user has edited.

    Adapters that need a whole component beside them get no card: their folder alone is not what was trained.
    """
    from glmkit.models import checkpoint
    from glmkit.models.checkpoint import defaults
    from glmkit.reporting.model_card import BaseModel, write_model_card
    from glmkit.reporting.training import write_training_report

    write_training_report(Path(recipe.output))
    if not recipe.is_lora_only:
        return True
    settings = defaults.load(checkpoint.resolve(recipe.model))
    shown = {field.name: getattr(settings, field.name) for field in fields(BaseModel) if field.name != "hub_id"}
    return write_model_card(Path(recipe.output), BaseModel(checkpoint.hub_id(recipe.model), **shown))
