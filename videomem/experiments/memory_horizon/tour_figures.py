"""Figures of the tour: a memoryless and a recurrent head, and the response of leaky neurons to a pulse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from videomem.experiments.drawing import BLUE, GREEN, INK, SMALL, VERMILLION, WIDTH, figure_function
from videomem.experiments.memory_horizon.tour import Memoryless, Pulse

ORDER_COLORS = (BLUE, VERMILLION, GREEN)


@figure_function
def memoryless_figure(found: Memoryless) -> Figure:
    """Draws the prediction of each head after each frame, for one video in three frame orders."""
    figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
    panels = figure.subplots(1, len(found.right_KT), sharey=True)
    for axes, (name, right_KT) in zip(panels, found.right_KT.items(), strict=True):
        steps = np.arange(1, right_KT.shape[1] + 1)
        for order, color, right_T in zip(found.orders, ORDER_COLORS, right_KT, strict=True):
            axes.plot(steps, right_T, color=color, linewidth=1.6, label=order)
            axes.plot(steps[-1:], right_T[-1:], color=color, marker="o", markersize=5, clip_on=False)
        axes.axhline(0.5, color=INK, alpha=0.3, linewidth=0.8)
        axes.set_title(f"{name}: accuracy {100 * found.accuracy[name]:.0f} %", fontsize=SMALL)
        axes.set_ylim(0, 1)
        axes.set_xlabel("frames seen")
    panels[0].set_ylabel("p(moves right)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=SMALL)
    return figure


@figure_function
def pulse_figure(found: Sequence[Pulse]) -> Figure:
    """Draws the remaining share of a pulse on a logarithmic axis, where each decay is a straight line."""
    figure = Figure(figsize=(WIDTH, 2.5), layout="constrained")
    axes = figure.subplots()
    for pulse, color in zip(found, ORDER_COLORS, strict=False):
        axes.plot(pulse.left_T, color=color, linewidth=1.6, label=f"alpha {pulse.alpha:g}, tau {pulse.tau:.3g}")
        axes.plot([pulse.tau], [np.exp(-1)], marker="o", color=color, markersize=6, clip_on=False)
    axes.axhline(np.exp(-1), color=INK, alpha=0.3, linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(1e-2, 1.2)
    axes.set_yticks([0.01, 0.1, np.exp(-1), 1], ["0.01", "0.1", "1/e", "1"])
    axes.minorticks_off()
    axes.set_xlim(0, len(found[0].left_T) - 1)
    figure.legend(loc="outside upper center", ncols=len(found), frameon=False, fontsize=8, columnspacing=1.0,
                  handlelength=1.2)  # fmt: skip
    axes.set_xlabel("frames since the pulse")
    axes.set_ylabel("share remaining")
    return figure
