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
    for t in range(take_BTH.shape[1]):
        h_BH = keep_BTH[:, t] * h_BH + take_BTH[:, t]
        states.append(h_BH)
    return torch.stack(states, dim=1)


class _LinearScan(torch.autograd.Function):
    """The gradient of a scan is a scan back in time, of which only the states have to be kept."""

    @staticmethod
    def forward(ctx: Any, keep_BTH: Tensor, take_BTH: Tensor, start_BH: Tensor) -> Tensor:
        first_B1H = torch.addcmul(take_BTH[:, :1], keep_BTH[:, :1], start_BH.unsqueeze(1))
        h_BTH = _scan(keep_BTH, torch.cat([first_B1H, take_BTH[:, 1:]], dim=1))
        ctx.save_for_backward(keep_BTH, h_BTH, start_BH)
        return h_BTH

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BTH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keep_BTH, h_BTH, start_BH = ctx.saved_tensors  # type: ignore[attr-defined]
        # dL/dh_t = grad_t + keep_{t+1} dL/dh_{t+1}, so the last step has no keep after it.
        after_BTH = torch.cat([keep_BTH[:, 1:], torch.zeros_like(keep_BTH[:, :1])], dim=1)
        dh_BTH = _scan(after_BTH.flip(1), grad_BTH.flip(1)).flip(1)
        before_BTH = torch.cat([start_BH.unsqueeze(1), h_BTH[:, :-1]], dim=1)
        return dh_BTH * before_BTH, dh_BTH, dh_BTH[:, 0] * keep_BTH[:, 0]


def _scan(keep_BTH: Tensor, take_BTH: Tensor) -> Tensor:
    """States from zero: pairs of steps are made one step each, half as many are scanned, and the others follow."""
    num_steps = take_BTH.shape[1]
    if num_steps == 1:
        return take_BTH
    paired = slice(0, num_steps // 2 * 2, 2)
    keep_odd, take_odd = keep_BTH[:, 1::2], take_BTH[:, 1::2]
    odd = _scan(keep_odd * keep_BTH[:, paired], torch.addcmul(take_odd, keep_odd, take_BTH[:, paired]))
    h_BTH = torch.empty_like(take_BTH)
    h_BTH[:, 0] = take_BTH[:, 0]
    h_BTH[:, 1::2] = odd
    h_BTH[:, 2::2] = torch.addcmul(take_BTH[:, 2::2], keep_BTH[:, 2::2], odd[:, : (num_steps - 1) // 2])
    return h_BTH
