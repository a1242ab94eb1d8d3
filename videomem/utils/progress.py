"""Progress of long commands: a bar on a terminal, and lines of text elsewhere, such as in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

INTERVAL_S = 20.0  # from one line to the next
Item = TypeVar("Item")


class LineProgress(Progress):
    """A progress bar on a terminal; elsewhere a line every `INTERVAL_S` seconds.

    Args:
        columns: Columns of the bar.
        console: Where progress is shown; None: nowhere.
    """

    def __init__(self, *columns: ProgressColumn, console: Console | None) -> None:
        is_bar = console is not None and console.is_terminal
        super().__init__(*columns, console=console, transient=True, disable=not is_bar)
        self._writes_lines = console is not None and not is_bar
        self._line_s = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._write_line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._write_line(task_id)

    def each(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        """Yield items; each counts as done when the next one is asked for."""
        task_id = self.add_task(what, total=total)
        for item in items:  # Not `track`, which counts in a thread that runs with a bar only.
            yield item
            self.advance(task_id)

    def _write_line(self, task_id: TaskID) -> None:
        task = next(task for task in self.tasks if task.id == task_id)
        if not self._writes_lines or task.total is None or time.monotonic() - self._line_s < INTERVAL_S:
            return
        self._line_s = time.monotonic()
        left = "" if task.time_remaining is None else f", about {_duration(task.time_remaining)} left"
        self.console.print(
            f"videomem: {task.description}: {task.completed:.0f} of {task.total:.0f}{left}", soft_wrap=True
        )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def tracked(items: Iterable[Item], what: str, total: int, console: Console | None) -> Iterator[Item]:
    """Yields items and shows the progress of what is done with them, such as `decoding`."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with LineProgress(*columns, console=console) as progress:
        yield from progress.each(items, what, total)
