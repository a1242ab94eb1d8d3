"""Orders to put the frames of a clip in: pure functions that give indices and leave padding where it is.

Shape:
    every function gives (K, T) int64, K frame orders; row k says which frame is shown at each place

A seed names the clip, so that clips differ; the same seed gives the same frame orders. Frozen and subsampled clips show
some frames more than once, every other frame order is a permutation of the real frames.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

FrameOrders = NDArray[np.int64]


def ordered(length: int, num_frames: int) -> FrameOrders:
    """The frames as they are: (1, T)."""
    return np.arange(num_frames, dtype=np.int64)[None]


def reversed_order(length: int, num_frames: int) -> FrameOrders:
    """The real frames backwards: (1, T)."""
    frame_order = ordered(length, num_frames)
    frame_order[:, :length] = frame_order[:, :length][:, ::-1]
    return frame_order


def shuffled(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    """Permutations of the real frames, each drawn uniformly and independently: (K, T).

    Args:
        length: Real frames of the clip.
        num_frames: T, padding included.
        num_permutations: K.
        seed: The same seed gives the same permutations; name the clip in it, so that clips differ.
    """
    frame_orders = np.repeat(ordered(length, num_frames), num_permutations, axis=0)
    real = np.random.default_rng(seed).permuted(frame_orders[:, :length], axis=1)
    frame_orders[:, :length] = real
    return frame_orders


def within_windows(
    length: int, num_frames: int, window: int, num_permutations: int, seed: tuple[int, ...]
) -> FrameOrders:
    """Frames shuffled inside consecutive windows, the last of which may be shorter: (K, T).

    A window of 1 moves nothing; one of `length` or more is `shuffled` with the same seed.

    Raises:
        ValueError: If `window` is below 1.
    """
    _check_frames("window", window)
    frame_orders = np.repeat(ordered(length, num_frames), num_permutations, axis=0)
    rng = np.random.default_rng(seed)
    for start in range(0, length, window):
        stop = min(start + window, length)
        frame_orders[:, start:stop] = rng.permuted(frame_orders[:, start:stop], axis=1)
    return frame_orders


def blocks(length: int, num_frames: int, block: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    """Consecutive blocks of frames in random order, each kept as it is inside; the last may be shorter: (K, T).

    A block of 1 is a shuffle of all frames; one of `length` or more moves nothing.

    Raises:
        ValueError: If `block` is below 1.
    """
    _check_frames("block", block)
    frame_orders = np.repeat(ordered(length, num_frames), num_permutations, axis=0)
    of_frame = np.arange(length) // block
    ranks = np.tile(np.arange(-(-length // block)), (num_permutations, 1))
    ranks = np.random.default_rng(seed).permuted(ranks, axis=1)
    frame_orders[:, :length] = np.argsort(ranks[:, of_frame], axis=1, kind="stable")
    return frame_orders


def rotated(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    """Begun somewhere else and gone on from the start, by 1 to length - 1 frames at random: (K, T)."""
    frame_orders = np.repeat(ordered(length, num_frames), num_permutations, axis=0)
    if length > 1:
        offsets = np.random.default_rng(seed).integers(1, length, size=(num_permutations, 1))
        frame_orders[:, :length] = (np.arange(length) + offsets) % length
    return frame_orders


def frozen(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    """One frame, drawn at random, at every real place: (K, T). Not a permutation."""
    frame_orders = np.repeat(ordered(length, num_frames), num_permutations, axis=0)
    frame_orders[:, :length] = np.random.default_rng(seed).integers(length, size=(num_permutations, 1))
    return frame_orders


def subsampled(length: int, num_frames: int, step: int) -> FrameOrders:
    """Every step-th frame from the first, each held for `step` places: (1, T). Not a permutation, unless step is 1.

    Raises:
        ValueError: If `step` is below 1.
    """
    _check_frames("step", step)
    frame_order = ordered(length, num_frames)
    frame_order[:, :length] = np.arange(length) // step * step
    return frame_order


def fixed(length: int, num_frames: int, seed: tuple[int, ...]) -> FrameOrders:
    """One permutation for good, of the clip that the seed names: (1, T)."""
    return shuffled(length, num_frames, 1, seed)


def common(length: int, num_frames: int, seed: tuple[int, ...]) -> FrameOrders:
    """One permutation for all clips: (1, T); a shorter clip has the longer ones' with the frames it lacks left out.

    It depends on the seed alone, neither on the clip nor on the padding; the seed must not name the clip.
    """
    frame_order = ordered(length, num_frames)
    # Sorting one key per frame: the keys of a shorter clip are the first ones of a longer clip.
    frame_order[0, :length] = np.argsort(np.random.default_rng(seed).random(length), kind="stable")
    return frame_order


def displacement(frame_order_T: NDArray[np.int64], length: int) -> float:
    """How far frames are from their places: mean |i - pi(i)| over the real frames, as a share of their number."""
    shown = frame_order_T[:length]
    return float(np.abs(shown - np.arange(length)).mean() / length)


def kendall_tau(frame_order_T: NDArray[np.int64], length: int) -> float | None:
    """Kendall's tau-b between place and frame shown: 1 in order, -1 reversed; None where only one frame is shown.

    Reference:
        Kendall 1945, "The treatment of ties in ranking problems".
    """
    shown = frame_order_T[:length]
    first, second = np.triu_indices(length, 1)
    signs = np.sign(shown[second] - shown[first])
    untied = np.count_nonzero(signs)
    return float(signs.sum() / np.sqrt(untied * len(signs))) if untied else None


def adjacency(frame_order_T: NDArray[np.int64], length: int) -> float:
    """Share of neighbouring places that show neighbouring frames, in either direction; 1 for a single frame."""
    return float((np.abs(np.diff(frame_order_T[:length])) == 1).mean()) if length > 1 else 1.0


@dataclass(frozen=True)
class Perturbation:
    """One perturbation of the perturbation suite.

    Attributes:
        name: Kind: `shuffle`, `windows`, `blocks`, `reverse`, `rotate`, `frozen` or `subsample`.
        label: Kind with its parameter, such as `windows of 4`.
        frame_orders: From (length, num_frames, K, seed) to (K, T); to (1, T) where nothing is drawn.
        is_random: Whether frame orders are drawn, so that there are K of them.
    """

    name: str
    label: str
    frame_orders: Callable[[int, int, int, tuple[int, ...]], FrameOrders]
    is_random: bool = True


def suite(num_frames: int, more_sizes: Collection[int] = ()) -> tuple[Perturbation, ...]:
    """Ways to take order away from clips of up to `num_frames` frames.

    Windows and blocks have 2 and 4 frames, a quarter (of many) and half of all, and `more_sizes`, where less than all.
    """
    parts = {2, 4, num_frames // 2, num_frames // 4 if num_frames >= 32 else 2, *more_sizes}
    sizes = sorted(size for size in parts if 1 < size < num_frames)
    return (
        SHUFFLE,
        *(Perturbation("windows", f"windows of {size}", partial(_sized, within_windows, size)) for size in sizes),
        *(Perturbation("blocks", f"blocks of {size}", partial(_sized, blocks, size)) for size in sizes),
        REVERSE,
        Perturbation("rotate", "rotate", rotated),
        Perturbation("frozen", "frozen", frozen),
        *(
            Perturbation("subsample", f"every {step} frames", partial(_subsampled, step), is_random=False)
            for step in (2, 4)
            if step < num_frames
        ),
    )


def _ordered(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    return ordered(length, num_frames)


def _sized(
    function: Callable[[int, int, int, int, tuple[int, ...]], FrameOrders],
    size: int,
    length: int,
    num_frames: int,
    num_permutations: int,
    seed: tuple[int, ...],
) -> FrameOrders:
    return function(length, num_frames, size, num_permutations, seed)


def _reversed(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    return reversed_order(length, num_frames)


def _subsampled(step: int, length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    return subsampled(length, num_frames, step)


IN_ORDER = Perturbation("order", "in order", _ordered, is_random=False)
SHUFFLE = Perturbation("shuffle", "shuffle", shuffled)
REVERSE = Perturbation("reverse", "reverse", _reversed, is_random=False)


def _check_frames(what: str, num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"{what} of {num_frames} frames; it needs at least 1")
