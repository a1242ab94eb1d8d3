"""Figures of an order test: accuracies, value of order, perturbation suite, training size, controls and classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as PlainFigure
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
    Figure,
    beside,
    figure_function,
    is_drawable,
    limits,
    row_axes,
    row_label,
    shorten,
    whisker,
)
from videomem.experiments.order_test.answers import lead_head
from videomem.experiments.order_test.order_tables import CONTROLS
from videomem.experiments.order_test.plan import FIXED, ORDERED, PAIRS, RESHUFFLED, REVERSED, SHUFFLED, letters
from videomem.experiments.order_test.result import HeadResult, OrderTestResult, PerturbationResult
from videomem.experiments.tables import percent, points
from videomem.statistics.results import ClassGain, Estimate
from videomem.utils.plotting import confusion_figure

# The color shows the training condition; a filled marker was tested in order.
CONDITION_COLORS = {"ordered": BLUE, "fixed_permutation": VERMILLION, "reshuffled": GREEN}
MAIN_PAIRS = (ORDERED, SHUFFLED, REVERSED, RESHUFFLED, FIXED)
MANY = 3  # heads, above which only the main pairs are drawn
MOST_CLASSES = 30  # of more classes, only the first and the last 12 are drawn
_FROM_NOTHING = LinearSegmentedColormap.from_list("blue", [(0.0, 0.447, 0.698, 0.0), (0.0, 0.447, 0.698, 1.0)])


def _ends(estimates: Iterable[Estimate | ClassGain]) -> list[float]:
    """The ends of intervals, in percent or points."""
    return [100 * end for one in estimates for end in (one.low, one.high)]


def _label_above(axes: Axes, value: float, text: str, shift: int, align: str) -> None:
    axes.annotate(text, (value, 1), (shift, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                  fontsize=SMALL, ha=align)  # fmt: skip


@figure_function
def accuracies_figure(result: OrderTestResult) -> Figure:
    """Accuracies of each head with their intervals, chance, and the best order-blind learner."""
    pictured = pictured_pairs(result)
    groups = [(one, [pair for pair in pictured if pair in one.accuracies]) for one in result.heads]
    figure, axes = row_axes(sum(len(pairs) + 1.6 for _, pairs in groups), 0.19, above=0.25)
    axes.set_position((0.085, axes.get_position().y0, 0.78, axes.get_position().height))
    place = 0.0
    for one, pairs in groups:
        row_label(axes, place, shorten(one.label, 36), fontweight="bold")
        for row, pair in enumerate(pairs, 1):
            _accuracy_row(axes, place + row, pair, one.accuracies[pair])
        if one.practical_gain is not None:
            blind = 100 * (one.accuracies[ORDERED].value - one.practical_gain.value)
            rows = [place + 0.6, place + len(pairs) + 0.4]
            axes.plot([blind, blind], rows, color=INK, linestyle=(0, (4, 2)), linewidth=1)
        place += len(pairs) + 1.6
    majority = [] if result.controls is None else [100 * result.controls.majority]
    for chance in majority:
        axes.axvline(chance, color=INK, linestyle=":", linewidth=1.1)
        _label_above(axes, chance, "chance", 3, "left")
    shown = [one.accuracies[pair] for one, pairs in groups for pair in pairs]
    axes.set_xlim(*limits([*_ends(shown), *(100 * accuracy.value for accuracy in shown), *majority]))
    axes.set_xlabel("accuracy, %")
    return figure


def pictured_pairs(result: OrderTestResult) -> list[str]:
    """Pairs of training and test condition in the figure of accuracies; the main ones if there are many heads."""
    measured = {pair for one in result.heads for pair in one.accuracies}
    return [pair for pair in (MAIN_PAIRS if len(result.heads) > MANY else PAIRS) if pair in measured]


def _accuracy_row(axes: Axes, place: float, pair: str, accuracy: Estimate) -> None:
    training, test = pair.split("/")
    color = CONDITION_COLORS.get(training, PURPLE)
    face = color if test == "ordered" else PAPER
    whisker(axes, place, accuracy, color, marker="<" if test == "reversed" else "o", markerfacecolor=face)
    axes.text(-0.015, place, letters(pair), transform=axes.get_yaxis_transform(), ha="right", va="center",
              fontsize=SMALL)  # fmt: skip
    beside(axes, place, percent(accuracy.value))


@figure_function
def value_figure(result: OrderTestResult) -> Figure:
    """Value of order of each head with its 95 % and 90 % intervals; the band is the margin."""
    figure, axes = row_axes(2.4 * len(result.heads) - 0.4, 0.2, above=0.25)
    margin, values = 100 * result.margin, [one.value_of_order for one in result.heads]
    axes.axvspan(-margin, margin, color=INK, alpha=0.1, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.9)
    for number, (one, value) in enumerate(zip(result.heads, values, strict=True)):
        row_label(axes, 2.4 * number, shorten(one.label, 36), fontweight="bold")
        color = INK if one.is_order_blind else BLUE
        whisker(axes, 2.4 * number + 1, value, color, thick=True, markerfacecolor=color)
        beside(axes, 2.4 * number + 1, points(value.value))
    axes.set_xlim(*limits([*_ends(values), *(100 * value.value for value in values), -1.5 * margin, 1.5 * margin]))
    _label_above(axes, 0, "margin", 0, "center")
    axes.set_xlabel("value of order, points")
    return figure


@figure_function
def suite_figure(result: OrderTestResult) -> Figure:
    """Reliance of each head as windows, and blocks, are shuffled increasingly, up to a complete shuffle."""
    heads = [one for one in result.heads if one.suite and not one.is_order_blind]
    rows = [[perturbations_towards_shuffle(one, kind) for kind in ("windows", "blocks")] for one in heads]
    drawn = [perturbation for row in rows for path in row for perturbation in path]
    retrained = [100 * one.retrained.value for one in drawn if one.retrained is not None]
    limits_y = limits([0.0, *_ends(one.reliance for one in drawn if one.reliance), *retrained], 0.08)
    figure, panels = _panels(len(heads), 2)
    for axes_of_row, one, row in zip(panels, heads, rows, strict=True):
        for axes, path in zip(axes_of_row, row, strict=True):
            _suite_panel(axes, path)
            axes.set_ylim(*limits_y)
        axes_of_row[0].set_title(shorten(one.label, 40), loc="left", fontsize=SMALL, fontweight="bold")
    for axes, text in zip(panels[-1], ("windows of n frames", "blocks of n frames"), strict=True):
        axes.set_xlabel(text)
    figure.supylabel("reliance, points", fontsize=SMALL)
    return figure


def perturbations_towards_shuffle(one: HeadResult, kind: str) -> list[PerturbationResult]:
    """Perturbations of a kind from weak to strong, followed by the complete shuffle; empty if there are none."""

    def strength(perturbation: PerturbationResult) -> float:
        return perturbation.displacement if kind == "windows" else -perturbation.adjacency

    path = sorted((perturbation for perturbation in one.suite if perturbation.name == kind), key=strength)
    return [*path, *(perturbation for perturbation in one.suite if perturbation.name == "shuffle")] if path else []


def _suite_panel(axes: Axes, path: Sequence[PerturbationResult]) -> None:
    sizes = ["all" if one.name == "shuffle" else shorten(one.label.rpartition(" ")[2], 8) for one in path]
    _lines(axes, sizes, [one.reliance for one in path if one.reliance], BLUE)
    for place, one in enumerate(path):
        if one.retrained is not None:
            axes.plot([place], [100 * one.retrained.value], marker="D", markersize=5.5, color=VERMILLION,
                      markerfacecolor=PAPER, markeredgewidth=1.4, zorder=4)  # fmt: skip


@figure_function
def sizes_figure(result: OrderTestResult) -> Figure:
    """Value of order by number of training clips, one panel per head."""
    heads = [one for one in result.heads if one.sizes]
    columns = min(2, len(heads))
    figure, panels = _panels(math.ceil(len(heads) / columns), columns)
    flat = [axes for row in panels for axes in row]
    limits_y = limits([0.0, *_ends(size.value_of_order for one in heads for size in one.sizes)], 0.08)
    for axes, one in zip(flat, heads, strict=False):
        labels = [f"{size.num_clips:,}" for size in one.sizes]
        _lines(axes, labels, [size.value_of_order for size in one.sizes], INK if one.is_order_blind else BLUE)
        axes.set_title(shorten(one.label, 20), loc="left", fontsize=SMALL, fontweight="bold")
        axes.set_ylim(*limits_y)
    for axes in flat[len(heads) :]:
        axes.set_visible(False)
    figure.supxlabel("training clips", fontsize=SMALL)
    figure.supylabel("value of order, points", fontsize=SMALL)
    return figure


def _panels(num_rows: int, num_columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=(WIDTH, 0.5 + 1.55 * num_rows), layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).tolist()


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


@figure_function
def controls_figure(result: OrderTestResult) -> Figure:
    """Accuracies without memory, and below them the head with the largest value of order."""
    own, lead = result.controls, lead_head(result)
    assert own is not None
    rows = [
        (label, getattr(own, name), PAPER if name == "oracle_frame" else INK)  # It uses the label of the clip.
        for name, label in CONTROLS.items()
    ]
    figure, axes = row_axes(2 * (len(rows) + (lead is not None)), 0.19)
    for number, (label, accuracy, face) in enumerate(rows):
        _control_row(axes, 2 * number + 1, label, accuracy)
        axes.plot([100 * accuracy], [2 * number + 1], "o", color=INK, markersize=6, markerfacecolor=face,
                  markeredgewidth=1.4)  # fmt: skip
    if lead is not None:
        _control_row(axes, 2 * len(rows) + 1, f"{shorten(lead.label, 30)}, in order", lead.accuracies[ORDERED].value)
        whisker(axes, 2 * len(rows) + 1, lead.accuracies[ORDERED], BLUE)
    axes.set_xlim(0, 103)
    axes.set_xlabel("accuracy, %")
    return figure


def _control_row(axes: Axes, place: int, label: str, accuracy: float) -> None:
    axes.text(0, place - 0.95, label, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)
    beside(axes, place, percent(accuracy))


@figure_function
def classes_figure(one: HeadResult) -> Figure:
    """Pooled gain of each class with its interval, in descending order; of many classes, the first and last 12."""
    gains = sorted(one.classes, key=lambda gain: -gain.pooled)
    shown = gains if len(gains) <= MOST_CLASSES else [*gains[:12], *gains[-12:]]
    left_out = len(gains) - len(shown)
    places = [number + (1.2 if left_out and number >= 12 else 0) for number in range(len(shown))]
    names = {place: shorten(gain.name, 46) for place, gain in zip(places, shown, strict=True)}
    is_long = any(len(name) > 19 for name in names.values())
    if left_out:
        names[12.1] = f"… {left_out} more …"
    figure, axes = row_axes(places[-1] + 1, 0.42 if is_long else 0.25, above=0.2 if is_long else 0.12)
    if not is_long:
        axes.set_position((0.42, axes.get_position().y0, 0.44, axes.get_position().height))
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.axvline(100 * one.value_of_order.value, color=BLUE, linewidth=1, linestyle=":")
    for place, gain in zip(places, shown, strict=True):
        whisker(axes, place, _as_estimate(gain), BLUE, markersize=5)
        beside(axes, place, points(gain.pooled))
    for place, name in names.items():
        if is_long:  # above the row
            row_label(axes, place - 0.38, name, pad=0.5, fontsize=SMALL)
        else:
            axes.text(-0.02, place, name, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL, ha="right")
    axes.set_xlim(*limits([*_ends(shown), 0.0]))
    axes.set_xlabel("value of order, points")
    return figure


def _as_estimate(gain: ClassGain) -> Estimate:
    nan = float("nan")
    return Estimate(gain.pooled, gain.se, nan, gain.low, gain.high, nan, nan, gain.p, gain.num_groups, 1)


@figure_function
def confusions_figure(counts: Sequence[Sequence[float]], class_names: Sequence[str]) -> PlainFigure:
    """Share of each true class (row) that was predicted as each class (column)."""
    names = [shorten(name, 22) for name in class_names]
    return confusion_figure(np.round(np.array(counts, float), 1), names, "", _FROM_NOTHING, INK)
