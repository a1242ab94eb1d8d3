"""The tables of the memory horizon, on recall tasks and of trained heads, for the page, the terminal, CSV and W&B."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from videomem.experiments.memory_horizon.recall_result import RecallResult, StepsToLearn, TaskResult
from videomem.experiments.memory_horizon.recall_tasks import CHANCE
from videomem.experiments.memory_horizon.time_constants import lyapunov_time
from videomem.experiments.memory_horizon.trained_heads import HeadsReach, HeadsResult
from videomem.experiments.notebook import Overview
from videomem.experiments.tables import NOTHING, Cell, Column, Table, TerminalTable
from videomem.statistics.horizons import Curve, Horizon, whole_or_three_digits

GRADIENTS = ("gradient", "direct", "gradient_untrained")
TIMES = (Column("tau, median"), Column("tau, top tenth"), Column("-1 / Lyapunov"))


def time_text(frames: float, censored_at: float, seconds_per_frame: float | None = None) -> str:
    """Formats a time constant in frames, and in seconds if `seconds_per_frame` is known.

    It is `–` if nothing is kept, and `>= T` if it is censored at T frames.
    """
    if frames <= 0:
        return NOTHING
    text = f">= {censored_at:.0f}" if frames >= censored_at else whole_or_three_digits(frames)
    return text if seconds_per_frame is None else f"{text} ({min(frames, censored_at) * seconds_per_frame:.2g} s)"


def lyapunov_text(exponent: float, censored_at: float) -> str:
    """Formats -1 / lambda in frames, the time in which a small change of the whole state decays to 1/e."""
    return "grows" if exponent > 1 / censored_at else time_text(lyapunov_time(exponent), censored_at)


def _tau_texts(tau: Sequence[float], shares: Iterable[float], result: RecallResult | HeadsResult) -> list[str]:
    rate = result.seconds_per_frame if isinstance(result, HeadsResult) else None
    return [time_text(float(np.quantile(tau, share)), result.num_frames, rate) for share in shares]


def _curves_table(place: str, curves: Mapping[tuple[str, str], Curve]) -> Table:
    """Returns every point of curves, which are named by their memory and what they show, one per row."""
    columns = (Column("memory"), Column("curve"), Column(place, "count"),
               *(Column(name, "number") for name in ("value", "low", "high")))  # fmt: skip
    rows = [
        (*name, *point)
        for name, curve in curves.items()
        for point in zip(curve.places, curve.value, curve.low, curve.high, strict=True)
    ]
    return Table("curves", columns, tuple(rows))


# Recall tasks.


def bounded(horizon: Horizon, converged: bool) -> str:
    """Formats a horizon, which is a lower bound if training ended before it had converged."""
    if converged or horizon.kind == "beyond":
        return str(horizon)
    return "not learned yet" if horizon.frames is None else f">= {whole_or_three_digits(horizon.frames)}"


def mean_horizon_text(of_task: TaskResult) -> str:
    """Formats the horizon of the mean over seeds."""
    return bounded(of_task.horizon, all(of_task.converged))


def horizon_text(of_task: TaskResult) -> str:
    """Formats the horizon of the mean over seeds, and the range over seeds, as in `53 (41 to 70)`."""
    seeds = sorted(zip(of_task.horizons, of_task.converged, strict=True), key=lambda one: one[0].frames or 0)
    mean, low, high = mean_horizon_text(of_task), bounded(*seeds[0]), bounded(*seeds[-1])
    return mean if low == high == mean else f"{mean} ({low} to {high})"


def steps_text(steps: StepsToLearn, of_task: TaskResult) -> str:
    """Formats the median number of steps: `> 3000` if the budget of most seeds ended first, `–` if most converged."""
    if steps.median is not None:
        return f"{steps.median:.0f}"
    unlearned = [converged for one, converged in zip(steps.seeds, of_task.converged, strict=True) if one is None]
    return NOTHING if all(unlearned) else f"> {max(of_task.trained_steps)}"


def horizons_table(result: RecallResult) -> Table:
    """Returns one row per memory."""
    tasks, equal = result.plan.tasks, result.plan.recipe.equal_steps
    beyond = [delay for delay in result.plan.delays if delay > result.plan.recipe.max_delay]
    columns = (
        Column("memory"),
        *(Column(f"{task} horizon") for task in tasks),
        *(Column(f"{task} after {equal} steps") for task in tasks),
        *(Column(f"{task} at {delay}", "share") for task in tasks for delay in beyond),
        *TIMES,
    )
    rows: list[tuple[Cell, ...]] = [
        (
            one.label,
            *(horizon_text(one.tasks[task]) for task in tasks),
            *(str(one.tasks[task].horizon_after(equal)) for task in tasks),
            *(value for task in tasks for value in one.tasks[task].extrapolated.value),
            *_tau_texts(one.tau, (0.5, 0.9), result),
            lyapunov_text(one.lyapunov, result.num_frames),
        )
        for one in result.memories
    ]
    return Table("horizons", columns, tuple(rows))


def steps_table(result: RecallResult) -> Table:
    """Returns the number of steps to learn each delay, one row per memory and task."""
    columns = (
        Column("memory"),
        Column("task"),
        *(Column(f"delay {delay}") for delay in result.plan.trained_delays),
        Column("trained steps"),
        Column("converged"),
    )
    rows: list[tuple[Cell, ...]] = [
        (
            one.label,
            task,
            *(steps_text(steps, of_task) for steps in of_task.steps_to_learn),
            " to ".join(map(str, sorted({min(of_task.trained_steps), max(of_task.trained_steps)}))),
            f"{sum(of_task.converged)} of {len(of_task.converged)}",
        )
        for one in result.memories
        for task, of_task in one.tasks.items()
    ]
    return Table("steps", columns, tuple(rows))


def gradients_table(result: RecallResult) -> Table:
    """Returns the gradient at the longest training delay relative to the last frame, before and after training."""
    names = {"gradient_untrained": "untrained", "gradient": "trained", "direct": "along the retention alone"}
    columns = (Column("memory"), *(Column(name) for name in names.values()))
    rows = [(one.label, *(f"{getattr(one, kind).value[-1]:.2g}" for kind in names)) for one in result.memories]
    return Table("gradients", columns, tuple(rows))


def recall_tables(result: RecallResult) -> list[Table]:
    """Returns all tables; that of curves has every point."""
    curves = {}
    for one in result.memories:
        for task, of_task in one.tasks.items():
            for kind in ("accuracy", "extrapolated", "followed"):
                curves[one.name, f"{task} {kind}"] = getattr(of_task, kind)
        curves |= {(one.name, kind): getattr(one, kind) for kind in GRADIENTS}
    found = [horizons_table(result), steps_table(result), gradients_table(result)]
    return [*found, _curves_table("frames", curves)]


def recall_summary(result: RecallResult) -> dict[str, float | str]:
    """Returns horizons by memory and task, for W&B."""
    return {f"{one.name}/{task}_horizon": mean_horizon_text(of_task) for one in result.memories
            for task, of_task in one.tasks.items()}  # fmt: skip


def recall_terminal_tables(result: RecallResult) -> list[TerminalTable]:
    """Returns horizons, steps to learn some delays, and measurements of trained heads. The page has all delays."""
    tasks, delays, equal = result.plan.tasks, result.plan.trained_delays, result.plan.recipe.equal_steps
    horizons: list[tuple[Cell, ...]] = [
        (
            one.label,
            *(mean_horizon_text(one.tasks[task]) for task in tasks),
            *(str(one.tasks[task].horizon_after(equal)) for task in tasks),
        )
        for one in result.memories
    ]
    early = [f"{task} at {equal}" for task in tasks]
    shown = [place for place in range(len(delays)) if place % 3 == 0 or place == len(delays) - 1]
    heads = [
        (*of_gradient, *of_horizon[-len(TIMES) :])
        for of_gradient, of_horizon in zip(gradients_table(result).rows, horizons_table(result).rows, strict=True)
    ]
    gradients = ["untrained", "trained", "direct"]
    return [
        TerminalTable(
            f"memory horizon in frames, at convergence and at {equal} steps", ["memory", *tasks, *early], horizons
        ),
        TerminalTable(
            "training steps to learn a delay in frames",
            ["memory", "task", *(str(delays[place]) for place in shown)],
            [(*row[:2], *(row[2 + place] for place in shown)) for row in steps_table(result).rows],
        ),
        TerminalTable(
            f"gradient at lag {delays[-1]}, and time constants in frames, on {tasks[-1]}",
            ["memory", *gradients, "tau", "top tenth", "-1/Lyap."],
            heads,
        ),
    ]


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


# Trained heads.


def reach_table(result: HeadsResult) -> Table:
    """Returns one row per memory; values at a lag are those at half the length of the clips."""
    middle = _middle(result)
    columns = (
        Column("memory"), Column("heads", "count"), Column(f"gradient at {middle}"), Column(f"untrained at {middle}"),
        Column(f"swap at {middle}"), Column(f"partial R² at {middle}"), *TIMES,
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            one.label,
            one.num_heads,
            *_values_at(one, middle),
            *_tau_texts(one.tau, (0.5, 0.9), result),
            lyapunov_text(one.lyapunov, result.num_frames),
        )
        for one in result.memories
    ]
    return Table("memory", columns, tuple(rows))


def _middle(result: HeadsResult) -> int:
    """Returns the measured lag nearest to half the length of the clips."""
    return min(result.memories[0].gradient.places, key=lambda lag: abs(lag - result.num_frames / 2))


def _values_at(one: HeadsReach, lag: int) -> list[str]:
    values = [
        curve.value[curve.places.index(lag)] for curve in (one.gradient, one.gradient_untrained, one.swap, one.probe)
    ]
    return [f"{value:.2g}" if math.isfinite(value) else NOTHING for value in values]


def layers_table(result: HeadsResult) -> Table:
    """Returns the time constants of each layer of each memory, with quartiles over hidden units."""
    columns = (Column("memory"), Column("layer", "count"), Column("hidden units", "count"),
               Column("tau, lower quarter"), Column("median"), Column("upper quarter"), Column("longest"),
               TIMES[-1])  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (one.label, number, len(taus), *_tau_texts(taus, (0.25, 0.5, 0.75, 1), result),
         lyapunov_text(exponent, result.num_frames))
        for one in result.memories
        for number, (taus, exponent) in enumerate(zip(one.taus, one.lyapunovs, strict=True), start=1)
    ]  # fmt: skip
    return Table("layers", columns, tuple(rows))


def heads_tables(result: HeadsResult) -> list[Table]:
    """Returns all tables; that of curves has every point."""
    curves = {
        (one.label, kind): getattr(one, kind) for one in result.memories for kind in (*GRADIENTS, "swap", "probe")
    }
    return [reach_table(result), layers_table(result), _curves_table("lag", curves)]


def heads_summary(result: HeadsResult) -> dict[str, float | str]:
    """Returns finite numbers by memory, for W&B."""
    found = {f"{one.label}/lyapunov": one.lyapunov for one in result.memories}
    found |= {f"{one.label}/tau_median": float(np.median(one.tau)) for one in result.memories}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def heads_terminal_table(result: HeadsResult) -> TerminalTable:
    """Returns the table of the page with short column names; times are in frames."""
    middle, rate = _middle(result), result.seconds_per_frame
    on = f"{result.num_clips} clips of {result.num_groups} groups; lag {middle} of {result.num_frames}"
    rows: list[tuple[Cell, ...]] = [
        (
            *(one.label, *_values_at(one, middle)),
            *(time_text(float(np.quantile(one.tau, share)), result.num_frames) for share in (0.5, 0.9)),
            lyapunov_text(one.lyapunov, result.num_frames),
        )
        for one in result.memories
    ]
    return TerminalTable(
        f"memory horizon on {on}{'' if rate is None else f', a frame is {rate:.3g} s'}",
        ["memory", "gradient", "untrained", "swap", "R²", "tau", "top tenth", "-1/Lyap."],
        rows,
    )
