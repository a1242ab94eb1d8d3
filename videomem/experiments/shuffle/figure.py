"""The figure of a shuffle evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from videomem.experiments.drawing import BLUE, ORANGE, PURPLE, Figure
from videomem.experiments.shuffle.measurements import CONDITIONS
from videomem.experiments.shuffle.shuffle_result import Summary

COLORS = {"ordered": BLUE, "shuffled": ORANGE, "reversed": PURPLE}


def accuracy_figure(
    summaries: Sequence[Summary], names: Sequence[str], chance: float, ceiling: float | None = None
) -> Figure:
    """Draws the accuracy of each checkpoint in each condition, with 95 % intervals over groups of clips.

    Args:
        chance: Accuracy of always predicting the most frequent class.
        ceiling: Highest accuracy that an order-blind classifier can reach, if known.
    """
    figure = Figure(figsize=(max(6.4, 1.15 * len(summaries) + 1.5), 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(summaries))
    for number, condition in enumerate(CONDITIONS):
        heights = [summary.accuracy[condition] for summary in summaries]
        estimates = [summary.estimate[condition] for summary in summaries]
        intervals = [(one.low, one.high) if one else (np.nan, np.nan) for one in estimates]
        lengths = np.abs(np.transpose(intervals) - heights)  # NaN draws no error bar.
        axes.bar(places + 0.27 * (number - 1), heights, 0.25, yerr=lengths, capsize=2, label=condition,
                 color=COLORS[condition], error_kw={"elinewidth": 1})  # fmt: skip
    axes.axhline(chance, color="0.35", linestyle=":", linewidth=1.2, label="chance")
    if ceiling is not None:
        axes.axhline(ceiling, color="0.35", linestyle="--", linewidth=1.2, label="order-blind ceiling")
    axes.set_xticks(places, names, rotation=20, ha="right", rotation_mode="anchor")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=1, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
