"""Progress of long computations: a bar on a terminal or in a notebook, and lines of text in a log file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, TypeVar

from rich import get_console
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

INTERVAL_S = 20.0  # from one line to the next
NOTEBOOK_INTERVAL_S = 0.2
Item = TypeVar("Item")


def interactive_console() -> Console | None:
    """Returns where functions of the Python API show progress: a terminal or a notebook; elsewhere None."""
    console = get_console()
    return console if console.is_terminal or console.is_jupyter else None


class LineProgress(Progress):
    """A progress bar on a terminal or in a notebook; elsewhere a line every `INTERVAL_S` seconds.

    The bar of a notebook needs no widgets, and its last state stays in the saved notebook.

    Args:
        columns: Columns of the bar.
        console: Where progress is shown; None: nowhere.
    """

    def __init__(self, *columns: ProgressColumn, console: Console | None) -> None:
        is_bar = console is not None and console.is_terminal
        super().__init__(*columns, console=console, transient=True, disable=not is_bar)
        self._in_notebook = console is not None and console.is_jupyter
        self._interval_s = NOTEBOOK_INTERVAL_S if self._in_notebook else INTERVAL_S
        self._writes_lines = console is not None and not is_bar
        self._line_s = time.monotonic()
        self._bars: dict[TaskID, Any] = {}

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._write_line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._write_line(task_id)

    def stop(self) -> None:
        super().stop()
        for task in self.tasks if self._in_notebook else ():
            if task.total:
                self._show_bar(task)

    def each(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        """Yield items; each counts as done when the next one is asked for."""
        task_id = self.add_task(what, total=total)
        for item in items:  # Not `track`, which counts in a thread that runs with a bar only.
            yield item
            self.advance(task_id)

    def _write_line(self, task_id: TaskID) -> None:
        task = next(task for task in self.tasks if task.id == task_id)
        if not self._writes_lines or task.total is None or time.monotonic() - self._line_s < self._interval_s:
            return
        self._line_s = time.monotonic()
        if self._in_notebook:
            self._show_bar(task)
        else:
            self.console.print(f"videomem: {_state(task)}", soft_wrap=True)

    def _show_bar(self, task: Task) -> None:
        from IPython.display import HTML, display  # Present in every notebook, and only there.

        bar = f'<progress value="{task.completed:.0f}" max="{task.total:.0f}"></progress>'
        shown = HTML(f"<div>{bar} {escape(_state(task))}</div>")
        if task.id in self._bars:
            self._bars[task.id].update(shown)
        else:
            self._bars[task.id] = display(shown, display_id=True)


def _state(task: Task) -> str:
    """How much of a task is done, as `decoding: 3 of 8, about 5 s left`."""
    left = f", about {_duration(task.time_remaining)} left" if task.time_remaining else ""
    if task.finished:
        left = f", {_duration(task.finished_time or 0)}"
    return f"{task.description}: {task.completed:.0f} of {task.total:.0f}{left}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def tracked(items: Iterable[Item], what: str, total: int, console: Console | None) -> Iterator[Item]:
    """Yields items and shows the progress of what is done with them, such as `decoding`."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with LineProgress(*columns, console=console) as progress:
        yield from progress.each(items, what, total)


@contextmanager
def training_progress(console: Console | None) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of the finished and total training jobs, which shows progress after a line at the start."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with LineProgress(*columns, console=console) as progress:
        task = progress.add_task("training jobs", total=None)
        first: list[int] = []

        def tell(done: int, total: int) -> None:
            if not first:
                if console is not None and not console.is_jupyter:
                    console.print(f"videomem: {total} training jobs, {done} of them already cached")
                first.append(done)
            progress.update(task, completed=done, total=total)

        yield tell
