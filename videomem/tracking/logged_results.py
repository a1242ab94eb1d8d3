"""Log results to W&B: tables, figures, video strips, and each memory of an order test as a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import wandb
from wandb.plot import CustomChart

from videomem.tracking.runs import Tracking, files_beside, start_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Sequence[Any]
MAX_PLOTTED_CLASSES = 100  # W&B plots at most 10,000 rows of a table, one for each pair of classes


@dataclass(frozen=True)
class MemoryRun:
    """The W&B run of one memory of an order test.

    Attributes:
        name: Name of the run.
        config: The memory and how it was trained.
        summary: Accuracies and contrasts over all runs of the test, by name.
        runs: Accuracies of each run of the test, by name.
    """

    name: str
    config: Mapping[str, Any]
    summary: Mapping[str, float]
    runs: Sequence[Mapping[str, float]]


def log_confusion(
    run: wandb.Run, split: str, counts: list[list[int]], class_names: Sequence[str], figure: Figure
) -> None:
    """Log the confusion matrix of a split as a figure, as a table, and as W&B's plot, which is limited in its size.

    Rows are true classes, columns predicted ones.
    """
    rows = [[name, *row] for name, row in zip(class_names, counts, strict=True)]
    table = wandb.Table(columns=["true class", *class_names], data=rows)
    logged: dict[str, Any] = {f"{split}/confusion_matrix": table, f"{split}/confusion_figure": wandb.Image(figure)}
    with files_beside(run):
        if len(class_names) <= MAX_PLOTTED_CLASSES:
            logged[f"{split}/confusion_plot"] = _confusion_plot(counts, class_names, split)
        run.log(logged)


def _confusion_plot(counts: list[list[int]], class_names: Sequence[str], split: str) -> CustomChart:
    """W&B's own interactive confusion matrix; it takes a true and a predicted class for each clip."""
    cells = [(true, answer, num) for true, row in enumerate(counts) for answer, num in enumerate(row)]
    y_true = [true for true, _, num in cells for _ in range(num)]
    predicted = [answer for _, answer, num in cells for _ in range(num)]
    return wandb.plot.confusion_matrix(y_true=y_true, preds=predicted, class_names=list(class_names), title=split)


def log_order_results(
    run: wandb.Run,
    tables: Mapping[str, tuple[Sequence[str], Sequence[Row]]],
    summary: Mapping[str, float | str],
    figures: Mapping[str, Path],
) -> None:
    """Log an evaluation on permuted frames: tables, figures, and one number per head and condition."""
    for name, (columns, rows) in tables.items():
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        with files_beside(run):
            run.log({name: table})
    if figures:
        run.log({name: wandb.Image(str(path)) for name, path in figures.items()})
    run.summary.update(dict(summary))


def log_result(
    run: wandb.Run,
    name: str,
    tables: Sequence[tuple[str, Sequence[str], Sequence[Row]]],
    figures: Mapping[str, Path],
    summary: Mapping[str, float | str],
) -> None:
    """Log a result under a name: its tables, its figures as images, and its numbers as summary.

    Args:
        name: Prefix of all keys: `order` or `memory`.
    """
    log_order_results(
        run,
        {f"{name}/{table}": (columns, rows) for table, columns, rows in tables},
        {f"{name}/{key}": value for key, value in summary.items()},
        {f"{name}/figures/{figure}": path for figure, path in figures.items()},
    )


def log_trainings(run: wandb.Run) -> Callable[[Mapping[str, float]], None]:
    """Returns a function that logs the numbers of one finished training, over the number of finished trainings."""
    run.define_metric("trainings/*", step_metric="trainings/finished")
    numbers = count(1)

    def log(measured: Mapping[str, float]) -> None:
        run.log({"trainings/finished": next(numbers), **{f"trainings/{key}": one for key, one in measured.items()}})

    return log


def log_strips(run: wandb.Run, name: str, strips: Sequence[tuple[Path, str]]) -> None:
    """Log video strips, image files with captions, as one panel."""
    if strips:
        run.log({f"{name}/video_strips": [wandb.Image(str(path), caption=caption) for path, caption in strips]})


def log_videos(run: wandb.Run, name: str, videos: Iterable[tuple[bytes, str]]) -> None:
    """Log GIFs with their captions as one panel; nothing if there are none."""
    with TemporaryDirectory() as folder:
        shown = []
        for number, (content, caption) in enumerate(videos):
            path = Path(folder) / f"{number}.gif"
            path.write_bytes(content)
            shown.append(wandb.Video(str(path), caption=caption, format="gif"))
        if shown:
            run.log({name: shown})


def track_memories(tracking: Tracking, folder: Path, group: str, memories: Sequence[MemoryRun]) -> None:
    """Log one W&B run per memory, with the runs of the test as history and the totals as summary."""
    for memory in memories:
        details = {"name": memory.name, "job_type": "memory", "config": dict(memory.config)}
        run = start_run(tracking, folder, Tracking(group=group), **details)
        run.define_metric("*", step_metric="run")
        for number, numbers in enumerate(memory.runs):
            run.log({"run": number, **numbers})
        run.summary.update(dict(memory.summary))
        run.finish()
