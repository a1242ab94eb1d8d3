"""What several commands print: the progress of training jobs, and the clips that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from videomem.features.failures import Failure


@contextmanager
def training_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of the finished and total training jobs, which updates a progress bar on a terminal.

    If the console is not a terminal, one line is printed at the start.
    """
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=None)
        first: list[int] = []

        def tell(done: int, total: int) -> None:
            if not first:
                console.print(f"videomem: {total} training jobs, {done} of them already cached")
                first.append(done)
            progress.update(task, completed=done, total=total)

        yield tell


def print_failures(failures: Sequence[Failure], table: Path) -> None:
    """Prints the first failures and the path of the failure table to stderr."""
    console = Console(stderr=True, soft_wrap=True)
    for failure in failures[:10]:
        console.print(f"failed: {failure.message}", markup=False, highlight=False)
    if failures:
        console.print(f"{len(failures)} clip(s) failed; all are listed in {table}", markup=False, highlight=False)
