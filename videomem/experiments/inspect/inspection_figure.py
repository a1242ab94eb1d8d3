"""The figure of `videomem inspect`: frames, retention, predictions and changes of the state over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray

from videomem.experiments.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PAPER,
    PURPLE,
    SKY,
    VERMILLION,
    figure_function,
    shorten,
)
from videomem.experiments.inspect.inspection import Inspection, Matrix, OrderTrace, Video
from videomem.experiments.inspect.inspection_tables import digits, number_of_frames, title

WIDTH = 11.0  # inches; at a display width of 1100 pixels, a point is 1.4 pixels
LEFT, RIGHT, TOP, BOTTOM = 1.1, 2.6, 1.6, 0.5  # margins in inches; the right one holds class names
MOST_THUMBNAILS = 20
THUMBNAIL_PX = 112
LEAST_PROBABILITY = 0.03  # classes that never reach it are summed as others
CLASS_COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
GREY = "#8a8a8a"
TEXT, NAME = 9, 10

KEPT = LinearSegmentedColormap.from_list("kept", ["#fff3e0", "#f6c27a", "#8fb8cf", "#2b78ad", "#08305c"])
ACTIVATIONS = LinearSegmentedColormap.from_list("activations", ["#a34100", "#f0b27a", "#fbfaf7", "#7db8dc", "#00446e"])


@figure_function
def draw_inspection(video: Video, inspection: Inspection) -> Figure:
    """Draws pictures, retention, predictions and changes of the state, one column per frame, for all frame orders."""
    num_frames = len(video.frames_TCHW)
    shown = Thumbnails(video)
    rows = [
        ("video", shown.height, 0.0), ("states", 2.7, 0.36), ("answers", 1.45, 0.36), ("change", 0.85, 0.36),
        ("shuffled video", shown.small, 1.02), ("shuffled", 1.1, 0.12),
        ("reversed video", shown.small, 0.82), ("reversed", 1.1, 0.12),
    ]  # fmt: skip
    figure, panels = _sheet(rows, num_frames)
    colors = class_colors(inspection)
    first, mark = inspection.in_order, inspection.in_order.most_changed
    shown.draw(panels["video"], first.frames_T, marked=mark)
    _states(panels["states"], inspection)
    _answers(panels["answers"], inspection, first, colors)
    _change(panels["change"], first)
    _time_axis(panels["change"], video, shown.places)
    for name, traced in zip(("shuffled", "reversed"), inspection.traces[1:], strict=True):
        shown.draw(panels[f"{name} video"], traced.frames_T)
        _answers(panels[name], inspection, traced, colors)
        _frame_axis(panels[name], [str(traced.frames_T[place] + 1) for place in shown.places], shown.places)
    _headings(panels, inspection)
    for name in ("states", "answers", "change"):
        _line_at(panels[name], mark + 1)
    _title(figure, video, inspection, colors)
    return figure


def class_colors(inspection: Inspection) -> dict[int, str]:
    """Returns the colours of the classes with separate lines: predicted classes, then the most probable others."""
    most_C = np.max([one.probabilities_TC.max(axis=0) for one in inspection.traces], axis=0)
    answers = dict.fromkeys(one.answer for one in inspection.traces)
    others = [int(c) for c in np.argsort(-most_C, kind="stable") if most_C[c] >= LEAST_PROBABILITY]
    return dict(zip(dict.fromkeys([*answers, *others]), CLASS_COLORS, strict=False))


def _sheet(rows: Sequence[tuple[str, float, float]], num_frames: int) -> tuple[Figure, dict[str, Axes]]:
    """Returns a figure with one panel per row (name, height, gap above), in inches, and one column per frame."""
    height = TOP + BOTTOM + sum(high + gap for _, high, gap in rows)
    figure = Figure(figsize=(WIDTH, height))
    downs = accumulate((high + gap for _, high, gap in rows), initial=TOP)
    panels = {}
    for (name, high, gap), down in zip(rows, downs, strict=False):
        box = (LEFT / WIDTH, 1 - (down + gap + high) / height, 1 - (LEFT + RIGHT) / WIDTH, high / height)
        panels[name] = figure.add_axes(box)
        panels[name].set_xlim(0.5, num_frames + 0.5)
        panels[name].set_xticks([])
    return figure, panels


class Thumbnails:
    """Frames of a video as small pictures above their columns; of a long video, a picture every few columns.

    Attributes:
        places: Positions, from 0, whose frames are shown.
        height: Height in inches of the pictures in order; `small` is the height for the other frame orders.
    """

    def __init__(self, video: Video) -> None:
        num_frames, _, pixels_high, pixels_wide = video.frames_TCHW.shape
        # An odd number, so that a picture is centred over its columns.
        self._every = math.ceil(num_frames / MOST_THUMBNAILS) // 2 * 2 + 1
        self.places = list(range(self._every // 2, num_frames - self._every // 2, self._every))
        self._column = (WIDTH - LEFT - RIGHT) / num_frames
        step = max(1, min(pixels_high, pixels_wide) // THUMBNAIL_PX)
        self._frames = video.frames_TCHW.permute(0, 2, 3, 1).cpu().numpy()[:, ::step, ::step]
        self._shape = pixels_wide / pixels_high
        widest = 0.96 * self._every * self._column / self._shape
        self.height, self.small = min(1.0, widest), min(0.62, widest)

    def draw(self, axes: Axes, frames_T: NDArray[np.int64], marked: int | None = None) -> None:
        """Draws the frames in the given order; the frame at position `marked` gets a border."""
        axes.axis("off")
        axes.set_ylim(0, 1)
        places = self.places if marked is None else sorted({*self._without(marked), marked})
        half = 0.5 * _inches_high(axes) * self._shape / self._column
        for place in places:
            extent = (place + 1 - half, place + 1 + half, 0, 1)
            axes.imshow(
                self._frames[int(frames_T[place])], extent=extent, aspect="auto", zorder=3 if place == marked else 2
            )
            if place == marked:
                for color, width in ((PAPER, 5.5), (INK, 2.2)):
                    axes.add_patch(Rectangle((extent[0], 0), 2 * half, 1, fill=False, edgecolor=color, linewidth=width,
                                             clip_on=False, zorder=4))  # fmt: skip
        axes.set_xlim(0.5, len(self._frames) + 0.5)

    def _without(self, marked: int) -> list[int]:
        """Returns the positions except the one nearest to `marked`, which takes its space."""
        nearest = min(self.places, key=lambda place: abs(place - marked))
        return [place for place in self.places if place != nearest]


def _states(axes: Axes, inspection: Inspection) -> None:
    """Draws the retention of each neuron at each frame, or its activation where nothing is kept."""
    first = inspection.in_order
    if inspection.keeps:
        ranks = np.argsort(-inspection.tau_H, kind="stable")
        values_HT, colors, low = first.keep_TH.T[ranks].copy(), KEPT, 0
        values_HT[:, 0] = np.nan
    else:
        ranks = np.argsort(-_rise(first.activations_TH), kind="stable")
        values_HT, colors, low = first.activations_TH.T[ranks], ACTIVATIONS, -1
    num_neurons, num_frames = values_HT.shape
    image = axes.imshow(values_HT, cmap=colors, vmin=low, vmax=1, aspect="auto", interpolation="nearest",
                        extent=(0.5, num_frames + 0.5, num_neurons, 0))  # fmt: skip
    if inspection.keeps:
        axes.add_patch(Rectangle((0.5, 0), 1, num_neurons, facecolor="none", edgecolor=INK, alpha=0.25, hatch="///",
                                 linewidth=0))  # fmt: skip
        if num_frames <= 40:
            axes.text(1, num_neurons / 2, "no previous state", rotation=90, ha="center", va="center", fontsize=8)
    _neuron_axis(axes, inspection, ranks)
    bar = axes.inset_axes((1.03, 0.08, 0.02, 0.84))
    text = "share of state kept" if inspection.keeps else "activation φ(h)"
    axes.figure.colorbar(image, cax=bar).set_label(text, fontsize=TEXT)
    bar.tick_params(labelsize=TEXT, width=0.5)
    bar.set_yticks([0, 0.5, 1] if inspection.keeps else [-1, 0, 1])


def _neuron_axis(axes: Axes, inspection: Inspection, ranks: NDArray[np.intp]) -> None:
    """Labels rows with time constants, or with their sorting where there are none."""
    last, neurons = len(ranks) - 1, f"{len(ranks)} neuron{'s' if len(ranks) > 1 else ''}"
    rows = sorted({round(last * share) for share in (0, 0.25, 0.5, 0.75, 1)})
    if inspection.keeps:
        axes.set_yticks([row + 0.5 for row in rows], [number_of_frames(inspection.tau_H[ranks[row]]) for row in rows])
        axes.set_ylabel(f"{neurons}, slowest at top:\ntime constant in frames", fontsize=TEXT)
    else:
        axes.set_yticks([0.5, last + 0.5], ["rising", "falling"])
        axes.set_ylabel(neurons, fontsize=TEXT)
    axes.tick_params(axis="y", labelsize=TEXT)


def _rise(activations_TH: Matrix) -> Matrix:
    """Returns the correlation of each activation with time (H,), up to a constant factor."""
    time_T = np.arange(len(activations_TH)) - (len(activations_TH) - 1) / 2
    spread_H = activations_TH.std(axis=0)
    return np.asarray(time_T @ activations_TH / np.where(spread_H > 1e-9, spread_H, np.inf), dtype=np.float64)


def _answers(axes: Axes, inspection: Inspection, traced: OrderTrace, colors: dict[int, str]) -> None:
    """Draws the probabilities of the most probable classes over time, and the sum of all others."""
    places = np.arange(1, len(traced.frames_T) + 1)
    dot = 3.2 if len(places) <= 40 else 0
    drawn = [c for c in colors if traced.probabilities_TC[:, c].max() >= LEAST_PROBABILITY]
    lines = [(inspection.class_names[c], traced.probabilities_TC[:, c], colors[c]) for c in drawn]
    if num_others := len(inspection.class_names) - len(drawn):
        others_T = np.delete(traced.probabilities_TC, drawn, axis=1).sum(axis=1)
        lines.append((f"{num_others} other{'s' if num_others > 1 else ''}", others_T, GREY))
    for rank, (_, values, color) in enumerate(lines):
        style = (0, (3, 2)) if color == GREY else "-"
        axes.plot(places, values, color=color, linestyle=style, linewidth=1.8, marker="o", markersize=dot,
                  zorder=20 - rank, clip_on=False)  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.grid(axis="y", color=INK, alpha=0.13, linewidth=0.6)
    axes.set_ylabel("probability", fontsize=TEXT)
    axes.tick_params(axis="y", labelsize=TEXT)
    _beside(axes, [(name, float(values[-1]), color) for name, values, color in lines], 0.165 / _inches_high(axes))


def _inches_high(axes: Axes) -> float:
    assert isinstance(axes.figure, Figure)
    return float(axes.get_position().height * axes.figure.get_figheight())


def _beside(axes: Axes, ends: Sequence[tuple[str, float, str]], gap: float) -> None:
    """Writes names and probabilities to the right of the ends of their lines, at least `gap` apart."""
    ranked = sorted(ends, key=lambda end: -end[1])
    heights = spread([value for _, value, _ in ranked], gap)
    for (name, value, color), height in zip(ranked, heights, strict=True):
        axes.annotate("", (1.0, value), (1.022, height), "axes fraction", "axes fraction",
                      arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8})  # fmt: skip
        gap_in = RIGHT - 0.1 - 0.03 * (WIDTH - LEFT - RIGHT)
        text = _fitted(axes.figure, f"{digits(value)}  ", name, gap_in, TEXT)
        axes.text(1.03, height, text, transform=axes.transAxes, color=color, va="center", fontsize=TEXT,
                  fontweight="normal" if color == GREY else "bold")  # fmt: skip


def _fitted(figure: Any, before: str, name: str, gap_in: float, points: float) -> str:
    """Returns a text and a name, shortened in its middle until both fit into `gap_in` inches in bold."""
    text = before
    for limit in range(48, 5, -1):
        text = before + shorten(name, limit)
        drawn = Text(0, 0, text, fontsize=points, fontweight="bold", figure=figure)
        if drawn.get_window_extent().width <= gap_in * figure.dpi:
            break
    return text


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Moves descending heights to be at least `gap` apart and not below 0; the topmost may exceed 1."""
    placed = list(heights)
    for one in range(1, len(placed)):
        placed[one] = min(placed[one], placed[one - 1] - gap)
    floor = 0.0
    for one in reversed(range(len(placed))):
        placed[one] = max(placed[one], floor)
        floor = placed[one] + gap
    return placed


def _change(axes: Axes, traced: OrderTrace) -> None:
    """Draws the change of the state at each frame; the first frame, which starts from an empty state, is hollow."""
    places, most = np.arange(1, len(traced.frames_T) + 1), traced.most_changed
    colors = [GREY] * len(places)
    colors[most] = INK
    axes.vlines(places, 0, traced.change_T, colors=colors, linewidth=1.2)
    axes.scatter(places, traced.change_T, c=[PAPER, *colors[1:]], edgecolors=colors, s=22, zorder=6, clip_on=False)
    axes.set_ylim(0, 1.12 * float(traced.change_T.max()) or 1.0)
    axes.set_ylabel("change", fontsize=TEXT)
    axes.tick_params(axis="y", labelsize=TEXT)
    axes.locator_params(axis="y", nbins=3)
    axes.text(1.03, 0.5, f"largest change: frame {most + 1}\n(the first starts from zero)", transform=axes.transAxes,
              va="center", fontsize=TEXT, linespacing=1.5)  # fmt: skip


def _time_axis(axes: Axes, video: Video, places: Sequence[int]) -> None:
    """Labels columns with frame numbers and, if known, times in seconds."""
    labels = [str(place + 1) for place in places]
    if video.times_s_T is None:
        return _frame_axis(axes, labels, places)
    digits = 2 if video.times_s_T[-1] < 10 else 1 if video.times_s_T[-1] < 100 else 0
    seconds = [f"{video.times_s_T[place]:.{digits}f}" for place in places]
    both = [f"{label}\n{second}" for label, second in zip(labels, seconds, strict=True)]
    _frame_axis(axes, both, places, "frame\nseconds")


def _frame_axis(axes: Axes, labels: Sequence[str], places: Sequence[int], text: str = "frame") -> None:
    axes.set_xticks([place + 1 for place in places], labels, fontsize=TEXT)
    axes.tick_params(axis="x", length=2.5, pad=3)
    axes.annotate(text, (0, 0), (-9, -5.5), "axes fraction", "offset points", ha="right", va="top", fontsize=TEXT,
                  color=GREY, linespacing=1.2)  # fmt: skip


def _headings(panels: dict[str, Axes], inspection: Inspection) -> None:
    layer = f" (layer {inspection.layer} of {inspection.num_layers})" if inspection.num_layers > 1 else ""
    texts = {
        "video": "In order: frames seen by the model",
        "states": states_heading(inspection) + layer,
        "answers": "Prediction after each frame",
        "change": "Change of the state at each frame, relative to the RMS norm of the states" + layer,
        "shuffled video": f"Shuffled: the same frames in random order (seed {inspection.seed})",
        "reversed video": "Reversed: the same frames in reverse order",
    }
    for name, text in texts.items():
        panels[name].annotate(text, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=NAME, fontweight="bold")


def states_heading(inspection: Inspection) -> str:
    """Returns the heading of the heat map."""
    label = shorten(inspection.label, 24)
    if inspection.keeps:
        return "Share of the previous state that each neuron keeps at each frame"
    if inspection.is_memoryless:
        return f"Activations: {label} is memoryless and keeps nothing"
    return f"Activations: {label} keeps no share of the previous state unprocessed"


def _line_at(axes: Axes, place: float) -> None:
    """Draws a dashed vertical line with a halo."""
    axes.axvline(place, color=PAPER, linewidth=2.6, alpha=0.75, zorder=4)
    axes.axvline(place, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), zorder=5)


def _title(figure: Figure, video: Video, inspection: Inspection, colors: dict[int, str]) -> None:
    """Writes the file, the head, and the prediction in each frame order in the colour of its class."""
    height, column_in = figure.get_figheight(), (WIDTH - LEFT - 0.2) / 3
    figure.text(LEFT / WIDTH, 1 - 0.2 / height, title(video, inspection), fontsize=15, fontweight="bold", va="top")
    for place, traced in enumerate(inspection.traces):
        across, gap_in = (LEFT + place * column_in) / WIDTH, column_in - 0.25
        name, text = inspection.class_names[traced.answer], f"{digits(traced.probability)}  "
        figure.text(across, 1 - 0.62 / height, traced.order, fontsize=TEXT, va="top", color=GREY)
        figure.text(across, 1 - 0.79 / height, _fitted(figure, text, name, gap_in, 13), fontsize=13,
                    fontweight="bold", va="top", color=colors[traced.answer])  # fmt: skip
        if not inspection.is_memoryless:
            name = inspection.class_names[int(traced.emptied_C.argmax())]
            text = f"without memory: {digits(float(traced.emptied_C.max()))}  "
            fitted = _fitted(figure, text, name, gap_in, TEXT)
            figure.text(across, 1 - 1.06 / height, fitted, fontsize=TEXT, va="top", color=GREY)
