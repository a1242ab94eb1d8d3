"""Predictions of any model for one clip in many frame orders; the model gives logits for a batch of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.experiments.frame_order_predictions import OrderMeasures, compare, order_measures, predict_orders
from videomem.experiments.model_sensitivity.views import Average, average_views
from videomem.experiments.permutations import IN_ORDER, SHUFFLE, FrameOrders, Perturbation

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PredictionSettings:
    """How clips are permuted and passed to a model; see `videomem.order_sensitivity`."""

    num_permutations: int = 20
    batch_size: int = 8
    seed: int = 0
    device: str | torch.device | None = None
    num_classes: int | None = None
    average: Average | None = None  # over the views of a clip; None: a clip is a single view

    def __post_init__(self) -> None:
        for name in ("num_permutations", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise VideomemError(f"{name} is {value}, but must be at least 1")
        if self.seed < 0:
            raise VideomemError(f"seed is {self.seed}, but must not be negative")


@dataclass(frozen=True)
class ClipPredictions:
    """Predictions for one clip under one perturbation, in K frame orders.

    Attributes:
        correct_K: 1 where the prediction is the label, 0 elsewhere.
        flip_rate: Share of predictions that differ from the prediction in order.
        max_logit_change: Largest absolute change of any logit against the clip in order.
        measures: How far the frame orders are from the original order, on average.
    """

    correct_K: NDArray[np.float64]
    flip_rate: float
    max_logit_change: float
    measures: OrderMeasures


def with_shuffle(suite: Sequence[Perturbation]) -> tuple[Perturbation, ...]:
    """Returns the original order, the shuffle, and the other perturbations of a suite."""
    return (IN_ORDER, SHUFFLE, *(one for one in suite if one.name not in (IN_ORDER.name, SHUFFLE.name)))


@contextmanager
def evaluation_mode(model: Model) -> Iterator[None]:
    """Disables gradients and puts a module into evaluation mode; restores the mode of each submodule on exit."""
    modes = {part: part.training for part in model.modules()} if isinstance(model, nn.Module) else {}
    try:
        if isinstance(model, nn.Module):
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def predict_clip(
    model: Model,
    clip: Tensor | NDArray[Any],
    label: int,
    place: int,
    perturbations: Sequence[Perturbation],
    settings: PredictionSettings,
) -> list[ClipPredictions]:
    """Predicts one clip under each perturbation.

    Args:
        model: Gives logits (B, C) for clips (B, T, ...).
        clip: Frames (T, ...); with `settings.average`, views (V, T, ...). A frame order applies to all views.
        place: Number of the clip, part of the seed of its frame orders.
        perturbations: Perturbations, the first of which must be `IN_ORDER`.
    Raises:
        VideomemError: If the clip, the label or the logits do not have the required form.
    """
    x_VT = as_tensor(clip, place)
    x_VT = x_VT[None] if settings.average is None else x_VT
    length, seed = x_VT.shape[1], (settings.seed, place)
    shown = [one.frame_orders(length, length, settings.num_permutations, seed) for one in perturbations]
    # The model predicts equal frame orders once.
    distinct, which = np.unique(np.concatenate(shown), axis=0, return_inverse=True)
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = settings.device or (torch.device("cpu") if parameter is None else parameter.device)
    logits_VAC = torch.stack([_logits(model, x_T.to(device), distinct, settings, place) for x_T in x_VT])
    averaged_AC = logits_VAC[0] if settings.average is None else average_views(logits_VAC, settings.average)
    logits_AC = averaged_AC[which.reshape(-1)]
    if not label < logits_AC.shape[1]:
        raise VideomemError(f"clip {place} is of class {label}, but the model has {logits_AC.shape[1]} (from 0)")
    parts = logits_AC.split([len(frame_orders) for frame_orders in shown])
    found = []
    for logits_KC, orders_KT in zip(parts, shown, strict=True):
        compared = compare(logits_KC, parts[0][:1], torch.tensor(label))
        found.append(
            ClipPredictions(
                correct_K=compared.correct_B.numpy().astype(np.float64),
                flip_rate=float(compared.flipped_B.numpy().mean()),
                max_logit_change=float(compared.max_logit_change),
                measures=order_measures((row, length) for row in orders_KT),
            )
        )
    return found


def _logits(model: Model, x_T: Tensor, frame_orders: FrameOrders, settings: PredictionSettings, place: int) -> Tensor:
    """Returns logits (A, C) in float64 of frame orders (A, T), predicted in batches of equal size.

    The last batch is filled up, because a batch of another size may give other bits.
    """
    num, batch_size = len(frame_orders), min(settings.batch_size, len(frame_orders))
    filled = np.concatenate([frame_orders, np.repeat(frame_orders[:1], -num % batch_size, axis=0)])
    orders_ABT = torch.from_numpy(filled).to(x_T.device).split(batch_size)
    found = []
    for logits_BC in predict_orders(model, x_T.__getitem__, orders_ABT):
        _check_logits(logits_BC, batch_size, settings.num_classes, place)
        found.append(logits_BC.double().cpu())
    return torch.cat(found)[:num]


def _check_logits(logits_BC: Any, batch_size: int, num_classes: int | None, place: int) -> None:
    if not isinstance(logits_BC, Tensor):
        raise VideomemError(
            f"the model gives a {type(logits_BC).__name__}, but logits (B, C) are needed; wrap it in a function"
        )
    if logits_BC.ndim != 2 or len(logits_BC) != batch_size or num_classes not in (None, logits_BC.shape[1]):
        raise VideomemError(
            f"clip {place}: the model gives {tuple(logits_BC.shape)} for {batch_size} clips, but logits "
            f"({batch_size}, {num_classes or 'C'}) are needed"
        )
    if not torch.isfinite(logits_BC).all():
        raise VideomemError(f"clip {place}: the model's logits are not finite; fix the model or leave the clip out")


def as_tensor(clip: Any, place: int) -> Tensor:
    """Returns a clip as a tensor (T, ...).

    Raises:
        VideomemError: If the clip is not a tensor or numeric array with at least one frame.
    """
    if isinstance(clip, np.ndarray) and clip.dtype != object:
        clip = torch.from_numpy(np.ascontiguousarray(clip))
    if not isinstance(clip, Tensor) or clip.ndim < 1 or len(clip) < 1:
        what = f"of shape {tuple(clip.shape)}" if hasattr(clip, "shape") else f"a {type(clip).__name__}"
        raise VideomemError(f"clip {place} is {what}, but must be a tensor or an array (T, ...) with T at least 1")
    return clip
