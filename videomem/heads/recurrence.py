"""Memories with a recurrent term U phi(h_{t-1}) + b, and their gradient in few operations per frame.

Autograd would record every operation of every frame, and add up the gradient of U frame by frame. Here the gates are
saved, the derivatives of all frames are computed at once, only the recursion itself is a loop, and the gradient of U is
one product.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from videomem.heads.memory import Memory, State, Update


class Derivatives(NamedTuple):
    """Elementwise derivatives of a step, for all frames: (..., T, B, H), or (..., T, B, G, H) for G gates.

    Attributes:
        keep: d kept_t / d kept_{t-1}; None: zero.
        gates: d kept_t / d the recurrent term of each gate except an output gate; None: one, for a single term.
        hidden: d h_t / d kept_t; None: one, if h_t is kept_t.
        output: d h_t / d the recurrent term of the output gate, which is the last gate; None if there is none.
    """

    keep: Tensor | None = None
    gates: Tensor | None = None
    hidden: Tensor | None = None
    output: Tensor | None = None


class RecurrentMemory(Memory):
    """Base class of memories with a recurrent term U phi(h_{t-1}) + b.

    A subclass implements `project`, `recurrent_weights`, `combine` and `derivatives`; also `terms_gradient` if the
    gradient of the projected terms is not that of the recurrent term.

    Reference:
        Werbos 1990, "Backpropagation through time: what it does and how to do it".
    """

    @property
    @abstractmethod
    def recurrent_weights(self) -> tuple[Tensor, Tensor | None]:
        """U (R, H), and b (R,) if there is one."""

    @abstractmethod
    def combine(self, terms_BK: Tensor, recurrent_BR: Tensor, state: State) -> Update:
        """What one step keeps and adds, given the recurrent term; elementwise."""

    @abstractmethod
    def derivatives(self, saved: State, before: Tensor, kept: Tensor) -> Derivatives:
        """The derivatives of all steps, given `Update.saved`, kept_{t-1} and kept_t of all frames."""

    def terms_gradient(self, drecurrent: Tensor, dkept: Tensor, saved: State) -> Tensor:
        """Gradient of the projected terms, given those of the recurrent term and of kept_t."""
        return drecurrent

    def slope(self, activated: Tensor) -> Tensor | None:
        """Derivative of phi, given phi(h); None: one."""
        return 1 - activated.square()

    def update(self, terms_BK: Tensor, state: State) -> Update:
        recurrent_BR = nn.functional.linear(self.activation(state[0]), *self.recurrent_weights)
        return self.combine(terms_BK, recurrent_BR, state)

    def states(self, terms_BTK: Tensor, state: State) -> State:
        # Recorded by autograd in a compiled graph, and with autocast, which would change dtypes between frames.
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or (
            torch.is_autocast_enabled("cuda")
        ):  # fmt: skip
            return super().states(terms_BTK, state)
        found = _Unroll.apply(self, terms_BTK, *self.recurrent_weights, *state)
        return tuple(part_TBH.transpose(0, 1) for part_TBH in found[: len(state)])


class _Unroll(torch.autograd.Function):
    """The recurrence of a `RecurrentMemory` over frames; with `vmap`, of several memories with their own weights.

    Shape:
        terms (..., B, T, K), U (..., R, H), b (..., R), state (..., B, H) -> for each frame, the parts of the state,
        phi(h_{t-1}), and `Update.saved`, each (..., T, B, H)
    """

    @staticmethod
    def forward(memory: RecurrentMemory, terms: Tensor, weight: Tensor, bias: Tensor | None, *state: Tensor) -> State:
        steps = []
        for terms_BK in terms.transpose(-3, -2).contiguous().unbind(-3):
            activated = memory.activation(state[0])
            recurrent = activated @ weight.mT
            if bias is not None:
                recurrent += bias.unsqueeze(-2)
            update = memory.combine(terms_BK, recurrent, state)
            state = memory.advance(update, state)
            steps.append((*state, activated, *update.saved))
        return tuple(torch.stack(parts, dim=-3) for parts in zip(*steps, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: State) -> None:
        ctx.memory, _, weight, bias, *state = inputs
        ctx.num_parts, ctx.has_bias = len(state), bias is not None
        ctx.mark_non_differentiable(*output[len(state) :])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, state[-1], *output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], memory: RecurrentMemory, *inputs: Tensor | None) -> Any:
        stacked = [
            part if part is None else part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(inputs, in_dims[1:], strict=True)
        ]
        found = _Unroll.apply(memory, *stacked)
        return found, (0,) * len(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        memory, (weight, start, *outputs) = ctx.memory, ctx.saved_tensors
        kept, activated, *saved = outputs[ctx.num_parts - 1 :]
        num_frames, num_hidden = kept.shape[-3], kept.shape[-1]
        before = torch.cat([start.unsqueeze(-3), kept.narrow(-3, 0, num_frames - 1)], dim=-3)
        step, slope = memory.derivatives(tuple(saved), before, kept), memory.slope(activated)
        dh_T, *dk_T = (torch.zeros_like(kept) if part is None else part for part in gradients[: ctx.num_parts])
        dkept, drecurrent = torch.empty_like(kept), kept.new_empty(*kept.shape[:-1], weight.shape[-2])
        dh = dk = torch.zeros_like(start)
        for t in reversed(range(num_frames)):
            dh = dh + dh_T.select(-3, t)
            dk = dk + (dh if step.hidden is None else dh * step.hidden.select(-3, t))
            if dk_T:
                dk = dk + dk_T[0].select(-3, t)
            dkept.select(-3, t).copy_(dk)
            dr = drecurrent.select(-3, t)
            if step.gates is None:
                dr.copy_(dk)
            else:
                num_gates = step.gates.shape[-2]
                dr_gates = dr.unflatten(-1, (-1, num_hidden))
                torch.mul(step.gates.select(-4, t), dk.unsqueeze(-2), out=dr_gates.narrow(-2, 0, num_gates))
            if step.output is not None:
                torch.mul(step.output.select(-3, t), dh, out=dr.narrow(-1, dr.shape[-1] - num_hidden, num_hidden))
            dh = dr @ weight
            if slope is not None:
                dh = dh * slope.select(-3, t)
            dk = torch.zeros_like(dk) if step.keep is None else dk * step.keep.select(-3, t)
        dterms = memory.terms_gradient(drecurrent, dkept, tuple(saved)).transpose(-3, -2)
        dr_NR, activated_NH = drecurrent.flatten(-3, -2), activated.flatten(-3, -2)
        dbias = dr_NR.sum(-2) if ctx.has_bias else None
        dstart = (dh, dk) if dk_T else (dh + dk,)
        return None, dterms, dr_NR.mT @ activated_NH, dbias, *dstart
