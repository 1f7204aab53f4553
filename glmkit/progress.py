"""Progress bars on stderr, in one form for generation, training and evaluation."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
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
