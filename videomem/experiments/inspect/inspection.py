"""Inspection of one trained head on one video: retention, predictions over time, and the effect of frame order.

The same frames are shown in three orders: original, shuffled and reversed. Their features are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import DecodingError, VideomemError
from videomem.experiments.frame_order_predictions import permute_frames
from videomem.experiments.permutations import SHUFFLE_SUITE
from videomem.experiments.trace import in_double, time_constants, trace
from videomem.heads import Head, ParallelMemory
from videomem.inference.model import Classifier
from videomem.video.catalog import Clip
from videomem.video.sampling import Uniform

Matrix = NDArray[np.float64]
ORDERS = ("in order", "shuffled", "reversed")


class Video(NamedTuple):
    """The frames of a video that a model sees.

    Attributes:
        path: Path of the video.
        frames_TCHW: Frames (T, 3, crop, crop) uint8, in the form that the backbone takes.
        places_T: Index of each frame in the video, from 0.
        num_available: Number of frames of the video.
        times_s_T: Seconds since the first frame of the video; None for images without a frame rate.
    """

    path: str
    frames_TCHW: Tensor
    places_T: NDArray[np.int64]
    num_available: int
    times_s_T: Matrix | None

    @property
    def step_s(self) -> float | None:
        """Mean time between consecutive frames in seconds."""
        return None if self.times_s_T is None else float(np.diff(self.times_s_T).mean())


class Prediction(NamedTuple):
    """The most probable class and its probability."""

    answer: int
    probability: float

    @classmethod
    def of(cls, probabilities_C: Matrix) -> Prediction:
        return cls(int(probabilities_C.argmax()), float(probabilities_C.max()))


class OrderTrace(NamedTuple):
    """One layer of memory and the predictions for the frames in one order.

    Attributes:
        order: Frame order, one of `ORDERS`.
        frames_T: Index of the frame shown at each position.
        keep_TH: Retention: the share of the previous state that passes unprocessed. At the first frame there is none.
        activations_TH: phi(h), the input of the readout or the next layer.
        probabilities_TC: Class probabilities of the readout after each frame; the last row is the prediction.
        change_T: Change of the state at each frame; see `changes`.
        emptied_C: Class probabilities if the state is reset before every frame, so that the head has no memory.
    """

    order: str
    frames_T: NDArray[np.int64]
    keep_TH: Matrix
    activations_TH: Matrix
    probabilities_TC: Matrix
    change_T: Matrix
    emptied_C: Matrix

    @property
    def prediction(self) -> Prediction:
        return Prediction.of(self.probabilities_TC[-1])

    @property
    def without_memory(self) -> Prediction:
        return Prediction.of(self.emptied_C)

    @property
    def settled(self) -> int:
        """First position from which the most probable class no longer changes."""
        others = np.flatnonzero(self.probabilities_TC.argmax(axis=1) != self.prediction.answer)
        return int(others[-1]) + 1 if len(others) else 0

    @property
    def most_changed(self) -> int:
        """Position of the largest change of the state, without the first frame, which starts from an empty state."""
        return 1 + int(self.change_T[1:].argmax())


@dataclass(frozen=True)
class Inspection:
    """States and predictions of one head on one video.

    Attributes:
        label: Label of the head, such as `gru`.
        class_names: Names of the classes.
        layer: Number of the inspected layer of memory, from 1.
        num_layers: Number of layers of memory.
        seed: Seed of the shuffle.
        traces: Traces in order, shuffled and reversed.
        is_memoryless: Whether the layer and all layers before it process each frame alone.
        sees_frame_only: Whether the retention depends on the current frame alone.
        readout_is_order_blind: Whether the readout ignores the order of the frames.
        num_frames_trained: Number of frames per clip in training; None if it varied.
    """

    label: str
    class_names: tuple[str, ...]
    layer: int
    num_layers: int
    seed: int
    traces: tuple[OrderTrace, ...]
    is_memoryless: bool
    sees_frame_only: bool
    readout_is_order_blind: bool
    num_frames_trained: int | None

    @property
    def in_order(self) -> OrderTrace:
        return self.traces[0]

    @property
    def tau_H(self) -> Matrix:
        """Time constant of each hidden unit in order, in frames; see `clip_time_constants`."""
        return clip_time_constants(self.in_order.keep_TH)

    @property
    def keeps(self) -> bool:
        """Whether any share of the previous state passes unprocessed."""
        return bool(self.in_order.keep_TH.any())

    @property
    def keeps_evenly(self) -> bool:
        """Whether the retention of each hidden unit is the same at every frame."""
        return bool(np.ptp(self.in_order.keep_TH, axis=0).max() < 1e-6)


def read_video(
    model: Classifier, video: Path | str | Clip, num_frames: int | None = None, fps: float | None = None
) -> Video:
    """Reads the frames of a video that a model sees.

    Args:
        video: A video, a folder of numbered images, a template of their names, or a clip of a catalog.
        num_frames: T, spread evenly over the video; None samples as in training.
    Raises:
        VideomemError: If the video cannot be decoded exactly, only one frame is sampled, or the model has features of
            segments of frames.
    """
    model.settings.backbone.refuse_segments("`videomem inspect`")
    sampling = None if num_frames is None else Uniform(num_frames)
    clip = video if isinstance(video, Clip) else Clip(str(video), "", "", "", fps=fps)
    path, (frames_TCHW, decoded) = clip.path, model.decode(clip, sampling)
    if decoded.num_available < 2:
        raise DecodingError(f"{path}: the video has 1 frame, but at least 2 are needed; use a longer video")
    if len(frames_TCHW) < 2:
        raise DecodingError(
            f"{path}: the training sampling takes 1 frame of this short video, but at least 2 are needed; set --frames"
        )
    return Video(path, frames_TCHW, decoded.indices_T, decoded.num_available, decoded.times_s_T)


@torch.inference_mode()
def inspect_frames(model: Classifier, frames_TCHW: Tensor, seed: int = 0, layer: int = 1) -> Inspection:
    """Runs a head on the same frames in order, shuffled and reversed, and returns its states and predictions.

    Args:
        frames_TCHW: Frames (T, 3, crop, crop) uint8, T >= 2, as returned by `model.read`.
    Raises:
        VideomemError: If the model has no backbone or no such layer, or if its logits are not finite.
    """
    head, num_frames = model.head, len(frames_TCHW)
    num_layers = len(head.memories)
    if not 1 <= layer <= num_layers:
        raise VideomemError(
            f"--layer is {layer}, but {head.label} has {num_layers} layers; choose one in 1..{num_layers}"
        )
    frames_BT = np.concatenate([one.frame_orders(num_frames, num_frames, 1, (seed,)) for one in SHUFFLE_SUITE])
    traces = _order_traces(head, model.features(frames_TCHW)[None], frames_BT, layer)
    sampling = model.settings.sampling
    below_is_memoryless = all(memory.memoryless for memory in head.memories[: layer - 1])
    memory = head.memories[layer - 1]
    return Inspection(
        head.label,
        tuple(model.class_names),
        layer,
        num_layers,
        seed,
        traces,
        is_memoryless=below_is_memoryless and memory.memoryless,
        sees_frame_only=below_is_memoryless and isinstance(memory, ParallelMemory),
        readout_is_order_blind=head.readout.order_blind,
        num_frames_trained=sampling.num_frames if isinstance(sampling, Uniform) else None,
    )


def _order_traces(head: Head, x_1TD: Tensor, frames_BT: NDArray[np.int64], layer: int) -> tuple[OrderTrace, ...]:
    """Returns the traces of one layer for the features of a video in each of the orders `ORDERS`."""
    traced = trace(head, _in_orders(x_1TD, frames_BT)[0])
    answers_BTC = traced.answers_BTC.clone()
    # Projected once and permuted: identical bits in every frame order for a memoryless head.
    answers_BTC[:, -1] = head.forward_projected(*_in_orders(head.project(x_1TD), frames_BT))
    if not answers_BTC.isfinite().all():
        raise VideomemError(f"{head.label}: logits are not finite; its training diverged")
    shown, memory = traced.layers[layer - 1], head.memories[layer - 1]
    # Of a retention near 1, float32 leaves few digits of the time constant.
    exact = trace(in_double(head), _in_orders(x_1TD.double(), frames_BT)[0]).layers[layer - 1]
    parts = (
        exact.keep_BTH,
        memory.activation(shown.h_BTH),
        answers_BTC.double().softmax(dim=2),
        shown.kept_BTH,
        _emptied(head, x_1TD, frames_BT).double().softmax(dim=1),
    )
    keep, activations, probabilities, kept, emptied = (part.double().cpu().numpy() for part in parts)
    change = [changes(kept_TH, state_size(kept[0])) for kept_TH in kept]
    rows = zip(ORDERS, frames_BT, keep, activations, probabilities, change, emptied, strict=True)
    return tuple(OrderTrace(*row) for row in rows)


def _emptied(head: Head, x_1TD: Tensor, frames_BT: NDArray[np.int64]) -> Tensor:
    """Returns logits (B, C) in each frame order if the state is reset before every frame.

    With an order-blind readout they do not depend on frame order; with a last readout they depend on the last frame
    alone. A prediction that is the same with and without the reset needs no memory.
    """
    x_T1D = x_1TD.transpose(0, 1)
    outputs_T1K = head.frame_outputs(x_T1D, torch.ones(len(x_T1D), dtype=torch.int64, device=x_T1D.device))
    return head.readout(*_in_orders(outputs_T1K.transpose(0, 1), frames_BT))


def _in_orders(x_1TK: Tensor, frames_BT: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Returns the frames of the video in each order (B, T, K), and their lengths (B,)."""
    indices_BT = torch.from_numpy(frames_BT).to(x_1TK.device)
    lengths_B = torch.full((len(frames_BT),), frames_BT.shape[1], device=x_1TK.device)
    return permute_frames(x_1TK.expand(len(frames_BT), -1, -1), indices_BT), lengths_B


def clip_time_constants(keep_TH: Matrix) -> Matrix:
    """Returns the time constant of each hidden unit over one clip, without the first frame, which has no past to keep.

    Shape:
        keep_TH (T, H), T >= 2 -> (H,), in frames; see `trace.time_constants`
    """
    with np.errstate(divide="ignore"):
        return time_constants(np.log(keep_TH[1:]).mean(axis=0))


def state_size(kept_TH: Matrix) -> float:
    """Returns the root mean square of ||kept_t|| over the frames of a clip; 1 if all states are zero."""
    return float(np.sqrt(np.square(kept_TH).sum(axis=1).mean())) or 1.0


def changes(kept_TH: Matrix, size: float) -> Matrix:
    """Returns the change of the state at each frame: ||kept_t - kept_{t-1}|| / size, starting from a state of zero.

    One unit for the whole clip, the RMS norm of its states in order, makes positions and frame orders comparable; with
    a unit per frame, the second frame would nearly always change most, because states start at zero.

    Shape:
        kept_TH (T, H) -> (T,)
    """
    steps_TH = np.diff(kept_TH, axis=0, prepend=np.zeros_like(kept_TH[:1]))
    return np.asarray(np.linalg.norm(steps_TH, axis=1) / size, dtype=np.float64)
