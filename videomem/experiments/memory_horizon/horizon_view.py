"""What a notebook shows of a memory horizon."""

from __future__ import annotations

from videomem.experiments.memory_horizon.horizon_figures import recall_figure
from videomem.experiments.memory_horizon.horizon_tables import mean_horizon_text, steps_text
from videomem.experiments.memory_horizon.recall_measurement import RecallResult
from videomem.experiments.memory_horizon.recall_tasks import CHANCE
from videomem.experiments.notebook import Overview
from videomem.experiments.tables import Cell, Column, Table


def overview(result: RecallResult) -> Overview:
    """The longest horizons, and a row for each memory: its horizon on each task, and the steps to learn a delay."""
    tasks, longest = result.plan.tasks, result.plan.trained_delays[-1]
    columns = (
        Column("memory"),
        *(Column(f"{task}: horizon in frames") for task in tasks),
        *(Column(f"{task}: steps to learn {longest} frames") for task in tasks),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            one.label,
            *(mean_horizon_text(one.tasks[task]) for task in tasks),
            *(steps_text(one.tasks[task].steps_to_learn[-1], one.tasks[task]) for task in tasks),
        )
        for one in result.memories
    ]
    sentence = (
        "Horizon: the delay, in frames, up to which the chance-corrected accuracy is at least one half. Trained on "
        f"delays of up to {longest} frames; chance is {100 * CHANCE:g} %."
    )
    return Overview([_longest(result), sentence], Table("horizons", columns, tuple(rows)))


def _longest(result: RecallResult) -> str:
    """The memories with the longest horizon on each task."""
    found = []
    for task in result.plan.tasks:
        of_task = {one.label: one.tasks[task] for one in result.memories}
        most = max(one.horizon.frames or 0 for one in of_task.values())
        names = [label for label, one in of_task.items() if (one.horizon.frames or 0) == most]
        text = f"{mean_horizon_text(of_task[names[0]])} frames ({', '.join(names)})" if most else "none is learned"
        found.append(f"{task}: {text}")
    return f"Longest horizon on {'; '.join(found)}."


figure = recall_figure
