"""The reports of the memory horizon, on recall tasks and of trained heads: an HTML page, JSON, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videomem.experiments.html import Picture, page, write_report
from videomem.experiments.inspect.inspection_report import InspectionView
from videomem.experiments.memory_horizon.horizon_figures import (
    frames_figure,
    gates_figure,
    gradient_figure,
    lag_figure,
    learning_figure,
    recall_figure,
    time_constant_figure,
)
from videomem.experiments.memory_horizon.horizon_tables import heads_tables, mean_horizon_text, recall_tables
from videomem.experiments.memory_horizon.recall_result import RecallResult
from videomem.experiments.memory_horizon.recall_tasks import FrameTable
from videomem.experiments.memory_horizon.trained_heads import MAX_CLIPS, HeadsResult
from videomem.experiments.tables import Table
from videomem.utils.result_models import dump


def write_recall_report(result: RecallResult, frames: FrameTable, folder: Path) -> Mapping[str, Path]:
    """Writes `memory.json`, `report.html`, `tables/*.csv` and `figures/*.png` into a folder.

    Returns:
        Path of the PNG of each figure, by its name.
    """
    reach = "; ".join(
        f"{one.label} {mean_horizon_text(of_task)}" for one in result.memories for of_task in one.tasks.values()
    )
    shown = [
        Picture("task", _task_figure(result, frames), "Frames of the task: distractors, a cue, the query"),
        Picture("recall", recall_figure(result), f"Accuracy over delay; horizons in frames: {reach}"),
        Picture("learning", learning_figure(result), "Horizon over training steps; numbers in the table of steps"),
        Picture("gradient", gradient_figure(result.memories), "Gradients over lag; numbers in tables/curves.csv"),
        *_time_constants(result, "Time constants of hidden units; numbers in the table of horizons"),
    ]
    if any(np.ptp(np.array(one.gates)) > 0.01 for one in result.memories):
        figure = gates_figure(result.memories, result.memories[0].measured_on)
        shown.append(Picture("gates", figure, "Retention of every hidden unit over a sequence"))
    return _write(folder, "horizon", result, recall_tables(result), shown, headline=headline(result))


def headline(result: RecallResult) -> str:
    """Returns the longest horizon on the last task of the plan, and the memories that reach it."""
    task = result.plan.tasks[-1]
    horizons = {one.label: one.tasks[task].horizon for one in result.memories}
    cue = "a cue" if task == "latch" else "the latest cue"
    longest = max(horizons.values(), key=lambda horizon: horizon.frames or 0)
    if longest.frames is None:
        return f"No memory recalls {cue}, even at the shortest delay"
    return f"Longest horizon for {cue}: {longest} frames ({', '.join(k for k, v in horizons.items() if v == longest)})"


def _task_figure(result: RecallResult, frames: FrameTable) -> Any:
    """Draws the frames around the last cue of the sequence in the retention figure, and the query."""
    one = result.memories[0]
    places = [*range(one.cues[-1] - 2, one.cues[-1] + 3), len(one.rows) - 1]
    words = ["query" if place == places[-1] else "cue" if place in one.cues else "" for place in places]
    return frames_figure([frames.frames_NHWC[one.rows[place]] for place in places], words)


def write_heads_report(result: HeadsResult, folder: Path, videos: Sequence[InspectionView] = ()) -> Mapping[str, Path]:
    """Writes `memory.json`, `report.html`, `tables/*.csv` and `figures/*.png` into a folder.

    Returns:
        Path of the PNG of each figure, by its name.
    """
    probe = "Partial R squared over lag; numbers in tables/curves.csv"
    shown = [
        Picture("probe", lag_figure(result.memories, "probe"), probe),
        Picture("swap", lag_figure(result.memories, "swap"), "Effect of replaced frames over lag"),
        Picture("gradient", gradient_figure(result.memories), "Gradients over lag"),
        *_time_constants(result, "Time constants of hidden units"),
        *(video.picture for video in videos),
    ]
    return _write(folder, "trained_heads", result, heads_tables(result), shown, videos=videos, max_clips=MAX_CLIPS)


def _time_constants(result: RecallResult | HeadsResult, alt: str) -> list[Picture]:
    if not any(max(one.tau, default=0) > 0 for one in result.memories):
        return []
    return [Picture("time_constants", time_constant_figure(result.memories, result.num_frames), alt)]


def _write(
    folder: Path, template: str, result: object, tables: Sequence[Table], shown: Sequence[Picture], **values: object
) -> Mapping[str, Path]:
    html = page(
        f"memory_horizon/{template}.html.jinja",
        result=result,
        tables={table.name: table for table in tables},
        pictures={picture.name: picture for picture in shown},
        **values,
    )
    return write_report(folder, {"report.html": html, "memory.json": dump(result)}, tables, shown)
