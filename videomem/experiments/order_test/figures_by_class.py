"""Figures of an order test about controls and classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from videomem.experiments.drawing import (
    BLUE,
    INK,
    PAPER,
    SMALL,
    beside,
    figure_function,
    limits,
    row_axes,
    shorten,
    whisker,
)
from videomem.experiments.order_test.conditions import ORDERED
from videomem.experiments.order_test.result import MemoryResult, OrderTestResult
from videomem.experiments.tables import percent, points
from videomem.statistics.results import ClassGain, Estimate
from videomem.utils.plotting import confusion_figure

MOST_CLASSES = 30  # of more classes, only the first and the last 12 are drawn
_FROM_NOTHING = LinearSegmentedColormap.from_list("blue", [(0.0, 0.447, 0.698, 0.0), (0.0, 0.447, 0.698, 1.0)])


@figure_function
def controls_figure(result: OrderTestResult) -> Figure:
    """Accuracies without memory, and below them the memory with the largest value of order."""
    assert result.controls is not None
    own = result.controls
    rows: list[tuple[str, float | Estimate]] = [
        *(
            ("majority class", own.majority),
            ("random single frame", own.random_frame),
            ("best single frame", own.best_frame),
        ),
        *(("mean over frames", own.average), ("any frame correct (uses the label)", own.oracle_frame)),
    ]
    if lead := lead_memory(result):
        rows.append((f"{shorten(lead.label, 30)}, in order", lead.accuracies[ORDERED]))
    figure, axes = row_axes(2 * len(rows), 0.19)
    for number, (label, value) in enumerate(rows):
        place = 2 * number + 1
        axes.text(0, place - 0.95, label, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)
        if isinstance(value, Estimate):
            whisker(axes, place, value, BLUE)
        else:
            face = PAPER if value is own.oracle_frame else INK
            axes.plot([100 * value], [place], "o", color=INK, markersize=6, markerfacecolor=face, markeredgewidth=1.4)
        beside(axes, place, percent(value.value if isinstance(value, Estimate) else value))
    axes.set_xlim(0, 103)
    axes.set_xlabel("accuracy, %")
    return figure


def lead_memory(result: OrderTestResult) -> MemoryResult | None:
    """The memory with the largest value of order, controls excluded."""
    learners = [one for one in result.memories if not one.is_control]
    return max(learners, key=lambda one: one.value_of_order.value, default=None)


@figure_function
def classes_figure(one: MemoryResult) -> Figure:
    """Pooled gain of each class with its interval, in descending order; of many classes, the first and last 12."""
    gains = sorted(one.classes, key=lambda gain: -gain.pooled)
    shown = gains if len(gains) <= MOST_CLASSES else [*gains[:12], *gains[-12:]]
    left_out = len(gains) - len(shown)
    places = [number + (1.2 if left_out and number >= 12 else 0) for number in range(len(shown))]
    is_long = any(len(shorten(gain.name, 46)) > 19 for gain in shown)
    figure, axes = row_axes(places[-1] + 1, 0.42 if is_long else 0.25, above=0.2 if is_long else 0.12)
    if not is_long:
        axes.set_position((0.42, axes.get_position().y0, 0.44, axes.get_position().height))
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.axvline(100 * one.value_of_order.value, color=BLUE, linewidth=1, linestyle=":")
    for place, gain in zip(places, shown, strict=True):
        whisker(axes, place, _as_estimate(gain), BLUE, markersize=5)
        beside(axes, place, points(gain.pooled))
        _name(axes, place, shorten(gain.name, 46), is_long)
    if left_out:
        _name(axes, 12.1, f"… {left_out} more …", is_long)
    axes.set_xlim(*limits([100 * end for gain in shown for end in (gain.low, gain.high, 0.0)]))
    axes.set_xlabel("value of order, points")
    return figure


def _name(axes: Axes, place: float, name: str, is_long: bool) -> None:
    """The name of a class to the left of its row, or above it if some names are long."""
    where = axes.get_yaxis_transform()
    if is_long:
        ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
        axes.text(0, place - 0.38, name, transform=where, va="center", fontsize=SMALL, bbox=ground)
    else:
        axes.text(-0.02, place, name, transform=where, ha="right", va="center", fontsize=SMALL)


def _as_estimate(gain: ClassGain) -> Estimate:
    nan = float("nan")
    return Estimate(gain.pooled, gain.se, nan, gain.low, gain.high, nan, nan, gain.p, gain.num_groups, 1)


@figure_function
def confusions_figure(counts: Sequence[Sequence[float]], class_names: Sequence[str], title: str) -> Figure:
    """Share of each true class (row) that was predicted as each class (column)."""
    names = [shorten(name, 22) for name in class_names]
    return confusion_figure(np.round(np.array(counts, float), 1), names, title, _FROM_NOTHING, INK)
