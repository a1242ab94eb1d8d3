"""Small heads with every memory, and random clips."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videomem.heads import (
    GRU,
    LSTM,
    READOUTS,
    RNN,
    Gated,
    Head,
    Leaky,
    MeanReadout,
    Memory,
    MinGRU,
    MinLSTM,
    NoMemory,
    Position,
    Readout,
    TemporalConv,
)

D, H, C = 7, 5, 3
MEMORIES: dict[str, Callable[[int], Memory]] = {
    "none": partial(NoMemory, hidden_dim=H),
    "leaky alpha=0": partial(Leaky, hidden_dim=H, alpha=0.0),
    "leaky alpha=0.9": partial(Leaky, hidden_dim=H, alpha=0.9),
    "leaky alpha=1": partial(Leaky, hidden_dim=H, alpha=1.0),
    "leaky coupled": partial(Leaky, hidden_dim=H, alpha=0.7, coupled=True),
    "leaky learned": partial(Leaky, hidden_dim=H, alpha=0.9, learned=True),
    "rnn": partial(RNN, hidden_dim=H),
    "gated": partial(Gated, hidden_dim=H),
    "gated uncoupled": partial(Gated, hidden_dim=H, coupled=False),
    "gated chrono": partial(Gated, hidden_dim=H, forget_bias="chrono"),
    "gru": partial(GRU, hidden_dim=H),
    "lstm": partial(LSTM, hidden_dim=H),
    "mingru": partial(MinGRU, hidden_dim=H),
    "minlstm": partial(MinLSTM, hidden_dim=H, forget_bias=2.0),
    "position": partial(Position, hidden_dim=H),
    "conv": partial(TemporalConv, hidden_dim=H, kernel_size=3),
}
every_memory = pytest.mark.parametrize("name", MEMORIES)
every_readout = pytest.mark.parametrize("readout", READOUTS.values())
one_and_two_layers = pytest.mark.parametrize("num_layers", [1, 2])


def clips(num: int = 4, frames: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, frames + 1, (num,), generator=generator)
    lengths[0] = frames
    x = torch.randn(num, frames, D, generator=generator)
    x[torch.arange(frames)[None] >= lengths[:, None]] = 0
    return x, lengths


def full_clips(num: int = 4, frames: int = 9, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clips without padding in their lengths."""
    x, lengths = clips(num, frames, seed)
    return x, torch.full_like(lengths, frames)


def steps(module: Memory | Head, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Outputs (B, T, ...) of a memory or head that processes clips frame by frame, and its last state."""
    outputs = []
    for x_BD in x.unbind(1):
        output, state = module.step(x_BD, state)
        outputs.append(output)
    return torch.stack(outputs, dim=1), state


def make(name: str, readout: type[Readout] = MeanReadout, num_layers: int = 1, seed: int = 0,
         dropout: float = 0.0) -> Head:  # fmt: skip
    torch.manual_seed(seed)
    return Head(MEMORIES[name], D, C, num_layers, readout, dropout).eval()


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(one, other, rtol=0, atol=tolerance)


def open_gate(gated: Gated, bias: float) -> None:
    for module in (gated.forget_input, gated.forget_recurrent):
        nn.init.zeros_(module.weight)
    nn.init.constant_(gated.forget_input.bias, bias)
