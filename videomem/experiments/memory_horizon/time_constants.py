"""How long a layer holds what it has: time constants of its retention, and Lyapunov exponents of its whole update."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.memory_horizon.gradients import ELEMENTS, check_features, in_double
from videomem.experiments.trace import Trace, time_constants, trace
from videomem.heads import Head, Memory, State

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Retention:
    """Time constants of one layer of memory.

    Attributes:
        tau_H: Time constant of each neuron in frames, at most `censored_at`; zero where nothing is kept.
        censored_at: T, the length of the clips: they cannot tell longer time constants from each other.
        num_censored: Neurons whose time constant is at least that.
        keeps: Whether anything of the past flows on unprocessed at all.
    """

    tau_H: Floats
    censored_at: int
    num_censored: int
    keeps: bool


@torch.no_grad()
def retention(head: Head, x_BTD: Tensor) -> list[Retention]:
    """Measures the time constants of each layer: tau = -1 / mean(log keep) per neuron, over clips and frames.

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
        head: A head, trained or not; it is not changed.
        x_BTD: Features of clips of one length.
    Returns:
        One result per layer, from input to output.
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
    return [_retention(sum_H.cpu().numpy() / num_steps, num_frames) for sum_H in sums_LH]


def _retention(log_keep_H: Floats, num_frames: int) -> Retention:
    tau_H = time_constants(log_keep_H)
    return Retention(
        tau_H=np.minimum(tau_H, num_frames),
        censored_at=num_frames,
        num_censored=int((tau_H >= num_frames).sum()),
        keeps=bool((tau_H > 0).any()),
    )


def in_seconds(tau_H: Floats, seconds_per_frame: float) -> Floats:
    """Time constants in seconds, from frames.

    Raises:
        VideomemError: If `seconds_per_frame` is not above zero and finite.
    """
    if not 0 < seconds_per_frame < math.inf:
        raise VideomemError(f"seconds_per_frame is {seconds_per_frame}, but must be above 0 and finite")
    return tau_H * seconds_per_frame


@torch.no_grad()
def lyapunov(head: Head, x_BTD: Tensor, num_discarded: int | None = None, seed: int = 0) -> list[float]:
    """Largest Lyapunov exponent of each layer's update, per frame, as the clips drive it.

    A small difference in a layer's state grows as exp(lambda k) over k frames of the same input. Unlike the retention
    it counts all ways from a state to the next, recurrent terms and gates too. A random tangent of the whole state,
    (h, c) of an LSTM, is pushed through the derivative of `Memory.cell` and brought back to length 1 before every
    step; lambda is the mean logarithm of its growth, over frames and clips. Clips are short, so it is a finite-time
    exponent: it settles as fast as the second exponent is below the first. Layers above do not act on those below, so
    the exponents of a head are those of its layers, each driven by the one below.

    Args:
        head: A head, trained or not; it is left as it was.
        x_BTD: Features of clips of one length.
        num_discarded: First frames of a clip that are left out, while the tangent turns; None for half of them.
        seed: Of the tangents.
    Returns:
        One per layer, from the frames upwards; -inf where no difference outlives a step.
    Raises:
        VideomemError: If no frame is left, or the features are not what the head takes.
    Reference:
        Vogt et al. 2022, "On Lyapunov exponents for RNNs", algorithm 1; Engelken et al. 2023, "Lyapunov spectra of
        chaotic recurrent neural networks".
    """
    num_frames = x_BTD.shape[1]
    num_discarded = num_frames // 2 if num_discarded is None else num_discarded
    if not 0 <= num_discarded < num_frames:
        raise VideomemError(
            f"num_discarded is {num_discarded}, but clips of {num_frames} frames have at most {num_frames - 1} to spare"
        )
    exact, generator = in_double(head), torch.Generator().manual_seed(seed)
    sums = [0.0] * len(head.memories)
    for traced in _traces(exact, x_BTD):
        for number, (memory, layer) in enumerate(zip(exact.memories, traced.layers, strict=True)):
            sums[number] += float(_growth(memory, layer.terms_BTK, num_discarded, generator).sum())
    return [total / len(x_BTD) for total in sums]


def lyapunov_time(exponent: float) -> float:
    """Frames in which a difference falls to 1/e: -1 / lambda; infinite where it does not fall."""
    return -1 / exponent if exponent < 0 else math.inf


def _growth(memory: Memory, terms_BTK: Tensor, num_discarded: int, generator: torch.Generator) -> Tensor:
    """Mean logarithm (B,) of a tangent's growth per frame."""
    state = memory.initial_state(terms_BTK[:, 0])
    tangent = tuple(torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part) for part in state)
    logs = []
    for terms_BK in terms_BTK.unbind(1):
        size_B1 = torch.cat(tangent, dim=1).norm(dim=1, keepdim=True)
        tangent = tuple(part / torch.where(size_B1 > 0, size_B1, 1) for part in tangent)
        state, tangent = _push(memory, terms_BK, state, tangent)
        logs.append(torch.cat(tangent, dim=1).norm(dim=1).log())
    return torch.stack(logs[num_discarded:]).mean(0)


def _push(memory: Memory, terms_BK: Tensor, state: State, tangent: State) -> tuple[State, State]:
    """A step of the state, and of a small difference of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script", FutureWarning)  # torch's, of its own code, at first use
        return torch.func.jvp(lambda *before: memory.cell(terms_BK, before), state, tangent)[:2]


def _traces(head: Head, x_BTD: Tensor) -> Iterator[Trace]:
    """Traces in float64, of as many clips at once as fit."""
    check_features(head, x_BTD)
    exact = in_double(head)
    for part_BTD in x_BTD.split(max(1, ELEMENTS // x_BTD[0].numel())):
        yield trace(exact, part_BTD)
