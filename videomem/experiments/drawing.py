"""Drawing of figures for HTML pages and PNG files.

In a page, the colors `INK` and `PAPER` become the text and background colors, light or dark. Text is kept as text.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import BytesIO
from typing import Any

import matplotlib
import matplotlib.figure
from matplotlib.axes import Axes

from videomem.statistics.results import Estimate
from videomem.utils.plotting import as_png

INK, PAPER = "#010203", "#fefefd"
# The palette of Okabe and Ito, which is distinguishable with color blindness.
BLUE, VERMILLION, GREEN, PURPLE, SKY, ORANGE = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
# Variables of page.css, which has other values for a dark page.
VARIABLES = dict(zip(PALETTE, ("blue", "vermillion", "green", "purple", "orange", "sky"), strict=True))
WIDTH = 4.6  # inches, 331 SVG units: on a phone, a point is about a pixel
SMALL = 10

STYLE: dict[Any, Any] = {
    "font.size": 11, "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "videomem",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "figure.facecolor": "white", "axes.facecolor": "none", "savefig.facecolor": "none",  # no background in pages
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "xtick.major.width": 0.7,
    "axes.labelsize": SMALL, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL,
}  # fmt: skip


class Figure(matplotlib.figure.Figure):
    """A figure that notebooks show without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


@contextmanager
def drawn() -> Iterator[None]:
    """Context manager that applies `STYLE` to creating and saving figures."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # matplotlib's fonts lack some scripts; in a page, the browser's fonts are used.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


figure_function = drawn()  # A decorator for functions that create a figure.


def svg(figure: matplotlib.figure.Figure, name: str, alt: str) -> str:
    """The figure as inline SVG, in the text color of the page, with `name` as prefix of ids and `alt` as label."""
    buffer = BytesIO()
    with drawn():
        figure.savefig(buffer, format="svg", dpi=200, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)
    text = text.replace(INK, "currentColor").replace(PAPER, "var(--paper, #fff)")
    for color, name in VARIABLES.items():
        text = text.replace(color, f"var(--{name}, {color})")
    text = re.sub(r"font-family: [^;\"]*; ?", "", re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text))
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1)


def png(figure: matplotlib.figure.Figure) -> bytes:
    """The figure as PNG on a white background."""
    with drawn(), matplotlib.rc_context({"savefig.facecolor": "white"}):
        return as_png(figure)


def shorten(name: str, limit: int = 30) -> str:
    """A name on one line, without control characters, and abbreviated in the middle if longer than `limit`."""
    line = " ".join(name.encode("utf-8", "replace").decode().split())
    line = "".join(letter for letter in line if not unicodedata.category(letter).startswith("C"))
    half = (limit - 1) // 2
    return line if len(line) <= limit else f"{line[: limit - 1 - half].rstrip()}…{line[-half:].lstrip()}"


def whisker(axes: Axes, place: float, estimate: Estimate, color: str, thick: bool = False, **marker: Any) -> None:
    """Draw a marker at (value, place), in percent or points, with its 95 % interval; `thick` adds the 90 % interval."""
    low, high = 100 * estimate.low, 100 * estimate.high
    if is_drawable(estimate):
        axes.hlines(place, low, high, color=color, linewidth=1.3, zorder=2)
        if thick:
            axes.hlines(place, 100 * estimate.low90, 100 * estimate.high90, color=color, linewidth=3.2, zorder=2)
    axes.plot([100 * estimate.value], [place], color=color, linestyle="none", zorder=3,
              **{"marker": "o", "markersize": 6, "markeredgewidth": 1.4, **marker})  # fmt: skip


def is_drawable(estimate: Estimate) -> bool:
    """Whether the ends of the interval are small enough to be drawn."""
    return abs(estimate.low) < 1e4 and abs(estimate.high) < 1e4


def row_axes(num_rows: float, row_height: float = 0.3, above: float = 0.12) -> tuple[Figure, Axes]:
    """A figure for rows of markers: rows 0, 1, ... from the top, values on the x axis, with margins in inches."""
    below = 0.55
    height = row_height * num_rows + below + above
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0.01, below / height, 0.84, 1 - (below + above) / height))
    axes.set_ylim(num_rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=INK, alpha=0.13, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def row_label(axes: Axes, place: float, text: str, pad: float = 1, **style: Any) -> None:
    """Write text at the left end of a row, in front of the grid."""
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": pad}
    axes.text(0, place, text, transform=axes.get_yaxis_transform(), va="center", bbox=ground, **style)


def beside(axes: Axes, place: float, text: str) -> None:
    """Write text to the right of a row."""
    axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL, color=INK)


def limits(values: Sequence[float], margin: float = 0.04) -> tuple[float, float]:
    """Axis limits that include all finite values, plus a margin."""
    finite = [value for value in values if abs(value) < 1e6] or [0.0]
    space = margin * ((max(finite) - min(finite)) or 1.0)
    return min(finite) - space, max(finite) + space
