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

from videomem.experiments.drawing import INK, PALETTE, PAPER, figure_function, shorten
from videomem.experiments.inspect.inspection import Inspection, Matrix, OrderTrace, Prediction, Video
from videomem.experiments.inspect.inspection_tables import digits, number_of_frames, title

WIDTH = 11.0  # inches; at a display width of 1100 pixels, a point is 1.4 pixels
LEFT, RIGHT, TOP, BOTTOM = 1.1, 2.6, 1.6, 0.5  # margins in inches; the right one holds class names
MOST_THUMBNAILS = 20
THUMBNAIL_PX = 112
LEAST_PROBABILITY = 0.03  # classes that never reach it are summed as others
GRAY = "#8a8a8a"
TEXT, NAME = 9, 10

KEPT = LinearSegmentedColormap.from_list("kept", ["#fff3e0", "#f6c27a", "#8fb8cf", "#2b78ad", "#08305c"])
ACTIVATIONS = LinearSegmentedColormap.from_list("activations", ["#a34100", "#f0b27a", "#fbfaf7", "#7db8dc", "#00446e"])


@figure_function
def draw_inspection(video: Video, inspection: Inspection) -> Figure:
    """Draws pictures, retention, predictions and changes of the state, one column per frame, for all frame orders."""
    shown = Thumbnails(video)
    layer = f" (layer {inspection.layer} of {inspection.num_layers})" if inspection.num_layers > 1 else ""
    rows = (
        (shown.height, 0.0, "In order: frames seen by the model"),
        (2.7, 0.36, f"{_states_heading(inspection)}{layer}"),
        (1.45, 0.36, "Prediction after each frame"),
        (0.85, 0.36, f"Change of the state at each frame, relative to the RMS norm of the states{layer}"),
        (shown.small, 1.02, f"Shuffled: the same frames in random order (seed {inspection.seed})"),
        (1.1, 0.12, ""),
        (shown.small, 0.82, "Reversed: the same frames in reverse order"),
        (1.1, 0.12, ""),
    )
    figure, (pictures, states, answers, change, *others) = _sheet(rows, len(video.frames_TCHW))
    colors = _class_colors(inspection)
    first = inspection.in_order
    shown.draw(pictures, first.frames_T, marked=first.most_changed)
    _states(states, inspection)
    _answers(answers, inspection, first, colors)
    _change(change, first)
    _frame_axis(change, first, shown.places, video.times_s_T)
    for above, below, traced in zip(others[::2], others[1::2], inspection.traces[1:], strict=True):
        shown.draw(above, traced.frames_T)
        _answers(below, inspection, traced, colors)
        _frame_axis(below, traced, shown.places)
    for axes in (states, answers, change):
        axes.axvline(first.most_changed + 1, color=PAPER, linewidth=2.6, alpha=0.75, zorder=4)
        axes.axvline(first.most_changed + 1, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), zorder=5)
    _title(figure, video, inspection, colors)
    return figure


def _class_colors(inspection: Inspection) -> dict[int, str]:
    """Returns the colors of the classes with separate lines: predicted classes, then the most probable others."""
    most_C = np.max([one.probabilities_TC.max(axis=0) for one in inspection.traces], axis=0)
    answers = [one.prediction.answer for one in inspection.traces]
    others = [int(c) for c in np.argsort(-most_C, kind="stable") if most_C[c] >= LEAST_PROBABILITY]
    return dict(zip(dict.fromkeys([*answers, *others]), PALETTE, strict=False))


def _states_heading(inspection: Inspection) -> str:
    """Returns the heading of the heat map."""
    label = shorten(inspection.label, 24)
    if inspection.keeps:
        return "Share of the previous state that each hidden unit keeps at each frame"
    if inspection.is_memoryless:
        return f"Activations: {label} is memoryless and keeps nothing"
    return f"Activations: {label} keeps no share of the previous state unprocessed"


def _sheet(rows: Sequence[tuple[float, float, str]], num_frames: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure with one panel per row (height, gap above, heading), in inches, and one column per frame."""
    height = TOP + BOTTOM + sum(high + gap for high, gap, _ in rows)
    figure = Figure(figsize=(WIDTH, height))
    downs = accumulate((high + gap for high, gap, _ in rows), initial=TOP)
    panels = []
    for (high, gap, heading), down in zip(rows, downs, strict=False):
        box = (LEFT / WIDTH, 1 - (down + gap + high) / height, 1 - (LEFT + RIGHT) / WIDTH, high / height)
        axes = figure.add_axes(box)
        axes.set_xlim(0.5, num_frames + 0.5)
        axes.set_xticks([])
        axes.tick_params(labelsize=TEXT)
        axes.yaxis.label.set_fontsize(TEXT)
        axes.annotate(heading, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=NAME, fontweight="bold",
                      zorder=4)  # fmt: skip
        panels.append(axes)
    return figure, panels


class Thumbnails:
    """Frames of a video as small pictures above their columns; of a long video, a picture every few columns.

    Attributes:
        places: Positions, from 0, whose frames are shown.
        height: Height in inches of the pictures in order; `small` is the height for the other frame orders.
    """

    def __init__(self, video: Video) -> None:
        num_frames, _, pixels_high, pixels_wide = video.frames_TCHW.shape
        # An odd number, so that a picture is centered over its columns.
        every = math.ceil(num_frames / MOST_THUMBNAILS) // 2 * 2 + 1
        self.places = list(range(every // 2, num_frames - every // 2, every))
        step = max(1, min(pixels_high, pixels_wide) // THUMBNAIL_PX)
        self._frames = video.frames_TCHW.permute(0, 2, 3, 1).cpu().numpy()[:, ::step, ::step]
        self._columns_per_inch = num_frames / (WIDTH - LEFT - RIGHT) * pixels_wide / pixels_high
        highest = 0.96 * every / self._columns_per_inch
        self.height, self.small = min(1.0, highest), min(0.62, highest)

    def draw(self, axes: Axes, frames_T: NDArray[np.int64], marked: int | None = None) -> None:
        """Draws the frames in the given order; the frame at position `marked` gets a border."""
        axes.axis("off")
        axes.set_ylim(0, 1)
        places = list(self.places)
        if marked is not None:  # It takes the space of the nearest one.
            places[min(range(len(places)), key=lambda number: abs(places[number] - marked))] = marked
        half = 0.5 * _inches_high(axes) * self._columns_per_inch
        for place in places:
            axes.imshow(self._frames[int(frames_T[place])], extent=(place + 1 - half, place + 1 + half, 0, 1),
                        aspect="auto", zorder=3 if place == marked else 2)  # fmt: skip
        if marked is not None:
            for color, width in ((PAPER, 5.5), (INK, 2.2)):
                axes.add_patch(Rectangle((marked + 1 - half, 0), 2 * half, 1, fill=False, edgecolor=color,
                                         linewidth=width, clip_on=False, zorder=4))  # fmt: skip
        axes.set_xlim(0.5, len(self._frames) + 0.5)


def _inches_high(axes: Axes) -> float:
    assert isinstance(axes.figure, Figure)
    return float(axes.get_position().height * axes.figure.get_figheight())


def _states(axes: Axes, inspection: Inspection) -> None:
    """Draws the retention of each hidden unit at each frame, or its activation where nothing is kept."""
    first, keeps = inspection.in_order, inspection.keeps
    ranks = np.argsort(-(inspection.tau_H if keeps else _rise(first.activations_TH)), kind="stable")
    values_HT = (first.keep_TH if keeps else first.activations_TH).T[ranks]
    num_units, num_frames = values_HT.shape
    if keeps:
        values_HT[:, 0] = np.nan
        axes.add_patch(Rectangle((0.5, 0), 1, num_units, facecolor="none", edgecolor=INK, alpha=0.25, hatch="///",
                                 linewidth=0))  # fmt: skip
        if num_frames <= 40:
            axes.text(1, num_units / 2, "no previous state", rotation=90, ha="center", va="center", fontsize=8)
    image = axes.imshow(values_HT, cmap=KEPT if keeps else ACTIVATIONS, vmin=0 if keeps else -1, vmax=1, aspect="auto",
                        interpolation="nearest", extent=(0.5, num_frames + 0.5, num_units, 0))  # fmt: skip
    _unit_axis(axes, inspection.tau_H[ranks] if keeps else None, num_units)
    bar = axes.inset_axes((1.03, 0.08, 0.02, 0.84))
    text = "share of state kept" if keeps else "activation φ(h)"
    axes.figure.colorbar(image, cax=bar).set_label(text, fontsize=TEXT)
    bar.tick_params(labelsize=TEXT, width=0.5)
    bar.set_yticks([0, 0.5, 1] if keeps else [-1, 0, 1])


def _unit_axis(axes: Axes, ranked_tau_H: Matrix | None, num_units: int) -> None:
    """Labels rows with time constants, or with their sorting where there are none."""
    last, units = num_units - 1, f"{num_units} hidden unit{'s' if num_units > 1 else ''}"
    if ranked_tau_H is None:
        axes.set_yticks([0.5, last + 0.5], ["rising", "falling"])
        axes.set_ylabel(units)
    else:
        rows = sorted({round(last * share) for share in (0, 0.25, 0.5, 0.75, 1)})
        axes.set_yticks([row + 0.5 for row in rows], [number_of_frames(ranked_tau_H[row]) for row in rows])
        axes.set_ylabel(f"{units}, slowest at top:\ntime constant in frames")


def _rise(activations_TH: Matrix) -> Matrix:
    """Returns the correlation of each activation with time (H,), up to a constant factor."""
    time_T = np.arange(len(activations_TH)) - (len(activations_TH) - 1) / 2
    spread_H = activations_TH.std(axis=0)
    return np.asarray(time_T @ activations_TH / np.where(spread_H > 1e-9, spread_H, np.inf), dtype=np.float64)


def _answers(axes: Axes, inspection: Inspection, traced: OrderTrace, colors: dict[int, str]) -> None:
    """Draws the probabilities of the most probable classes over time, and the sum of all others."""
    places = np.arange(1, len(traced.frames_T) + 1)
    drawn = [c for c in colors if traced.probabilities_TC[:, c].max() >= LEAST_PROBABILITY]
    lines = [(inspection.class_names[c], traced.probabilities_TC[:, c], colors[c]) for c in drawn]
    if num_others := len(inspection.class_names) - len(drawn):
        others_T = np.delete(traced.probabilities_TC, drawn, axis=1).sum(axis=1)
        lines.append((f"{num_others} other{'s' if num_others > 1 else ''}", others_T, GRAY))
    for rank, (_, values, color) in enumerate(lines):
        axes.plot(places, values, color=color, linestyle=(0, (3, 2)) if color == GRAY else "-", linewidth=1.8,
                  marker="o", markersize=3.2 if len(places) <= 40 else 0, zorder=20 - rank, clip_on=False)  # fmt: skip
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.grid(axis="y", color=INK, alpha=0.13, linewidth=0.6)
    axes.set_ylabel("probability")
    _beside(axes, [(name, float(values[-1]), color) for name, values, color in lines], 0.165 / _inches_high(axes))


def _beside(axes: Axes, ends: Sequence[tuple[str, float, str]], gap: float) -> None:
    """Writes names and probabilities to the right of the ends of their lines, at least `gap` apart."""
    ranked = sorted(ends, key=lambda end: -end[1])
    heights = spread([value for _, value, _ in ranked], gap)
    width_in = RIGHT - 0.1 - 0.03 * (WIDTH - LEFT - RIGHT)
    for (name, value, color), height in zip(ranked, heights, strict=True):
        axes.annotate("", (1.0, value), (1.022, height), "axes fraction", "axes fraction",
                      arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.8})  # fmt: skip
        text = _fitted(f"{digits(value)}  ", name, width_in, TEXT)
        axes.text(1.03, height, text, transform=axes.transAxes, color=color, va="center", fontsize=TEXT,
                  fontweight="normal" if color == GRAY else "bold")  # fmt: skip


def _fitted(before: str, name: str, width_in: float, points: float) -> str:
    """Returns a text and a name, shortened in its middle until both fit into `width_in` inches in bold."""
    figure, text = Figure(), before
    for limit in range(48, 5, -1):
        text = before + shorten(name, limit)
        drawn = Text(0, 0, text, fontsize=points, fontweight="bold", figure=figure)
        if drawn.get_window_extent().width <= width_in * figure.dpi:
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
    colors = [GRAY] * len(places)
    colors[most] = INK
    axes.vlines(places, 0, traced.change_T, colors=colors, linewidth=1.2)
    axes.scatter(places, traced.change_T, c=[PAPER, *colors[1:]], edgecolors=colors, s=22, zorder=6, clip_on=False)
    axes.set_ylim(0, 1.12 * float(traced.change_T.max()) or 1.0)
    axes.set_ylabel("change")
    axes.locator_params(axis="y", nbins=3)
    axes.text(1.03, 0.5, f"largest change: frame {most + 1}\n(the first starts from zero)", transform=axes.transAxes,
              va="center", fontsize=TEXT, linespacing=1.5)  # fmt: skip


def _frame_axis(axes: Axes, traced: OrderTrace, places: Sequence[int], times_s_T: Matrix | None = None) -> None:
    """Labels columns with frame numbers and, if given, times in seconds."""
    labels, text = [str(traced.frames_T[place] + 1) for place in places], "frame"
    if times_s_T is not None:
        decimals = 2 if times_s_T[-1] < 10 else 1 if times_s_T[-1] < 100 else 0
        labels = [f"{label}\n{times_s_T[place]:.{decimals}f}" for label, place in zip(labels, places, strict=True)]
        text = "frame\nseconds"
    axes.set_xticks([place + 1 for place in places], labels)
    axes.tick_params(axis="x", length=2.5, pad=3)
    axes.annotate(text, (0, 0), (-9, -5.5), "axes fraction", "offset points", ha="right", va="top", fontsize=TEXT,
                  color=GRAY, linespacing=1.2)  # fmt: skip


def _title(figure: Figure, video: Video, inspection: Inspection, colors: dict[int, str]) -> None:
    """Writes the file, the head, and the prediction in each frame order in the color of its class."""
    height, column_in = figure.get_figheight(), (WIDTH - LEFT - 0.2) / 3

    def write(left_in: float, top_in: float, text: str, prediction: Prediction | None = None, **style: Any) -> None:
        if prediction is not None:
            text = f"{text}{digits(prediction.probability)}  "
            text = _fitted(text, inspection.class_names[prediction.answer], column_in - 0.25, style["fontsize"])
        figure.text(left_in / WIDTH, 1 - top_in / height, text, va="top", **style)

    write(LEFT, 0.2, title(video, inspection), fontsize=15, fontweight="bold")
    for number, traced in enumerate(inspection.traces):
        left_in, color = LEFT + number * column_in, colors[traced.prediction.answer]
        write(left_in, 0.62, traced.order, fontsize=TEXT, color=GRAY)
        write(left_in, 0.79, "", traced.prediction, fontsize=13, fontweight="bold", color=color)
        if not inspection.is_memoryless:
            write(left_in, 1.06, "without memory: ", traced.without_memory, fontsize=TEXT, color=GRAY)
