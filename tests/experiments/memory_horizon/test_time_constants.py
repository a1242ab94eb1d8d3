"""Time constants and Lyapunov exponents, compared with known values and with dense Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from helpers.small_heads import C, D, H, every_memory, make, open_gate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.experiments.memory_horizon.time_constants import lyapunov, lyapunov_time, retention
from videomem.experiments.trace import in_double, trace
from videomem.heads import LSTM, RNN, Gated, Head, Leaky, Memory

T = 200


def frames(num: int = 3, num_frames: int = T, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(num, num_frames, D, generator=torch.Generator().manual_seed(0))


def one_layer(memory: Memory) -> Head:
    return Head(lambda input_dim: memory, D, C).eval()


def learned_leaky(alpha_H: list[float]) -> Memory:
    memory = Leaky(D, len(alpha_H), alpha=0.9, learned=True)
    assert memory.logit_alpha is not None
    memory.logit_alpha.data = torch.logit(torch.tensor(alpha_H, dtype=torch.float64)).float()
    return memory


def small_rnn() -> Memory:
    memory = RNN(D, H)
    memory.recurrent.weight.data *= 0.7
    nn.init.zeros_(memory.input.bias)
    return memory


def constant_gate() -> Memory:
    memory = Gated(D, H)
    open_gate(memory, math.log(0.6 / 0.4))
    return memory


# Time constants.


@given(alpha=st.floats(0.01, 0.99))
@settings(max_examples=20, deadline=None)
def test_a_leaky_memory_has_the_time_constant_of_its_alpha(alpha: float) -> None:
    (tau_H,) = retention(one_layer(Leaky(D, H, alpha=alpha)), frames(num_frames=120))
    assert tau_H == pytest.approx(np.full(H, -1 / math.log(alpha))) and (tau_H > 0).all() and (tau_H < 120).all()


def test_time_constants_have_the_precision_of_float64() -> None:
    memory = Gated(D, H)
    open_gate(memory, math.log(0.99 / 0.01))  # In float32, the logarithm of such a gate has an error of 3e-6.
    expected_H = -1 / memory.forget_input.bias.detach().double().sigmoid().log()
    assert retention(one_layer(memory), frames())[0] == pytest.approx(expected_H.numpy(), rel=1e-10)


def test_time_constants_beyond_the_clip_are_censored_at_its_length() -> None:
    (tau_H,) = retention(one_layer(learned_leaky([0.5, 0.99, 0.999999])), frames(num_frames=20))
    assert tau_H == pytest.approx([-1 / math.log(0.5), 20, 20]) and (tau_H >= 20).sum() == 2


def test_a_running_sum_is_censored_and_no_memory_has_time_zero() -> None:
    for name, tau in (("leaky alpha=1", T), ("leaky alpha=0", 0), ("none", 0), ("rnn", 0)):
        assert (np.array(retention(make(name, num_layers=2), frames())) == np.full((2, H), tau)).all()


@every_memory
def test_time_constants_are_those_of_the_traced_retention(name: str) -> None:
    head = make(name, num_layers=2)
    for found, layer in zip(retention(head, frames()), trace(head, frames()).layers, strict=True):
        kept_H = layer.keep_BTH[:, 1:].detach().double().log().mean((0, 1)).exp().numpy()
        assert np.exp(-1 / np.maximum(found, 1e-9)) == pytest.approx(np.minimum(kept_H, np.exp(-1 / T)), rel=1e-5)


def test_one_closed_gate_cuts_the_past_off() -> None:
    memory = Gated(D, H)
    nn.init.constant_(memory.forget_input.bias, -1e4)
    assert (retention(one_layer(memory), frames())[0] == 0).all()


def test_the_forget_gate_of_an_lstm_is_on_its_cell_state() -> None:
    memory = LSTM(D, H)
    for weight in (memory.rnn.weight_ih_l0, memory.rnn.weight_hh_l0, memory.rnn.bias_ih_l0, memory.rnn.bias_hh_l0):
        nn.init.zeros_(weight)
    nn.init.constant_(memory.rnn.bias_ih_l0[H : 2 * H], math.log(0.8 / 0.2))
    assert retention(one_layer(memory), frames())[0] == pytest.approx(np.full(H, -1 / math.log(0.8)), rel=1e-6)


# Lyapunov exponents.


def dense_exponents(memory: Memory, terms_BTK: Tensor, shown_BTH: Tensor, kept_BTH: Tensor) -> float:
    """Returns the largest exponent from the QR decomposition of the dense Jacobians of the whole state."""
    size, parts = memory.hidden_dim, len(memory.initial_state(terms_BTK[:, 0]))
    states_BTS = torch.cat((shown_BTH, kept_BTH)[:parts], dim=2)
    before_BTS = torch.cat([torch.zeros_like(states_BTS[:, :1]), states_BTS[:, :-1]], dim=1)

    def cell(state_S: Tensor, terms_K: Tensor) -> Tensor:
        return torch.cat(memory.cell(terms_K[None], state_S[None].split(size, dim=1)), dim=1)[0]

    jacobians_BTSS = torch.vmap(torch.vmap(torch.func.jacrev(cell)))(before_BTS, terms_BTK)
    q_BSS = torch.eye(size * parts, dtype=torch.float64).expand(len(terms_BTK), -1, -1)
    logs = []
    for jacobian_BSS in jacobians_BTSS.unbind(1):
        q_BSS, r_BSS = torch.linalg.qr(jacobian_BSS @ q_BSS)
        logs.append(r_BSS.diagonal(dim1=1, dim2=2).abs().log())
    return float(torch.stack(logs[T // 2 :]).mean((0, 1)).max())


@every_memory
def test_exponents_are_those_of_the_dense_jacobians(name: str) -> None:
    head, x = make(name, num_layers=2), frames()
    exact = in_double(head)
    found = lyapunov(head, x)
    if name in ("position", "conv"):  # After finitely many frames, their states do not depend on earlier states.
        assert found == [-math.inf, -math.inf]
        return
    for exponent, memory, layer in zip(found, exact.memories, trace(exact, x).layers, strict=True):
        expected = dense_exponents(memory, layer.terms_BTK, layer.h_BTH, layer.kept_BTH)
        assert exponent == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("memory", "factor", "scale", "tolerance"),
    [
        *((partial(Leaky, D, H, alpha=alpha), alpha, 1, 1e-12) for alpha in (0.3, 0.95, 1.0)),
        (partial(learned_leaky, [0.5, 0.8, 0.6]), 0.8, 1, 1e-6),  # the slowest hidden unit
        (small_rnn, 0.7, 1e-4, 1e-5),  # nearly linear: the recurrent weights are 0.7 times an orthogonal matrix
        (constant_gate, 0.6, 1, 1e-6),
    ],
)
def test_the_exponent_is_the_logarithm_of_the_factor_per_frame(
    memory: Callable[[], Memory], factor: float, scale: float, tolerance: float
) -> None:
    assert lyapunov(one_layer(memory()), frames(scale=scale)) == pytest.approx([math.log(factor)], abs=tolerance)


def test_without_memory_no_difference_outlives_a_step() -> None:
    assert lyapunov(make("none", num_layers=2), frames()) == [-math.inf, -math.inf]
    assert lyapunov(make("leaky alpha=0"), frames()) == [-math.inf]


def test_an_exponent_becomes_a_time() -> None:
    assert lyapunov_time(-0.1) == pytest.approx(10)
    assert lyapunov_time(-math.inf) == 0 and lyapunov_time(0) == lyapunov_time(0.3) == math.inf


def test_chunks_of_clips_change_no_time_and_no_exponent(monkeypatch: pytest.MonkeyPatch) -> None:
    head, x = make("lstm", num_layers=2), frames()
    taus, exponents = retention(head, x), lyapunov(head, x)
    monkeypatch.setattr("videomem.experiments.memory_horizon.time_constants.ELEMENTS", 1)
    assert np.stack(retention(head, x)) == pytest.approx(np.stack(taus))
    assert lyapunov(head, x) == pytest.approx(exponents, abs=0.01)  # The tangent vectors differ.


@pytest.mark.parametrize(
    ("measure", "message"), [(lambda: retention(make("gru"), frames()[..., 1:]), r"takes \(B, T, 7\)")]
)
def test_what_cannot_be_measured_is_named(measure: Callable[[], object], message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        measure()
