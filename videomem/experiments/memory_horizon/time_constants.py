"""Time constants of the retention of a layer, and Lyapunov exponents of its whole update."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.experiments.memory_horizon.gradients import ELEMENTS, check_features
from videomem.experiments.trace import Trace, in_double, time_constants, trace
from videomem.heads import Head, Memory, State

Floats = NDArray[np.float64]


@torch.no_grad()
def retention(head: Head, x_BTD: Tensor) -> list[Floats]:
    """Measures the time constants of each layer: tau = -1 / mean(log keep) per hidden unit, over clips and frames.

    The first frame of a clip has no past to keep and is left out, unless it is the only one. `keep` is the share of the
    state that passes unprocessed; it does not include what the recurrent term adds (see `lyapunov`):

    | memory | keep |
    |---|---|
    | `none`, `rnn` | none; tau = 0 |
    | `leaky` | alpha, so tau = -1 / log alpha |
    | `gated` | f |
    | `gru` | z: torch's update gate keeps the past, as a forget gate does; the reset gate is extra |
    | `lstm` | f, on the cell state c |
    | `mingru` | 1 - z |
    | `minlstm` | f / (f + i) |

    Args:
        x_BTD: Features of clips of one length.
    Returns:
        Time constants (H,) of each layer in frames, from input to output: at most T, because clips cannot distinguish
        longer ones, and zero where nothing is kept.
    Raises:
        VideomemError: If the shape of the features does not fit the head.
    Reference:
        See `trace.time_constants`.
    """
    num_frames = x_BTD.shape[1]
    first = min(1, num_frames - 1)
    sums_LH: list[Tensor] = []
    for traced in _traces(head, x_BTD):
        parts = [layer.keep_BTH[:, first:].log().sum((0, 1)) for layer in traced.layers]
        sums_LH = [before + part for before, part in zip(sums_LH, parts, strict=True)] if sums_LH else parts
    num_steps = len(x_BTD) * (num_frames - first)
    return [np.minimum(time_constants(sum_H.cpu().numpy() / num_steps), num_frames) for sum_H in sums_LH]


@torch.no_grad()
def lyapunov(head: Head, x_BTD: Tensor, seed: int = 0) -> list[float]:
    """Returns the largest Lyapunov exponent of each layer's update, per frame, with the clips as input.

    A small difference in the state of a layer grows as exp(lambda k) over k frames of the same input. Unlike retention,
    the exponent includes every path from a state to the next one, through recurrent terms and gates as well. A random
    tangent vector of the whole state, (h, c) for an LSTM, is multiplied by the Jacobian of `Memory.cell` and normalized
    before every step; lambda is the mean logarithm of its growth over the second halves of the clips. This is a
    finite-time exponent: it converges at the rate by which the second exponent is below the first. A layer does not
    affect the layers before it, so the exponents of a head are those of its layers, each with the layer before it as
    input.

    Args:
        x_BTD: Features of clips of one length.
    Returns:
        One exponent per layer, from input to output; -inf where every difference vanishes after one step.
    Raises:
        VideomemError: If the shape of the features does not fit the head.
    Reference:
        Vogt et al. 2022, "On Lyapunov exponents for RNNs", algorithm 1; Engelken et al. 2023, "Lyapunov spectra of
        chaotic recurrent neural networks".
    """
    exact, generator = in_double(head), torch.Generator().manual_seed(seed)
    sums = [0.0] * len(head.memories)
    for traced in _traces(exact, x_BTD):
        for number, (memory, layer) in enumerate(zip(exact.memories, traced.layers, strict=True)):
            sums[number] += float(_growth(memory, layer.terms_BTK, generator).sum())
    return [total / len(x_BTD) for total in sums]


def lyapunov_time(exponent: float) -> float:
    """Returns -1 / lambda, the number of frames in which a difference decays to 1/e; infinite if it does not decay."""
    return -1 / exponent if exponent < 0 else math.inf


def _growth(memory: Memory, terms_BTK: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the mean logarithm (B,) of the growth of a tangent vector per frame of the second half."""
    state = memory.initial_state(terms_BTK[:, 0])
    tangent = tuple(torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part) for part in state)
    logs = []
    for terms_BK in terms_BTK.unbind(1):
        size_B1 = torch.cat(tangent, dim=1).norm(dim=1, keepdim=True)
        tangent = tuple(part / torch.where(size_B1 > 0, size_B1, 1) for part in tangent)
        state, tangent = _push(memory, terms_BK, state, tangent)
        logs.append(torch.cat(tangent, dim=1).norm(dim=1).log())
    return torch.stack(logs[len(logs) // 2 :]).mean(0)


def _push(memory: Memory, terms_BK: Tensor, state: State, tangent: State) -> tuple[State, State]:
    """Returns the next state and the next tangent vector."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)  # raised by torch about its own code
        return torch.func.jvp(lambda *before: memory.cell(terms_BK, before), state, tangent)[:2]


def _traces(head: Head, x_BTD: Tensor) -> Iterator[Trace]:
    """Yields traces in float64, in chunks that limit memory."""
    check_features(head, x_BTD)
    exact = in_double(head)
    for part_BTD in x_BTD.split(max(1, ELEMENTS // x_BTD[0].numel())):
        yield trace(exact, part_BTD)
