"""The report of a recall measurement: a self-contained HTML page, JSON, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videomem.experiments.drawing import png
from videomem.experiments.html import Picture, environment
from videomem.experiments.memory_horizon.horizon_figures import (
    frames_figure,
    gates_figure,
    gradient_figure,
    recall_figure,
    time_constant_figure,
)
from videomem.experiments.memory_horizon.horizon_result import RecallResult
from videomem.experiments.memory_horizon.horizon_tables import (
    curves_table,
    expectations_table,
    horizons_table,
    recall_tables,
)
from videomem.experiments.memory_horizon.recall_frames import FrameTable
from videomem.experiments.reports import json_bytes
from videomem.experiments.tables import csv_text
from videomem.statistics.horizons import whole_or_three_digits
from videomem.utils.atomic import write_atomic


def headline(result: RecallResult) -> str:
    """Returns a headline with the horizon of each memory on the last task of the plan."""
    task = result.plan["tasks"][-1]
    found = [(one.label, one.tasks[task].horizon) for one in result.memories]
    learned = [(label, horizon) for label, horizon in found if horizon.frames is not None]
    failed = [label for label, horizon in found if horizon.frames is None]
    cue = "a cue" if task == "latch" else "the latest cue"
    if not learned:
        return f"No memory recalls {cue}, even at the shortest delay"
    beyond = [label for label, horizon in learned if horizon.kind == "beyond"]
    parts = [f"{listed(beyond)} at least {result.plan['recipe']['max_delay']} frames"] if beyond else []
    crossed = sorted((horizon.frames or 0, label) for label, horizon in learned if horizon.kind == "crossed")
    parts += [f"{label} {whole_or_three_digits(frames)}" for frames, label in reversed(crossed)]
    end = f"; {listed(failed)} did not learn the task" if failed else ""
    return f"Horizon for {cue}: {', '.join(parts)}{'' if beyond else ' frames'}{end}"


def listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def pictures(result: RecallResult, table: FrameTable) -> list[Picture]:
    """Draws the figures of a result."""
    reach = "; ".join(f"{one.label} {one.tasks[task].horizon}" for one in result.memories for task in one.tasks)
    task = result.memories[0].measured_on
    found = [
        Picture("task", _task_figure(result, table), "Frames of the task: distractors, a cue, the query"),
        Picture("recall", recall_figure(result), f"Accuracy over delay; horizons in frames: {reach}"),
        Picture("gradient", gradient_figure(result.memories), "Gradients over lag; numbers in tables/curves.csv"),
    ]  # fmt: skip
    if any(max(one.tau, default=0) > 0 for one in result.memories):
        figure = time_constant_figure(result.memories, result.plan["measured_frames"])
        found.append(Picture("time_constants", figure, "Time constants of neurons; numbers in the table of horizons"))
    if any(np.ptp(np.array(one.gates)) > 0.01 for one in result.memories):
        found.append(Picture("gates", gates_figure(result.memories, task), "Retention of every neuron over a sequence"))
    return found


def _task_figure(result: RecallResult, table: FrameTable) -> Any:
    """Draws the frames around the last cue of the sequence in the retention figure, and the query."""
    one = result.memories[0]
    cue = one.cues[-1]
    places = [cue - 2, cue - 1, cue, cue + 1, cue + 2, len(one.rows) - 1]
    words = ["query" if place == places[-1] else "cue" if place in one.cues else "" for place in places]
    return frames_figure([table.frames_NHWC[one.rows[place]] for place in places], words)


def write_recall_report(result: RecallResult, table: FrameTable, folder: Path) -> Mapping[str, Path]:
    """Writes `memory.json`, `report.html`, `tables/*.csv` and `figures/*.png` into a folder.

    Returns:
        Path of the PNG of each figure, by its name.
    """
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    shown = pictures(result, table)
    page = environment().get_template("memory_horizon/horizon.html.jinja").render(
        result=result,
        headline=headline(result),
        pictures={picture.name: picture for picture in shown},
        horizons=horizons_table(result),
        expectations=expectations_table(result),
        num_points=len(curves_table(result).rows),
    )  # fmt: skip
    write_atomic(folder / "report.html", page.encode("utf-8", "replace"))
    write_atomic(folder / "memory.json", json_bytes(result.as_plain()))
    for one in recall_tables(result):
        write_atomic(folder / f"tables/{one.name}.csv", csv_text(one).encode())
    written = {picture.name: folder / f"figures/{picture.name}.png" for picture in shown}
    for picture in shown:
        write_atomic(written[picture.name], png(picture.figure))
    return written
