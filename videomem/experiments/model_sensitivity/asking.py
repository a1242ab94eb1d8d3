"""Putting one clip to a model in many frame orders of its frames: any model that gives logits of a batch of clips."""

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
from videomem.experiments import permutations
from videomem.experiments.permutations import FrameOrders, Perturbation

Model = Callable[[Tensor], Tensor]
_ORDER = Perturbation(
    "order",
    "in order",
    lambda length, num_frames, num, seed: permutations.ordered(length, num_frames),
    is_random=False,
)
_SHUFFLE = permutations.suite(1)[0]


@dataclass(frozen=True)
class Asking:
    """How clips are put to a model; see `videomem.order_sensitivity`."""

    num_permutations: int = 20
    batch_size: int = 8
    seed: int = 0
    device: str | torch.device | None = None
    num_classes: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_permutations", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise VideomemError(f"{name} is {value}, but must be at least 1")
        if self.seed < 0:
            raise VideomemError(f"seed is {self.seed}, but must not be negative")


@dataclass(frozen=True)
class Outcome:
    """One clip under one perturbation, frame orders (K,): what was shown, and whether the answers were right."""

    right_K: NDArray[np.float64]
    flipped: float
    max_logit_change: float
    displacement: float
    kendall_tau: float | None
    adjacency: float


def with_shuffle(suite: Sequence[Perturbation]) -> tuple[Perturbation, ...]:
    """In order, shuffled, and the other perturbations of a perturbation suite."""
    return (
        _ORDER,
        _SHUFFLE,
        *(perturbation for perturbation in suite if perturbation.name not in (_ORDER.name, _SHUFFLE.name)),
    )


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode, if the model is a module, and no gradients; the mode of each part is given back at the end."""
    modes = {part: part.training for part in model.modules()} if isinstance(model, nn.Module) else {}
    try:
        if isinstance(model, nn.Module):
            model.eval()
        with torch.inference_mode():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def ask(
    model: Model,
    clip: Tensor | NDArray[Any],
    label: int,
    place: int,
    perturbations: Sequence[Perturbation],
    asking: Asking,
) -> list[Outcome]:
    """What a model makes of clip number `place` on each perturbation; the first perturbation is the order."""
    x_T = as_tensor(clip, place)
    length, seed = len(x_T), (asking.seed, place)
    shown = [perturbation.frame_orders(length, length, asking.num_permutations, seed) for perturbation in perturbations]
    distinct, which = np.unique(np.concatenate(shown), axis=0, return_inverse=True)
    device = _device_of(model) if asking.device is None else asking.device
    logits_AC = _logits(model, x_T.to(device), distinct, asking, place)[which.reshape(-1)]
    if not label < logits_AC.shape[1]:
        raise VideomemError(f"clip {place} is of class {label}, but the model has {logits_AC.shape[1]} (from 0)")
    parts = np.split(logits_AC, np.cumsum([len(frame_orders) for frame_orders in shown])[:-1])
    return [_outcome(part, parts[0][0], label, frame_orders) for part, frame_orders in zip(parts, shown, strict=True)]


def _logits(model: Model, x_T: Tensor, frame_orders: FrameOrders, asking: Asking, place: int) -> NDArray[np.float64]:
    """Logits (A, C) of frame orders (A, T), in batches that all have as many rows: others may give other bits."""
    num, size = len(frame_orders), min(asking.batch_size, len(frame_orders))
    filled = np.concatenate([frame_orders, np.repeat(frame_orders[:1], -num % size, axis=0)])
    found = []
    for indices_BT in torch.from_numpy(filled).to(x_T.device).split(size):
        logits_BC = model(x_T[indices_BT])
        _check_logits(logits_BC, size, asking.num_classes, place)
        found.append(logits_BC.double().cpu().numpy())
    return np.concatenate(found)[:num]


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


def _outcome(logits_KC: NDArray[np.float64], ordered_C: NDArray[np.float64], label: int, shown: FrameOrders) -> Outcome:
    answers_K, length = logits_KC.argmax(1), shown.shape[1]
    taus = [tau for row in shown if (tau := permutations.kendall_tau(row, length)) is not None]
    return Outcome(
        right_K=(answers_K == label).astype(np.float64),
        flipped=float((answers_K != ordered_C.argmax()).mean()),
        max_logit_change=float(np.abs(logits_KC - ordered_C).max()),
        displacement=float(np.mean([permutations.displacement(row, length) for row in shown])),
        kendall_tau=float(np.mean(taus)) if taus else None,
        adjacency=float(np.mean([permutations.adjacency(row, length) for row in shown])),
    )


def as_tensor(clip: Any, place: int) -> Tensor:
    if isinstance(clip, np.ndarray) and clip.dtype != object:
        clip = torch.from_numpy(np.ascontiguousarray(clip))
    if not isinstance(clip, Tensor) or clip.ndim < 1 or len(clip) < 1:
        what = f"of shape {tuple(clip.shape)}" if hasattr(clip, "shape") else f"a {type(clip).__name__}"
        raise VideomemError(f"clip {place} is {what}, but must be a tensor or an array (T, ...) with T at least 1")
    return clip


def _device_of(model: Model) -> torch.device:
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device
