"""Memories: one equation, one changed term.

    h_t = recurrent term(h_{t-1}, x_t) + W x_t

Only the recurrent term differs. Every memory has three interfaces that agree: `forward` over whole clips, `step` over
a live stream, and `project` followed by `unroll`, which computes what depends on one frame only apart from the
recurrence.

A step is written down as what it keeps and what it takes, kept_t = keep_t * kept_{t-1} + take_t. `keep`, the retention,
is the share of each neuron's past that flows on unprocessed, as along a residual connection.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from videomem.batch import length_mask
from videomem.errors import VideomemError
from videomem.heads.scan import at_least_float32, linear_scan

State = tuple[Tensor, ...]


class Update(NamedTuple):
    """One step of a memory, in (B, H) or what broadcasts to it.

    Attributes:
        keep: Retention in [0, 1]: the share of the past that flows on unprocessed; None where nothing does.
        take: What the step adds: from the frame and, in most memories, from an recurrent term of the past.
        show: Output gate, for a memory that has one.
    """

    keep: Tensor | None
    take: Tensor
    show: Tensor | None = None


class Memory(nn.Module, ABC):
    """What a head keeps of the frames that it has seen.

    A concrete memory says how a frame is projected, what one step of the recurrence keeps and takes, and which state it
    starts from; the loop over time is written here, once.

    Shape:
        x (B, T, D) -> states h (B, T, H); the state carried on is a tuple of (B, H), h_t first, kept_t last
    """

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

    @property
    def memoryless(self) -> bool:
        """True where h_t is a function of x_t alone, so that a state never has to be carried."""
        return False

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """What depends on one frame only: x (..., D) -> terms (..., K)."""

    @abstractmethod
    def update(self, terms_BK: Tensor, state: State) -> Update:
        """What one step keeps of the past and what it takes, from projected terms and the state before."""

    def settle(self, kept_BH: Tensor, update: Update) -> State:
        """The state that follows from kept_t: (h_t,), which is kept_t itself unless an output gate is before it."""
        return (kept_BH,)

    def cell(self, terms_BK: Tensor, state: State) -> State:
        """One step of the recurrence from projected terms; h_t is the first of the new state."""
        update = self.update(terms_BK, state)
        kept_BH = update.take if update.keep is None else update.keep * state[-1] + update.take
        return self.settle(kept_BH, update)

    def initial_state(self, terms_BK: Tensor) -> State:
        """The state before the first frame: zeros."""
        return (terms_BK.new_zeros(terms_BK.shape[0], self.hidden_dim),)

    def activation(self, h: Tensor) -> Tensor:
        """phi: what the readout, the next layer and the recurrent term see of a state."""
        return torch.tanh(h)

    def unroll(self, terms_BTK: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The recurrence over projected terms; padding has states of zero and leaves the carried state as it is."""
        state = self.initial_state(terms_BTK[:, 0]) if state is None else state
        real_BT1 = length_mask(lengths_B, terms_BTK.shape[1]).unsqueeze(2)
        steps = []
        # unbind, since the gradient of each terms_BTK[:, t] would be as large as all of them.
        for terms_BK in terms_BTK.masked_fill(~real_BT1, 0).unbind(1):
            state = self.cell(terms_BK, state)
            steps.append(state)
        states = [torch.stack(parts, dim=1) for parts in zip(*steps, strict=True)]
        last = torch.arange(len(lengths_B), device=lengths_B.device), lengths_B - 1
        return states[0].to(terms_BTK.dtype).masked_fill(~real_BT1, 0), tuple(part_BTH[last] for part_BTH in states)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """States (B, T, H) of whole clips and the state after each clip's last real frame."""
        return self.unroll(self.project(x_BTD), lengths_B, state)

    def step(self, x_BD: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One frame of a stream: h_t (B, H) and the state to hand to the next step."""
        terms_BK = self.project(x_BD)
        state = self.cell(terms_BK, self.initial_state(terms_BK) if state is None else state)
        return state[0].to(terms_BK.dtype), state


class ParallelMemory(Memory):
    """A memory whose gates see only x_t, so that all frames are scanned in parallel; `step` takes them one by one.

    The state that is carried on is in float32 at least, in a model of a smaller type as well.
    """

    @abstractmethod
    def gates(self, terms: Tensor) -> Update:
        """What steps keep and take, (..., H) in float32 at least, from projected terms (..., K) alone."""

    def update(self, terms_BK: Tensor, state: State) -> Update:
        return self.gates(terms_BK)

    def unroll(self, terms_BTK: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.initial_state(terms_BTK[:, 0]) if state is None else state
        keep, take_BTH, _ = self.gates(terms_BTK)
        assert keep is not None
        padding_BT1 = ~length_mask(lengths_B, terms_BTK.shape[1]).unsqueeze(2)
        # Padding keeps all and takes nothing, so the last state is that after the last real frame.
        h_BTH = linear_scan(keep.masked_fill(padding_BT1, 1), take_BTH.masked_fill(padding_BT1, 0), state[-1])
        return h_BTH.to(terms_BTK.dtype).masked_fill(padding_BT1, 0), (h_BTH[:, -1],)


class NoMemory(Memory):
    """Memoryless: h_t = W x_t. With a mean readout this is the frame-averaging classifier.

    Args:
        input_dim: D.
        hidden_dim: H.
    """

    def __init__(self, input_dim: int, hidden_dim: int = 128) -> None:
        super().__init__(input_dim, hidden_dim)
        self.input = nn.Linear(input_dim, hidden_dim)

    @property
    def label(self) -> str:
        return "none"

    @property
    def memoryless(self) -> bool:
        return True

    def project(self, x: Tensor) -> Tensor:
        return self.input(x)

    def update(self, terms_BK: Tensor, state: State) -> Update:
        return Update(None, terms_BK)


class Leaky(ParallelMemory):
    """Leaky integrator: h_t = alpha * h_{t-1} + W x_t; coupled, the input is scaled by 1 - alpha.

    alpha = 0 is `NoMemory`; alpha = 1 is a running sum; between, everything fades alike with time constant
    -1 / log(alpha) frames.

    Args:
        input_dim: D.
        hidden_dim: H.
        alpha: Share of the past kept at each frame, in [0, 1]; where it is learned, the start, in (0, 1).
        learned: Learn one constant per neuron, sigmoid of a parameter, instead of the one fixed alpha.
        coupled: Scale the new input by 1 - alpha, to make room.
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
            limits = "(0, 1) where it is learned" if learned else "[0, 1]"
            raise VideomemError(f"memory.alpha is {alpha}, but must be in {limits}")
        self.alpha = alpha
        self.coupled = coupled
        self.input = nn.Linear(input_dim, hidden_dim)
        start = math.log(alpha / (1 - alpha)) if learned else 0.0
        self.logit_alpha = nn.Parameter(torch.full((hidden_dim,), start)) if learned else None

    @property
    def label(self) -> str:
        return "leaky(learned)" if self.logit_alpha is not None else f"leaky(alpha={self.alpha:g})"

    @property
    def memoryless(self) -> bool:
        return self.logit_alpha is None and self.alpha == 0

    def alpha_H(self) -> Tensor:
        """Share of the past that each neuron keeps (H,), in float32 at least."""
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

    The past is fired and projected again at every step. phi(h_t) is the state of `torch.nn.RNN`.

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
    """Forget gate alone: h_t = f_t * h_{t-1} + (1 - f_t) * W x_t, f_t = sigmoid(W_f x_t + U_f phi(h_{t-1}) + b_f).

    One forget gate per neuron and step. The past flows through unprocessed, as along a residual connection, and is
    dropped selectively. Uncoupled, the input is not scaled by 1 - f_t.

    Args:
        input_dim: D.
        hidden_dim: H.
        coupled: Scale the new input by 1 - f_t, to make room.
        forget_bias: Start of b_f, or `chrono`: log of times drawn uniformly from 1 to `max_time_frames` - 1.
        max_time_frames: Longest time constant that `chrono` starts with, in frames.
    Reference:
        Gers et al. 2000, "Learning to forget"; van der Westhuizen and Lasenby 2018, "The unreasonable effectiveness of
        the forget gate" (the JANET cell); Tallec and Ollivier 2018, eq. 16 (chrono initialisation).
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 128,
        coupled: bool = True,
        forget_bias: float | Literal["chrono"] = 1.0,
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
def set_forget_bias(bias_H: Tensor, start: float | Literal["chrono"], max_time_frames: int) -> None:
    """Fill the bias of a forget gate with a constant, or so that time constants spread from 1 to `max_time_frames`.

    A bias of zero forgets half at every step: a time constant of 1.4 frames.
    """
    if start == "chrono":
        if max_time_frames < 3:
            raise VideomemError(f"memory.max_time_frames is {max_time_frames}, but chrono needs at least 3")
        bias_H.uniform_(1, max_time_frames - 1).log_()
    else:
        bias_H.fill_(start)
