"""Figures of an order test: accuracies, value of order, perturbation suite and training size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from videomem.experiments.drawing import (
    BLUE,
    GREEN,
    INK,
    PAPER,
    PURPLE,
    SMALL,
    VERMILLION,
    WIDTH,
    beside,
    figure_function,
    is_drawable,
    limits,
    row_axes,
    shorten,
    whisker,
)
from videomem.experiments.order_test.conditions import (
    FIXED,
    ORDERED,
    PAIRS,
    RESHUFFLED,
    REVERSED,
    SHUFFLED,
    letters,
)
from videomem.experiments.order_test.result import MemoryResult, OrderTestResult, PerturbationResult
from videomem.experiments.tables import percent, points
from videomem.statistics.results import Estimate

# The colour shows the training condition; a filled marker was tested in order.
CONDITION_COLORS = {"ordered": BLUE, "fixed_permutation": VERMILLION, "reshuffled": GREEN}
MAIN_PAIRS = (ORDERED, SHUFFLED, REVERSED, RESHUFFLED, FIXED)
MANY = 3  # memories, above which only the main pairs are drawn


@figure_function
def accuracies_figure(result: OrderTestResult) -> Figure:
    """Accuracies of each memory with their intervals, chance, and the best order-blind learner."""
    pictured = pictured_pairs(result)
    groups = [(one, [pair for pair in pictured if pair in one.accuracies]) for one in result.memories]
    figure, axes = row_axes(sum(len(pairs) + 1.6 for _, pairs in groups), 0.19, above=0.25)
    axes.set_position((0.085, axes.get_position().y0, 0.78, axes.get_position().height))
    place = 0.0
    for one, pairs in groups:
        _name_above(axes, place, one.label)
        rows = [place + 1 + number for number in range(len(pairs))]
        for row, pair in zip(rows, pairs, strict=True):
            _accuracy_row(axes, row, pair, one.accuracies[pair])
        if one.practical_gain is not None:
            blind = 100 * (one.accuracies[ORDERED].value - one.practical_gain.value)
            ends_of_line = [rows[0] - 0.4, rows[-1] + 0.4]
            axes.plot([blind, blind], ends_of_line, color=INK, linestyle=(0, (4, 2)), linewidth=1)
        place += len(pairs) + 1.6
    _chance(axes, result)
    shown = [one.accuracies[pair] for one, pairs in groups for pair in pairs]
    ends = [100 * end for accuracy in shown for end in (accuracy.value, accuracy.low, accuracy.high)]
    axes.set_xlim(*limits([*ends, *_majority(result)]))
    axes.set_xlabel("accuracy, %")
    return figure


def pictured_pairs(result: OrderTestResult) -> list[str]:
    """Pairs of training and test condition in the figure of accuracies; the main ones if there are many memories."""
    measured = {pair for one in result.memories for pair in one.accuracies}
    return [pair for pair in (MAIN_PAIRS if len(result.memories) > MANY else PAIRS) if pair in measured]


def _accuracy_row(axes: Axes, place: float, pair: str, accuracy: Estimate) -> None:
    training, test = pair.split("/")
    color = CONDITION_COLORS.get(training, PURPLE)
    face = color if test == "ordered" else PAPER
    marker = "<" if test == "reversed" else "o"
    whisker(axes, place, accuracy, color, marker=marker, markerfacecolor=face)
    axes.text(-0.015, place, letters(pair), transform=axes.get_yaxis_transform(), ha="right", va="center",
              fontsize=SMALL)  # fmt: skip
    beside(axes, place, percent(accuracy.value))


def _chance(axes: Axes, result: OrderTestResult) -> None:
    for majority in _majority(result):
        axes.axvline(majority, color=INK, linestyle=":", linewidth=1.1)
        axes.annotate("chance", (majority, 1), (3, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                      fontsize=SMALL, ha="left")  # fmt: skip


def _majority(result: OrderTestResult) -> list[float]:
    return [] if result.controls is None else [100 * result.controls.majority]


def _name_above(axes: Axes, place: float, label: str) -> None:
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    axes.text(0, place, shorten(label, 36), transform=axes.get_yaxis_transform(), va="center", fontweight="bold",
              bbox=ground)  # fmt: skip


@figure_function
def value_figure(result: OrderTestResult) -> Figure:
    """Value of order of each memory with its 95 % and 90 % intervals; the band is the margin."""
    figure, axes = row_axes(2.4 * len(result.memories) - 0.4, 0.2, above=0.25)
    axes.axvspan(-100 * result.margin, 100 * result.margin, color=INK, alpha=0.1, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.9)
    for number, one in enumerate(result.memories):
        _name_above(axes, 2.4 * number, one.label)
        color = INK if one.is_control else BLUE
        whisker(axes, 2.4 * number + 1, one.value_of_order, color, thick=True, markerfacecolor=color)
        beside(axes, 2.4 * number + 1, points(one.value_of_order.value))
    ends = [100 * end for one in result.memories for end in (one.value_of_order.low, one.value_of_order.high)]
    shown = [100 * one.value_of_order.value for one in result.memories]
    axes.set_xlim(*limits([*ends, *shown, -150 * result.margin, 150 * result.margin]))
    axes.annotate("margin", (0, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                  fontsize=SMALL, ha="center")  # fmt: skip
    axes.set_xlabel("value of order, points")
    return figure


@figure_function
def suite_figure(result: OrderTestResult) -> Figure:
    """Reliance of each memory as windows, and blocks, are shuffled increasingly, up to a complete shuffle."""
    memories = [one for one in result.memories if one.suite and not one.is_control]
    rows = [[perturbations_towards_shuffle(one, kind) for kind in ("windows", "blocks")] for one in memories]
    drawn = [perturbation for row in rows for path in row for perturbation in path]
    ends = [
        100 * end
        for perturbation in drawn
        for end in (perturbation.reliance.low, perturbation.reliance.high, *_retrained(perturbation))
    ]
    figure, panels = _panels(len(memories), 2)
    for axes_of_row, one, row in zip(panels, memories, rows, strict=True):
        for axes, path in zip(axes_of_row, row, strict=True):
            _suite_panel(axes, path)
            axes.set_ylim(*limits([0.0, *ends], 0.08))
        axes_of_row[0].set_title(shorten(one.label, 40), loc="left", fontsize=SMALL, fontweight="bold")
    for axes, text in zip(panels[-1], ("windows of n frames", "blocks of n frames"), strict=True):
        axes.set_xlabel(text)
    figure.supylabel("reliance, points", fontsize=SMALL)
    return figure


def _suite_panel(axes: Axes, path: Sequence[PerturbationResult]) -> None:
    labels = [short_perturbation(perturbation) for perturbation in path]
    _lines(axes, labels, [perturbation.reliance for perturbation in path], BLUE)
    for place, perturbation in enumerate(path):
        for value in _retrained(perturbation):
            axes.plot([place], [100 * value], marker="D", markersize=5.5, color=VERMILLION, markerfacecolor=PAPER,
                      markeredgewidth=1.4, zorder=4)  # fmt: skip


def perturbations_towards_shuffle(one: MemoryResult, kind: str) -> list[PerturbationResult]:
    """Perturbations of a kind from weak to strong, followed by the complete shuffle; empty if there are none."""

    def strength(perturbation: PerturbationResult) -> float:
        return perturbation.displacement if kind == "windows" else -perturbation.adjacency

    path = sorted((perturbation for perturbation in one.suite if perturbation.name == kind), key=strength)
    return [*path, *(perturbation for perturbation in one.suite if perturbation.name == "shuffle")] if path else []


def short_perturbation(perturbation: PerturbationResult) -> str:
    """`4` of `windows of 4`, `all` of `shuffle`."""
    return "all" if perturbation.name == "shuffle" else shorten(perturbation.label.rpartition(" ")[2], 8)


def _retrained(perturbation: PerturbationResult) -> list[float]:
    return [] if perturbation.retrained is None else [perturbation.retrained.value]


@figure_function
def sizes_figure(result: OrderTestResult) -> Figure:
    """Value of order by number of training clips, one panel per memory."""
    memories = [one for one in result.memories if one.sizes]
    columns = min(2, len(memories))
    figure, panels = _panels(math.ceil(len(memories) / columns), columns)
    flat = [axes for row in panels for axes in row]
    ends = [
        100 * e for one in memories for size in one.sizes for e in (size.value_of_order.low, size.value_of_order.high)
    ]
    for axes, one in zip(flat, memories, strict=False):
        color = INK if one.is_control else BLUE
        _lines(axes, [f"{size.num_clips:,}" for size in one.sizes], [size.value_of_order for size in one.sizes], color)
        axes.set_title(shorten(one.label, 20), loc="left", fontsize=SMALL, fontweight="bold")
        axes.set_ylim(*limits([0.0, *ends], 0.08))
    for axes in flat[len(memories) :]:
        axes.set_visible(False)
    figure.supxlabel("training clips", fontsize=SMALL)
    figure.supylabel("value of order, points", fontsize=SMALL)
    return figure


def _panels(num_rows: int, num_columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(WIDTH, 0.5 + 1.55 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
    return figure, [list(row) for row in panels]


def _lines(axes: Axes, labels: Sequence[str], estimates: Sequence[Estimate], color: str) -> None:
    """A line through estimates at positions 0, 1, ..., with their intervals."""
    places = range(len(labels))
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.plot(places, [100 * one.value for one in estimates], color=color, linewidth=1.6, marker="o", markersize=4.5)
    for place, one in zip(places, estimates, strict=True):
        if is_drawable(one):
            axes.vlines(place, 100 * one.low, 100 * one.high, color=color, linewidth=1.2)
    axes.set_xticks(places, labels)
    axes.set_xlim(-0.4, max(len(labels), 2) - 0.6)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", color=INK, alpha=0.13, linewidth=0.6)
