"""Memories whose gates see only the frame, never the past, so that all frames of a clip are scanned in parallel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from videomem.heads.memory import ParallelMemory, Update, set_forget_bias
from videomem.heads.scan import at_least_float32


class MinGRU(ParallelMemory):
    """Minimal gated recurrent unit: h_t = (1 - z_t) * h_{t-1} + z_t * W x_t, z_t = sigmoid(W_z x_t + b_z).

    It is `Gated`, coupled, without the recurrent term in its gate: f_t = 1 - z_t sees x_t only. The paper's log-space
    form needs positive candidates and so puts W x_t through a positive function; the scan here takes either sign.

    Args:
        input_dim: D.
        hidden_dim: H.
        forget_bias: Start of the bias of 1 - z, which is -b_z, or `chrono`.
        max_time_frames: Longest time constant that `chrono` starts with, in frames.
    Reference:
        Feng et al. 2024, "Were RNNs all we needed?", section 3.1.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 128,
        forget_bias: float | Literal["chrono"] = 1.0,
        max_time_frames: int = 16,
    ) -> None:
        super().__init__(input_dim, hidden_dim)
        self.input = nn.Linear(input_dim, hidden_dim)
        self.update_gate = nn.Linear(input_dim, hidden_dim)
        set_forget_bias(self.update_gate.bias, forget_bias, max_time_frames)
        self.update_gate.bias.data.neg_()

    def project(self, x: Tensor) -> Tensor:
        return torch.cat([self.input(x), self.update_gate(x)], dim=-1)

    def gates(self, terms: Tensor) -> Update:
        new, gate = at_least_float32(terms).chunk(2, dim=-1)
        return Update(torch.sigmoid(-gate), torch.sigmoid(gate) * new)


class MinLSTM(ParallelMemory):
    """Minimal LSTM: h_t = f'_t * h_{t-1} + i'_t * W x_t, with f' = f / (f + i) and i' = i / (f + i).

    f_t = sigmoid(W_f x_t + b_f) and i_t = sigmoid(W_i x_t + b_i) see x_t only, and their shares add up to 1.

    Args:
        input_dim: D.
        hidden_dim: H.
        forget_bias: Start of b_f, or `chrono`; b_i starts as its negative, so that f' starts near f.
        max_time_frames: Longest time constant that `chrono` starts with, in frames.
    Reference:
        Feng et al. 2024, "Were RNNs all we needed?", section 3.2.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int = 128,
        forget_bias: float | Literal["chrono"] = 1.0,
        max_time_frames: int = 16,
    ) -> None:
        super().__init__(input_dim, hidden_dim)
        self.input = nn.Linear(input_dim, hidden_dim)
        self.forget_gate = nn.Linear(input_dim, hidden_dim)
        self.input_gate = nn.Linear(input_dim, hidden_dim)
        set_forget_bias(self.forget_gate.bias, forget_bias, max_time_frames)
        self.input_gate.bias.data = -self.forget_gate.bias.data

    def project(self, x: Tensor) -> Tensor:
        return torch.cat([self.input(x), self.forget_gate(x), self.input_gate(x)], dim=-1)

    def gates(self, terms: Tensor) -> Update:
        new, forget, take = at_least_float32(terms).chunk(3, dim=-1)
        # log(f / i); the quotient of two sigmoids that both underflow would be 0 / 0.
        odds = nn.functional.logsigmoid(forget) - nn.functional.logsigmoid(take)
        return Update(torch.sigmoid(odds), torch.sigmoid(-odds) * new)
