"""Matplotlib figures used by several packages. Functions return figures and do not show or save them."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray


def confusion_figure(
    counts_CC: NDArray[np.int64] | NDArray[np.float64],
    class_names: Sequence[str],
    title: str,
    cmap: str | Colormap = "Blues",
    ink: str = "black",
) -> Figure:
    """Plot a confusion matrix, colored by the fraction of each true class.

    Class names are omitted above 50 classes, and counts above 25.

    Args:
        counts_CC: Number of clips; rows are true classes, columns are predicted classes.
        class_names: Names of the classes.
        title: Title of the figure.
        cmap: Color map of the fractions 0 to 1.
        ink: Color of counts on bright cells.
    """
    is_large = len(class_names) > 50
    side = 5.2 if is_large else 1.6 + 0.32 * len(class_names)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    shares = counts_CC / np.maximum(counts_CC.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap=cmap, vmin=0, vmax=1)
    shown = [] if is_large else list(class_names)
    axes.set_xticks(range(len(shown)), shown, rotation=90, fontsize=7)
    axes.set_yticks(range(len(shown)), shown, fontsize=7)
    if len(class_names) <= 25:
        for row, column in np.argwhere(counts_CC > 0):
            color = "white" if shares[row, column] > 0.6 else ink
            axes.text(column, row, f"{counts_CC[row, column]:g}", ha="center", va="center", fontsize=6, color=color)
    axes.set_xlabel("predicted", fontsize=8)
    axes.set_ylabel("true", fontsize=8)
    axes.set_title(title, fontsize=9)
    return figure


def as_png(figure: Figure, dpi: int = 144) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
