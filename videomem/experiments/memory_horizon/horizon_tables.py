"""The tables of a recall result for the page, the terminal, CSV files and W&B."""

from __future__ import annotations

import numpy as np
from rich.table import Table as RichTable

from videomem.experiments.memory_horizon.horizon_result import MemoryReach, RecallResult, TaskResult
from videomem.experiments.memory_horizon.time_constants import lyapunov_time
from videomem.experiments.tables import NOTHING, Column, Table
from videomem.statistics.horizons import Curve, Horizon, whole_or_three_digits


def horizon_text(of_task: TaskResult) -> str:
    """Formats the horizon of the mean over seeds, and the range over seeds, as in `53 (41 to 70)`."""
    if len(of_task.horizons) < 2:
        return str(of_task.horizon)
    ends = sorted(of_task.horizons, key=_reach)
    low, high = str(ends[0]), str(ends[-1])
    return str(of_task.horizon) if low == high else f"{of_task.horizon} ({low} to {high})"


def _reach(horizon: Horizon) -> float:
    return horizon.frames if horizon.frames is not None else 0.0


def horizons_table(result: RecallResult) -> Table:
    tasks = tuple(result.plan["tasks"])
    beyond = [delay for delay in result.plan["delays"] if delay > result.plan["recipe"]["max_delay"]]
    columns = (
        Column("memory"),
        *(Column(f"{task} horizon") for task in tasks),
        *(Column(f"{task} at {delay}", "share") for task in tasks for delay in beyond),
        Column("tau, median"), Column("tau, top tenth"), Column("-1 / Lyapunov"),
    )  # fmt: skip
    return Table("horizons", columns, tuple(_horizon_row(one, tasks, result) for one in result.memories))


def _horizon_row(one: MemoryReach, tasks: tuple[str, ...], result: RecallResult) -> tuple[str | float, ...]:
    censored_at = result.plan["measured_frames"]
    accuracies = [value for task in tasks for value in one.tasks[task].extrapolated.value]
    median, slow = (time_text(float(np.quantile(one.tau, share)), censored_at) for share in (0.5, 0.9))
    common = lyapunov_text(one.lyapunov, censored_at)
    return one.label, *(horizon_text(one.tasks[task]) for task in tasks), *accuracies, median, slow, common


def lyapunov_text(exponent: float, censored_at: float) -> str:
    """Formats -1 / lambda in frames, the time in which a small change of the whole state decays to 1/e."""
    if exponent > 1 / censored_at:
        return "grows"
    return NOTHING if exponent == -np.inf else time_text(lyapunov_time(exponent), censored_at)


def time_text(frames: float, censored_at: float) -> str:
    """Formats a time constant in frames; `–` if nothing is kept, `>= T` if it is censored at T frames."""
    if frames <= 0:
        return NOTHING
    return f">= {censored_at:.0f}" if frames >= censored_at else whole_or_three_digits(frames)


def expectations_table(result: RecallResult) -> Table:
    rows = tuple((one.claim, one.found, one.evidence) for one in result.expectations)
    return Table("expectations", (Column("expected from theory"), Column("found"), Column("evidence")), rows)


def curves_table(result: RecallResult) -> Table:
    """Returns every point of every curve, one per row."""
    columns = (Column("memory"), Column("curve"), Column("frames", "count"), Column("value", "number"),
               Column("low", "number"), Column("high", "number"))  # fmt: skip
    rows = [
        (one.name, name, place, value, low, high)
        for one in result.memories
        for name, curve in _curves(one).items()
        for place, value, low, high in zip(curve.places, curve.value, curve.low, curve.high, strict=True)
    ]
    return Table("curves", columns, tuple(rows))


def _curves(one: MemoryReach) -> dict[str, Curve]:
    named = {f"{task} {kind}": getattr(of_task, kind) for task, of_task in one.tasks.items()
             for kind in ("accuracy", "extrapolated", "followed")}  # fmt: skip
    return named | {kind: getattr(one, kind) for kind in ("gradient", "direct", "gradient_untrained")}


def recall_tables(result: RecallResult) -> list[Table]:
    return [horizons_table(result), expectations_table(result), curves_table(result)]


def recall_summary(result: RecallResult) -> dict[str, float | str]:
    """Returns horizons by memory and task, for W&B."""
    return {f"{one.name}/{task}_horizon": str(of_task.horizon) for one in result.memories
            for task, of_task in one.tasks.items()}  # fmt: skip


def terminal_table(result: RecallResult) -> RichTable:
    """Returns horizons and time constants; ranges over seeds and further results are on the page."""
    shown, tasks = RichTable(title="memory horizon in frames"), result.plan["tasks"]
    for name in ("memory", *tasks, "tau", "top tenth", "-1/Lyap."):
        shown.add_column(name, justify="left" if name == "memory" else "right", no_wrap=True)
    for one, row in zip(result.memories, horizons_table(result).rows, strict=True):
        shown.add_row(one.label, *(str(one.tasks[task].horizon) for task in tasks), *map(str, row[-3:]))
    return shown
