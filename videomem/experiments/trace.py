"""Traces of a head: the states, retention and logits at every frame and layer."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.heads import Head, Memory


class LayerTrace(NamedTuple):
    """One layer of memory at every frame.

    Attributes:
        h_BTH: States before the activation phi, as they reach the readout or the next layer.
        kept_BTH: State whose retention is `keep_BTH`: c_t of an LSTM, h_t of all other memories.
        keep_BTH: Retention: the share of the previous state that passes unprocessed; zero where nothing does.
        terms_BTK: Projected terms of each frame.
    """

    h_BTH: Tensor
    kept_BTH: Tensor
    keep_BTH: Tensor
    terms_BTK: Tensor


class Trace(NamedTuple):
    """A head at every frame, on clips of one length.

    Attributes:
        layers: One trace per layer of memory, from input to output.
        outputs_BTK: Outputs of each frame, computed from the frames up to it; logits, and what else the readout needs.
        answers_BTC: Output of the readout after each frame; the last one is the prediction for the clip.
    """

    layers: tuple[LayerTrace, ...]
    outputs_BTK: Tensor
    answers_BTC: Tensor


def trace(head: Head, x_BTD: Tensor, direct: bool = False) -> Trace:
    """Runs a head on clips without padding, and returns the states of every step.

    Args:
        direct: Whether gradients flow back in time along the retention alone, as along a residual connection. Gates and
            recurrent terms then treat the previous state as a constant. The values do not change.
    """
    return trace_projected(head, head.memories[0].project(head.projection(head.norm(x_BTD))), direct)


def trace_projected(head: Head, terms_BTK: Tensor, direct: bool = False) -> Trace:
    """Runs a head as `trace` does, from the projected terms of the first layer, which are often narrower."""
    layers = [_trace_layer(head.memories[0], terms_BTK, direct)]
    for below, memory in pairwise(head.memories):
        layers.append(_trace_layer(memory, memory.project(below.activation(layers[-1].h_BTH)), direct))
    outputs_BTK = head.classify(head.memories[-1].activation(layers[-1].h_BTH))
    return Trace(tuple(layers), outputs_BTK, head.readout.after_each(outputs_BTK))


def _trace_layer(memory: Memory, terms_BTK: Tensor, direct: bool) -> LayerTrace:
    state = memory.initial_state(terms_BTK[:, 0])
    shown, kept, keeps = [], [], []
    for terms_BK in terms_BTK.unbind(1):  # With indexing, backward would allocate a gradient of all T steps per step.
        seen = tuple(part.detach() for part in state) if direct else state
        update = memory.update(terms_BK, seen)
        if update.keep is None:  # Nothing passes unprocessed; the state may have parts other than h.
            state = memory.cell(terms_BK, seen)
            kept.append(state[0])
            keeps.append(torch.zeros_like(state[0]))
        else:
            state = memory.next_state(update.keep * state[-1] + update.add, update)
            kept.append(state[-1])
            keeps.append(update.keep.expand_as(state[-1]))
        shown.append(state[0])
    return LayerTrace(torch.stack(shown, 1), torch.stack(kept, 1), torch.stack(keeps, 1), terms_BTK)


def in_double(head: Head) -> Head:
    """Returns a copy in float64 and evaluation mode, whose weights require no gradients."""
    return copy.deepcopy(head).double().eval().requires_grad_(False)


def time_constants(mean_log_keep_H: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns tau = -1 / mean(log keep) per hidden unit: the number of frames after which 1/e of the state remains.

    Over k frames, a share keep_1 * ... * keep_k = exp(-k / tau) of the state is kept, so the mean is of logarithms. tau
    is 0 where some frame keeps nothing, and infinite where every frame keeps everything.

    Shape:
        mean_log_keep_H (H,) -> (H,), in frames
    Reference:
        Gerstner et al. 2014, "Neuronal Dynamics", section 1.3 (membrane time constant); Tallec and Ollivier 2018, "Can
        recurrent neural networks warp time?", sections 1 and 2 (gates as inverse time constants).
    """
    with np.errstate(divide="ignore"):
        return np.where(mean_log_keep_H < 0, -1 / mean_log_keep_H, np.inf)
