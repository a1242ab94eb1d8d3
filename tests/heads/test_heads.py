"""The nesting of the memories, their invariances, and their agreement with torch.nn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.small_heads import (
    MEMORIES,
    C,
    D,
    H,
    clips,
    close,
    every_memory,
    every_readout,
    full_clips,
    make,
    one_and_two_layers,
    open_gate,
    steps,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.heads import (
    GRU,
    LSTM,
    READOUTS,
    RNN,
    AttentionReadout,
    BestFrameReadout,
    Gated,
    Head,
    LastReadout,
    Leaky,
    MeanReadout,
    Memory,
    NoMemory,
    Readout,
    TemporalConv,
)
from videomem.heads.memory import set_forget_bias

# One equation, one changed term.


WITHOUT_RECURRENT_TERM: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "rnn without U": (lambda: RNN(D, H), lambda rnn: nn.init.zeros_(rnn.recurrent.weight)),
    "leaky that keeps nothing": (lambda: Leaky(D, H, alpha=0.0), lambda leaky: None),
    "gated that forgets all": (lambda: Gated(D, H, coupled=False), lambda gated: open_gate(gated, -torch.inf)),
}


@pytest.mark.parametrize("name", WITHOUT_RECURRENT_TERM)
def test_a_memory_without_its_recurrent_term_is_none(name: str) -> None:
    x, lengths = clips()
    build, cut = WITHOUT_RECURRENT_TERM[name]
    none, memory = NoMemory(D, H), build()
    memory.input.load_state_dict(none.input.state_dict())
    cut(memory)
    assert torch.equal(memory(x, lengths)[0], none(x, lengths)[0])


@pytest.mark.parametrize("coupled", [False, True])
@given(alpha=st.floats(0.01, 0.99))
@settings(max_examples=20, deadline=None)
def test_gated_with_one_constant_gate_is_leaky(coupled: bool, alpha: float) -> None:
    x, lengths = clips()
    leaky, gated = Leaky(D, H, alpha=alpha, coupled=coupled), Gated(D, H, coupled=coupled)
    gated.input.load_state_dict(leaky.input.state_dict())
    open_gate(gated, float(torch.logit(torch.tensor(alpha, dtype=torch.float64))))
    assert close(gated(x, lengths)[0], leaky(x, lengths)[0])


def test_leaky_that_keeps_all_is_a_running_sum() -> None:
    x, full = full_clips()
    leaky = Leaky(D, H, alpha=1.0)
    assert close(leaky(x, full)[0], leaky.input(x).cumsum(1))


def test_leaky_learns_one_retention_per_unit() -> None:
    x, lengths = clips()
    leaky = Leaky(D, H, alpha=0.9, learned=True)
    fixed = Leaky(D, H, alpha=0.9)
    fixed.input.load_state_dict(leaky.input.state_dict())
    assert close(leaky(x, lengths)[0], fixed(x, lengths)[0])
    leaky(x, lengths)[0].sum().backward()
    assert leaky.logit_alpha is not None and leaky.logit_alpha.grad is not None
    assert leaky.logit_alpha.shape == (H,) and (leaky.logit_alpha.grad != 0).all()


# Comparison with torch.nn.


def test_activations_rnn_state_is_that_of_torch() -> None:
    x, lengths = full_clips()
    ours, torchs = RNN(D, H), nn.RNN(D, H, batch_first=True)
    torchs.weight_ih_l0.data, torchs.weight_hh_l0.data = ours.input.weight.data, ours.recurrent.weight.data
    torchs.bias_ih_l0.data, torchs.bias_hh_l0.data = ours.input.bias.data, torch.zeros(H)
    assert close(ours.activation(ours(x, lengths)[0]), torchs(x)[0])


@pytest.mark.parametrize("memory", [GRU, LSTM])
@pytest.mark.parametrize("carried", [False, True])
def test_cells_are_those_of_torch(memory: type[GRU] | type[LSTM], carried: bool) -> None:
    ours = memory(D, H)
    x, lengths = clips()
    state = ours(*clips(seed=1))[1] if carried else None
    h, last = Memory.forward(ours, x, lengths, state)
    expected_h, expected_last = ours.forward_library(x, lengths, state)
    assert close(h, expected_h)
    assert all(close(one, other) for one, other in zip(last, expected_last, strict=True))


# Equivalent interfaces.


@every_memory
def test_steps_give_what_forward_gives(name: str) -> None:
    torch.manual_seed(0)
    memory = MEMORIES[name](D)
    x, full = full_clips()
    h, last = memory(x, full)
    one_by_one, state = steps(memory, x)
    assert close(one_by_one, h)
    assert all(close(one, other) for one, other in zip(state, last, strict=True))


@every_memory
def test_a_clip_in_two_parts_is_the_clip(name: str) -> None:
    torch.manual_seed(0)
    memory = MEMORIES[name](D)
    x, full = full_clips()
    whole, last = memory(x, full)
    first, state = memory(x[:, :4], torch.full_like(full, 4))
    second, end = memory(x[:, 4:], full - 4, state)
    assert close(torch.cat([first, second], 1), whole)
    assert all(close(one, other) for one, other in zip(end, last, strict=True))


@every_memory
@every_readout
@one_and_two_layers
def test_streaming_gives_the_answer_for_the_clip(name: str, readout: type[Readout], num_layers: int) -> None:
    head = make(name, readout, num_layers)
    x, full = full_clips()
    assert close(steps(head, x)[0][:, -1], head(x, full))


@every_memory
@every_readout
@one_and_two_layers
def test_projecting_first_changes_nothing(name: str, readout: type[Readout], num_layers: int) -> None:
    head = make(name, readout, num_layers)
    x, lengths = clips()
    assert close(head.forward_projected(head.project(x), lengths), head(x, lengths))


@every_memory
@every_readout
@one_and_two_layers
def test_padding_and_batch_mates_change_nothing(name: str, readout: type[Readout], num_layers: int) -> None:
    head = make(name, readout, num_layers)
    x, lengths = clips()
    logits = head(x, lengths)
    for number, length in enumerate(lengths.tolist()):
        alone = head(x[number : number + 1, :length], lengths[number : number + 1])
        assert close(alone[0], logits[number])
    longer = torch.cat([x, torch.full((len(x), 5, D), 1e6)], dim=1)
    assert close(head(longer, lengths), logits)


@every_memory
def test_padding_leaves_the_carried_state_alone(name: str) -> None:
    torch.manual_seed(0)
    memory = MEMORIES[name](D)
    x, lengths = clips()
    _, last = memory(x, lengths)
    for number, length in enumerate(lengths.tolist()):
        _, alone = memory(x[number : number + 1, :length], lengths[number : number + 1])
        assert all(close(one[0], other[number]) for one, other in zip(alone, last, strict=True))


# Frame order.


def permuted(x: Tensor, lengths: Tensor, seed: int) -> Tensor:
    out, generator = x.clone(), torch.Generator().manual_seed(seed)
    for clip, length in enumerate(lengths.tolist()):
        out[clip, :length] = x[clip, torch.randperm(length, generator=generator)]
    return out


ORDER_BLIND = [one for one in READOUTS.values() if one is not LastReadout]


@pytest.mark.parametrize("name", ["none", "leaky alpha=0"])
@pytest.mark.parametrize("readout", ORDER_BLIND)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_without_memory_every_readout_but_the_last_ignores_order_to_the_bit(
    name: str, readout: type[Readout], seed: int
) -> None:
    head = make(name, readout)
    assert head.order_blind
    x, lengths = clips(seed=seed)
    terms = head.project(x)
    assert torch.equal(
        head.forward_projected(permuted(terms, lengths, seed), lengths), head.forward_projected(terms, lengths)
    )
    assert close(head(permuted(x, lengths, seed), lengths), head(x, lengths))


@pytest.mark.parametrize("name", ["none", "leaky alpha=0"])
def test_without_memory_the_last_readout_sees_the_last_frame_only(name: str) -> None:
    head = make(name, LastReadout)
    x, lengths = clips()
    other = torch.randn_like(x)
    at = torch.arange(len(x)), lengths - 1
    other[at] = x[at]
    assert close(head(other, lengths), head(x, lengths))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_a_running_sum_read_at_its_end_ignores_order_up_to_rounding(seed: int) -> None:
    head = make("leaky alpha=1", LastReadout)
    x, lengths = clips(seed=seed)
    assert close(head(permuted(x, lengths, seed), lengths), head(x, lengths))


@pytest.mark.parametrize(
    ("name", "readout"),
    [
        (name, readout)
        for name in MEMORIES
        for readout in READOUTS.values()
        if name not in ("none", "leaky alpha=0") and (name, readout) != ("leaky alpha=1", LastReadout)
    ],
)
def test_every_memory_is_sensitive_to_order(name: str, readout: type[Readout]) -> None:
    head = make(name, readout)
    x, full = full_clips(frames=12)
    assert (head(x.flip(1), full) - head(x, full)).abs().max() > 1e-3


@given(seed=st.integers(0, 10**6), frames=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_mean_readout_is_a_mean_whose_bits_do_not_depend_on_order(seed: int, frames: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, frames, C, generator=generator) * 10
    lengths = torch.randint(1, frames + 1, (3,), generator=generator)
    mean = MeanReadout(C).eval()
    answer = mean(logits, lengths)
    assert torch.equal(mean(permuted(logits, lengths, seed), lengths), answer)
    for clip, length in enumerate(lengths.tolist()):
        assert close(logits[clip, :length].double().mean(0).float(), answer[clip], 1e-4)


# Training.


@every_memory
@every_readout
def test_gradients_are_finite_over_512_frames(name: str, readout: type[Readout]) -> None:
    head = make(name, readout, num_layers=2, dropout=0.5).train()
    x = torch.randn(2, 512, D)
    head(x, torch.tensor([512, 300])).square().sum().backward()
    gradients = [p.grad for p in head.parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)


def test_dropout_drops_the_same_units_in_all_frames_of_a_clip() -> None:
    head = make("none", dropout=0.5).train()
    torch.manual_seed(0)
    masks = head.dropout_masks(20)
    assert [mask.shape for mask in masks] == [(20, 1, D), (20, 1, head.memories[0].hidden_dim)]
    assert all(set(mask.unique().tolist()) == {0.0, 2.0} for mask in masks)
    assert not torch.equal(masks[1][0], masks[1][1])
    x, lengths = torch.randn(20, 6, D), torch.full((20,), 6)
    torch.manual_seed(0)
    assert torch.equal(head(x, lengths), head(x, lengths, masks))
    assert not torch.equal(head(x, lengths), head.eval()(x, lengths))


def test_feature_norm_standardizes_and_silences_dead_units() -> None:
    head = make("none")
    x = torch.randn(200, D) * 3 + 5
    x[:, 2] = 0.25
    head.norm.set_statistics(x.mean(0), x.std(0))
    normed = head.norm(x.half())
    assert (normed[:, 2] == 0).all()
    varying = [unit for unit in range(D) if unit != 2]
    assert close(normed[:, varying].mean(0), torch.zeros(D - 1), 1e-2)
    assert close(normed[:, varying].std(0), torch.ones(D - 1), 1e-2)


def test_a_unit_that_is_hardly_active_in_training_does_not_drown_the_others() -> None:
    head = make("none")
    x = torch.randn(200, D)
    x[:, 3] = 0
    x[0, 3] = 1e-6
    head.norm.set_statistics(x.mean(0), x.std(0))
    x[1, 3] = 1.0
    normed = head.norm(x)
    assert normed[1, 3] == 10 and close(normed[:, :3], (x[:, :3] - x[:, :3].mean(0)) / x[:, :3].std(0), 1e-4)


def test_chrono_biases_spread_time_constants() -> None:
    bias = torch.empty(10_000)
    set_forget_bias(bias, "chrono", 64)
    assert 0 <= bias.min() < 0.1 and 4.0 < bias.max() <= torch.log(torch.tensor(63.0))


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Leaky(D, H, alpha=1.5), r"memory\.alpha is 1\.5, but must be in \[0, 1\]"),
        (lambda: Leaky(D, H, alpha=1.0, learned=True), r"\(0, 1\) if learned"),
        (lambda: NoMemory(D, 0), r"memory\.hidden_dim is 0"),
        (lambda: Head(MEMORIES["none"], D, C, dropout=1.0), r"model\.dropout is 1\.0"),
        (lambda: Head(MEMORIES["none"], D, C, num_layers=0), r"model\.num_layers is 0"),
        (lambda: Gated(D, H, forget_bias="chrono", max_time_frames=2), "must be at least 3 with chrono"),
        (lambda: make("none")(torch.zeros(2, 4, D + 1), torch.tensor([4, 4])), r"takes \(B, T, 7\)"),
    ],
)
def test_a_wrong_setting_is_named_with_its_limit(make_it: Callable[[], object], message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        make_it()


# Readouts and memories that are not recurrent.


def test_attention_pooling_classifies_the_weighted_mean_of_the_activations() -> None:
    head = make("none", AttentionReadout)
    x, lengths = clips()
    phi = head.memories[0].activation(head.memories[0](head.norm(x), lengths)[0])
    for clip, length in enumerate(lengths.tolist()):
        query = head.classify.weight[-1]
        weights = torch.softmax(phi[clip, :length] @ query, dim=0)
        pooled = (weights[:, None] * phi[clip, :length]).sum(0)
        assert close(head.classify(pooled)[:C], head(x, lengths)[clip])


def test_best_frame_has_the_logits_of_one_frame_and_learns_which() -> None:
    head = make("none", BestFrameReadout)
    x, lengths = clips()
    outputs = head.frame_outputs(x, lengths)
    for clip, length in enumerate(lengths.tolist()):
        best = outputs[clip, :length, -1].argmax()
        assert torch.equal(head(x, lengths)[clip], outputs[clip, best, :-1])
    head.train()
    nn.functional.cross_entropy(head(x, lengths), torch.tensor([0, 1, 2, 0])).backward()
    assert head.classify.weight.grad is not None and (head.classify.weight.grad[-1] != 0).any()


def test_frames_that_share_the_best_score_count_equally_in_any_order() -> None:
    outputs_BTK = torch.randn(2, 6, C + 1)
    outputs_BTK[..., -1] = torch.tensor([1.0, 3.0, 2.0, 3.0, 3.0, 0.0])
    full_B, readout = torch.tensor([6, 6]), BestFrameReadout(C).eval()
    answer_BC = readout(outputs_BTK, full_B)
    assert close(answer_BC, outputs_BTK[:, [1, 3, 4], :-1].mean(1))
    assert torch.equal(readout(outputs_BTK.flip(1), full_B), answer_BC)
    assert close(readout.after_each(outputs_BTK)[:, -1], answer_BC)


@every_readout
def test_a_readout_of_zeros_has_seen_no_frame(readout: type[Readout]) -> None:
    """Outputs far below zero would lose against zeros that were taken for a frame."""
    torch.manual_seed(0)
    read, one_B = readout(C), torch.tensor([1, 1])
    outputs_BK = torch.randn(2, read.num_outputs) - 300
    answer_BC, state_BS = read.step(outputs_BK, read.initial_state(outputs_BK))
    assert close(answer_BC, read(outputs_BK[:, None], one_B), 1e-4) and state_BS.shape == (2, read.state_dim)


def test_a_temporal_convolution_is_that_of_torch() -> None:
    memory, conv = TemporalConv(D, H, kernel_size=3), nn.Conv1d(D, H, 3)
    x, _ = clips()
    weight_KHD = memory.input.weight.view(3, H, D)
    conv.weight.data = weight_KHD.flip(0).permute(1, 2, 0)
    conv.bias = None
    memory.input.bias.data.zero_()
    expected = conv(nn.functional.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)
    assert close(memory(x, torch.full((len(x),), x.shape[1]))[0], expected)


def test_position_adds_to_a_frame_what_depends_on_its_position_alone() -> None:
    head = make("position")
    x, _ = clips()
    full = torch.full((len(x),), x.shape[1])
    memory = head.memories[0]
    added = memory(x, full)[0] - memory.project(x)
    assert close(added, added[:1].expand_as(added)) and not close(added[:, :-1], added[:, 1:], 1e-3)
    changed = x.clone()
    changed[:, 3] += 1
    others = [t for t in range(x.shape[1]) if t != 3]
    assert torch.equal(memory(changed, full)[0][:, others], memory(x, full)[0][:, others])
