"""The linear recurrence h_t = keep_t * h_{t-1} + take_t, in 2 log2(T) steps that are parallel over time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def linear_scan(keep_BTH: Tensor, take_BTH: Tensor, start_BH: Tensor) -> Tensor:
    """States h (B, T, H) of h_t = keep_t * h_{t-1} + take_t, from h_0 = start.

    It is computed in float32 at least, whatever the type that goes in and comes out: in bfloat16 every retention
    above 0.998 is 1. Products of retentions are formed, never quotients, so nothing overflows where keep is in [0, 1],
    and it needs no logarithms: terms of either sign will do.

    Args:
        keep_BTH: Share of the past that each step keeps, in [0, 1].
        take_BTH: What each step adds.
        start_BH: The state before the first step.
    Reference:
        Blelloch 1990, "Prefix sums and their applications", sections 1.2 and 1.4; Martin and Cundy 2018, "Parallelizing
        linear recurrent neural nets over sequence length", section 2.2.
    """
    wide = (at_least_float32(part) for part in (keep_BTH, take_BTH, start_BH))
    h_BTH: Tensor = _LinearScan.apply(*wide)
    return h_BTH.to(take_BTH.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def linear_loop(keep_BTH: Tensor, take_BTH: Tensor, start_BH: Tensor) -> Tensor:
    """The same, step by step: what `linear_scan` is tested against."""
    states, h_BH = [], start_BH
    for keep_BH, take_BH in zip(keep_BTH.unbind(1), take_BTH.unbind(1), strict=True):
        h_BH = keep_BH * h_BH + take_BH
        states.append(h_BH)
    return torch.stack(states, dim=1)


class _LinearScan(torch.autograd.Function):
    """The gradient of a scan is a scan back in time, of which only the states have to be kept."""

    @staticmethod
    def forward(ctx: Any, keep_BTH: Tensor, take_BTH: Tensor, start_BH: Tensor) -> Tensor:
        h_BTH = take_BTH.clone()
        h_BTH[:, 0].addcmul_(keep_BTH[:, 0], start_BH)
        _scan(keep_BTH.clone(), h_BTH, range(h_BTH.shape[1]))
        ctx.save_for_backward(keep_BTH, h_BTH, start_BH)
        return h_BTH

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep_BTH, h_BTH, start_BH = ctx.saved_tensors  # type: ignore[attr-defined]
        # dL/dh_t = grad_t + keep_{t+1} dL/dh_{t+1}; the last step has no keep after it, and what it gets is not used.
        dh_BTH = grad_BTH.clone()
        _scan(keep_BTH.roll(-1, 1), dh_BTH, range(dh_BTH.shape[1])[::-1])
        dkeep_BTH = dh_BTH.clone()
        dkeep_BTH[:, 1:].mul_(h_BTH[:, :-1])
        dkeep_BTH[:, 0].mul_(start_BH)
        return dkeep_BTH, dh_BTH, dh_BTH[:, 0] * keep_BTH[:, 0]


def _scan(keep_BTH: Tensor, h_BTH: Tensor, steps: range) -> None:
    """Turn what each step takes into states from zero, in place; `keep` is used up, its value at the first step unused.

    Args:
        keep_BTH: Retentions.
        h_BTH: What steps take, then states.
        steps: Frames in the order of the recurrence, forwards or backwards.
    """
    sizes = [2**level for level in range((len(steps) - 1).bit_length())]
    for size in sizes:  # Blocks of `size` steps, which know their state from zero, are joined in pairs.
        earlier, later = _ends(steps, size - 1, size)
        h_BTH[:, later].addcmul_(keep_BTH[:, later], h_BTH[:, earlier])
        keep_BTH[:, later].mul_(keep_BTH[:, earlier])
    for size in reversed(sizes):  # A block that follows a finished pair is finished.
        earlier, later = _ends(steps, 2 * size - 1, size)
        h_BTH[:, later].addcmul_(keep_BTH[:, later], h_BTH[:, earlier])


def _ends(steps: range, first: int, size: int) -> tuple[slice, slice]:
    """Where blocks end, from `first` every second one, and where the blocks after them end."""
    earlier = steps[first : len(steps) - size : 2 * size]
    later = steps[first + size :: 2 * size]
    return _ascending(earlier), _ascending(later)


def _ascending(steps: range) -> slice:
    """The slice of these steps: torch has none that run backwards."""
    ordered = steps if steps.step > 0 else steps[::-1]
    return slice(ordered.start, ordered.stop, ordered.step)
