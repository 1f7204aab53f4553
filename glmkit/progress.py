"""Progress bars on stderr, in one form for generation, training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

BAR_WIDTH = 24


class NoteColumn(TextColumn):
    """Show the field `note` of a task, nothing where it has none."""

    def render(self, task: Task) -> Text:
        """Return the note as it stands, without markup."""
        return Text(str(task.fields.get("note", "")))


def progress_bars(*, console: Console | None = None, transient: bool = False, disable: bool = False) -> Progress:
    """Make bars of a description, how many are done of how many, the time passed and left, and a task's `note`.

    `transient` bars vanish when they end. The console is stderr unless another one is given.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=BAR_WIDTH),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        NoteColumn(""),
        console=console or Console(stderr=True),
        transient=transient,
        disable=disable,
    )


class StageBars:
    """One bar per stage, such as images and denoising steps, which appears with the stage's first step."""

    def __init__(self, display: Progress) -> None:
        self._display, self._tasks = display, dict[str, TaskID]()

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps of a stage are done."""
        if stage not in self._tasks:
            self._display.start()
            self._tasks[stage] = self._display.add_task(stage, total=total)
        self._display.update(self._tasks[stage], completed=done, total=total, note=note)


@contextmanager
def stage_bars(*, disable: bool = False) -> Iterator[StageBars]:
    """Show bars until the block ends."""
    display = progress_bars(disable=disable)
    try:
        yield StageBars(display)
    finally:
        if display.tasks:
            display.stop()
