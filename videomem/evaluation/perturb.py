"""Orders to put the frames of a clip in: pure functions that give indices and leave padding where it is.

Shape:
    every function gives (K, T) int64, K arrangements; row k says which frame is shown at each place
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Arrangements = NDArray[np.int64]


def ordered(length: int, num_frames: int) -> Arrangements:
    """The frames as they are: (1, T)."""
    return np.arange(num_frames, dtype=np.int64)[None]


def reversed_order(length: int, num_frames: int) -> Arrangements:
    """The real frames backwards: (1, T)."""
    arrangement = ordered(length, num_frames)
    arrangement[:, :length] = arrangement[:, :length][:, ::-1]
    return arrangement


def shuffled(length: int, num_frames: int, num_permutations: int, seed: tuple[int, ...]) -> Arrangements:
    """Permutations of the real frames, each drawn uniformly and independently: (K, T).

    Args:
        length: Real frames of the clip.
        num_frames: T, padding included.
        num_permutations: K.
        seed: The same seed gives the same permutations; name the clip in it, so that clips differ.
    """
    arrangements = np.repeat(ordered(length, num_frames), num_permutations, axis=0)
    real = np.random.default_rng(seed).permuted(arrangements[:, :length], axis=1)
    arrangements[:, :length] = real
    return arrangements
