"""The tables of `videomem inspect`, with short notes on what the numbers mean for this head."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from videomem.experiments.drawing import shorten
from videomem.experiments.inspect.inspection import Inspection, Prediction, Video
from videomem.experiments.tables import Column, Table

SAME = 0.02  # probabilities that differ by less count as equal
# Between a finite and an infinite time constant no interpolation is possible, so quantiles are those of single units.
QUANTILES = {"shortest": 0.0, "quarter": 0.25, "half": 0.5, "three quarters": 0.75, "nine tenths": 0.9, "longest": 1.0}


class InspectionText(NamedTuple):
    """Headline, tables and notes about one head on one video."""

    headline: str
    predictions: Table
    predictions_note: str
    timing: Table
    retention: Table
    retention_note: str


def inspection_text(video: Video, inspection: Inspection) -> InspectionText:
    """Returns the tables and notes about a head on a video."""
    return InspectionText(
        headline=_headline(inspection),
        predictions=_predictions(inspection),
        predictions_note=_predictions_note(inspection),
        timing=_timing(video, inspection),
        retention=_retention(video, inspection),
        retention_note=_retention_note(inspection),
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
    return text if step_s is None else f"{text} ({_two_digits(tau * step_s)} s)"


def number_of_frames(tau: float) -> str:
    """Formats a time constant in frames, with an upper limit beyond the length of any clip."""
    return _two_digits(tau) if tau <= 999 else "∞" if math.isinf(tau) else "> 999"


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def moment(video: Video, place: int) -> str:
    """Formats a frame of the video in order, as in `frame 7 (0.66 s)`."""
    return f"frame {place + 1}" if video.times_s_T is None else f"frame {place + 1} ({video.times_s_T[place]:.2f} s)"


def quantiles(inspection: Inspection) -> dict[str, float]:
    """Returns quantiles over hidden units of the time constants in frames."""
    return dict(zip(QUANTILES, np.quantile(inspection.tau_H, list(QUANTILES.values()), method="higher"), strict=True))


def _class(inspection: Inspection, number: int) -> str:
    return f"“{shorten(inspection.class_names[number], 60)}”"


def _headline(inspection: Inspection) -> str:
    ordered, shuffled, backwards = (_class(inspection, one.prediction.answer) for one in inspection.traces)
    if ordered == shuffled == backwards:
        return f"{inspection.label} predicts {ordered} in all three frame orders"
    return f"{inspection.label} predicts {ordered} in order, {shuffled} shuffled, {backwards} reversed"


def _predictions(inspection: Inspection) -> Table:
    def show(prediction: Prediction) -> str:
        return f"{_class(inspection, prediction.answer)} ({digits(prediction.probability)})"

    columns = (Column("frame order"), Column("prediction"), Column("prediction without memory"))
    num_columns = 2 if inspection.is_memoryless else 3
    rows = ((one.order, show(one.prediction), show(one.without_memory)) for one in inspection.traces)
    return Table("predictions", columns[:num_columns], tuple(row[:num_columns] for row in rows))


def _predictions_note(inspection: Inspection) -> str:
    """Returns whether predictions depend on frame order, and on memory: do they differ if the state is reset?"""
    if inspection.is_memoryless:
        if inspection.readout_is_order_blind:
            return "The head is memoryless and its readout ignores order: its predictions are identical to the bit."
        return "The head is memoryless and predicts from the last frame alone, which differs between frame orders."
    ordered, *others = (one.probabilities_TC[-1] for one in inspection.traces)
    moved = max(float(np.abs(ordered - other).max()) for other in others)
    answers = [one.prediction.answer for one in inspection.traces]
    same = [one.without_memory.answer == answer for one, answer in zip(inspection.traces, answers, strict=True)]
    effect = _first(
        (moved < SAME, "Frame order makes no difference for this video"),
        (len(set(answers)) == 1, "The predicted class is the same in all frame orders"),
        (True, "The predicted class depends on frame order"),
    )
    depends = (
        "does not depend on frame order" if inspection.readout_is_order_blind else "depends on the last frame alone"
    )
    conclusion = _first(
        (inspection.readout_is_order_blind and all(same), "the predictions need no memory"),
        (inspection.readout_is_order_blind, "the predictions that differ from it need memory"),
        (all(same), "the predictions above are the same and need no memory"),
        (any(same), "some predictions differ and need memory"),
        (True, "all predictions differ and need memory"),
    )
    return (
        f"{effect}; probabilities change by at most {moved:.2f}. Without memory, the state is reset before every frame "
        f"and the prediction {depends}; {conclusion}."
    )


def _first(*sentences: tuple[bool, str]) -> str:
    """Returns the first sentence whose condition holds."""
    return next(sentence for holds, sentence in sentences if holds)


def _timing(video: Video, inspection: Inspection) -> Table:
    """Returns when, in order, the prediction became constant, its probability rose most and the state changed most."""
    ordered = inspection.in_order
    before = _class(inspection, int(ordered.probabilities_TC[max(ordered.settled - 1, 0)].argmax()))
    rises_T = np.diff(ordered.probabilities_TC[:, ordered.prediction.answer])
    rise, most = int(rises_T.argmax()), ordered.most_changed
    what = "activations" if inspection.is_memoryless else "state"
    rows = (
        ("prediction constant from", moment(video, ordered.settled), f"before: {before}" if ordered.settled else ""),
        ("largest rise of its probability", moment(video, 1 + rise), f"{rises_T[rise]:.2f}"),
        (f"largest change of the {what}", moment(video, most), f"{ordered.change_T[most]:.2f} of its RMS norm"),
        (f"median change of the {what}", "", f"{np.median(ordered.change_T[1:]):.2f} of its RMS norm"),
    )
    return Table("timing", (Column("in order"), Column("at"), Column("value")), rows)


def _retention(video: Video, inspection: Inspection) -> Table:
    """Returns time constants and, where retention varies between frames, its range; or how many activations turn."""
    keep_TH, signs_TH = inspection.in_order.keep_TH, np.sign(inspection.in_order.activations_TH)
    rows = {"hidden units": str(keep_TH.shape[1])}
    if inspection.keeps:
        of, num_frames = quantiles(inspection), len(keep_TH)
        names = {"half": "median time constant", "nine tenths": "90 % quantile", "longest": "longest time constant"}
        rows |= {name: frames(of[quantile], video.step_s) for quantile, name in names.items()}
        beyond = f"hidden units with a time constant above {num_frames} frames"
        rows[beyond] = str((inspection.tau_H > num_frames).sum())
    else:
        turned = "hidden units whose sign differs between the first and the last frame"
        rows[turned] = str((signs_TH[0] != signs_TH[-1]).sum())
    if not inspection.keeps_evenly:
        keep_T = keep_TH.mean(axis=1)
        for name, place in (("lowest", 1 + int(keep_T[1:].argmin())), ("highest", 1 + int(keep_T[1:].argmax()))):
            rows[f"{name} mean retention"] = f"{keep_T[place]:.2f} at {moment(video, place)}"
        rows["median range of a hidden unit's retention"] = f"{np.median(np.ptp(keep_TH[1:], axis=0)):.2f}"
    return Table("retention", (Column("quantity"), Column("value")), tuple(rows.items()))


def _retention_note(inspection: Inspection) -> str:
    label, keep_TH = inspection.label, inspection.in_order.keep_TH
    meaning = "A time constant is the number of frames after which 37 % of a state remains."
    sees = "the current frame alone" if inspection.sees_frame_only else "the current frame and the previous state"
    return _first(
        (inspection.is_memoryless, f"{label} keeps nothing: each state depends on its own frame and on no other."),
        (
            not inspection.keeps,
            f"{label} has no time constants: no part of a state is carried to the next one unchanged.",
        ),
        (
            bool((keep_TH == 1).all()),
            f"{meaning} {label} keeps everything: its state, a sum of all frames so far, does not decay.",
        ),
        (inspection.keeps_evenly, f"{meaning} Each hidden unit of {label} keeps the same share at every frame."),
        (True, f"{meaning} The retention of {label} depends on {sees}."),
    )
