"""Perceptual fingerprints, to find copies of a clip that are re-encoded, rescaled or reversed.

A fingerprint is the difference hash of four frames: each frame is averaged to 8 rows of 9 gray cells, and a bit is set
if a cell is darker than the cell to its right. The distance of two clips is the number of different bits, forwards or
with one clip reversed, whichever is smaller.

Reference:
    Krawetz 2013, "Kind of like that", The Hacker Factor Blog (the difference hash, dHash).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from videomem.video.sampling import Uniform

# Symmetric in time: a clip and its reversal have the same frames.
SAMPLING = Uniform(4)
# Maximum distance of near-duplicates. tests/video/test_survey.py checks it on 97 real clips, many of one scene: at most
# 2 of their copies, re-encoded at half the size, are missed, and at most 1 of 4,656 pairs of different clips is found.
MAX_DISTANCE = 16

_ROWS, _COLUMNS = 8, 9
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
# A bit is informative if the neighboring cells differ by at least one gray level; smaller steps are encoder noise.
_MIN_STEP = 1.0
_MIN_INFORMATIVE_BITS = 32
_MIN_FRAMES = 3
_BLOCK = 2**18  # Pairs compared at a time, to limit memory.


def fingerprint(frames_THWC: NDArray[np.uint8]) -> NDArray[np.uint64] | None:
    """The fingerprint of the four frames of a clip, or None if they have too little contrast.

    At most one of the four frames may have too little contrast, such as a dark frame; its bits are 0.

    Shape:
        frames_THWC (4, height, width, 3) -> (4,) uint64, one word per frame
    """
    cells_TYX = np.stack([_cells(frame) for frame in frames_THWC])
    steps_TB = np.diff(cells_TYX, axis=2).reshape(len(cells_TYX), -1)
    has_contrast_T = (np.abs(steps_TB) >= _MIN_STEP).sum(axis=1) >= _MIN_INFORMATIVE_BITS
    if has_contrast_T.sum() < _MIN_FRAMES:
        return None
    bits_TB = (steps_TB > 0) & has_contrast_T[:, None]
    return np.packbits(bits_TB, axis=1).view(np.uint64)[:, 0]


def distance(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of different bits, forwards or with one clip reversed, whichever is smaller.

    Shape:
        left (..., 4), right (..., 4), broadcast -> (...)
    """
    return np.minimum(_differing(left, right), _differing(left, right[..., ::-1]))


def is_reversal(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> bool:
    """Whether a clip (4,) is closer to the reversal of the other clip (4,) than to the other clip itself."""
    return bool(_differing(left, right[::-1]) < _differing(left, right))


def near_pairs(
    left_A4: NDArray[np.uint64], right_B4: NDArray[np.uint64], most: int = MAX_DISTANCE
) -> Iterator[NDArray[np.int64]]:
    """Yield the index pairs (a, b) of fingerprints whose `distance` is at most `most`, in order and in blocks.

    Shape:
        left_A4 (A, 4), right_B4 (B, 4) -> arrays (P, 2)
    """
    if not len(left_A4) or not len(right_B4):
        return
    num_rows = max(1, _BLOCK // len(right_B4))
    second_B, third_B = (np.ascontiguousarray(right_B4[:, word]) for word in (1, 2))
    for start in range(0, len(left_A4), num_rows):
        block = left_A4[start : start + num_rows]
        # A fast first test on the two middle frames, which stay in the middle when a clip is reversed.
        second_A1, third_A1 = block[:, 1, None], block[:, 2, None]
        forwards = np.bitwise_count(second_A1 ^ second_B) + np.bitwise_count(third_A1 ^ third_B)
        backwards = np.bitwise_count(second_A1 ^ third_B) + np.bitwise_count(third_A1 ^ second_B)
        pairs_P2 = np.argwhere(np.minimum(forwards, backwards) <= most)
        is_near_P = distance(block[pairs_P2[:, 0]], right_B4[pairs_P2[:, 1]]) <= most
        if is_near_P.any():
            yield pairs_P2[is_near_P] + np.array([start, 0])


def _differing(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.bitwise_count(left ^ right).sum(axis=-1, dtype=np.int64)


def _cells(frame_HWC: NDArray[np.uint8]) -> NDArray[np.floating]:
    """Mean gray value of each cell of a frame, (8, 9)."""
    height, width, _ = frame_HWC.shape
    rows_YWC = (_shares(height, _ROWS) @ frame_HWC.reshape(height, -1).astype(np.float32)).reshape(_ROWS, width, 3)
    return (rows_YWC @ _GRAY) @ _shares(width, _COLUMNS).T


def _shares(num_pixels: int, num_cells: int) -> NDArray[np.float32]:
    """Weights (cells, pixels) that average pixels to cells; a pixel on a border counts in proportion to its overlap."""
    borders = np.linspace(0, num_pixels, num_cells + 1)[:, None]
    pixels = np.arange(num_pixels)
    overlap = np.minimum(borders[1:], pixels + 1) - np.maximum(borders[:-1], pixels)
    return (np.clip(overlap, 0, None) * (num_cells / num_pixels)).astype(np.float32)
