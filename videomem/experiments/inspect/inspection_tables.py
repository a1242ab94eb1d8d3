"""The tables of `videomem inspect`, with short notes on what the numbers mean for this head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videomem.experiments.drawing import shorten
from videomem.experiments.inspect.inspection import Inspection, Matrix, Video
from videomem.experiments.tables import Column, Table

SAME = 0.02  # probabilities that differ by less count as equal


@dataclass(frozen=True)
class InspectionText:
    """Headline, tables and notes about one head on one video.

    Attributes:
        headline: The predictions in the three frame orders.
        predictions: Table of the predictions in each frame order, with and without memory.
        predictions_note: Whether the predictions depend on frame order and on memory.
        timing: Table of the frames at which the prediction and the state changed most.
        retention: Table of time constants and of retention.
        retention_note: How this memory keeps its state.
        limits: What the page does not show.
    """

    headline: str
    predictions: Table
    predictions_note: str
    timing: Table
    retention: Table
    retention_note: str
    limits: str


def inspection_text(video: Video, inspection: Inspection) -> InspectionText:
    """Returns the tables and notes about a head on a video."""
    return InspectionText(
        headline=_headline(inspection),
        predictions=_predictions(inspection),
        predictions_note=_predictions_note(inspection),
        timing=_timing(video, inspection),
        retention=_retention(video, inspection) if inspection.keeps else _activations(inspection),
        retention_note=_retention_note(inspection),
        limits=_limits(video, inspection),
    )


def title(video: Video, inspection: Inspection) -> str:
    return f"{shorten(Path(video.path).name, 60)}: {inspection.label}"


def digits(p: float) -> str:
    """Formats a probability with two digits; only an exact 0 or 1 is shown as such."""
    return "> 0.99" if 0.995 <= p < 1 else "< 0.01" if 0 < p < 0.005 else f"{p:.2f}"


def frames(tau: float, step_s: float | None) -> str:
    """Formats a time constant in frames, and in seconds if the frame rate is known."""
    if tau > 999:
        return "infinite" if math.isinf(tau) else "more than 999 frames"
    text = f"{number_of_frames(tau)} frames"
    return text if step_s is None else f"{text} ({_digits(tau * step_s)} s)"


def number_of_frames(tau: float) -> str:
    """Formats a time constant in frames, with an upper limit beyond the length of any clip."""
    if tau > 999:
        return "∞" if math.isinf(tau) else "> 999"
    return _digits(tau)


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def moment(video: Video, place: int) -> str:
    """Formats a frame of the video in order, as in `frame 7 (0.66 s)`."""
    return f"frame {place + 1}" if video.times_s_T is None else f"frame {place + 1} ({video.times_s_T[place]:.2f} s)"


def quantiles(inspection: Inspection) -> dict[str, float]:
    """Returns quantiles over neurons of the time constants in frames."""
    ranked = np.sort(inspection.tau_H)
    # Between a finite and an infinite time constant no interpolation is possible.
    shares = {"shortest": 0.0, "quarter": 0.25, "half": 0.5, "three quarters": 0.75, "nine tenths": 0.9, "longest": 1.0}
    return {name: float(ranked[math.ceil(share * (len(ranked) - 1))]) for name, share in shares.items()}


def _class(inspection: Inspection, number: int) -> str:
    return f"“{shorten(inspection.class_names[number], 60)}”"


def _most_probable(inspection: Inspection, probabilities_C: Matrix) -> str:
    """Formats the most probable class, as in `“left” (0.93)`."""
    return f"{_class(inspection, int(probabilities_C.argmax()))} ({digits(float(probabilities_C.max()))})"


def _headline(inspection: Inspection) -> str:
    ordered, shuffled, backwards = (_class(inspection, one.answer) for one in inspection.traces)
    if ordered == shuffled == backwards:
        return f"{inspection.label} predicts {ordered} in all three frame orders"
    return f"{inspection.label} predicts {ordered} in order, {shuffled} shuffled, {backwards} reversed"


def _predictions(inspection: Inspection) -> Table:
    columns = (Column("frame order"), Column("prediction"), Column("prediction without memory"))
    num_columns = 2 if inspection.is_memoryless else 3
    rows = [
        (one.order, *(_most_probable(inspection, p) for p in (one.probabilities_TC[-1], one.emptied_C)))
        for one in inspection.traces
    ]
    return Table("predictions", columns[:num_columns], tuple(row[:num_columns] for row in rows))


def _predictions_note(inspection: Inspection) -> str:
    if inspection.is_memoryless:
        return (
            "The head is memoryless and averages over frames: its predictions are identical to the bit."
            if inspection.averages
            else "The head is memoryless and predicts from the last frame alone, which differs between frame orders."
        )
    ordered = inspection.in_order.probabilities_TC[-1]
    moved = max(float(np.abs(ordered - one.probabilities_TC[-1]).max()) for one in inspection.traces[1:])
    effect = (
        "Frame order makes no difference for this video"
        if moved < SAME
        else "The predicted class is the same in all frame orders"
        if len({one.answer for one in inspection.traces}) == 1
        else "The predicted class depends on frame order"
    )
    return f"{effect}; probabilities change by at most {moved:.2f}. {_memory_note(inspection)}"


def _memory_note(inspection: Inspection) -> str:
    """Returns whether the predictions need memory: whether they differ from those with a state reset at each frame."""
    same = [int(one.emptied_C.argmax()) == one.answer for one in inspection.traces]
    reset = "Without memory, the state is reset before every frame"
    if inspection.averages:
        conclusion = (
            "the predictions need no memory" if all(same) else "the predictions that differ from it need memory"
        )
        return f"{reset} and the prediction does not depend on frame order; {conclusion}."
    conclusion = (
        "the predictions above are the same and need no memory"
        if all(same)
        else "some predictions differ and need memory"
        if any(same)
        else "all predictions differ and need memory"
    )
    return f"{reset} and the prediction depends on the last frame alone; {conclusion}."


def _timing(video: Video, inspection: Inspection) -> Table:
    """Returns when, in order, the prediction became constant, its probability rose most and the state changed most."""
    ordered = inspection.in_order
    before = _class(inspection, int(ordered.probabilities_TC[max(ordered.settled - 1, 0)].argmax()))
    rises_T = np.diff(ordered.probabilities_TC[:, ordered.answer])
    rise, most = int(rises_T.argmax()), ordered.most_changed
    what = "activations" if inspection.is_memoryless else "state"
    rows = [
        ("prediction constant from", moment(video, ordered.settled), f"before: {before}" if ordered.settled else ""),
        ("largest rise of its probability", moment(video, 1 + rise), f"{rises_T[rise]:.2f}"),
        (f"largest change of the {what}", moment(video, most), f"{ordered.change_T[most]:.2f} of its RMS norm"),
        (f"median change of the {what}", "", f"{float(np.median(ordered.change_T[1:])):.2f} of its RMS norm"),
    ]
    return Table("timing", (Column("in order"), Column("at"), Column("value")), tuple(rows))


def _retention(video: Video, inspection: Inspection) -> Table:
    """Returns time constants and, where retention varies between frames, its range."""
    of, num_frames = quantiles(inspection), len(video.frames_TCHW)
    names = {"half": "median time constant", "nine tenths": "90 % quantile", "longest": "longest time constant"}
    rows = [("neurons", str(len(inspection.tau_H)))]
    rows += [(name, frames(of[quantile], video.step_s)) for quantile, name in names.items()]
    beyond = int((inspection.tau_H > num_frames).sum())
    rows.append((f"neurons with a time constant above {num_frames} frames", str(beyond)))
    if not inspection.keeps_evenly:
        keep_TH = inspection.in_order.keep_TH
        keep_T, spans_H = keep_TH.mean(axis=1), np.ptp(keep_TH[1:], axis=0)
        for name, place in (("lowest", 1 + int(keep_T[1:].argmin())), ("highest", 1 + int(keep_T[1:].argmax()))):
            rows.append((f"{name} mean retention", f"{keep_T[place]:.2f} at {moment(video, place)}"))
        rows.append(("median range of a neuron's retention", f"{np.median(spans_H):.2f}"))
    return Table("retention", (Column("quantity"), Column("value")), tuple(rows))


def _activations(inspection: Inspection) -> Table:
    signs_TH = np.sign(inspection.in_order.activations_TH)
    turned = int((signs_TH[0] != signs_TH[-1]).sum())
    rows = (
        ("neurons", str(signs_TH.shape[1])),
        ("neurons whose sign differs between the first and the last frame", str(turned)),
    )
    return Table("retention", (Column("quantity"), Column("value")), rows)


def _retention_note(inspection: Inspection) -> str:
    label, meaning = inspection.label, "A time constant is the number of frames after which 37 % of a state remains."
    if inspection.is_memoryless:
        return f"{label} keeps nothing: each state depends on its own frame and on no other."
    if not inspection.keeps:
        return (
            f"{label} has no time constants: at every step the whole previous state is activated and projected, and no "
            "share of it passes unprocessed."
        )
    if inspection.in_order.keep_TH.min() == 1:
        return f"{meaning} {label} keeps everything: its state is the sum over all frames so far and does not decay."
    if inspection.keeps_evenly:
        return f"{meaning} Each neuron of {label} keeps the same share at every frame, independent of the input."
    depends = "the current frame alone" if inspection.sees_frame_only else "the current frame and the previous state"
    return f"{meaning} The retention of {label} depends on {depends}."


def _limits(video: Video, inspection: Inspection) -> str:
    text = "This is one video and one training; it does not show how often the head is right."
    trained, num_frames = inspection.num_frames_trained, len(video.frames_TCHW)
    if trained is not None and trained != num_frames:
        text += f" The head was trained on {trained} frames per clip and sees {num_frames} of this video."
    return f"{text} Use videomem shuffle and videomem order to measure the effect of frame order over many clips."
