"""The linear recurrence h_t = keep_t * h_{t-1} + add_t in 2 log2(T) steps that are parallel over time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def linear_scan(keep_BTH: Tensor, add_BTH: Tensor, start_BH: Tensor) -> Tensor:
    """States h (B, T, H) of h_t = keep_t * h_{t-1} + add_t, with h_0 = start.

    The computation is at least float32, whatever the dtype of the inputs: in bfloat16 every retention above 0.998
    rounds to 1. Only products of retentions are formed, so nothing overflows for keep in [0, 1]. No logarithm is taken,
    so `add` may have either sign.

    Args:
        keep_BTH: Retention, the fraction of the previous state that each step keeps, in [0, 1].
        add_BTH: What each step adds.
        start_BH: The state before the first step.
    Reference:
        Blelloch 1990, "Prefix sums and their applications", sections 1.2 and 1.4; Martin and Cundy 2018, "Parallelizing
        linear recurrent neural nets over sequence length", section 2.2.
    """
    wide = (at_least_float32(part) for part in (keep_BTH, add_BTH, start_BH))
    h_BTH: Tensor = _LinearScan.apply(*wide)
    return h_BTH.to(add_BTH.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def linear_loop(keep_BTH: Tensor, add_BTH: Tensor, start_BH: Tensor) -> Tensor:
    """Reference implementation of `linear_scan`, one step at a time."""
    states, h_BH = [], start_BH
    for keep_BH, add_BH in zip(keep_BTH.unbind(1), add_BTH.unbind(1), strict=True):
        h_BH = keep_BH * h_BH + add_BH
        states.append(h_BH)
    return torch.stack(states, dim=1)


class _LinearScan(torch.autograd.Function):
    """The gradient of a scan is a scan backwards in time, so only inputs and states are saved for it."""

    @staticmethod
    def forward(keep_BTH: Tensor, add_BTH: Tensor, start_BH: Tensor) -> Tensor:
        h_BTH = add_BTH.clone()
        h_BTH[:, 0].addcmul_(keep_BTH[:, 0], start_BH)
        _scan(keep_BTH.clone(), h_BTH, range(h_BTH.shape[1]))
        return h_BTH

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        keep_BTH, _, start_BH = inputs
        ctx.save_for_backward(keep_BTH, output, start_BH)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Tensor) -> tuple[Tensor, int]:
        """Several scans are one scan of more clips."""
        stacked = [
            part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(inputs, in_dims, strict=True)
        ]
        h: Tensor = _LinearScan.apply(*(part.flatten(0, 1) for part in stacked))
        return h.unflatten(0, (info.batch_size, -1)), 0

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep_BTH, h_BTH, start_BH = ctx.saved_tensors  # type: ignore[attr-defined]
        # dL/dh_t = grad_t + keep_{t+1} dL/dh_{t+1}. `roll` moves the first keep to the last step, where it is not used.
        dh_BTH = grad_BTH.clone()
        _scan(keep_BTH.roll(-1, 1), dh_BTH, range(dh_BTH.shape[1])[::-1])
        dkeep_BTH = dh_BTH.clone()
        dkeep_BTH[:, 1:].mul_(h_BTH[:, :-1])
        dkeep_BTH[:, 0].mul_(start_BH)
        return dkeep_BTH, dh_BTH, dh_BTH[:, 0] * keep_BTH[:, 0]


def _scan(keep_BTH: Tensor, h_BTH: Tensor, steps: range) -> None:
    """Compute states in place, from a zero state. `keep_BTH` is overwritten; its value at the first step is not used.

    Args:
        keep_BTH: Retentions.
        h_BTH: What each step adds; on return, the states.
        steps: Time indices in the order of the recurrence, ascending or descending.
    """
    sizes = [2**level for level in range((len(steps) - 1).bit_length())]
    for size in sizes:  # Join pairs of blocks of `size` steps, each with its states from zero.
        earlier, later = _ends(steps, size - 1, size)
        h_BTH[:, later].addcmul_(keep_BTH[:, later], h_BTH[:, earlier])
        keep_BTH[:, later].mul_(keep_BTH[:, earlier])
    for size in reversed(sizes):  # Complete the blocks that follow a completed pair.
        earlier, later = _ends(steps, 2 * size - 1, size)
        h_BTH[:, later].addcmul_(keep_BTH[:, later], h_BTH[:, earlier])


def _ends(steps: range, first: int, size: int) -> tuple[slice, slice]:
    """Last steps of every second block, starting at `first`, and last steps of the blocks that follow them."""
    ends = steps[first : len(steps) - size : 2 * size], steps[first + size :: 2 * size]
    # Ascending, since torch does not support negative strides.
    earlier, later = (end if end.step > 0 else end[::-1] for end in ends)
    return slice(earlier.start, earlier.stop, earlier.step), slice(later.start, later.stop, later.step)
