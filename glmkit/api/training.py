"""Fine-tune by a recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmkit.generation.loading import device_of_rank
from glmkit.records import Summary

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class FinetuneRun:
    """Hold what a fine-tuning left in its folder `output`.

    `results` maps a stage to its steps, seconds, and validation losses `before` and `after`. `adapter` is what `load`
    takes, None when whole components were trained. `report` is the page that shows the run. `before` and `after` are
    the evaluations of the recipe's section `eval`, None without one.
    """

    output: Path
    results: Mapping[str, Mapping[str, Any]]
    adapter: Path | None
    report: Path
    before: Summary | None = None
    after: Summary | None = None

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
) -> FinetuneRun:
    """Fine-tune the stages of a recipe, or continue the run that is in its output folder.

    `recipe` is a YAML file or its values. `model` and `output` replace the recipe's, as do `overrides`, such as
    `{"decoder.steps": 50}` or `["decoder.steps=50"]`. Started by torchrun or `accelerate launch`, processes train
    together; all return the same but for `before` and `after`, which only the first one computes.

    Raises UserError that names the key when the recipe is wrong, before anything is loaded.
    """
    from glmkit import config
    from glmkit.config.values import override
    from glmkit.evaluation import before_after
    from glmkit.reporting.training import write_training_report
    from glmkit.training import distributed
    from glmkit.training.finetune import finetune as run_stages

    named = {"model": model, "output": output}
    changes: dict[str, Any] = {key: str(value) for key, value in named.items() if value is not None}
    if isinstance(overrides, Mapping):
        changes |= overrides
        overrides = ()
    assignments = [*(overrides or ()), *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
    used = device_of_rank(device)
    # 1. Train the stages that are not done yet, in one process or several.
    with distributed.together(used) as group:
        if isinstance(recipe, Mapping):
            settings = config.from_dict(override(recipe, assignments))
        else:
            settings = config.load(recipe, assignments)
        if settings.eval is not None:
            before_after.check(settings.eval)
        results = run_stages(settings, used, group)
    # 2. Evaluate what it did to images, where the recipe asks for it, and 3. write the page that shows the run.
    folder = Path(settings.output)
    before = after = None
    if group.is_main:
        if settings.eval is not None:
            write_training_report(folder)  # which is there even if the evaluation is stopped
            before, after = before_after.evaluate_before_after(settings, settings.eval, str(used))
        write_training_report(folder)
    adapter = folder / "adapter"
    return FinetuneRun(folder, results, adapter if adapter.is_dir() else None, folder / "report.html", before, after)
