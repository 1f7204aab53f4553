"""The one training loop. A stage differs only in its objective.

Every random number of step s comes from generators seeded by (seed, s) and the images of step s are a function of
(seed, s), so a run that was killed and resumed does the same as one that was not. Several processes share a step (see
`processes`); all of them compute the validation losses, since the others would only wait for them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from glmkit.config import Stage
from glmkit.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from glmkit.errors import UserError
from glmkit.files import append_jsonl, atomic_path, read_jsonl, write_jsonl
from glmkit.training import distributed as processes
from glmkit.training import lora
from glmkit.training.data import Batches
from glmkit.training.objectives import Divisible, Objective
from glmkit.training.optimizers import Averaged, learning_rate, optimizers
from glmkit.training.trackers import Tracker

LOG_EVERY = 20
NOTES = Console(stderr=True)


@dataclass(frozen=True)
class Place:
    """Where a stage writes: `folder` of the run, `name` of the stage; the seed of everything random in it; and the
    processes that train together, of which the first one writes."""

    folder: Path
    name: str
    seed: int
    device: torch.device
    team: ProcessGroup = SINGLE_PROCESS

    @property
    def state(self) -> Path:
        return self.folder / f"{self.name}.state.pt"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log.jsonl"


def step_generator(place: Place, step: int, micro_batch: int = 0) -> torch.Generator:
    """The generator of one micro-batch; none shares its seed with another."""
    seed = int(np.random.SeedSequence([place.seed, step, micro_batch]).generate_state(1, np.uint64)[0] >> 1)
    return torch.Generator(place.device).manual_seed(seed)


class Loop:
    """Optimizer, schedule, averaging, progress and resume around one objective."""

    def __init__(
        self, objective: Objective, batches: Batches, stage: Stage, place: Place, trackers: Sequence[Tracker] = ()
    ) -> None:
        self.objective, self.batches, self.stage, self.place = objective, batches, stage, place
        self.trackers = trackers
        self.parameters = [parameter for parameter in objective.trained.parameters() if parameter.requires_grad]
        self.optimizers = optimizers(objective.trained, stage, place.device)
        self.averaged = Averaged(self.parameters, stage.ema) if stage.ema else None
        self.step = 0
        self._began = time.monotonic()

    def run(
        self,
        export: Callable[[], None],
        sample: Callable[[int], None] | None = None,
        sample_every: int = 0,
    ) -> dict[str, Any]:
        """Train to the last step; returns validation losses `before` and `after`, seconds, and peak memory in bytes.

        `export` writes the trained weights where users find them: with every saved state, and at the end. `sample`
        draws images at step 0, every `sample_every` steps and at the end. Every process calls both. A state stays
        when this returns, so that a run that is killed before its result is written exports the same weights again.
        """
        self.place.team.broadcast_parameters(self.parameters)
        self._resume()
        self.objective.trained.train()
        if self.step == 0:
            self._observe(sample)
        with _progress() as bar:
            task = bar.add_task(self.place.name, total=self.stage.steps, completed=self.step, note="")
            while self._goes_on:
                shown = self.take_step()
                bar.update(task, completed=self.step)
                if self.step % LOG_EVERY == 0 or not self._goes_on or self._due(self.stage.save_every):
                    bar.update(task, note=self._log(shown))
                if self._due(self.stage.validation_every) or self._due(sample_every):
                    self._observe(sample if self._due(sample_every) else None, bar)
                if self._due(self.stage.save_every):
                    self._save()
                    with self._averaged_weights():
                        export()
        self._save()  # the export may replace the weights that training began with
        if self.averaged:
            self.averaged.swap()
        self.objective.finish()
        after = self._validation_losses()
        self._check(after["loss"])
        export()
        self._note({"step": self.step, "validation": after})
        if sample:
            sample(self.step)
        self.place.team.barrier()  # for the log of the first process
        rows = [row["validation"] for row in self._rows() if "validation" in row]
        peak = torch.cuda.max_memory_allocated(self.place.device) if self.place.device.type == "cuda" else None
        return {
            "steps": self.step,
            "before": rows[0],
            "after": after,
            "seconds": round(self.seconds, 1),
            "peak_bytes": peak,
        }

    @property
    def seconds(self) -> float:
        """Since the first step, pauses between a kill and the next start left out."""
        return time.monotonic() - self._began

    @property
    def _goes_on(self) -> bool:
        return self.step < self.stage.steps

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0 and self._goes_on

    def take_step(self) -> list[dict[str, Tensor]]:
        """One step; what there is to show of each pass of this process."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.step, self.stage)
        shown: list[dict[str, Tensor]] = []
        on_gpu = self.place.device.type == "cuda"
        passes = processes.passes_of(self.batches[self.step], self.stage.accumulation_steps, self.place.team)
        for one in passes:
            generator = step_generator(self.place, self.step, one.number)
            torch.manual_seed(generator.initial_seed() ^ 2)  # dropout draws from the global generator
            with lora.autocast_decides(self.objective.trained, on_gpu):
                with torch.autocast(self.place.device.type, torch.bfloat16, enabled=on_gpu):
                    loss, parts = self._loss(one, generator)
                (loss / len(passes)).backward()
            shown.append({"loss": loss.detach(), **parts})
        self.place.team.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.stage.max_grad_norm, error_if_nonfinite=False)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.averaged:
            self.averaged.update(self.step)
        self.objective.after_step(self.step, generator)
        return shown

    def _loss(self, one: processes.Pass, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
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

    def _observe(self, sample: Callable[[int], None] | None, bar: Progress | None = None) -> None:
        with self._averaged_weights():
            losses = self._validation_losses()
            self._note({"step": self.step, "validation": losses})
            (bar.console if bar else NOTES).print(f"{self.place.name} step {self.step}: validation {_format(losses)}")
            if sample:
                sample(self.step)

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """The averaged weights in place of the current ones, where there are any."""
        if self.averaged:
            self.averaged.swap()
        try:
            yield
        finally:
            if self.averaged:
                self.averaged.swap()

    def _log(self, shown: list[dict[str, Tensor]]) -> str:
        values = self.place.team.average_metrics(shown)
        self._check(values["loss"])
        self._note({"step": self.step, **values})
        return f"loss {values['loss']:.4g}"  # the parts of it would not fit on a line

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"{self.place.name}: the loss is {loss} at step {self.step}",
                fix=f"a smaller learning rate: {self.place.name}.learning_rate={self.stage.learning_rate / 4:g}",
            )

    def _note(self, row: dict[str, Any]) -> None:
        if not self.place.team.is_main:
            return
        append_jsonl(self.place.log, {"time": round(time.time(), 1), **row})
        for track in self.trackers:
            track(row)

    def _rows(self) -> list[dict[str, Any]]:
        return read_jsonl(self.place.log, partial=True) if self.place.log.exists() else []

    def _save(self) -> None:
        state = {
            "step": self.step,
            "model": self._weights(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers] if self._goes_on else [],
            "averaged": self.averaged.shadow if self.averaged else None,
            "seconds": self.seconds,
        }
        state = self.place.team.gather_full_tensors(state)
        if self.place.team.is_main:
            with atomic_path(self.place.state) as temporary:
                torch.save(state, temporary)

    def _weights(self) -> dict[str, Tensor]:
        """What a state has to hold; an adapter's base does not change, and is too large to write again and again."""
        trained = self.objective.trained
        if self.stage.lora is None:
            return trained.state_dict()
        return {name: value.detach() for name, value in trained.named_parameters() if value.requires_grad}

    @torch.no_grad()
    def _read_weights(self, saved: dict[str, Tensor]) -> None:
        own = {name: processes.sharded_as(value, saved[name]) for name, value in self._weights().items()}
        if self.stage.lora is None:
            self.objective.trained.load_state_dict(own)
            return
        for name, value in self._weights().items():
            value.copy_(own[name])

    def _resume(self) -> None:
        if not self.place.state.exists():
            if self.place.team.is_main:
                self.place.log.unlink(missing_ok=True)
            return
        where = "cpu" if self.place.team.sharded else self.place.device  # whole, it may be too large for a GPU
        state = torch.load(self.place.state, map_location=where, weights_only=True)
        self._read_weights(state["model"])
        if self.averaged:
            both = zip(self.parameters, state["averaged"], strict=True)
            self.averaged.shadow = [processes.sharded_as(own, saved) for own, saved in both]
        self.step = int(state["step"])
        self._began -= state.get("seconds", 0.0)
        if self._goes_on:
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(_sharded_state(optimizer, saved))
        if self.place.team.is_main:
            write_jsonl(self.place.log, (row for row in self._rows() if self._was_logged(row)))
        NOTES.print(f"{self.place.name}: continuing at step {self.step}")

    def _was_logged(self, row: dict[str, Any]) -> bool:
        """Whether the state that was just read comes after this row; the last validation loss follows the last state."""
        return row["step"] <= self.step and (self._goes_on or "validation" not in row or row["step"] < self.step)


def _sharded_state(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """The state of an optimizer that was saved whole, as this process holds its parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {
            name: processes.sharded_as(parameters[number], value)
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in own.items()
        }
        for number, own in saved["state"].items()
    }
    return {**saved, "state": state}


def _format(values: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in values.items())


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=NOTES,
    )
