"""Which checkpoint of an adapter, at what weight and guidance: the same prompts and seeds under every combination.

Each combination is an evaluation in a folder of its own, so that a sweep that was stopped goes on, and one that was
finished may grow. Prior tokens are generated once for combinations that differ in guidance or in the decoder's adapter.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.evaluate import write_references
from glmkit.evaluation.many import ModelOfSettings, check_all, evaluate_all
from glmkit.evaluation.plan import EvaluationPlan, GenerationSettings, folder_of
from glmkit.files import write_json
from glmkit.generation.benchmark import decoder_passes, measure_latency
from glmkit.generation.options import InferenceOptions
from glmkit.models.checkpoint.adapter_files import ADAPTABLE, read
from glmkit.models.checkpoint.adapters import Adapter, check_weight
from glmkit.records import SWEEP, Combination, Request
from glmkit.runs import open_run, read_result

MAX_COMBINATIONS = 1000
VARIED = ("adapters", "guidance")  # of an evaluation: what a sweep varies


def parse_numbers(texts: Sequence[str], option: str) -> list[float]:
    """Read numbers, and ranges `first:last:step` with both ends, each number once; UserError for anything else."""
    numbers: list[float] = []
    for text in texts:
        fix = f"{option} 0.25:1.25:0.25, or {option} 0.5 1"
        try:
            parts = [Decimal(part) for part in text.split(":")]
            if len(parts) not in (1, 3) or not all(part.is_finite() for part in parts):
                raise InvalidOperation
        except InvalidOperation:
            raise UserError(f"{option} takes numbers, or first:last:step", found=text, fix=fix) from None
        first, last, step = parts if len(parts) == 3 else (parts[0], parts[0], Decimal(1))
        if step <= 0 or last < first or (last - first) / step >= MAX_COMBINATIONS:
            raise UserError(f"{option} is no range of at most {MAX_COMBINATIONS} numbers", found=text, fix=fix)
        numbers += [float(first + index * step) for index in range(int((last - first) / step) + 1)]
    return list(dict.fromkeys(numbers))


@dataclass(frozen=True)
class SweptAdapter:
    """Hold an adapter with its kept checkpoints: the paths that make it up after so many steps, the last ones last.

    The steps are those of the component that kept checkpoints; None where none did.
    """

    checkpoints: tuple[tuple[int | None, tuple[str, ...]], ...]

    @classmethod
    def find(cls, text: str) -> SweptAdapter:
        """Find what `--adapter` names: RUN, RUN/adapter, or the adapter of one component, with RUN/checkpoints."""
        adapter = Adapter.parse(text)
        if adapter.weight != 1:
            raise UserError(
                "the weights of a sweep are --weights", found=text, fix=f"--adapter {shlex.quote(str(adapter.folder))}"
            )
        folder = adapter.folder
        components = [name for name in ADAPTABLE if (folder / name).is_dir()]
        run = folder.parent if folder.name == "adapter" else folder.parent.parent
        own = folder.name if folder.parent.name == "adapter" else ""
        kept = {
            name: sorted(path for path in (run / "checkpoints" / name).glob("*") if path.name.isdigit())
            for name in (components if folder.name == "adapter" else [own] * bool(own))
        }
        several = [name for name, paths in kept.items() if paths]
        if len(several) > 1:
            fix = shlex.join(["--adapter", str(folder / several[-1]), "--with", str(folder / several[0])])
            raise UserError(f"{run} kept checkpoints of several components", found=", ".join(several), fix=fix)
        if not several:
            return cls(((None, (str(folder),)),))
        (name,) = several
        others = tuple(str(folder / other) for other in components if other != name)
        steps = {int(path.name): (*others, str(path)) for path in kept[name]}
        result = run / f"{name}.json"
        if result.exists():  # until the stage is done, its adapter is that of the last checkpoint
            steps[read_result(result)["steps"]] = (*others, str(folder / name if components else folder))
        return cls(tuple(steps.items()))

    def choose(self, wanted: Sequence[str]) -> list[tuple[int | None, tuple[str, ...]]]:
        """Return the checkpoints of `--checkpoints`: all, last, or numbers of steps."""
        if list(wanted) == ["last"]:
            return [self.checkpoints[-1]]
        if self.checkpoints[-1][0] is None:
            fix = "train with STAGE.save_every=100 STAGE.keep_checkpoints=true, or leave --checkpoints out"
            raise UserError("the run of this adapter kept no checkpoints", found=f"--checkpoints {wanted[0]}", fix=fix)
        if list(wanted) == ["all"]:
            return list(self.checkpoints)
        known = {str(steps): paths for steps, paths in self.checkpoints}
        if missing := [text for text in wanted if text not in known]:
            what = f"there is no checkpoint after {missing[0]} steps"
            raise UserError(what, fix=f"all, last, or of these: {', '.join(known)}")
        return [(int(text), known[text]) for text in dict.fromkeys(wanted)]


@dataclass(frozen=True)
class SweepPlan:
    """Say what is swept: every combination of checkpoints, weights and guidances, on what `base` evaluates.

    A weight of 0 is the model without the adapter, once for all checkpoints. `constant` are adapters of every
    combination, each `DIR` or `DIR:WEIGHT`.
    """

    base: EvaluationPlan
    checkpoints: Sequence[tuple[int | None, tuple[str, ...]]]
    weights: Sequence[float]
    guidances: Sequence[float]
    constant: tuple[str, ...] = ()

    @cached_property
    def combinations(self) -> tuple[Combination, ...]:
        """Return every combination once; those with the same adapters follow each other. UserError for too many."""
        found: dict[str, Combination] = {}
        for (steps, paths), weight in itertools.product(self.checkpoints, self.weights):
            added = tuple(f"{path}:{weight:g}" if weight != 1 else path for path in paths) if weight else ()
            for guidance in self.guidances:
                one = Combination(steps if weight else 0, weight, guidance, (*self.constant, *added))
                found.setdefault(one.folder, one)
        if len(found) > MAX_COMBINATIONS:
            raise UserError("too many combinations", found=len(found), fix=f"at most {MAX_COMBINATIONS}")
        return tuple(found.values())

    def plans(self) -> dict[str, EvaluationPlan]:
        """Return the evaluation of each combination, by its folder."""
        return {
            one.folder: replace(self.base, generation=self._settings(one), name=one.name) for one in self.combinations
        }

    def _settings(self, one: Combination) -> GenerationSettings:
        assert self.base.generation is not None
        return replace(self.base.generation, adapters=one.adapters, guidance=one.guidance)

    def settings(self) -> dict[str, Any]:
        """Return what all combinations have in common."""
        return {name: value for name, value in self.base.settings().items() if name not in VARIED}

    def default_folder(self, adapter: str | None) -> Path:
        """Name the folder when none was chosen: a sweep of the same adapter goes on there, also with more values."""
        common = {**self.settings(), "adapter": adapter, "constant": self.constant}
        return folder_of(f"sweep-{self.base.suite}", self.base.model, common)


def run_sweep(plan: SweepPlan, folder: Path, device: str, options: InferenceOptions) -> None:
    """Evaluate every combination in `folder`, or what is missing there, and list them in sweep.json.

    UserError when the folder holds a sweep of other prompts, seeds or settings. Combinations of an earlier sweep in
    the same folder stay there, but are not listed.
    """
    plans = _checked(plan)
    open_run(folder, "sweep", plan.settings(), device)
    evaluate_all(plans, folder, ModelOfSettings(device, options), options)
    write_json(folder / SWEEP, [one.to_dict() for one in plan.combinations])


def _checked(plan: SweepPlan) -> dict[str, EvaluationPlan]:
    """Return the evaluation of each combination; UserError for what none of them could begin with."""
    plans = plan.plans()
    check_all(plans)
    for adapter in {Adapter.parse(text) for one in plan.combinations for text in one.adapters}:
        for component in read(adapter.folder).values():
            check_weight(component, adapter.weight)
    return plans


def estimate(plan: SweepPlan, device: str, options: InferenceOptions) -> dict[str, Any]:
    """Count the images and prior tokens of a whole sweep, and estimate its seconds; nothing of it is kept.

    Returns `combinations`; `images`, without those of prompts that cannot be used; `prior_tokens`: how many images get
    prior tokens of their own, which the others share; `seconds`, by one image of the first combination, which is
    generated and thrown away: loading, and reading or judging the images, come on top. UserError as in `run_sweep`.
    """
    plans = _checked(plan)
    first, *_ = plans.values()
    assert first.generation is not None
    suite = suites.load(first.suite)
    prompts = suites.prompts(suite, first.split, first.limit, first.data)
    hybrid = ModelOfSettings(device, options)(first.generation)
    with TemporaryDirectory() as folder:
        prompts, edited = write_references(Path(folder), suite, first.check_prompts(suite, prompts))
        usable = [prompt for prompt in prompts if prompt.error is None]
        requests = [
            first.generation.request(prompt, seed, edited.get(prompt.id, ()))
            for prompt in usable
            for seed in first.generation.seeds_of(prompt)
        ]
        if not requests:
            raise UserError("no prompt can be used", found=prompts[0].error)
        prior_tokens = _count_prior_tokens(hybrid.folder, plan.combinations, requests)
        measure_latency(hybrid, requests[0])  # which compiles
        seconds = measure_latency(hybrid, requests[0])
    passes = sum(decoder_passes(replace(requests[0], guidance=one.guidance)) for one in plan.combinations)
    denoising = seconds["denoising"] / decoder_passes(requests[0]) * passes * len(requests)
    images = len(plan.combinations) * len(requests)
    return {
        "combinations": len(plan.combinations),
        "images": images,
        "prior_tokens": prior_tokens,
        "seconds": prior_tokens * seconds["prior_tokens"] + denoising + images * seconds["vae"],
    }


def _count_prior_tokens(folder: Path, combinations: Sequence[Combination], requests: Sequence[Request]) -> int:
    """Count the files of prior tokens that a sweep of a model folder has in the end."""
    from glmkit.generation.prior_token_files import PriorTokenFiles, weights_behind

    of_adapters = {one.adapters: weights_behind(folder, one.adapters) for one in combinations}
    files = [PriorTokenFiles(Path(), weights) for weights in {*of_adapters.values()}]
    return len({file.path(request) for file in files for request in requests})
