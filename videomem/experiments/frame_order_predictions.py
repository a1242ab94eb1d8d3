"""Predictions of a model for the same clips in many frame orders, and how they differ from those in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from torch import Tensor

from videomem.experiments.permutations import FrameOrders, adjacency, displacement, kendall_tau
from videomem.statistics.results import Estimate
from videomem.utils.result_models import Number, Text, result_model


@result_model
class PerturbationEffect:
    """The effect of one perturbation on a trained model, over all clips.

    Attributes:
        name: Kind of perturbation, as `Perturbation.name`; `order` where nothing is perturbed.
        label: The kind with its parameter.
        displacement: Mean |i - pi(i)| / T.
        kendall_tau: Kendall's tau-b between shown place and true place; None where it is never defined.
        adjacency: Share of adjacent pairs of frames that stay adjacent, in either direction.
        accuracy: Share of correct predictions, averaged over the frame orders of each clip.
        reliance: Accuracy in order minus accuracy under the perturbation; None where it is 0 by construction: in order,
            and for an order-blind head if every frame is shown once.
    """

    name: Text
    label: Text
    displacement: Number
    kendall_tau: Number | None
    adjacency: Number
    accuracy: Estimate
    reliance: Estimate | None


class OrderMeasures(NamedTuple):
    """Distance of frame orders from the original order, averaged; see the functions of the same names."""

    displacement: float
    kendall_tau: float | None
    adjacency: float


def order_measures(frame_orders: Iterable[tuple[FrameOrders, int]]) -> OrderMeasures:
    """Averages the measures over pairs of a frame order (T,) and the number of its real frames."""
    return mean_measures(OrderMeasures(displacement(*one), kendall_tau(*one), adjacency(*one)) for one in frame_orders)


def mean_measures(measured: Iterable[OrderMeasures]) -> OrderMeasures:
    displacements, taus, adjacencies = zip(*measured, strict=True)
    defined = [tau for tau in taus if tau is not None]
    tau = float(np.mean(defined)) if defined else None
    return OrderMeasures(float(np.mean(displacements)), tau, float(np.mean(adjacencies)))


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
        predicted_B == labels_B, predicted_B != ordered_BC.argmax(1), (logits_BC - ordered_BC).abs().max()
    )


def permute_frames(x_BTK: Tensor, indices_BT: Tensor) -> Tensor:
    """Returns the frames of each clip in the given order: out[b, t] = x[b, indices[b, t]]."""
    return x_BTK.gather(1, indices_BT.unsqueeze(2).expand(-1, -1, x_BTK.shape[2]))


def predict_orders(
    predict: Callable[[Tensor], Tensor], permute: Callable[[Tensor], Tensor], orders_KBT: Iterable[Tensor]
) -> Iterator[Tensor]:
    """Returns an iterator over the logits (B, C) for each of K batches of frame orders (B, T).

    Args:
        predict: Returns logits (B, C) of clips (B, T, ...), such as a model, or a head after its projection.
        permute: Returns clips (B, T, ...) for indices (B, T). `partial(permute_frames, x_BTK)` permutes each clip of
            a batch by one row of the indices; `x_T.__getitem__` shows one clip in B frame orders.
        orders_KBT: Frame orders, on the device of the clips.
    """
    return (predict(permute(indices_BT)) for indices_BT in orders_KBT)
