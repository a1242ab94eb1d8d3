"""Frame orders: pure functions that return frame indices and never move padding.

Shape:
    every function returns K frame orders (K, T) int64; row k holds the index of the frame shown at each position

The seed must identify the clip, so that clips get different frame orders; the same seed gives the same frame orders.
Every frame order is a permutation of the real frames, except those of `frozen` and `subsampled`, which repeat frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

FrameOrders = NDArray[np.int64]


def ordered(length: int, num_frames: int) -> FrameOrders:
    """Returns the original order: (1, T)."""
    return np.arange(num_frames, dtype=np.int64)[None]


def reversed_order(length: int, num_frames: int) -> FrameOrders:
    """Returns the real frames in reverse order: (1, T)."""
    return _padded(np.arange(length)[None, ::-1], num_frames)


def shuffled(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    """Returns independent, uniformly drawn permutations of the real frames: (K, T).

    Args:
        length: Number of real frames of the clip.
        num_frames: T, padding included.
        num_permutations: K.
        seed: Seed of the permutations; include the number of the clip, so that clips get different ones.
    """
    return within_windows(length, num_frames, num_permutations, seed, window=length)


def within_windows(
    length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...], window: int
) -> FrameOrders:
    """Returns frames shuffled within consecutive windows, the last of which may be shorter: (K, T).

    A window of 1 is the original order; a window of `length` or more equals `shuffled` with the same seed.

    Raises:
        ValueError: If `window` is below 1.
    """
    _check_frames("window", window)
    rng = np.random.default_rng(seed)
    real = np.tile(np.arange(length), (num_permutations, 1))
    windows = [rng.permuted(real[:, start : start + window], axis=1) for start in range(0, length, window)]
    return _padded(np.concatenate(windows, axis=1), num_frames)


def blocks(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...], block: int) -> FrameOrders:
    """Returns consecutive blocks of frames in random order; frames within a block keep their order: (K, T).

    The last block may be shorter. A block of 1 is a shuffle of all frames; a block of `length` or more is the original
    order.

    Raises:
        ValueError: If `block` is below 1.
    """
    _check_frames("block", block)
    ranks = np.tile(np.arange(-(-length // block)), (num_permutations, 1))
    ranks = np.random.default_rng(seed).permuted(ranks, axis=1)
    return _padded(np.argsort(ranks[:, np.arange(length) // block], axis=1, kind="stable"), num_frames)


def rotated(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    """Returns the real frames rotated by a random offset from 1 to length - 1: (K, T)."""
    offsets = np.random.default_rng(seed).integers(1, max(length, 2), size=(num_permutations, 1))
    return _padded((np.arange(length) + offsets) % length, num_frames)


def frozen(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> FrameOrders:
    """Returns one randomly drawn frame at every real position: (K, T). Not a permutation."""
    shown = np.random.default_rng(seed).integers(length, size=(num_permutations, 1))
    return _padded(shown.repeat(length, axis=1), num_frames)


def subsampled(length: int, num_frames: int, step: int) -> FrameOrders:
    """Returns every step-th frame, repeated `step` times: (1, T). Not a permutation, unless `step` is 1.

    Raises:
        ValueError: If `step` is below 1.
    """
    _check_frames("step", step)
    return _padded(np.arange(length)[None] // step * step, num_frames)


def fixed(length: int, num_frames: int, seed: tuple[int, ...]) -> FrameOrders:
    """Returns one fixed permutation for the clip that the seed identifies: (1, T)."""
    return shuffled(length, num_frames, 1, seed)


def common(length: int, num_frames: int, seed: tuple[int, ...]) -> FrameOrders:
    """Returns one permutation that is common to all clips: (1, T).

    A shorter clip gets the permutation of longer clips without the frames it does not have. The permutation depends on
    the seed alone, which must not identify the clip, and not on the padding.
    """
    # One sort key is drawn per frame; the keys of a shorter clip are the first keys of a longer clip.
    return _padded(np.argsort(np.random.default_rng(seed).random((1, length)), axis=1, kind="stable"), num_frames)


def _padded(real: NDArray[np.int64], num_frames: int) -> FrameOrders:
    """Returns frame orders (K, T) from those of the real frames (K, length)."""
    frame_orders = np.tile(ordered(num_frames, num_frames), (len(real), 1))
    frame_orders[:, : real.shape[1]] = real
    return frame_orders


def _check_frames(what: str, num_frames: int) -> None:
    if num_frames < 1:
        raise ValueError(f"{what} is {num_frames} frames, but must be at least 1")


def displacement(frame_order_T: NDArray[np.int64], length: int) -> float:
    """Returns the mean `|i - pi(i)|` over the real frames, as a share of their number."""
    shown = frame_order_T[:length]
    return float(np.abs(shown - np.arange(length)).mean() / length)


def kendall_tau(frame_order_T: NDArray[np.int64], length: int) -> float | None:
    """Returns Kendall's tau-b between position and frame shown: 1 in order, -1 reversed, None if one frame is shown.

    Reference:
        Kendall 1945, "The treatment of ties in ranking problems".
    """
    shown = frame_order_T[:length]
    first, second = np.triu_indices(length, 1)
    signs = np.sign(shown[second] - shown[first])
    untied = np.count_nonzero(signs)
    return float(signs.sum() / np.sqrt(untied * len(signs))) if untied else None


def adjacency(frame_order_T: NDArray[np.int64], length: int) -> float:
    """Returns the share of adjacent positions that show adjacent frames, in either direction; 1 for a single frame."""
    return float((np.abs(np.diff(frame_order_T[:length])) == 1).mean()) if length > 1 else 1.0


@dataclass(frozen=True)
class Perturbation:
    """One perturbation of the perturbation suite.

    Attributes:
        name: Kind: `shuffle`, `windows`, `blocks`, `reverse`, `rotate`, `frozen` or `subsample`.
        label: Kind with its parameter, such as `windows of 4`.
        frame_orders: Function from (length, num_frames, K, seed) to frame orders (K, T), or (1, T) if not random.
        is_random: Whether frame orders are drawn at random, so that there are K of them.
    """

    name: str
    label: str
    frame_orders: Callable[[int, int, int, tuple[int, ...]], FrameOrders]
    is_random: bool = True

    @property
    def is_permutation(self) -> bool:
        """Whether every frame is shown once, so that an order-blind head gives the same logits as in order."""
        return self.name not in ("frozen", "subsample")


@cache
def suite(num_frames: int, more_sizes: tuple[int, ...] = ()) -> tuple[Perturbation, ...]:
    """Returns the perturbations for clips of up to `num_frames` frames.

    Windows and blocks have 2, 4 and half of all frames, from 32 frames on also a quarter, and `more_sizes`. Sizes that
    are not below `num_frames` are left out.
    """
    parts = {2, 4, num_frames // 2, num_frames // 4 if num_frames >= 32 else 2, *more_sizes}
    sizes = sorted(size for size in parts if 1 < size < num_frames)
    return (
        SHUFFLE,
        *(Perturbation("windows", f"windows of {size}", partial(within_windows, window=size)) for size in sizes),
        *(Perturbation("blocks", f"blocks of {size}", partial(blocks, block=size)) for size in sizes),
        REVERSE,
        Perturbation("rotate", "rotate", rotated),
        Perturbation("frozen", "frozen", frozen),
        *(
            _not_random("subsample", f"every {step} frames", partial(subsampled, step=step))
            for step in (2, 4)
            if step < num_frames
        ),
    )


def _not_random(name: str, label: str, frame_order: Callable[[int, int], FrameOrders]) -> Perturbation:
    return Perturbation(name, label, lambda length, num_frames, *_: frame_order(length, num_frames), is_random=False)


IN_ORDER = _not_random("order", "in order", ordered)
SHUFFLE = Perturbation("shuffle", "shuffle", shuffled)
REVERSE = _not_random("reverse", "reverse", reversed_order)
SHUFFLE_SUITE = (IN_ORDER, SHUFFLE, REVERSE)
