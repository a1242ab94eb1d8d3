"""The inside of one trained head on one video: what each neuron keeps, how the answer grows, what another order does.

The same frames are shown in three orders: as they are, in one shuffle, and reversed. Their features are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import DecodingError, VideomemError
from videomem.experiments import permutations
from videomem.experiments.frame_order_predictions import permute_frames
from videomem.experiments.trace import time_constants, trace
from videomem.heads import Head, MeanReadout, ParallelMemory
from videomem.inference.model import Classifier
from videomem.video.catalog import Clip
from videomem.video.sampling import Uniform

Matrix = NDArray[np.float64]
Order = Literal["in order", "shuffled", "reversed"]
ORDERS: tuple[Order, ...] = ("in order", "shuffled", "reversed")


class Video(NamedTuple):
    """The frames of a video that a model sees.

    Attributes:
        path: The video.
        frames_TCHW: (T, 3, crop, crop) uint8, as the backbone takes them.
        places_T: Place of each among the frames of the video, from 0.
        num_available: N, the frames of the video.
        times_s_T: Seconds from the video's first frame; None for images whose rate is not known.
    """

    path: str
    frames_TCHW: Tensor
    places_T: NDArray[np.int64]
    num_available: int
    times_s_T: Matrix | None

    @property
    def step_s(self) -> float | None:
        """Seconds from one frame to the next, on average."""
        return None if self.times_s_T is None else float(np.diff(self.times_s_T).mean())


class OrderTrace(NamedTuple):
    """The frames shown in one order, and what became of them in one layer of memory and in the answer.

    Attributes:
        order: Which of the three.
        frames_T: Which frame of the video is shown at each place.
        keep_TH: Retention: the share of the past that each step keeps unprocessed. The first step has no past.
        activations_TH: phi(h): what the readout, or the next layer, sees of the states.
        probabilities_TC: Probability of each class, from the readout's answer after each frame; the last is the answer.
        change_T: How much each frame moved the state; see `changes`.
        emptied_C: The answer's probabilities where the head is emptied before every frame, so that it has no memory.
    """

    order: Order
    frames_T: NDArray[np.int64]
    keep_TH: Matrix
    activations_TH: Matrix
    probabilities_TC: Matrix
    change_T: Matrix
    emptied_C: Matrix

    @property
    def answer(self) -> int:
        return int(self.probabilities_TC[-1].argmax())

    @property
    def probability(self) -> float:
        return float(self.probabilities_TC[-1].max())

    @property
    def settled(self) -> int:
        """The place from which on the most probable class is that of the answer."""
        others = np.flatnonzero(self.probabilities_TC.argmax(axis=1) != self.answer)
        return int(others[-1]) + 1 if len(others) else 0

    @property
    def most_changed(self) -> int:
        """The place whose frame moved the state most, the first left out: it meets an empty state."""
        return 1 + int(self.change_T[1:].argmax())


@dataclass(frozen=True)
class Inspection:
    """What one head makes of one video.

    Attributes:
        label: The head's name, such as `gru`.
        class_names: Its classes.
        layer: The layer of memory that is shown, from 1.
        num_layers: Layers of memory there are.
        seed: Seed of the shuffle.
        traces: In order, shuffled, reversed.
        tau_H: Time constant of each neuron in frames, in order; see `clip_time_constants`.
        is_memoryless: The layer and those below it see each frame alone.
        sees_frame_only: What is kept depends on the frame alone, not on what came before it.
        averages: The answer is the mean over frames.
        num_frames_trained: Frames of a clip in training, where that was one number.
    """

    label: str
    class_names: tuple[str, ...]
    layer: int
    num_layers: int
    seed: int
    traces: tuple[OrderTrace, ...]
    tau_H: Matrix
    is_memoryless: bool
    sees_frame_only: bool
    averages: bool
    num_frames_trained: int | None

    @property
    def in_order(self) -> OrderTrace:
        return self.traces[0]

    @property
    def keeps(self) -> bool:
        """Whether anything of the past flows on unprocessed."""
        return bool(self.in_order.keep_TH.any())

    @property
    def keeps_evenly(self) -> bool:
        """Whether each neuron keeps the same share at every frame."""
        return bool(np.ptp(self.in_order.keep_TH, axis=0).max() < 1e-6)


def read_video(
    model: Classifier, video: Path | str | Clip, num_frames: int | None = None, fps: float | None = None
) -> Video:
    """The frames that a model sees of a video.

    Args:
        model: Says how frames are sampled and cropped.
        video: A video, a folder of numbered images, a template of their names, or a clip of a catalog.
        num_frames: T, spread evenly over the video; None samples as in training.
        fps: Frames per second of images.
    Raises:
        VideomemError: If the video cannot be decoded exactly, or gives one frame only, which has no order.
    """
    sampling = None if num_frames is None else Uniform(num_frames)
    clip = video if isinstance(video, Clip) else Clip(str(video), "", "", "", fps=fps)
    path, (frames_TCHW, decoded) = clip.path, model.decode(clip, sampling)
    if decoded.num_available < 2:
        raise DecodingError(f"{path}: has one frame, and one frame has no order; name a video of at least 2")
    if len(frames_TCHW) < 2:
        raise DecodingError(
            f"{path}: so short that the sampling of training takes one frame of it; give --frames, at least 2"
        )
    return Video(path, frames_TCHW, decoded.indices_T, decoded.num_available, decoded.times_s_T)


@torch.inference_mode()
def inspect_frames(model: Classifier, frames_TCHW: Tensor, seed: int = 0, layer: int = 1) -> Inspection:
    """Show a head the same frames in order, in one shuffle and reversed, and keep what happens inside.

    Args:
        model: The head, with its backbone, on any device.
        frames_TCHW: Frames (T, 3, crop, crop) uint8, T >= 2, as `model.read` gives them.
        seed: Seed of the shuffle.
        layer: Which layer of memory to show, from 1.
    Raises:
        VideomemError: If the model has no backbone or not so many layers, or its answers are not finite.
    """
    head, num_frames = model.head, len(frames_TCHW)
    if not 1 <= layer <= len(head.memories):
        raise VideomemError(
            f"--layer {layer}: {head.label} has {len(head.memories)} of memory; give one within 1..{len(head.memories)}"
        )
    x_1TD = model.features(frames_TCHW)[None]
    orders = {
        "in order": permutations.ordered(num_frames, num_frames)[0],
        "shuffled": permutations.shuffled(num_frames, num_frames, 1, (seed,))[0],
        "reversed": permutations.reversed_order(num_frames, num_frames)[0],
    }
    frames_BT = np.stack([orders[name] for name in ORDERS])
    emptied_BC = _numpy(_emptied(head, x_1TD, frames_BT).double().softmax(dim=1))
    traced = trace(head, _in_orders(x_1TD, frames_BT)[0])
    answers_BTC = traced.answers_BTC.clone()
    answers_BTC[:, -1] = _answers(head, x_1TD, frames_BT)
    if not answers_BTC.isfinite().all():
        raise VideomemError(f"{head.label} gives logits that are not finite; its training diverged")
    shown, memory = traced.layers[layer - 1], head.memories[layer - 1]
    keep, activations, kept = (
        _numpy(part) for part in (shown.keep_BTH, memory.activation(shown.h_BTH), shown.kept_BTH)
    )
    probabilities_BTC, size = _numpy(answers_BTC.double().softmax(dim=2)), state_size(kept[0])
    traces = tuple(
        OrderTrace(
            name, frames_BT[b], keep[b], activations[b], probabilities_BTC[b], changes(kept[b], size), emptied_BC[b]
        )
        for b, name in enumerate(ORDERS)
    )
    sampling = model.settings.sampling
    return Inspection(
        head.label,
        tuple(model.class_names),
        layer,
        len(head.memories),
        seed,
        traces,
        tau_H=clip_time_constants(keep[0]),
        is_memoryless=all(one.memoryless for one in head.memories[:layer]),
        sees_frame_only=isinstance(memory, ParallelMemory)
        and all(one.memoryless for one in head.memories[: layer - 1]),
        averages=isinstance(head.readout, MeanReadout),
        num_frames_trained=sampling.num_frames if isinstance(sampling, Uniform) else None,
    )


def _answers(head: Head, x_1TD: Tensor, frames_BT: NDArray[np.int64]) -> Tensor:
    """Logits (B, C) of the video in each order, projected once and permuted: of a head without memory the same bits."""
    return head.forward_projected(*_in_orders(head.project(x_1TD), frames_BT))


def _emptied(head: Head, x_1TD: Tensor, frames_BT: NDArray[np.int64]) -> Tensor:
    """Logits (B, C) of the head emptied before every frame: what the frames alone say, read out in each order.

    A mean readout then cannot see order; a last readout sees nothing but the last frame. An answer that the whole head
    shares with it needs no memory.
    """
    x_T1D = x_1TD.transpose(0, 1)
    logits_T1C = head.frame_logits(x_T1D, torch.ones(len(x_T1D), dtype=torch.int64, device=x_T1D.device))
    return head.readout(*_in_orders(logits_T1C.transpose(0, 1), frames_BT))


def _in_orders(x_1TK: Tensor, frames_BT: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The video's frames in each order (B, T, K), and their lengths (B,)."""
    indices_BT = torch.from_numpy(frames_BT).to(x_1TK.device)
    lengths_B = torch.full((len(frames_BT),), frames_BT.shape[1], device=x_1TK.device)
    return permute_frames(x_1TK.expand(len(frames_BT), -1, -1), indices_BT), lengths_B


def clip_time_constants(keep_TH: Matrix) -> Matrix:
    """Returns the time constant of each neuron over one clip, without the first frame, which has no past to keep.

    Shape:
        keep_TH (T, H), T >= 2 -> (H,), in frames; see `trace.time_constants`
    """
    with np.errstate(divide="ignore"):
        return time_constants(np.log(keep_TH[1:]).mean(axis=0))


def state_size(kept_TH: Matrix) -> float:
    """Usual size of the states of a clip: the root mean square of ||kept_t||, 1 for states of zero."""
    return float(np.sqrt(np.square(kept_TH).sum(axis=1).mean())) or 1.0


def changes(kept_TH: Matrix, size: float) -> Matrix:
    """How much each frame moved the state: ||kept_t - kept_{t-1}|| / size, from a state of zero.

    The unit is one number for the whole clip, the usual size of its states in order, so that places and orders compare.
    Divided by ||kept_t|| + ||kept_{t-1}|| instead, the second frame would win nearly always: states start at zero and
    grow, and what grows changes most, relatively, while it is small. In this unit the first frame counts with the size
    of the state that it makes.

    Shape:
        kept_TH (T, H) -> (T,)
    """
    steps_TH = np.diff(kept_TH, axis=0, prepend=np.zeros_like(kept_TH[:1]))
    return np.asarray(np.linalg.norm(steps_TH, axis=1) / size, dtype=np.float64)


def _numpy(x: Tensor) -> Matrix:
    return x.double().cpu().numpy()
