"""Figures of the memory horizon: recall, gradients, time constants and retention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from videomem.experiments.drawing import BLUE, GREEN, INK, SMALL, VERMILLION, WIDTH, Figure, figure_function, shorten
from videomem.experiments.memory_horizon.recall_result import MemoryReach, RecallResult
from videomem.experiments.memory_horizon.recall_tasks import CHANCE
from videomem.experiments.memory_horizon.time_constants import lyapunov_time
from videomem.experiments.memory_horizon.trained_heads import HeadsReach
from videomem.statistics.horizons import Curve

TASK_COLORS = {"latch": BLUE, "update": VERMILLION}
LAG_LABELS = {"swap": "change, relative to lag 0", "probe": "partial R²"}
COLUMNS = 3
LOWEST = 0.6  # place of a horizon of tasks that are not learned on a logarithmic axis, in frames
Line = Literal["-", "--", ":"]


@figure_function
def recall_figure(result: RecallResult) -> Figure:
    """Draws the accuracy of each memory over the delay, with intervals over seeds and a dot at the horizon."""
    figure, panels = _panels(result.memories)
    longest, last = result.plan.recipe.max_delay, result.plan.delays[-1] * 1.3
    for axes, one in zip(panels, result.memories, strict=False):
        for task, of_task in one.tasks.items():
            color, accuracy, beyond = TASK_COLORS[task], of_task.accuracy, of_task.extrapolated
            _curve(axes, accuracy, color, (0, 1), linewidth=1.6)
            joined = [accuracy.value[-1], *beyond.value]
            axes.plot([longest, *beyond.places], joined, color=color, linewidth=1.2, linestyle=":")
            axes.plot(of_task.followed.places, of_task.followed.value, color=color, linewidth=0.9, linestyle="--")
            if of_task.horizon.kind == "crossed" and of_task.horizon.frames:
                axes.plot([of_task.horizon.frames], [(1 + CHANCE) / 2], marker="o", markersize=5, color=color)
        axes.axhline(CHANCE, color=INK, alpha=0.5, linewidth=0.8, linestyle=":")
        axes.axhline((1 + CHANCE) / 2, color=INK, alpha=0.25, linewidth=0.8)
        axes.axvspan(longest, last, color=INK, alpha=0.06, linewidth=0)
        _share_of_frames(axes, (0.8, last), longest)
    _label(figure, "delay in frames", "accuracy")
    _key(figure, {task: (TASK_COLORS[task], "-") for task in result.plan.tasks})
    return figure


@figure_function
def learning_figure(result: RecallResult) -> Figure:
    """Draws the horizon of each memory against the training budget; a cross ends trainings that had not converged."""
    figure, panels = _panels(result.memories)
    trained = [steps for one in result.memories for of_task in one.tasks.values() for steps in of_task.budgets]
    longest = result.plan.recipe.max_delay
    for axes, one in zip(panels, result.memories, strict=False):
        for task, of_task in one.tasks.items():
            frames = [horizon.frames or LOWEST for horizon in of_task.horizons_by_budget]
            axes.plot(of_task.budgets, frames, color=TASK_COLORS[task], linewidth=1.6)
            mark = "o" if all(of_task.converged) else "x"
            axes.plot(of_task.budgets[-1:], frames[-1:], color=TASK_COLORS[task], marker=mark, markersize=5)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xlim(0.9 * min(trained), 1.15 * max(trained))
        axes.set_ylim(0.8 * LOWEST, 1.4 * longest)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_yticks(*_powers(longest))
        axes.minorticks_off()
    _label(figure, "training steps", "horizon in frames")
    _key(figure, {task: (TASK_COLORS[task], "-") for task in result.plan.tasks})
    return figure


@figure_function
def gradient_figure(memories: Sequence[MemoryReach | HeadsReach]) -> Figure:
    """Draws the gradient at each lag relative to the last frame, on logarithmic axes."""
    figure, panels = _panels(memories)
    floor = 1e-8
    for axes, one in zip(panels, memories, strict=False):
        for curve, color, line in (
            (one.gradient_untrained, INK, ":"), (one.direct, GREEN, "--"), (one.gradient, BLUE, "-"),
        ):  # fmt: skip
            places, values = np.array(curve.places), np.array(curve.value)
            kept = (places > 0) & (values > floor)
            axes.plot(places[kept], values[kept], color=color, linestyle=line, linewidth=1.5)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlim(0.8, max(one.gradient.places) * 1.25)
        axes.set_ylim(floor, 30)
        axes.set_xticks(*_powers(max(one.gradient.places)))
        axes.set_yticks([1e-8, 1e-4, 1], ["1e-8", "1e-4", "1"])
        axes.minorticks_off()
    _label(figure, "lag in frames", "relative gradient")
    _key(figure, {"trained": (BLUE, "-"), "along the retention alone": (GREEN, "--"), "untrained": (INK, ":")})
    return figure


@figure_function
def time_constant_figure(memories: Sequence[MemoryReach | HeadsReach], censored_at: int) -> Figure:
    """Draws the share of hidden units above each time constant; a curve further right means longer retention."""
    shown = [one for one in memories if max(one.tau, default=0) > 0]
    figure, panels = _panels(shown)
    for axes, one in zip(panels, shown, strict=False):
        tau = np.sort(np.maximum(one.tau, 0.3))
        axes.step([*tau, tau[-1]], 1 - np.arange(len(tau) + 1) / len(tau), where="pre", color=BLUE, linewidth=1.6)
        if np.isfinite(one.lyapunov):
            axes.axvline(min(lyapunov_time(one.lyapunov), censored_at), color=VERMILLION, linewidth=1.3, linestyle="--")
        _share_of_frames(axes, (0.25, censored_at * 1.5), censored_at)
    _label(figure, "time constant in frames", "share of hidden units above")
    _key(figure, {"hidden units": (BLUE, "-"), "-1 / Lyapunov exponent": (VERMILLION, "--")})
    return figure


@figure_function
def gates_figure(memories: Sequence[MemoryReach], task: str) -> Figure:
    """Draws the retention of each hidden unit at each frame of one sequence, with its cues marked below."""
    shown = [one for one in memories if np.ptp(np.array(one.gates)) > 0.01]
    height = 0.85 * len(shown) + 0.75
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    rows = figure.subplots(max(len(shown), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axes, one in zip(rows, shown, strict=False):
        keep_HT = np.array(one.gates).T
        image = axes.imshow(keep_HT, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        for cue in one.cues:
            axes.plot([cue], [len(keep_HT) + 3], marker="^", color=VERMILLION, markersize=5, clip_on=False)
        axes.set_yticks([])
        axes.set_ylabel(shorten(one.label, 14), rotation=0, ha="right", va="center", fontsize=SMALL)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    if shown:
        rows[-1].set_xlabel(f"frame ({task}; triangles: cues; last frame: query)", labelpad=8)
        bar = figure.colorbar(image, ax=list(rows), shrink=min(1.0, 2.2 / height), pad=0.02)
        bar.set_label("share kept", fontsize=SMALL)
        bar.outline.set_visible(False)
    return figure


@figure_function
def frames_figure(images: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    """Draws frames in a row with captions below."""
    figure = Figure(figsize=(WIDTH, WIDTH / len(images) + 0.25))
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        axes = figure.add_axes((place / len(images), 0.2, 0.96 / len(images), 0.78))
        axes.imshow(image)
        axes.set_axis_off()
        axes.text(0.5, -0.06, caption, transform=axes.transAxes, ha="center", va="top", fontsize=8)
    return figure


def _share_of_frames(axes: Axes, x_limits: tuple[float, float], longest: int) -> None:
    """Sets logarithmic frames on the x axis and shares from 0 to 1 on the y axis."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(*x_limits)
    axes.set_ylim(0, 1.05)
    axes.set_xticks(*_powers(longest))
    axes.set_yticks([0, 0.5, 1], ["0", "", "1"])


def _powers(longest: int) -> tuple[list[int], list[str]]:
    """Returns readable ticks of a logarithmic axis from 1."""
    step = 8 if longest > 64 else 4 if longest > 16 else 2
    ticks = [step**power for power in range(12) if step**power <= longest]
    return ticks, [str(tick) for tick in ticks]


def _panels(memories: Sequence[MemoryReach | HeadsReach]) -> tuple[Figure, list[Axes]]:
    num_rows = max(1, -(-len(memories) // COLUMNS))
    height = 1.2 * num_rows + 0.85
    figure = Figure(figsize=(WIDTH, height))
    grid = figure.subplots(num_rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(0.15, 0.5 / height, 0.985, 1 - 0.52 / height, wspace=0.12, hspace=0.32)
    panels: list[Axes] = list(grid.flat)
    for axes, one in zip(panels, memories, strict=False):
        axes.set_title(shorten(one.label, 18), fontsize=SMALL, pad=3)
    for place, axes in enumerate(panels[len(memories) :], start=len(memories)):
        axes.set_visible(False)
        if place >= COLUMNS:
            panels[place - COLUMNS].tick_params(labelbottom=True)
    return figure, panels


def _curve(axes: Axes, curve: Curve, color: str, limits: tuple[float, float], **line: Any) -> None:
    """Draws a curve with its interval, which is cut off at the limits."""
    low, high = (np.clip(end, *limits) for end in (curve.low, curve.high))
    axes.fill_between(curve.places, low, high, color=color, alpha=0.16, linewidth=0)
    axes.plot(curve.places, curve.value, color=color, **line)


def _label(figure: Figure, below: str, left: str) -> None:
    figure.supxlabel(below, fontsize=SMALL, y=0.01, va="bottom")
    figure.supylabel(left, fontsize=SMALL, x=0.005, ha="left")


def _key(figure: Figure, entries: dict[str, tuple[str, Line]]) -> None:
    """Draws the legend in one row at the top."""
    handles = [Line2D([], [], color=color, linestyle=line, label=name) for name, (color, line) in entries.items()]
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), frameon=False, fontsize=SMALL,
                  borderaxespad=0, handlelength=1.6, columnspacing=1.2)  # fmt: skip


@figure_function
def lag_figure(memories: Sequence[HeadsReach], kind: str) -> Figure:
    """Draws `swap` or `probe` of each memory over the lag, with intervals."""
    figure, panels = _panels(memories)
    curves = [getattr(one, kind) for one in memories]
    values = [value for curve in curves for value in curve.value if np.isfinite(value)]
    top, lowest = max(values, default=1.0), min([-0.05, *np.maximum(values, -0.2)])
    for axes, curve in zip(panels, curves, strict=False):
        _curve(axes, curve, BLUE, (-0.2, 1.5 * top), linewidth=1.6, marker="o", markersize=2.5)
        axes.axhline(0, color=INK, alpha=0.3, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
        axes.set_ylim(lowest, 1.15 * max(top, 0.05))  # The panels share one axis.
    _label(figure, "lag in frames", LAG_LABELS[kind])
    return figure
