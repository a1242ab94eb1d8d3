from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from videomem.experiments import permutations
from videomem.experiments.permutations import IN_ORDER, FrameOrders, Perturbation, suite

shapes = st.integers(1, 20).flatmap(lambda t: st.tuples(st.integers(1, t), st.just(t)))
seeds = st.integers(0, 1000)
sizes = st.integers(1, 24)


def is_permutation(frame_orders: FrameOrders, length: int) -> bool:
    return bool((np.sort(frame_orders[:, :length], axis=1) == np.arange(length)).all())


@given(shape=shapes, seed=seeds, num=st.integers(1, 5))
def test_every_perturbation_leaves_padding_and_shows_real_frames_only(
    shape: tuple[int, int], seed: int, num: int
) -> None:
    length, frames = shape
    for perturbation in (IN_ORDER, *suite(frames)):
        found = perturbation.frame_orders(length, frames, num, (seed, 3))
        assert found.dtype == np.int64 and found.shape == (num if perturbation.is_random else 1, frames)
        assert (found[:, length:] == np.arange(length, frames)).all()
        assert ((found[:, :length] >= 0) & (found[:, :length] < length)).all()
        assert is_permutation(found, length) or perturbation.name in ("frozen", "subsample")
        assert np.array_equal(found, perturbation.frame_orders(length, frames, num, (seed, 3)))


def test_shuffles_are_uniform_and_those_of_their_seed() -> None:
    drawn = permutations.shuffled(3, 5, 6000, (0, 1))
    assert np.array_equal(drawn, permutations.shuffled(3, 5, 6000, (0, 1)))
    assert not np.array_equal(drawn, permutations.shuffled(3, 5, 6000, (0, 2)))
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    # Chi-square with 5 degrees of freedom is above 20.5 once in a thousand.
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5


def test_reversing_twice_is_the_order() -> None:
    once = permutations.reversed_order(5, 8)[0]
    assert once.tolist() == [4, 3, 2, 1, 0, 5, 6, 7]
    assert once[once].tolist() == list(range(8))


@given(shape=shapes, seed=seeds, size=sizes)
def test_windows_keep_frames_in_their_window_and_blocks_keep_their_inner_order(
    shape: tuple[int, int], seed: int, size: int
) -> None:
    length, frames = shape
    for row in permutations.within_windows(length, frames, 3, (seed,), size)[:, :length]:
        assert np.array_equal(row // size, np.arange(length) // size)
    expected = sorted(tuple(range(start, min(start + size, length))) for start in range(0, length, size))
    for row in permutations.blocks(length, frames, 3, (seed,), size)[:, :length]:
        starts = [place for place, frame in enumerate(row) if frame % size == 0]
        assert sorted(tuple(part.tolist()) for part in np.split(row, starts[1:])) == expected


@given(shape=shapes, seed=seeds)
def test_windows_and_blocks_have_their_limits(shape: tuple[int, int], seed: int) -> None:
    length, frames = shape
    in_order = np.repeat(permutations.ordered(length, frames), 2, axis=0)
    assert np.array_equal(permutations.within_windows(length, frames, 2, (seed,), 1), in_order)
    assert np.array_equal(permutations.blocks(length, frames, 2, (seed,), length), in_order)
    whole = permutations.within_windows(length, frames, 2, (seed,), length + 1)
    assert np.array_equal(whole, permutations.shuffled(length, frames, 2, (seed,)))
    assert np.array_equal(permutations.subsampled(length, frames, 1), in_order[:1])
    assert np.array_equal(
        permutations.fixed(length, frames, (seed,)), permutations.shuffled(length, frames, 1, (seed,))
    )


@given(shape=shapes, seed=seeds)
def test_rotations_move_every_frame_by_the_same_offset(shape: tuple[int, int], seed: int) -> None:
    length, frames = shape
    for row in permutations.rotated(length, frames, 4, (seed,))[:, :length]:
        offsets = (row - np.arange(length)) % length
        assert len(set(offsets.tolist())) == 1 and (offsets[0] > 0 or length == 1)


@given(shape=shapes, seed=seeds, step=sizes)
def test_frozen_clips_show_one_frame_and_subsampled_ones_hold_theirs(
    shape: tuple[int, int], seed: int, step: int
) -> None:
    length, frames = shape
    assert all(len(set(row.tolist())) == 1 for row in permutations.frozen(length, frames, 4, (seed,))[:, :length])
    held = permutations.subsampled(length, frames, step)[0, :length].tolist()
    assert held == [place - place % step for place in range(length)]


@given(length=st.integers(1, 20), more=st.integers(0, 10), seed=seeds)
def test_the_common_permutation_is_the_same_for_clips_of_all_lengths(length: int, more: int, seed: int) -> None:
    longest = permutations.common(length + more, length + more, (seed,))[0]
    for frames in (length, length + more):
        assert permutations.common(length, frames, (seed,))[0, :length].tolist() == longest[longest < length].tolist()


@given(shape=shapes, seed=seeds)
def test_measures_are_those_counted_by_hand(shape: tuple[int, int], seed: int) -> None:
    length, frames = shape
    for perturbation in suite(frames):
        row = perturbation.frame_orders(length, frames, 1, (seed,))[0]
        shown = row[:length].tolist()
        moved = [abs(place - frame) for place, frame in enumerate(shown)]
        assert permutations.displacement(row, length) == pytest.approx(sum(moved) / length / length)
        kept = [abs(a - b) == 1 for a, b in pairwise(shown)]
        assert permutations.adjacency(row, length) == pytest.approx(sum(kept) / len(kept) if kept else 1)
        tau = permutations.kendall_tau(row, length)
        if len(set(shown)) == 1:
            assert tau is None
        else:
            assert tau == pytest.approx(stats.kendalltau(range(length), shown).statistic)
        if tau is not None and is_permutation(row[None], length):
            right = sum(1 if a < b else -1 for a, b in combinations(shown, 2))
            assert tau == pytest.approx(right / (length * (length - 1) / 2))


@given(length=st.integers(2, 20), padding=st.integers(0, 5))
def test_reversal_keeps_every_neighbor_and_turns_every_pair(length: int, padding: int) -> None:
    row = permutations.reversed_order(length, length + padding)[0]
    assert permutations.adjacency(row, length) == 1 and permutations.kendall_tau(row, length) == pytest.approx(-1)
    in_order = permutations.ordered(length, length + padding)[0]
    assert permutations.displacement(in_order, length) == 0 and permutations.kendall_tau(
        in_order, length
    ) == pytest.approx(1)


def test_rotations_and_blocks_are_drawn_uniformly() -> None:
    for drawn, kinds in (
        (permutations.rotated(5, 6, 4000, (0,)), 4),
        (permutations.frozen(4, 6, 4000, (0,)), 4),
        (permutations.blocks(6, 6, 6000, (0,), 2), 6),
        (permutations.within_windows(4, 4, 4000, (0,), 2), 4),
    ):
        counts = np.unique(drawn, axis=0, return_counts=True)[1]
        # Chi-square with at most 5 degrees of freedom is above 20.5 once in a thousand.
        assert len(counts) == kinds and ((counts - 1000) ** 2 / 1000).sum() < 20.5


def test_the_suite_names_each_perturbation_once_and_shortens_for_short_clips() -> None:
    def labels(perturbations: tuple[Perturbation, ...]) -> list[str]:
        return [perturbation.label for perturbation in perturbations]

    assert labels(suite(16)) == [
        "shuffle", "windows of 2", "windows of 4", "windows of 8", "blocks of 2", "blocks of 4", "blocks of 8",
        "reverse", "rotate", "frozen", "every 2 frames", "every 4 frames",
    ]  # fmt: skip
    assert labels(suite(2)) == labels(suite(1)) == ["shuffle", "reverse", "rotate", "frozen"]
    assert "windows of 16" in labels(suite(64))
    for frames in range(1, 70):
        assert len(set(labels(suite(frames)))) == len(suite(frames))


@pytest.mark.parametrize("size", [0, -2])
def test_sizes_below_one_frame_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        permutations.within_windows(4, 4, 1, (0,), size)
    with pytest.raises(ValueError, match="at least 1"):
        permutations.blocks(4, 4, 1, (0,), size)
    with pytest.raises(ValueError, match="at least 1"):
        permutations.subsampled(4, 4, size)
