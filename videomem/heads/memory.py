"""Memories: one equation, one changed term.

    h_t = recurrent term(h_{t-1}, x_t) + W x_t

Only the recurrent term differs; every memory writes it as an `Update`. Every memory has three equivalent interfaces:
`forward` processes whole clips, `step` processes one frame of a stream, and `project` followed by `unroll` computes the
part that depends on single frames separately from the recurrence.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from videomem.batch import last_frames, length_mask, without_padding
from videomem.errors import VideomemError
from videomem.heads.scan import at_least_float32, linear_scan

State = tuple[Tensor, ...]
ForgetBias = float | Literal["chrono"]


class Update(NamedTuple):
    """One step of a memory: kept_t = keep * kept_{t-1} + add. Tensors are (B, H) or broadcast to it.

    Attributes:
        keep: Retention in [0, 1]: the fraction of the previous value that is passed on unchanged, as along a residual
            connection. None: zero.
        add: What the step adds, computed from the frame and, in most memories, from the previous state.
        output_gate: Output gate, if the memory has one.
    """

    keep: Tensor | None
    add: Tensor
    output_gate: Tensor | None = None


class Memory(nn.Module, ABC):
    """Base class of memories.

    A subclass implements `project` and `update`: how a frame is projected, and what one step of the recurrence keeps
    and adds. It overrides `initial_state` and `next_state` if its state is more than h_t. The loop over time is here.

    Args:
        input_dim: D.
        hidden_dim: H.
    Raises:
        VideomemError: If a size is below 1.
    Shape:
        x (B, T, D) -> states h (B, T, H). The carried state is a tuple of (B, H) tensors: first h_t, last kept_t.
    """

    memoryless = False  # Whether h_t depends on x_t alone, so that no state has to be carried.

    def __init__(self, input_dim: int, hidden_dim: int) -> None:
        super().__init__()
        for name, value in (("input_dim", input_dim), ("hidden_dim", hidden_dim)):
            if value < 1:
                raise VideomemError(f"memory.{name} is {value}, but must be at least 1")
        self.input_dim = input_dim
        self.hidden_dim = hidden_dim

    @property
    def label(self) -> str:
        """Name for tables and plots, such as `gated`."""
        return type(self).__name__.lower()

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Compute the terms that depend on single frames only: x (..., D) -> terms (..., K)."""

    @abstractmethod
    def update(self, terms_BK: Tensor, state: State) -> Update:
        """What one step keeps and adds."""

    def next_state(self, kept_BH: Tensor, update: Update) -> State:
        """The new state, given kept_t. Without an output gate h_t is kept_t."""
        return (kept_BH,)

    def cell(self, terms_BK: Tensor, state: State) -> State:
        """One step of the recurrence: the new state, whose first tensor is h_t."""
        update = self.update(terms_BK, state)
        kept_BH = update.add if update.keep is None else update.keep * state[-1] + update.add
        return self.next_state(kept_BH, update)

    def initial_state(self, terms_BK: Tensor) -> State:
        """The state before the first frame, zeros."""
        return (terms_BK.new_zeros(terms_BK.shape[0], self.hidden_dim),)

    def activation(self, h: Tensor) -> Tensor:
        """phi: applied to h before the classifier, the next layer and the recurrent term."""
        return torch.tanh(h)

    def unroll(self, terms_BTK: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Run the recurrence over projected terms.

        Returns:
            States (B, T, H), zero at padding, and the state after the last real frame of each clip.
        """
        state = self.initial_state(terms_BTK[:, 0]) if state is None else state
        steps = []
        # unbind: the gradient of an index terms_BTK[:, t] would be a tensor as large as terms_BTK itself. Padding comes
        # after the real frames, so that it cannot affect their states.
        for terms_BK in terms_BTK.unbind(1):
            state = self.cell(terms_BK, state)
            steps.append(state)
        states = [torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)]
        last = tuple(last_frames(part_BTH, lengths_B) for part_BTH in states)
        return without_padding(states[0].to(terms_BTK.dtype), lengths_B), last

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """States (B, T, H) of clips, zero at padding, and the state after the last real frame of each clip."""
        return self.unroll(self.project(x_BTD), lengths_B, state)

    def step(self, x_BD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Process one frame of a stream: h_t (B, H), and the state for the next step."""
        terms_BK = self.project(x_BD)
        state = self.cell(terms_BK, self.initial_state(terms_BK) if state is None else state)
        return state[0].to(terms_BK.dtype), state


class ParallelMemory(Memory):
    """Base class of memories whose gates depend on x_t only, so that `unroll` is a scan that is parallel over time.

    A subclass implements `project` and `gates`. The carried state is at least float32, even in a half-precision model.
    """

    @abstractmethod
    def gates(self, terms: Tensor) -> Update:
        """What steps keep and add, (..., H) and at least float32, given projected terms (..., K)."""

    def update(self, terms_BK: Tensor, state: State) -> Update:
        return self.gates(terms_BK)

    def unroll(self, terms_BTK: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.initial_state(terms_BTK[:, 0]) if state is None else state
        keep, add_BTH, _ = self.gates(terms_BTK)
        assert keep is not None
        padding_BT1 = ~length_mask(lengths_B, terms_BTK.shape[1]).unsqueeze(2)
        # Padding keeps everything and adds nothing, so the last state is that after the last real frame.
        h_BTH = linear_scan(keep.masked_fill(padding_BT1, 1), add_BTH.masked_fill(padding_BT1, 0), state[-1])
        return without_padding(h_BTH.to(terms_BTK.dtype), lengths_B), (h_BTH[:, -1],)


class NoMemory(Memory):
    """Memoryless: h_t = W x_t. With a mean readout this is the frame-averaging classifier.

    Args:
        input_dim: D.
        hidden_dim: H.
    """

    memoryless = True

    def __init__(self, input_dim: int, hidden_dim: int = 128) -> None:
        super().__init__(input_dim, hidden_dim)
        self.input = nn.Linear(input_dim, hidden_dim)

    @property
    def label(self) -> str:
        return "none"

    def project(self, x: Tensor) -> Tensor:
        return self.input(x)

    def update(self, terms_BK: Tensor, state: State) -> Update:
        return Update(None, terms_BK)

    def unroll(self, terms_BTK: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return without_padding(terms_BTK, lengths_B), (last_frames(terms_BTK, lengths_B),)


class Leaky(ParallelMemory):
    """Leaky integrator: h_t = alpha * h_{t-1} + W x_t.

    alpha = 0 is `NoMemory` and alpha = 1 is a running sum. In between, every past frame decays with the time constant
    -1 / log(alpha) frames.

    Args:
        input_dim: D.
        hidden_dim: H.
        alpha: Fraction of the previous state kept at each frame, in [0, 1]; if learned, its initial value, in (0, 1).
        learned: Learn one alpha per unit, the sigmoid of a parameter, instead of a fixed alpha.
        coupled: Scale the input term W x_t by 1 - alpha.
    Raises:
        VideomemError: If alpha is outside its range.
    Reference:
        Lapicque 1907, the leaky integrate-and-fire neuron without its threshold; Gerstner et al. 2014, eq. 1.5.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int = 128, alpha: float = 0.9, learned: bool = False, coupled: bool = False
    ) -> None:
        super().__init__(input_dim, hidden_dim)
        if not (0 < alpha < 1 if learned else 0 <= alpha <= 1):
            limits = "(0, 1) if learned" if learned else "[0, 1]"
            raise VideomemError(f"memory.alpha is {alpha}, but must be in {limits}")
        self.memoryless = alpha == 0  # A learned alpha is never 0.
        self.alpha = alpha
        self.coupled = coupled
        self.input = nn.Linear(input_dim, hidden_dim)
        start = math.log(alpha / (1 - alpha)) if learned else 0.0
        self.logit_alpha = nn.Parameter(torch.full((hidden_dim,), start)) if learned else None

    @property
    def label(self) -> str:
        return "leaky(learned)" if self.logit_alpha is not None else f"leaky(alpha={self.alpha:g})"

    def alpha_H(self) -> Tensor:
        """alpha of each unit (H,), at least float32."""
        if self.logit_alpha is not None:
            return torch.sigmoid(at_least_float32(self.logit_alpha))
        return at_least_float32(self.input.bias).new_full((self.hidden_dim,), self.alpha)

    def project(self, x: Tensor) -> Tensor:
        terms: Tensor = self.input(x)
        return terms * (1 - self.alpha_H()).to(terms.dtype) if self.coupled else terms

    def gates(self, terms: Tensor) -> Update:
        return Update(self.alpha_H().expand_as(terms), at_least_float32(terms))


class RNN(Memory):
    """Vanilla recurrent network: h_t = U phi(h_{t-1}) + W x_t, phi = tanh.

    The previous state is activated and reprojected at every step. phi(h_t) equals the state of `torch.nn.RNN`.

    Args:
        input_dim: D.
        hidden_dim: H.
    Reference:
        Elman 1990, "Finding structure in time".
    """

    def __init__(self, input_dim: int, hidden_dim: int = 128) -> None:
        super().__init__(input_dim, hidden_dim)
        self.input = nn.Linear(input_dim, hidden_dim)
        self.recurrent = nn.Linear(hidden_dim, hidden_dim, bias=False)
        nn.init.orthogonal_(self.recurrent.weight)

    def project(self, x: Tensor) -> Tensor:
        return self.input(x)

    def update(self, terms_BK: Tensor, state: State) -> Update:
        return Update(None, self.recurrent(self.activation(state[0])) + terms_BK)


class Gated(Memory):
    """A forget gate only: h_t = f_t * h_{t-1} + (1 - f_t) * W x_t, f_t = sigmoid(W_f x_t + U_f phi(h_{t-1}) + b_f).

    There is one forget gate per unit and step. What it keeps passes unchanged, as along a residual connection.

    Args:
        input_dim: D.
        hidden_dim: H.
        coupled: Scale the input term W x_t by 1 - f_t.
        forget_bias: Initial value of b_f, or `chrono`: log(t), with t drawn uniformly from [1, `max_time_frames` - 1].
        max_time_frames: Longest initial time constant with `chrono`, in frames.
    Reference:
        Gers et al. 2000, "Learning to forget"; van der Westhuizen and Lasenby 2018, "The unreasonable effectiveness of
        the forget gate" (the JANET cell); Tallec and Ollivier 2018, eq. 16 (chrono initialization).
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 128,
        coupled: bool = True,
        forget_bias: ForgetBias = 1.0,
        max_time_frames: int = 16,
    ) -> None:
        super().__init__(input_dim, hidden_dim)
        self.coupled = coupled
        self.input = nn.Linear(input_dim, hidden_dim)
        self.forget_input = nn.Linear(input_dim, hidden_dim)
        self.forget_recurrent = nn.Linear(hidden_dim, hidden_dim, bias=False)
        set_forget_bias(self.forget_input.bias, forget_bias, max_time_frames)

    def project(self, x: Tensor) -> Tensor:
        return torch.cat([self.input(x), self.forget_input(x)], dim=-1)

    def update(self, terms_BK: Tensor, state: State) -> Update:
        new, gate = terms_BK.chunk(2, dim=-1)
        forget = torch.sigmoid(gate + self.forget_recurrent(self.activation(state[0])))
        return Update(forget, (1 - forget) * new if self.coupled else new)


@torch.no_grad()
def set_forget_bias(bias_H: Tensor, start: ForgetBias, max_time_frames: int) -> None:
    """Initialize the bias of a forget gate in place. A bias of zero keeps half of the state at every step.

    Args:
        bias_H: The bias.
        start: A constant, or `chrono` for time constants spread between 1 and `max_time_frames` frames.
        max_time_frames: Longest time constant with `chrono`, in frames; at least 3.
    """
    if start == "chrono":
        if max_time_frames < 3:
            raise VideomemError(f"memory.max_time_frames is {max_time_frames}, but must be at least 3 with chrono")
        bias_H.uniform_(1, max_time_frames - 1).log_()
    else:
        bias_H.fill_(start)
