"""The one training loop. A stage differs only in its objective.

Every random number of step s comes from generators seeded by (seed, s) and the images of step s are a function of
(seed, s), so a run that was killed and resumed does the same as one that was not. Several processes share one step (see
`distributed`); all of them compute the validation losses, since the others would only wait for them.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from glmkit.config import Stage
from glmkit.errors import UserError
from glmkit.files import append_jsonl, atomic_folder, write_jsonl
from glmkit.models.devices import ALWAYS_FLOAT32, autocast, dtype_for
from glmkit.progress import progress_bars
from glmkit.runs import read_log
from glmkit.training import lora, resume
from glmkit.training.context import StageContext, step_generator
from glmkit.training.distributed import Pass, passes_of
from glmkit.training.objectives import EVERY, Divisible, Objective
from glmkit.training.optimizers import Averaged, learning_rate, optimizers
from glmkit.training.samples import SampleFunction
from glmkit.training.trackers import Tracker

LOG_EVERY = 20
ROUNDING_LOSS = 0.02  # of the validation loss: the share that float32 may be worse
NOTES = Console(stderr=True)


class StepImages(Protocol):
    """Tells which images make up which step."""

    def __getitem__(self, step: int) -> list[int]:
        """Return the indices of the images of `step` (0, 1, ...)."""
        ...


class Loop:
    """Optimizer, schedule, averaging, progress and resume around one objective."""

    def __init__(
        self,
        objective: Objective,
        batches: StepImages,
        stage: Stage,
        context: StageContext,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self.objective, self.batches, self.stage, self.context = objective, batches, stage, context
        self.trackers = trackers
        self.parameters = [parameter for parameter in objective.trained.parameters() if parameter.requires_grad]
        self.optimizers = optimizers(objective.trained, stage, context.device)
        self.averaged = Averaged(self.parameters, stage.ema) if stage.ema else None
        self.log_every = 1 if stage.learns_from_rewards else LOG_EVERY  # such steps are long
        self.tell: Callable[[str], None] = lambda _: None  # shows how far the current step is
        self.step = 0
        self.started = time.monotonic()

    def run(
        self,
        export: Callable[[], None],
        sample: SampleFunction | None = None,
        sample_every: int = 0,
        done: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Train to the last step; returns validation losses `before` and `after`, seconds, and peak memory in bytes.

        `export` writes the trained weights where users find them: with every saved state, and at the end. `sample`
        generates images at step 0, every `sample_every` steps and at the end. Every process calls both. `done` is the
        result of a stage that had fewer steps: they are counted, and the weights are those it ended with. A state stays
        when this returns, so that a run that is killed before its result is written exports the same weights again.
        """
        # 1. Begin, or go on from the last state.
        self.context.group.broadcast_parameters(self.parameters)
        self._resume(done)
        self.objective.trained.train()
        if self.step == 0:
            self._observe(sample)
        elif self.stage.keep_checkpoints and self._is_due(self.stage.save_every):
            self._export_checkpoint(export)  # which a kill right after the state may have prevented

        # 2. Take the steps; log, validate, sample and save when it is time.
        with progress_bars(console=NOTES) as bar:
            task = bar.add_task(self.context.name, total=self.stage.steps, completed=self.step, note="")
            self.tell = lambda note: bar.update(task, note=note)
            while self.goes_on:
                metrics = self.take_step()
                bar.update(task, completed=self.step)
                if self.step % self.log_every == 0 or not self.goes_on or self._is_due(self.stage.save_every):
                    bar.update(task, note=self._log(metrics))
                if self._is_due(self.stage.validation_every) or self._is_due(sample_every):
                    self._observe(sample if self._is_due(sample_every) else None, bar)
                if self._is_due(self.stage.save_every):
                    self._save()
                    self._export_checkpoint(export)
        self._save()  # the export may replace the weights that training began with

        # 3. Write what was learnt, and how well.
        if self.averaged:
            self.averaged.swap()
        self.objective.finish()
        after = self._validation_losses()
        self._check_finite(after["loss"])
        export()
        self._warn_of_rounding(after["loss"])
        self._record({"step": self.step, "validation": after})
        self._sample(sample)
        self.context.group.barrier()  # for the log of the first process
        validation = [line["validation"] for line in read_log(self.context.log) if "validation" in line]
        on_gpu = self.context.device.type == "cuda"
        return {
            "steps": self.step,
            "before": validation[0],
            "after": after,
            "seconds": round(self.seconds, 1),
            "peak_bytes": torch.cuda.max_memory_allocated(self.context.device) if on_gpu else None,
        }

    @property
    def seconds(self) -> float:
        """Count the seconds since the first step, pauses between a kill and the next start left out."""
        return time.monotonic() - self.started

    @property
    def goes_on(self) -> bool:
        """Tell whether there are steps left."""
        return self.step < self.stage.steps

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0 and self.goes_on

    def take_step(self) -> list[dict[str, Tensor]]:
        """Take one step; returns the metrics of each pass of this process."""
        # 1. The learning rate of this step.
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.stage)

        # 2. Forward and backward passes, whose gradients add up.
        metrics: list[dict[str, Tensor]] = []
        in_bfloat16 = dtype_for(self.context.device) == torch.bfloat16
        passes = passes_of(self.batches[self.step], self.stage.accumulation_steps, self.context.group)
        indices = [index for one in passes for index in one.indices[one.rows or EVERY]]
        self.objective.before_step(self.step, indices, self.tell)
        for one in passes:
            generator = step_generator(self.context, self.step, one.number)
            torch.manual_seed(generator.initial_seed() ^ 2)  # dropout samples from the global generator
            with lora.autocast_decides(self.objective.trained, in_bfloat16):
                with autocast(self.context.device):
                    loss, parts = self._loss(one, generator)
                (loss / len(passes)).backward()
            metrics.append({"loss": loss.detach(), **parts})

        # 3. The mean gradient of all processes, clipped, moves the weights.
        self.context.group.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.stage.max_grad_norm, error_if_nonfinite=False)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        # 4. What follows the weights.
        self.step += 1
        if self.averaged:
            self.averaged.update(self.step)
        self.objective.after_step(self.step, generator)
        return metrics

    def _loss(self, one: Pass, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if one.rows is None:
            return self.objective.loss(one.indices, generator)
        return cast(Divisible, self.objective).loss(one.indices, generator, one.rows)

    def _validation_losses(self) -> dict[str, float]:
        self.objective.trained.eval()
        # Eager: validation batches have other shapes, and compiling for them would take longer than running them.
        with torch.compiler.set_stance("force_eager"):
            losses = self.objective.validation_losses()
        self.objective.trained.train()
        return losses

    def _warn_of_rounding(self, loss: float) -> None:
        """Say when a whole AR model that learnt under autocast loses by float32, in which CPUs compute.

        Where biases have grown, a model can come to need that bfloat16 rounds what is added to them. It reads nothing
        but token ids; what decoders read may be stored in bfloat16.
        """
        whole = self.context.name == "autoregressive" and self.stage.lora is None and not self.context.group.sharded
        if not whole or dtype_for(self.context.device) != torch.bfloat16:
            return
        token = ALWAYS_FLOAT32.set(True)
        try:
            in_float32 = self._validation_losses()["loss"]
        finally:
            ALWAYS_FLOAT32.reset(token)
        if in_float32 - loss > ROUNDING_LOSS * abs(loss):
            NOTES.print(
                f"warning: the validation loss is {loss:.4g} in bfloat16 and {in_float32:.4g} in float32: these "
                "weights need the rounding that they learnt with, and are worse on CPUs"
            )

    def _observe(self, sample: SampleFunction | None, bar: Progress | None = None) -> None:
        """Validate, and sample if asked, with the averaged weights."""
        with self._averaged_weights():
            losses = self._validation_losses()
            self._record({"step": self.step, "validation": losses})
            line = f"{self.context.name} step {self.step}: validation {_format(losses)}"
            (bar.console if bar else NOTES).print(line)
            self._sample(sample)

    def _sample(self, sample: SampleFunction | None) -> None:
        """Generate the samples of this step, if asked, and show them to the trackers."""
        if sample is None:
            return
        samples = sample(self.step)
        for tracker in self.trackers:
            tracker.log_samples(self.step, samples)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights in place of the current ones, where there are any."""
        if self.averaged:
            self.averaged.swap()
        try:
            yield
        finally:
            if self.averaged:
                self.averaged.swap()

    def _log(self, metrics: list[dict[str, Tensor]]) -> str:
        means = self.context.group.average_metrics(metrics)
        self._check_finite(means["loss"])
        self._record({"step": self.step, **means})
        self.objective.observe(self.step, means)
        return f"loss {means['loss']:.4g}"  # the parts of it would not fit on a line

    def _export_checkpoint(self, export: Callable[[], None]) -> None:
        """Export the weights of this step, and keep a copy of them if the stage asks for it."""
        with self._averaged_weights():
            export()
        if self.stage.keep_checkpoints and self.context.group.is_main:
            with atomic_folder(self.context.checkpoint(self.step), replace=True) as unfinished:
                shutil.copytree(self.context.adapter, unfinished, dirs_exist_ok=True)

    def _save(self) -> None:
        """Write the state, unless it would spoil the one before."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            self._check_finite(math.nan, "a weight")
        resume.save(self)

    def _check_finite(self, value: float, what: str = "the loss") -> None:
        if not math.isfinite(value):
            raise UserError(
                f"{self.context.name}: {what} is {value} at step {self.step}",
                fix="go on from the last saved state with a smaller learning rate: "
                f"{self.context.name}.learning_rate={self.stage.learning_rate / 4:g} --allow-changes",
            )

    def _record(self, line: dict[str, Any]) -> None:
        """Append a line to the log, and tell the trackers."""
        if not self.context.group.is_main:
            return
        append_jsonl(self.context.log, {"time": round(time.time(), 1), **line})
        for tracker in self.trackers:
            tracker.log(line)

    def _resume(self, done: Mapping[str, Any] | None) -> None:
        """Read the last state, or take up a finished stage, if there is one, and forget what was logged after it."""
        is_main = self.context.group.is_main
        if self.context.state.exists():
            resume.load(self)
        elif done is not None:
            self.step, self.started = done["steps"], self.started - done["seconds"]
        else:
            if is_main:
                self.context.log.unlink(missing_ok=True)
            return
        if is_main:
            write_jsonl(self.context.log, (line for line in read_log(self.context.log) if self._was_logged(line)))
        NOTES.print(f"{self.context.name}: continuing at step {self.step}")

    def _was_logged(self, line: dict[str, Any]) -> bool:
        """Tell whether the state just read is newer than a line of the log; the last validation follows its state."""
        return line["step"] <= self.step and (self.goes_on or "validation" not in line or line["step"] < self.step)


def _format(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())
