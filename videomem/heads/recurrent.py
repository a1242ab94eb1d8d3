"""`torch.nn.GRU` and `torch.nn.LSTM` as memories: torch's kernels for whole clips, a readable cell for the rest."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from videomem.batch import last_frames, without_padding
from videomem.heads.memory import ForgetBias, Memory, State, Update, set_forget_bias

# On a CPU, torch's fused kernel is faster for inputs up to this size; above it, the loop in `Memory` trains faster.
MAX_FUSED_INPUT_DIM = 512


class _TorchRecurrent(Memory):
    """Base of `GRU` and `LSTM`: the weights are in a `torch.nn` module, whose states need no further activation."""

    network: type[nn.GRU] | type[nn.LSTM]
    forget_gate: int  # Place of the gate that multiplies the previous state.
    use_kernel = True  # False: always run the loop, which torch.func can transform.

    def __init__(
        self, input_dim: int, hidden_dim: int = 128, forget_bias: ForgetBias = 1.0, max_time_frames: int = 16
    ) -> None:
        super().__init__(input_dim, hidden_dim)
        self.rnn = self.network(input_dim, hidden_dim, batch_first=True)
        # torch.nn has two biases per gate; the second one is set to zero.
        rows = slice(self.forget_gate * hidden_dim, (self.forget_gate + 1) * hidden_dim)
        set_forget_bias(self.weights("ih")[1].data[rows], forget_bias, max_time_frames)
        self.weights("hh")[1].data[rows] = 0

    def activation(self, h: Tensor) -> Tensor:
        return h

    def project(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, *self.weights("ih"))

    def weights(self, side: Literal["ih", "hh"]) -> tuple[Tensor, Tensor]:
        """Weight and bias of the input (`ih`) or of the recurrent term (`hh`), named as in torch.nn."""
        return getattr(self.rnn, f"weight_{side}_l0"), getattr(self.rnn, f"bias_{side}_l0")

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """States of clips, by torch's kernel or, for wide inputs on a CPU, by the loop, whichever is faster."""
        if not self.use_kernel or (not x_BTD.is_cuda and self.input_dim > MAX_FUSED_INPUT_DIM):
            return super().forward(x_BTD, lengths_B, state)
        return self.forward_library(x_BTD, lengths_B, state)

    @abstractmethod
    def forward_library(self, x_BTD: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """States (B, T, H) of clips and the state after the last real frame of each clip, by torch's kernel."""


class GRU(_TorchRecurrent):
    """Gated recurrent unit: h_t = z_t * h_{t-1} + (1 - z_t) * n_t, as `torch.nn.GRU`.

    In torch the update gate z multiplies the previous state, as the forget gate of `Gated` does. The reset gate r in
    n_t = tanh(W_n x_t + r_t * (U_n h_{t-1} + b_n)) has no counterpart there.

    Args:
        input_dim: D.
        hidden_dim: H.
        forget_bias: Initial bias of z, or `chrono`.
        max_time_frames: Longest initial time constant with `chrono`, in frames.
    Reference:
        Cho et al. 2014, eqs. 5-8.
    """

    network = nn.GRU
    forget_gate = 1  # Of r, z, n.

    def update(self, terms_BK: Tensor, state: State) -> Update:
        reset_x, keep_x, new_x = terms_BK.chunk(3, dim=-1)
        recurrent = nn.functional.linear(state[0], *self.weights("hh"))
        reset_h, keep_h, new_h = recurrent.chunk(3, dim=-1)
        keep = torch.sigmoid(keep_x + keep_h)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        return Update(keep, (1 - keep) * new)

    def forward_library(self, x_BTD: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """torch's kernel, without packing: padding comes after the real frames, so it cannot affect their states."""
        out_BTH, _ = self.rnn(x_BTD, None if state is None else state[0].unsqueeze(0))
        return without_padding(out_BTH, lengths_B), (last_frames(out_BTH, lengths_B),)


class LSTM(_TorchRecurrent):
    """Long short-term memory: c_t = f_t * c_{t-1} + i_t * g_t, h_t = o_t * tanh(c_t), as `torch.nn.LSTM`.

    Args:
        input_dim: D.
        hidden_dim: H.
        forget_bias: Initial bias of f, or `chrono`.
        max_time_frames: Longest initial time constant with `chrono`, in frames.
    Reference:
        Hochreiter and Schmidhuber 1997; Gers et al. 2000 (the forget gate).
    """

    network = nn.LSTM
    forget_gate = 1  # Of i, f, g, o.

    def initial_state(self, terms_BK: Tensor) -> State:
        zeros = terms_BK.new_zeros(terms_BK.shape[0], self.hidden_dim)
        return zeros, zeros

    def update(self, terms_BK: Tensor, state: State) -> Update:
        recurrent = nn.functional.linear(state[0], *self.weights("hh"))
        write, forget, new, out = (terms_BK + recurrent).chunk(4, dim=-1)
        return Update(torch.sigmoid(forget), torch.sigmoid(write) * torch.tanh(new), torch.sigmoid(out))

    def next_state(self, kept_BH: Tensor, update: Update) -> State:
        assert update.output_gate is not None
        return update.output_gate * torch.tanh(kept_BH), kept_BH

    def forward_library(self, x_BTD: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """torch's kernel over packed sequences, since it returns c_t only at the end of a sequence."""
        packed = pack_padded_sequence(x_BTD, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
        before = None if state is None else (state[0].unsqueeze(0), state[1].unsqueeze(0))
        out, last = self.rnn(packed, before)
        states_BTH, _ = pad_packed_sequence(out, batch_first=True, total_length=x_BTD.shape[1])
        return states_BTH, tuple(part.squeeze(0) for part in last)
