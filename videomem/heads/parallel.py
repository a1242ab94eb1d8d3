"""Memories whose gates depend on the current frame only, so that all frames of a clip are processed in parallel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videomem.heads.memory import ForgetBias, ParallelMemory, Update, set_forget_bias
from videomem.heads.scan import at_least_float32


class MinGRU(ParallelMemory):
    """Minimal gated recurrent unit: h_t = (1 - z_t) * h_{t-1} + z_t * W x_t, z_t = sigmoid(W_z x_t + b_z).

    This is coupled `Gated` without the recurrent term in its gate: f_t = 1 - z_t depends on x_t only. The paper
    computes the recurrence in log space and therefore applies a positive function to W x_t; the scan here does not
    need one.

    Args:
        input_dim: D.
        hidden_dim: H.
        forget_bias: Initial bias of the forget gate 1 - z, which is -b_z, or `chrono`.
        max_time_frames: Longest initial time constant with `chrono`, in frames.
    Reference:
        Feng et al. 2024, "Were RNNs all we needed?", section 3.1.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int = 128, forget_bias: ForgetBias = 1.0, max_time_frames: int = 16
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

    f_t = sigmoid(W_f x_t + b_f) and i_t = sigmoid(W_i x_t + b_i) depend on x_t only; f' + i' = 1.

    Args:
        input_dim: D.
        hidden_dim: H.
        forget_bias: Initial b_f, or `chrono`. b_i is initialized to -b_f, so that f' is initially close to f.
        max_time_frames: Longest initial time constant with `chrono`, in frames.
    Reference:
        Feng et al. 2024, "Were RNNs all we needed?", section 3.2.
    """

    def __init__(
        self, input_dim: int, hidden_dim: int = 128, forget_bias: ForgetBias = 1.0, max_time_frames: int = 16
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
        new, forget, write = at_least_float32(terms).chunk(3, dim=-1)
        # log(f / i). Computed in log space: both sigmoids may underflow, and their quotient would be 0 / 0.
        odds = nn.functional.logsigmoid(forget) - nn.functional.logsigmoid(write)
        return Update(torch.sigmoid(odds), torch.sigmoid(-odds) * new)
