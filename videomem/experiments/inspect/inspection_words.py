"""What the figure of `videomem inspect` shows, in words, with the numbers of this video and this head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videomem.experiments.drawing import shorten
from videomem.experiments.inspect.inspection import Inside, Matrix, Passage, Video

SAME = 0.02  # probabilities that differ by less are called the same


@dataclass(frozen=True)
class Words:
    """A headline and what is said of the answers, of when they came, and of what is kept.

    Attributes:
        headline: The answers, in a sentence.
        answers: What each order is called, and what that says.
        moments: When the answer settled, and which frame moved the state most.
        keeping: How long the neurons keep what they hold, or why that cannot be told.
        limits: How far this carries.
    """

    headline: str
    answers: str
    moments: str
    keeping: str
    limits: str

    @property
    def paragraphs(self) -> tuple[str, ...]:
        return self.answers, self.moments, self.keeping, self.limits


def inside_words(video: Video, inside: Inside) -> Words:
    """Every paragraph about a video and the inside of a head."""
    return Words(
        _headline(inside),
        _answers(inside),
        _moments(video, inside),
        _keeping(video, inside),
        _limits(video, inside),
    )


def digits(p: float) -> str:
    """Two digits of a probability, which call nothing certain that is not."""
    return "> 0.99" if 0.995 <= p < 1 else "< 0.01" if 0 < p < 0.005 else f"{p:.2f}"


def frames(tau: float, step_s: float | None) -> str:
    """A time constant in frames, and in seconds where those are known."""
    if tau > 999:
        return "for ever" if math.isinf(tau) else "more than 999 frames"
    said = f"{number_of_frames(tau)} frames"
    return said if step_s is None else f"{said} ({_digits(tau * step_s)} s)"


def number_of_frames(tau: float) -> str:
    """A time constant for reading, with a limit where it is beyond any clip."""
    if tau > 999:
        return "∞" if math.isinf(tau) else "> 999"
    return _digits(tau)


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def moment(video: Video, place: int) -> str:
    """`0.66 s (frame 7)` of the video in order."""
    return f"frame {place + 1}" if video.times_s_T is None else f"frame {place + 1} ({video.times_s_T[place]:.2f} s)"


def quantiles(inside: Inside) -> dict[str, float]:
    """Time constants in frames: the shortest, quarters, the tenth that keeps longest, the longest."""
    ranked = np.sort(inside.tau_H)
    # Between a finite and an infinite time constant nothing can be interpolated.
    shares = {"shortest": 0.0, "quarter": 0.25, "half": 0.5, "three quarters": 0.75, "nine tenths": 0.9, "longest": 1.0}
    return {name: float(ranked[math.ceil(share * (len(ranked) - 1))]) for name, share in shares.items()}


def _class(inside: Inside, number: int) -> str:
    return f"“{shorten(inside.class_names[number], 60)}”"


def _headline(inside: Inside) -> str:
    first, shuffled, backwards = (_class(inside, one.answer) for one in inside.passages)
    if first == shuffled == backwards:
        return f"{inside.label} says {first}, in whatever order"
    if first == shuffled:
        return f"{inside.label} says {first}, in order and shuffled; backwards, {backwards}"
    if first == backwards:
        return f"{inside.label} says {first}, forwards and backwards; shuffled, {shuffled}"
    if shuffled == backwards:
        return f"{inside.label} says {first} in order; shuffled and backwards, {shuffled}"
    return f"{inside.label} says {first} in order, {shuffled} shuffled, {backwards} backwards"


def _answers(inside: Inside) -> str:
    first, shuffled, backwards = inside.passages
    said = f"In order, {inside.label} calls the {len(first.frames_T)} frames {_answer(inside, first)}. "
    if inside.is_memoryless and inside.averages:
        return said + (
            "Shuffled and reversed the answer is the same, to the bit: it sees each frame alone and averages what it "
            "says of them, so it cannot tell a video from its own frames in a hat. Only the way to the answer differs."
        )
    said += f"Shuffled, the same frames are {_answer(inside, shuffled)}; reversed, {_answer(inside, backwards)}. "
    if inside.is_memoryless:
        return said + "It sees each frame alone and only the last one counts: another order is another last frame."
    moved = max(_moved(first, other) for other in (shuffled, backwards))
    if moved < SAME:
        said += "On this video, order makes no difference to it."
    elif len({one.answer for one in inside.passages}) == 1:
        said += f"The name stays, and no class gains or loses more than {moved:.2f} by the order."
    else:
        said += "The frames are the same and only their order differs."
    return f"{said} {_without_memory(inside)}"


def _without_memory(inside: Inside) -> str:
    """What the head says when it is emptied before every frame, and whether its answers need memory."""
    if inside.averages:
        emptied = inside.in_order.emptied_C
        said = f"Emptied before every frame, so that it has no memory, it says {_most(inside, emptied)} in any order"
        needs = any(one.answer != int(emptied.argmax()) for one in inside.passages)
        differ = len({one.answer for one in inside.passages}) > 1
        return said + (": what differs is memory." if differ else ": the answer is memory." if needs else ".")
    alone = [one.emptied_C for one in inside.passages]
    named = [_most(inside, one) for one in alone]
    said = (
        "Emptied before every frame, it has the last frame alone to go by, and says "
        f"{named[0]} in order, {named[1]} shuffled, {named[2]} reversed: "
    )
    same = [int(one.argmax()) == passage.answer for one, passage in zip(alone, inside.passages, strict=True)]
    if all(same):
        return said + "the same names, so they can be read off the last frame and need no memory."
    return said + ("another name each time: the answers are memory." if not any(same) else "so some names need memory.")


def _answer(inside: Inside, passage: Passage) -> str:
    return _most(inside, passage.probabilities_TC[-1])


def _most(inside: Inside, probabilities_C: Matrix) -> str:
    """`“left” (0.93)`."""
    return f"{_class(inside, int(probabilities_C.argmax()))} ({digits(float(probabilities_C.max()))})"


def _moved(one: Passage, other: Passage) -> float:
    return float(np.abs(one.probabilities_TC[-1] - other.probabilities_TC[-1]).max())


def _moments(video: Video, inside: Inside) -> str:
    first = inside.in_order
    if first.settled == 0:
        said = "The answer in order stands from the first frame on. "
    else:
        before = _class(inside, int(first.probabilities_TC[first.settled - 1].argmax()))
        said = (
            f"In order, the answer is settled from {moment(video, first.settled)} on; a frame before, it was {before}. "
        )
    rises_T = np.diff(first.probabilities_TC[:, first.answer])
    if rises_T.max() > 0.05:
        said += f"Its probability rose most at {moment(video, 1 + int(rises_T.argmax()))}, by {rises_T.max():.2f}. "
    what = "What the neurons say" if inside.is_memoryless else "The state"
    size, usual = first.change_T[first.most_changed], float(np.median(first.change_T[1:]))
    return said + (
        f"{what} changed most at {moment(video, first.most_changed)}, by {size:.2f} of its usual size; half of the "
        f"frames change it by less than {usual:.2f}."
    )


def _keeping(video: Video, inside: Inside) -> str:
    if not inside.keeps:
        return _not_keeping(inside)
    if inside.keeps_evenly:
        return f"{_time_constants(video, inside)} {_fading(inside)}"
    keep_T, spans_H = inside.in_order.keep_TH.mean(axis=1), np.ptp(inside.in_order.keep_TH[1:], axis=0)
    closed, open_ = 1 + int(keep_T[1:].argmin()), 1 + int(keep_T[1:].argmax())
    gates = (
        f"Its forget gates close most at {moment(video, closed)}, where neurons keep {keep_T[closed]:.2f} of their "
        f"past on average, and are widest open at {moment(video, open_)}, {keep_T[open_]:.2f}. In half of the "
        f"neurons that share moves by more than {np.median(spans_H):.2f} over the video."
    )
    if inside.sees_frame_only:
        gates += " They see the frame alone: shown backwards, the same columns stand in the other order."
    return f"{_time_constants(video, inside)} {gates}"


def _time_constants(video: Video, inside: Inside) -> str:
    of, num_frames = quantiles(inside), len(video.frames_TCHW)
    beyond, num_neurons = int((inside.tau_H > num_frames).sum()), len(inside.tau_H)
    meaning = "A time constant is how long a neuron takes to lose 63 % of what it holds."
    if of["shortest"] == of["longest"]:
        return f"{meaning} All {num_neurons} neurons have the same, {frames(of['longest'], video.step_s)}."
    half, most, longest = (frames(of[name], video.step_s) for name in ("half", "nine tenths", "longest"))
    return (
        f"{meaning} Half of the {num_neurons} neurons keep less than {half}, a tenth more than {most}, the slowest "
        f"{longest}; {beyond or 'none'} keep longer than this video of {num_frames} frames lasts."
    )


def _fading(inside: Inside) -> str:
    keep = inside.in_order.keep_TH
    if keep.min() == 1:
        return f"{inside.label} keeps everything: its state is a sum over the frames so far, nothing in it ever fades."
    return (
        f"Each keeps the same share at every frame, whatever it sees, hence the even stripes: {inside.label} fades, it "
        "does not choose."
    )


def _not_keeping(inside: Inside) -> str:
    activations_TH = inside.in_order.activations_TH
    turned = int((np.sign(activations_TH[0]) != np.sign(activations_TH[-1])).sum())
    why = (
        f"{inside.label} keeps nothing: each column is made from its own frame and from no other."
        if inside.is_memoryless
        else f"{inside.label} keeps nothing unprocessed: every step fires the whole past and projects it again, as in "
        "the telephone game, so there is no share that is kept and no time constant."
    )
    return (
        f"{why} The map shows what the neurons say instead, those that rise over the video on top; {turned} of "
        f"{activations_TH.shape[1]} have another sign at the last frame than at the first."
    )


def _limits(video: Video, inside: Inside) -> str:
    said = "This is one video and one training: it shows how this head answers, not how often it is right."
    trained, num_frames = inside.num_frames_trained, len(video.frames_TCHW)
    if trained is not None and trained != num_frames:
        said += f" It was trained on {trained} frames of a clip, and sees {num_frames} of this one."
    return f"{said} What order is worth over many clips, videomem shuffle and videomem order measure."


def title(video: Video, inside: Inside) -> str:
    return f"{shorten(Path(video.path).name, 60)}, seen by {inside.label}"
