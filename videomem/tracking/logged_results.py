"""Log results to W&B: tables, figures, video strips, and each memory of an order test as a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wandb

from videomem.tracking.runs import Mode, files_beside, start_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Sequence[Any]


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
    """Log the confusion matrix of a split as a figure and as a table; rows are true classes, columns predicted ones."""
    rows = [[name, *row] for name, row in zip(class_names, counts, strict=True)]
    table = wandb.Table(columns=["true class", *class_names], data=rows)
    with files_beside(run):
        run.log({f"{split}/confusion_matrix": table, f"{split}/confusion_figure": wandb.Image(figure)})


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
        run: The W&B run.
        name: Prefix of all keys: `order` or `memory`.
        tables: Name, columns and rows of each table, such as from `order_test.order_tables.result_tables`.
        figures: Path of the PNG of each figure by name, such as from `order_test.report.write_report`.
        summary: Numbers and words by name, such as from `order_test.order_tables.result_summary`.
    """
    log_order_results(
        run,
        {f"{name}/{table}": (columns, rows) for table, columns, rows in tables},
        {f"{name}/{key}": value for key, value in summary.items()},
        {f"{name}/figures/{figure}": path for figure, path in figures.items()},
    )


def log_strips(run: wandb.Run, name: str, strips: Sequence[tuple[Path, str]]) -> None:
    """Log video strips, image files with captions, as one panel."""
    if strips:
        run.log({f"{name}/video_strips": [wandb.Image(str(path), caption=caption) for path, caption in strips]})


def track_memories(project: str, folder: Path, mode: Mode, group: str, memories: Sequence[MemoryRun]) -> None:
    """Log one W&B run per memory, with the runs of the test as history and the totals as summary."""
    for memory in memories:
        details = {"name": memory.name, "group": group, "job_type": "memory", "config": dict(memory.config)}
        run = start_run(project, folder, mode, **details)
        run.define_metric("*", step_metric="run")
        for number, numbers in enumerate(memory.runs):
            run.log({"run": number, **numbers})
        run.summary.update(dict(memory.summary))
        run.finish()
