"""Traces of heads, and the sensitivity of logits to earlier frames."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from helpers.small_heads import MEMORIES, C, D, H, clips, close, every_memory, every_readout, make
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.experiments.memory_horizon.gradients import _circle, sensitivity, untrained
from videomem.experiments.trace import in_double, trace
from videomem.heads import Gated, Head, LastReadout, Leaky, Memory, Readout
from videomem.training.lit_classifier import LitClassifier


@every_memory
@every_readout
def test_a_trace_ends_in_the_answer_of_the_head(name: str, readout: type[Readout]) -> None:
    head = make(name, readout, num_layers=2)
    x, _ = clips()
    full = torch.full((len(x),), x.shape[1])
    for direct in (False, True):
        traced = trace(head, x, direct)
        assert close(traced.outputs_BTK, head.frame_outputs(x, full))
        assert close(traced.answers_BTC[:, -1], head(x, full))
        assert traced.answers_BTC.shape == (*x.shape[:2], C)
        assert all(((layer.keep_BTH >= 0) & (layer.keep_BTH <= 1)).all() for layer in traced.layers)


# Sensitivity.


def one_layer(memory: Memory, num_classes: int = C, projection_dim: int | None = None) -> Head:
    torch.manual_seed(1)
    return Head(lambda input_dim: memory, D, num_classes, projection_dim=projection_dim).eval()


def frames(num: int = 4, num_frames: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(num, num_frames, D, generator=torch.Generator().manual_seed(seed))


def jacobian_rms(head: Head, x_BTD: Tensor, lag: int) -> Tensor:
    """Returns the RMS gradient (B,) at a lag from the dense Jacobian of the head."""
    exact, place = in_double(head), x_BTD.shape[1] - 1 - lag
    scale_D = exact.norm.scale

    def logits(y_D: Tensor, clip: int) -> Tensor:
        x_TD = x_BTD[clip].double().clone()
        x_TD[place] = torch.where(scale_D != 0, y_D / scale_D + exact.norm.mean, x_TD[place])
        outputs_1TK = exact.frame_outputs(x_TD[None], torch.tensor([len(x_TD)]))
        return exact.readout(outputs_1TK[:, -1:], torch.tensor([1]))[0]

    rms = []
    for clip in range(len(x_BTD)):
        y_D = exact.norm(x_BTD[clip, place])
        jacobian_CD = torch.autograd.functional.jacobian(lambda y, clip=clip: logits(y, clip), y_D)
        rms.append(jacobian_CD[:, scale_D != 0].square().mean().sqrt())
    return torch.stack(rms)


@every_memory
@pytest.mark.parametrize("projection_dim", [None, 4])
def test_gradients_are_those_of_the_dense_jacobian(name: str, projection_dim: int | None) -> None:
    torch.manual_seed(0)
    head = Head(MEMORIES[name], D, C, num_layers=2, projection_dim=projection_dim).eval()
    x = frames()
    std = x.flatten(0, 1).std(0) * 2
    std[3] = 0
    head.norm.set_statistics(x.mean((0, 1)), std)
    found, zero = sensitivity(head, x, [1, 4, 8]), jacobian_rms(head, x, 0)
    assert found.gradient_at_zero == pytest.approx(float(np.median(zero)))
    for lag, gradient in zip(found.lags, found.gradient, strict=True):
        assert gradient == pytest.approx(float(np.median(jacobian_rms(head, x, lag) / zero)), rel=1e-6, abs=1e-12)


@every_readout
def test_gradients_are_those_of_the_logits_of_the_last_frame_alone(readout: type[Readout]) -> None:
    head, x = make("gru", readout), frames()
    found, zero = sensitivity(head, x, [3]), jacobian_rms(head, x, 0)
    assert found.gradient_at_zero == pytest.approx(float(np.median(zero)))
    assert found.gradient[0] == pytest.approx(float(np.median(jacobian_rms(head, x, 3) / zero)))


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_a_leaky_memory_fades_by_alpha_at_every_lag(alpha: float) -> None:
    found = sensitivity(one_layer(Leaky(D, H, alpha=alpha)), frames(num_frames=64), [0, 1, 2, 7, 60])
    expected = pytest.approx([alpha**lag for lag in found.lags], rel=1e-9)
    assert list(found.gradient) == expected and list(found.direct) == expected


@every_memory
def test_the_direct_path_is_all_there_is_where_gates_see_the_frame_only(name: str) -> None:
    found = sensitivity(make(name, num_layers=2), frames(), [0, 1, 2, 5])
    same = found.direct == pytest.approx(found.gradient, rel=1e-9)
    assert same == (name.startswith(("none", "leaky", "min", "position")))
    assert found.direct[0] == pytest.approx(found.gradient[0]) == pytest.approx(1)


def test_an_rnn_has_no_direct_path() -> None:
    found = sensitivity(make("rnn"), frames(), [1, 2, 5])
    assert found.direct == (0, 0, 0) and min(found.gradient) > 1e-3


def test_a_memoryless_head_does_not_depend_on_earlier_frames() -> None:
    found = sensitivity(make("none", num_layers=2), frames(), [0, 1, 5])
    assert found.gradient == found.direct == found.swap == (1, 0, 0)
    assert found.gradient_at_zero > 0 and found.swap_at_zero > 0


def test_the_direct_path_of_gated_is_the_product_of_its_gates() -> None:
    head = one_layer(Gated(D, 1, coupled=False))  # One unit, so that every gradient is a multiple of the same row.
    nn.init.zeros_(head.memories[0].forget_input.weight)  # type: ignore[arg-type]
    x = frames(num=1).repeat(2, 1, 1)
    keep_T = trace(head, x).layers[0].keep_BTH[0, :, 0].detach()
    assert sensitivity(head, x, [3]).direct[0] == pytest.approx(float(keep_T[-3:].prod()), rel=1e-5)


def test_random_signs_estimate_the_gradient_of_many_classes() -> None:
    head, x = one_layer(Leaky(D, H, alpha=0.8), num_classes=200), frames(num=2)
    every = sensitivity(head, x, [1, 5], max_probes=200)
    few = [sensitivity(head, x, [1, 5], seed=seed, max_probes=20).gradient_at_zero ** 2 for seed in range(60)]
    assert np.mean(few) == pytest.approx(every.gradient_at_zero**2, rel=0.05)
    assert sensitivity(head, x, [5], max_probes=20).gradient[0] == pytest.approx(0.8**5)


@every_memory
def test_exchanging_frames_gives_the_change_that_the_whole_head_gives(name: str) -> None:
    head, x = make(name, num_layers=2), frames(num=2)
    full = torch.full((2,), x.shape[1])
    exact, moved = in_double(head), {}
    for lag in (0, 3):
        swapped = x.double()
        swapped[:, -1 - lag] = x.flip(0)[:, -1 - lag].double()
        change = exact.frame_outputs(swapped, full)[:, -1] - exact.frame_outputs(x.double(), full)[:, -1]
        moved[lag] = change.square().mean(1).sqrt()
    found = sensitivity(head, x, [3])
    assert found.swap_at_zero == pytest.approx(float(np.median(moved[0].detach())))
    assert found.swap[0] == pytest.approx(float(np.median((moved[3] / moved[0]).detach())), abs=1e-12)


@given(num=st.integers(2, 40), seed=st.integers(0, 10**6))
@settings(max_examples=50, deadline=None)
def test_no_clip_exchanges_frames_with_itself(num: int, seed: int) -> None:
    partners = _circle(num, torch.Generator().manual_seed(seed))
    assert sorted(partners.tolist()) == list(range(num)) and (partners != torch.arange(num)).all()


def test_chunks_of_clips_and_probes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head, x = make("gru", num_layers=2), frames()
    whole = sensitivity(head, x, [0, 1, 5])
    monkeypatch.setattr("videomem.experiments.memory_horizon.gradients.ELEMENTS", 1)
    parts = sensitivity(head, x, [0, 1, 5])
    assert parts.gradient == pytest.approx(whole.gradient) and parts.direct == pytest.approx(whole.direct)
    assert parts.swap == pytest.approx(whole.swap) and parts.swap_at_zero == pytest.approx(whole.swap_at_zero)


def test_where_the_last_frame_does_not_matter_no_ratio_is_given() -> None:
    head = make("gru")
    nn.init.zeros_(head.classify.weight)
    found = sensitivity(head, frames(), [1])
    assert np.isnan([*found.gradient, *found.direct, *found.swap]).all() and found.gradient_at_zero == 0


def test_clips_whose_last_frame_does_not_matter_are_left_out() -> None:
    x, head = frames(num=3), one_layer(Leaky(D, H, alpha=0.8))
    nn.init.constant_(head.memories[0].input.weight, 0.5)  # type: ignore[union-attr, arg-type]
    x[:2, -1] = 1e6  # All tanh are saturated: features of ten standard deviations with the same sign.
    assert (jacobian_rms(head, x, 0) == 0).tolist() == [True, True, False]
    assert sensitivity(head, x, [2]).gradient[0] == pytest.approx(0.8**2)


def test_measuring_leaves_the_head_as_it_was() -> None:
    head = make("gru").train()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    sensitivity(head, frames(), [1])
    assert head.training and all(p.requires_grad and p.grad is None for p in head.parameters())
    assert all(torch.equal(before[name], value) for name, value in head.state_dict().items())


def test_an_untrained_head_has_the_norm_and_the_biases_but_other_weights() -> None:
    memory = partial(Gated, hidden_dim=H, forget_bias=3.0)
    classifier = LitClassifier(memory, D, ["a", "b"], [1, 1], num_layers=2, readout=LastReadout, projection_dim=4)
    classifier.head.norm.set_statistics(torch.arange(D).float(), torch.full((D,), 2.0))
    with torch.no_grad():
        classifier.head.memories[0].forget_input.bias.fill_(-1)  # type: ignore[union-attr, operator]
    fresh, state = untrained(classifier, seed=1), torch.random.get_rng_state()
    assert torch.equal(fresh.norm.scale, classifier.head.norm.scale) and fresh.label == classifier.head.label
    assert (fresh.memories[1].forget_input.bias == 3).all()  # type: ignore[union-attr, operator]
    again, other = untrained(classifier, seed=1), untrained(classifier, seed=2)
    assert torch.equal(fresh.classify.weight, again.classify.weight)
    assert not torch.equal(fresh.classify.weight, other.classify.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: sensitivity(make("gru"), frames(), [9]), r"lag is 9, but clips of 9 frames have lags 0\.\.8"),
        (lambda: sensitivity(make("gru"), frames(num=1), [1]), "1 clip, but at least 2"),
        (lambda: sensitivity(make("gru"), frames()[..., 1:], [1]), r"takes \(B, T, 7\)"),
        (lambda: sensitivity(make("gru"), frames(), [1], max_probes=0), "max_probes is 0"),
    ],
)
def test_what_cannot_be_measured_is_named(measure: Callable[[], object], message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        measure()
