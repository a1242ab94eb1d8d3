"""Predictions of a model for the same clips in many frame orders, and how they differ from those in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from videomem.experiments.permutations import FrameOrders, Perturbation, adjacency, displacement, kendall_tau


class OrderMeasures(NamedTuple):
    """Distance of frame orders from the original order, averaged; see the functions of the same names."""

    displacement: float
    kendall_tau: float | None
    adjacency: float


def order_measures(frame_orders: Iterable[tuple[FrameOrders, int]]) -> OrderMeasures:
    """Averages the measures over pairs of a frame order (T,) and the number of its real frames."""
    pairs = list(frame_orders)
    taus = [tau for order, length in pairs if (tau := kendall_tau(order, length)) is not None]
    return OrderMeasures(
        displacement=float(np.mean([displacement(order, length) for order, length in pairs])),
        kendall_tau=float(np.mean(taus)) if taus else None,
        adjacency=float(np.mean([adjacency(order, length) for order, length in pairs])),
    )


class Comparison(NamedTuple):
    """Predictions for B permuted clips, compared with those for the same clips in order.

    Attributes:
        correct_B: Whether the prediction is the label.
        flipped_B: Whether the prediction differs from the prediction in order.
        max_logit_change: Largest absolute change of any logit, a scalar.
    """

    correct_B: Tensor
    flipped_B: Tensor
    max_logit_change: Tensor


def compare(logits_BC: Tensor, ordered_BC: Tensor, labels_B: Tensor) -> Comparison:
    """Compares logits of permuted clips with those in order. The results stay on the device of the logits."""
    predicted_B = logits_BC.argmax(1)
    return Comparison(
        correct_B=predicted_B == labels_B,
        flipped_B=predicted_B != ordered_BC.argmax(1),
        max_logit_change=(logits_BC - ordered_BC).abs().max(),
    )


def batch_orders(
    perturbations: Sequence[Perturbation],
    clips: Sequence[int],
    lengths: Sequence[int],
    num_frames: int,
    num_permutations: int,
    seed: int,
) -> Tensor:
    """Returns the frame orders (K, B, T) of a batch of clips, those of all perturbations one after the other.

    Args:
        perturbations: The perturbations.
        clips: Number of each clip. Clip c gets the frame orders of the seed (seed, c) in every batch.
        lengths: Number of real frames of each clip.
        num_frames: T, padding included.
        num_permutations: Number of frame orders of each random perturbation.
        seed: Seed of the frame orders.
    """
    of_clip = [
        np.concatenate([one.frame_orders(length, num_frames, num_permutations, (seed, clip)) for one in perturbations])
        for clip, length in zip(clips, lengths, strict=True)
    ]
    return torch.from_numpy(np.stack(of_clip, axis=1))


def permute_frames(x_BTK: Tensor, indices_BT: Tensor) -> Tensor:
    """Returns the frames of each clip in the given order: out[b, t] = x[b, indices[b, t]]."""
    return x_BTK.gather(1, indices_BT.unsqueeze(2).expand(-1, -1, x_BTK.shape[2]))


def predict_orders(
    predict: Callable[[Tensor], Tensor], permute: Callable[[Tensor], Tensor], orders_KBT: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Yields the logits (B, C) for each of K batches of frame orders (B, T).

    Args:
        predict: Returns logits (B, C) of clips (B, T, ...), such as a model, or a head after its projection.
        permute: Returns clips (B, T, ...) for indices (B, T). `partial(permute_frames, x_BTK)` permutes each clip of
            a batch by one row of the indices; `x_T.__getitem__` shows one clip in B frame orders.
        orders_KBT: Frame orders, on the device of the clips.
    """
    for indices_BT in orders_KBT:
        yield predict(permute(indices_BT))
