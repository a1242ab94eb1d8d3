"""The figures of an order card, from plain numbers: arms, value of order, perturbation suite, training size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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
from videomem.experiments.order_test.order_tables import CELLS
from videomem.experiments.order_test.result import MemoryResult, OrderCard, PerturbationResult
from videomem.experiments.tables import percent, points
from videomem.statistics.results import Estimate

# The colour says how it was trained; a full dot was tested in order, an empty one otherwise.
ARM_COLORS = {"O": BLUE, "F": VERMILLION, "S": GREEN, "C": PURPLE, "W": PURPLE, "B": PURPLE}
MAIN_CELLS = ("OO", "OS", "OR", "SS", "FS")
MANY = 3  # above so many memories, only the main cells are drawn


@figure_function
def arms_figure(card: OrderCard) -> Figure:
    """Accuracy of each cell of each memory with its interval; chance, and each memory's best order-blind arm."""
    pictured = pictured_cells(card)
    groups = [(one, [cell for cell in pictured if cell in one.cells]) for one in card.memories]
    figure, axes = row_axes(sum(len(cells) + 1.6 for _, cells in groups), 0.19, above=0.25)
    axes.set_position((0.085, axes.get_position().y0, 0.78, axes.get_position().height))
    place = 0.0
    for one, cells in groups:
        _name_above(axes, place, one.label)
        rows = [place + 1 + number for number in range(len(cells))]
        for row, cell in zip(rows, cells, strict=True):
            _cell_row(axes, row, cell, one.cells[cell])
        if one.practical_gain is not None:
            blind = 100 * (one.cells["OO"].value - one.practical_gain.value)
            ends_of_line = [rows[0] - 0.4, rows[-1] + 0.4]
            axes.plot([blind, blind], ends_of_line, color=INK, linestyle=(0, (4, 2)), linewidth=1)
        place += len(cells) + 1.6
    _chance(axes, card)
    shown = [one.cells[cell] for one, cells in groups for cell in cells]
    ends = [100 * end for cell in shown for end in (cell.value, cell.low, cell.high)]
    axes.set_xlim(*limits([*ends, *_majority(card)]))
    axes.set_xlabel("accuracy, %")
    return figure


def pictured_cells(card: OrderCard) -> list[str]:
    """The cells that the figure of arms shows: with many memories only the main ones."""
    measured = {cell for one in card.memories for cell in one.cells}
    return [cell for cell in (MAIN_CELLS if len(card.memories) > MANY else CELLS) if cell in measured]


def _cell_row(axes: Axes, place: float, cell: str, accuracy: Estimate) -> None:
    color = ARM_COLORS.get(cell[0], INK)
    face = color if cell.endswith("O") else PAPER
    marker = "<" if cell.endswith("R") else "o"
    whisker(axes, place, accuracy, color, marker=marker, markerfacecolor=face)
    axes.text(-0.015, place, cell, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=SMALL)
    beside(axes, place, percent(accuracy.value))


def _chance(axes: Axes, card: OrderCard) -> None:
    for majority in _majority(card):
        axes.axvline(majority, color=INK, linestyle=":", linewidth=1.1)
        axes.annotate("chance", (majority, 1), (3, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                      fontsize=SMALL, ha="left")  # fmt: skip


def _majority(card: OrderCard) -> list[float]:
    return [] if card.controls is None else [100 * card.controls.majority]


def _name_above(axes: Axes, place: float, label: str) -> None:
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}
    axes.text(0, place, shorten(label, 36), transform=axes.get_yaxis_transform(), va="center", fontweight="bold",
              bbox=ground)  # fmt: skip


@figure_function
def value_figure(card: OrderCard) -> Figure:
    """Value of order of each memory with its 95 % and 90 % interval, on the band of the margin."""
    figure, axes = row_axes(2.4 * len(card.memories) - 0.4, 0.2, above=0.25)
    axes.axvspan(-100 * card.margin, 100 * card.margin, color=INK, alpha=0.1, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.9)
    for number, one in enumerate(card.memories):
        _name_above(axes, 2.4 * number, one.label)
        color = INK if one.is_control else BLUE
        whisker(axes, 2.4 * number + 1, one.value_of_order, color, thick=True, markerfacecolor=color)
        beside(axes, 2.4 * number + 1, points(one.value_of_order.value))
    ends = [100 * end for one in card.memories for end in (one.value_of_order.low, one.value_of_order.high)]
    shown = [100 * one.value_of_order.value for one in card.memories]
    axes.set_xlim(*limits([*ends, *shown, -150 * card.margin, 150 * card.margin]))
    axes.annotate("margin", (0, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                  fontsize=SMALL, ha="center")  # fmt: skip
    axes.set_xlabel("value of order (OO − FS), points")  # noqa: RUF001
    return figure


@figure_function
def suite_figure(card: OrderCard) -> Figure:
    """Reliance of each memory as windows, and as blocks, are shuffled with more damage up to a whole shuffle."""
    memories = [one for one in card.memories if one.suite and not one.is_control]
    paths = [
        (one, (perturbations_towards_shuffle(one, "windows"), perturbations_towards_shuffle(one, "blocks")))
        for one in memories
    ]
    drawn = [perturbation for _, both in paths for path in both for perturbation in path]
    ends = [
        100 * e
        for perturbation in drawn
        for e in (perturbation.reliance.low, perturbation.reliance.high, *_retrained(perturbation))
    ]
    figure, panels = _panels(len(memories), 2)
    for row, (one, both) in enumerate(paths):
        for column, path in enumerate(both):
            axes = panels[row][column]
            _lines(
                axes,
                [short_perturbation(perturbation) for perturbation in path],
                [perturbation.reliance for perturbation in path],
                BLUE,
            )
            for place, perturbation in enumerate(path):
                if perturbation.retrained is not None:
                    axes.plot([place], [100 * perturbation.retrained.value], marker="D", markersize=5.5,
                              color=VERMILLION,
                              markerfacecolor=PAPER, markeredgewidth=1.4, zorder=4)  # fmt: skip
            axes.set_ylim(*limits([0.0, *ends], 0.08))
        panels[row][0].set_title(shorten(one.label, 40), loc="left", fontsize=SMALL, fontweight="bold")
    for axes, text in zip(panels[-1], ("windows of n frames", "blocks of n frames"), strict=True):
        axes.set_xlabel(text)
    figure.supylabel("reliance, points", fontsize=SMALL)
    return figure


def perturbations_towards_shuffle(one: MemoryResult, kind: str) -> list[PerturbationResult]:
    """The perturbations of a kind in order of damage, and at the end the whole shuffle; none if the kind is absent."""
    order: Callable[[PerturbationResult], float] = {"windows": lambda perturbation: perturbation.displacement}.get(
        kind, lambda perturbation: -perturbation.adjacency
    )
    perturbations = sorted((perturbation for perturbation in one.suite if perturbation.name == kind), key=order)
    return (
        [*perturbations, *(perturbation for perturbation in one.suite if perturbation.name == "shuffle")]
        if perturbations
        else []
    )


def short_perturbation(perturbation: PerturbationResult) -> str:
    """`4` of `windows of 4`, `all` of `shuffle`."""
    return "all" if perturbation.name == "shuffle" else shorten(perturbation.label.rpartition(" ")[2], 8)


def _retrained(perturbation: PerturbationResult) -> list[float]:
    return [] if perturbation.retrained is None else [perturbation.retrained.value]


@figure_function
def sizes_figure(card: OrderCard) -> Figure:
    """Value of order against training clips, a panel per memory."""
    memories = [one for one in card.memories if one.sizes]
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
    """A line through estimates at places 0, 1, ..., with their intervals."""
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
