"""Probes of memories with known contents, and all measurements of a head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_heads import C, D, every_memory, make
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.memory_horizon.gradients import untrained
from videomem.experiments.memory_horizon.probe import _folds, _frames, probe, states_of
from videomem.experiments.memory_horizon.time_constants import retention
from videomem.experiments.memory_horizon.trained_heads import clips_of_one_length, measure_head
from videomem.experiments.trace import trace
from videomem.heads import Head, Leaky, Memory, NoMemory
from videomem.training.checkpoint import read_checkpoint
from videomem.training.data_module import VideoDataModule

LAGS = (1, 2, 3, 4, 8)
GROUPS = [f"g{clip // 2}" for clip in range(24)]


def ar_clips(persistence: float, num: int = 24, num_frames: int = 40, dim: int = D, seed: int = 0) -> list[Tensor]:
    """Returns clips (T, D) of independent AR(1) features with variance 1: x_t = persistence x_{t-1} + noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num, num_frames, dim, generator=generator)
    x = [noise[:, 0]]
    for t in range(1, num_frames):
        x.append(persistence * x[-1] + (1 - persistence**2) ** 0.5 * noise[:, t])
    return list(torch.stack(x, 1))


def one_layer(memory: Memory) -> Head:
    torch.manual_seed(1)
    return Head(lambda input_dim: memory, D, C).eval()


def linear(memory: Memory, gain: float = 0.1) -> Memory:
    """Scales weights down, so that tanh is nearly linear in the states."""
    for parameter in memory.parameters():
        parameter.data *= gain
    return memory


@pytest.mark.parametrize("persistence", [0.0, 0.9])
def test_a_memoryless_state_reveals_nothing_beyond_its_frame(persistence: float) -> None:
    clips = ar_clips(persistence)
    curve = probe(states_of(one_layer(NoMemory(D, 16)), clips), clips, GROUPS, LAGS)
    assert min(curve.partial_r2) > -0.05 and max(curve.partial_r2) < 0.01  # Useless regressors increase the error.
    assert curve.frame_r2 == pytest.approx([persistence ** (2 * lag) for lag in LAGS], abs=0.06)


def test_a_leaky_state_is_decoded_less_accurately_for_older_frames() -> None:
    torch.manual_seed(0)
    clips = ar_clips(0.0)
    states = states_of(one_layer(linear(Leaky(D, 16, alpha=0.9))), clips)
    curve = probe(states, clips, GROUPS, LAGS)
    # h_t is a sum of alpha^j x_{t-j}: beyond x_t a share alpha^(2 k) (1 - alpha^2) / alpha^2 of it is x_{t-k}.
    assert curve.partial_r2 == pytest.approx([0.9 ** (2 * lag) * 0.19 / 0.81 for lag in LAGS], abs=0.05)
    assert list(curve.partial_r2) == sorted(curve.partial_r2, reverse=True)
    fast = probe(states_of(one_layer(linear(Leaky(D, 16, alpha=0.3))), clips), clips, GROUPS, LAGS).partial_r2
    assert fast[0] > 0.8 and fast[2] < 0.05


def test_a_running_sum_gives_equal_accuracy_for_all_frames() -> None:
    clips = ar_clips(0.0, num=120, num_frames=10)
    curve = probe([x.cumsum(0) for x in clips], clips, [str(clip) for clip in range(120)], [1, 2, 4])
    # Beyond x_t it is a sum of t others, of which one is x_{t-k}: a share of 1 / (mean of t), t = k..9.
    assert curve.partial_r2 == pytest.approx([1 / 5, 1 / 5.5, 1 / 6.5], abs=0.03)


def test_probes_of_a_delay_line_find_one_frame_and_no_other() -> None:
    clips = ar_clips(0.0)
    states = [torch.cat([torch.zeros(3, D), x[:-3]]) for x in clips]
    curve = probe(states, clips, GROUPS, LAGS)
    assert curve.partial_r2[2] > 0.999 and np.abs(np.delete(curve.partial_r2, 2)).max() < 0.02
    assert curve.low[2] > 0.99 and all(low < 0 for place, low in enumerate(curve.low) if place != 2)


def test_what_the_state_computes_from_the_current_frame_alone_does_not_count_as_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    clips = []
    for _ in range(24):
        cause = torch.randn(41, 3, generator=generator)
        clips.append(torch.cat([cause[:-1], cause[1:].square()], 1))  # Squares come one frame before their causes.
    head = Head(lambda input_dim: NoMemory(input_dim, 64), 6, C).eval()
    states = states_of(head, clips)
    assert probe(states, clips, GROUPS, [1]).partial_r2[0] > 0.1
    alone = states_of(head, clips, alone=True)
    # Exactly zero, even with few clips: both regressions have as many regressors of the same scale.
    for num in (24, 4):
        curve = probe(states[:num], clips[:num], GROUPS[:num], [1], alone_by_clip=alone[:num])
        assert curve.partial_r2[0] == pytest.approx(0, abs=1e-5)


def test_probes_are_evaluated_on_held_out_groups_only() -> None:
    generator = torch.Generator().manual_seed(0)
    marks = torch.randn(12, D, generator=generator)
    even = (torch.arange(40) % 2 == 0).float()[:, None]
    clips = [marks[clip // 2] * even + 0.1 * torch.randn(40, D, generator=generator) for clip in range(24)]
    states = [torch.eye(12)[clip // 2].expand(40, 12) for clip in range(24)]
    # x_{t-1} is the mark of the group minus x_t, which can be learnt for training groups only.
    assert probe(states, clips, GROUPS, [1]).partial_r2[0] < 0.02
    torn = [f"{group}-{clip}" for clip, group in enumerate(GROUPS)]
    assert probe(states, clips, torn, [1]).partial_r2[0] > 0.5


@given(groups=st.lists(st.sampled_from("abcdef"), min_size=2, max_size=20).filter(lambda names: len(set(names)) > 1))
@settings(max_examples=25, deadline=None)
def test_no_group_is_on_both_sides_of_a_fold_and_every_frame_is_tested_once(groups: list[str]) -> None:
    clips = ar_clips(0.0, len(groups), 3)
    frames = _frames(clips, clips, groups)
    tested = np.zeros(len(groups) * 3)
    for is_test, _ in _folds(frames, clips, min(5, len(set(groups)))):
        names = np.array(groups)[frames.clip_N]
        assert not set(names[is_test]) & set(names[~is_test])
        tested += is_test
    assert (tested == 1).all()


def test_components_of_a_fold_do_not_see_its_tested_clips() -> None:
    clips = ar_clips(0.0, 8, 20)
    changed = [x * 100 if clip < 2 else x for clip, x in enumerate(clips)]
    groups = [f"g{clip // 2}" for clip in range(8)]
    for (is_test, before), (_, after) in zip(
        *(_folds(_frames(x, x, groups), x, 4) for x in (clips, changed)), strict=True
    ):
        if is_test[:40].all():
            assert np.array_equal(before[40:], after[40:])
            return
    raise AssertionError("the first two clips are tested in no fold")


def test_clips_that_are_not_longer_than_a_lag_are_left_out_there() -> None:
    clips = [x[:length] for x, length in zip(ar_clips(0.0), [5] * 20 + [40] * 4, strict=True)]
    curve = probe(clips, clips, GROUPS, [4, 10, 39, 40])
    assert curve.num_pairs == (20 + 4 * 36, 4 * 30, 4, 0) and curve.num_groups == (12, 2, 2, 0)
    assert np.isnan(curve.partial_r2[3]) and np.isnan(curve.high[3]) and np.isfinite(curve.partial_r2[:3]).all()
    few = probe(clips, clips, GROUPS, [4], max_pairs=100)
    assert few.num_pairs == (100,)


def test_intervals_over_groups_hold_the_mean_of_many_samples() -> None:
    curves = []
    for seed in range(20):
        clips = ar_clips(0.0, 12, 30, dim=3, seed=seed)
        states = [x.roll(1, 0) + x.roll(2, 0) for x in clips]
        curves.append(probe(states, clips, [str(clip) for clip in range(12)], [1]))
    mean = np.mean([curve.partial_r2[0] for curve in curves])
    assert sum(curve.low[0] < mean < curve.high[0] for curve in curves) >= 17
    assert 1.5 < np.mean([c.high[0] - c.partial_r2[0] for c in curves]) / np.std([c.partial_r2[0] for c in curves]) < 4


@every_memory
def test_states_are_the_input_of_the_readout(name: str) -> None:
    head, clips = make(name, num_layers=2).train(), ar_clips(0.5, 3, 9)
    clips[1] = clips[1][:4]
    for states, alone, x in zip(states_of(head, clips), states_of(head, clips, alone=True), clips, strict=True):
        assert torch.allclose(head.classify(states), trace(head, x[None]).outputs_BTK[0], atol=1e-5)
        each = trace(head, x[:, None]).outputs_BTK[:, 0]
        assert torch.allclose(head.classify(alone), each, atol=1e-5) and not states.requires_grad


@every_memory
def test_a_head_is_measured_on_clips_of_any_length(name: str) -> None:
    clips = [x[:length] for x, length in zip(ar_clips(0.5, 8), [3, 9, 12, 12, 12, 30, 12, 12], strict=True)]
    head = make(name, num_layers=2)
    found, again = (measure_head(head, clips, GROUPS[:8], [0, 1, 4, 11, 12]) for _ in range(2))
    x_BTD = clips_of_one_length(clips)
    assert x_BTD.shape == (6, 12, D)
    assert found.sensitivity.lags == (0, 1, 4, 11) and found.probe is not None
    assert found.probe.lags == (1, 4, 11, 12) and np.isnan(found.probe.partial_r2[3])
    assert len(found.taus) == len(found.lyapunovs) == 2 and max(tau_H.max() for tau_H in found.taus) <= 12
    assert np.array_equal(found.taus, retention(head, x_BTD)) and repr(again) == repr(found)


def test_clips_are_cut_to_their_last_frames_and_drawn_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [torch.arange(length).float()[:, None] + 100 * length for length in (2, 5, 5, 7, 9)]
    x = clips_of_one_length(clips)
    assert x[..., 0].tolist() == [[base - 5 + t for t in range(5)] for base in (505, 505, 707, 909)]
    monkeypatch.setattr("videomem.experiments.memory_horizon.trained_heads.MAX_CLIPS", 2)
    assert clips_of_one_length(clips).shape == (2, 5, 1)
    drawn = {tuple(clips_of_one_length(clips, seed)[:, 0, 0].tolist()) for seed in range(20)}
    assert len(drawn) > 2


def test_clips_of_one_group_are_measured_without_a_probe() -> None:
    found = measure_head(make("gru"), ar_clips(0.5, 4, 9), ["one"] * 4, [1])
    assert found.probe is None and np.isfinite(found.sensitivity.gradient[0])


def test_trained_heads_are_measured_on_their_data(data: VideoDataModule, checkpoints: dict[str, Path]) -> None:
    rows = data.rows("train") + data.rows("test")
    clips, groups = [data.features(row) for row in rows], [data.clips[row].group for row in rows]
    for name in ("none", "gated"):
        classifier = read_checkpoint(checkpoints[name]).classifier()
        for head in (classifier.head, untrained(classifier)):
            found = measure_head(head, clips, groups, [0, 1, 4])
            assert found.sensitivity.gradient[0] == pytest.approx(1) and found.probe is not None
            assert (found.sensitivity.gradient[1] == 0) == (name == "none") == (not found.taus[0].any())


CLIPS = ar_clips(0.0, 4, 6)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: probe(CLIPS, CLIPS, ["a"] * 4, [1]), r"clips are of 1 group\(s\)"),
        (lambda: probe(CLIPS, CLIPS, ["a", "b"] * 2, [0]), "lag is 0, but must be at least 1"),
        (lambda: probe(CLIPS, CLIPS, ["a", "b"], [1]), "states are of 4 clips.* there are 2 groups"),
        (lambda: probe([x[1:] for x in CLIPS], CLIPS, ["a", "b"] * 2, [1]), "clip 0: .* have 5, 5, 6 frames"),
        (lambda: measure_head(make("gru"), CLIPS, ["a"] * 3, [1]), "4 clips, but 3 groups"),
        (lambda: measure_head(make("gru"), CLIPS[:1], ["a"], [1]), r"1 clip\(s\), but at least 2"),
        (lambda: measure_head(make("gru"), CLIPS, ["a", "b"] * 2, [-1]), "lag is -1"),
    ],
)
def test_what_cannot_be_probed_is_named(measure: Callable[[], object], message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        measure()
