"""What a notebook shows of a sensitivity measurement."""

from __future__ import annotations

from videomem.experiments.drawing import (
    BLUE,
    INK,
    SMALL,
    Figure,
    beside,
    figure_function,
    limits,
    row_axes,
    row_label,
    shorten,
    whisker,
)
from videomem.experiments.model_sensitivity.sensitivity_result import OrderSensitivity
from videomem.experiments.notebook import Overview
from videomem.experiments.tables import Column, Table, percent

COLUMNS = (
    Column("frames"),
    Column("accuracy", "share"),
    Column("reliance", "gain"),
    Column("changed predictions, %", "share"),
)


def overview(result: OrderSensitivity) -> Overview:
    """The effect of shuffling, and a row for each perturbation."""
    rows = [(one.label, one.accuracy, one.reliance, one.flip_rate) for one in result.conditions]
    return Overview([result.sentence()], Table("sensitivity", COLUMNS, tuple(rows)))


@figure_function
def figure(result: OrderSensitivity) -> Figure:
    """Accuracy with its interval under each perturbation; dotted: of always predicting the most frequent class."""
    drawn, axes = row_axes(2 * len(result.conditions), 0.19, above=0.25)
    for number, one in enumerate(result.conditions):
        row_label(axes, 2 * number, shorten(one.label, 40), pad=0.5)
        whisker(axes, 2 * number + 1, one.accuracy, BLUE)
        beside(axes, 2 * number + 1, percent(one.accuracy.value))
    chance = 100 * result.majority
    axes.axvline(chance, color=INK, linestyle=":", linewidth=1.1)
    axes.text(chance, 1.01, " chance", transform=axes.get_xaxis_transform(), fontsize=SMALL)
    ends = [100 * end for one in result.conditions for end in (one.accuracy.low, one.accuracy.high, one.accuracy.value)]
    axes.set_xlim(*limits([*ends, chance]))
    axes.set_xlabel("accuracy, %")
    return drawn
