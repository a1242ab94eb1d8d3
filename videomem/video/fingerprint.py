"""Perceptual fingerprints of clips: near for copies that are re-encoded, rescaled or reversed, far for other clips.

A fingerprint is the difference hash of each of four frames: a frame is averaged down to 8 rows of 9 grey cells, and a
bit says whether a cell is darker than the one to its right. Two clips differ by the number of bits that differ, in the
order of time or against it, whichever is less.

Reference:
    Krawetz 2013, "Kind of like that", The Hacker Factor Blog (the difference hash, dHash).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from videomem.video.sampling import Uniform

# Symmetric in time: the reversal of a clip shows the same frames in turned order.
SAMPLING = Uniform(4)
BITS = 64 * SAMPLING.num_frames
# tests/video/test_survey.py holds it to 97 real clips, many of one scene: of their copies, re-encoded at half the size,
# at most 2 are missed; of the 4,656 pairs of different clips at most 1 is taken for a copy.
NEAR = 16

_ROWS, _COLUMNS = 8, 9
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
# A bit tells something where neighbours differ by at least a grey level; below that it is the noise of an encoder.
_LEAST_STEP = 1.0
_LEAST_TELLING = 32
_LEAST_FRAMES = 3
_BLOCK = 2**18  # pairs at a time, so that memory does not grow with the catalog


def fingerprint(frames_THWC: NDArray[np.uint8]) -> NDArray[np.uint64] | None:
    """The fingerprint of a clip's four frames, or None where they are too flat to tell clips apart.

    A flat frame, such as a dark one or a plain card, counts as 0 in every bit; one of the four may be flat.

    Shape:
        frames_THWC (4, height, width, 3) -> (4,) uint64, a word a frame
    """
    cells_TYX = np.stack([_cells(frame) for frame in frames_THWC])
    steps_TB = np.diff(cells_TYX, axis=2).reshape(len(cells_TYX), -1)
    is_telling_T = (np.abs(steps_TB) >= _LEAST_STEP).sum(axis=1) >= _LEAST_TELLING
    if is_telling_T.sum() < _LEAST_FRAMES:
        return None
    bits_TB = (steps_TB > 0) & is_telling_T[:, None]
    return np.packbits(bits_TB, axis=1).view(np.uint64)[:, 0]


def distance(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Bits that differ, forwards or with the frames of one side turned round, whichever is less.

    Shape:
        left (..., 4), right (..., 4), broadcast against one another -> (...)
    """
    return np.minimum(_differing(left, right), _differing(left, right[..., ::-1]))


def is_reversal(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> bool:
    """Whether one clip (4,) is nearer to the other (4,) turned round than to the other as it is."""
    return bool(_differing(left, right[::-1]) < _differing(left, right))


def near_pairs(
    left_A4: NDArray[np.uint64], right_B4: NDArray[np.uint64], most: int = NEAR
) -> Iterator[NDArray[np.int64]]:
    """Places (a, b) of all fingerprints whose `distance` is at most `most`, in order, some at a time.

    Shape:
        left_A4 (A, 4), right_B4 (B, 4) -> arrays (P, 2)
    """
    if not len(left_A4) or not len(right_B4):
        return
    num_rows = max(1, _BLOCK // len(right_B4))
    second_B, third_B = (np.ascontiguousarray(right_B4[:, word]) for word in (1, 2))
    for start in range(0, len(left_A4), num_rows):
        block = left_A4[start : start + num_rows]
        # The two frames in the middle stay there when a clip is turned round: few pairs are near already in these.
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
    """Mean grey of each cell of a frame, (8, 9)."""
    height, width, _ = frame_HWC.shape
    rows_YWC = (_shares(height, _ROWS) @ frame_HWC.reshape(height, -1).astype(np.float32)).reshape(_ROWS, width, 3)
    return (rows_YWC @ _GREY) @ _shares(width, _COLUMNS).T


def _shares(num_pixels: int, num_cells: int) -> NDArray[np.float32]:
    """Weights (cells, pixels) that average a line of pixels down to cells; a pixel on a border counts by its share."""
    borders = np.linspace(0, num_pixels, num_cells + 1)[:, None]
    pixels = np.arange(num_pixels)
    overlap = np.minimum(borders[1:], pixels + 1) - np.maximum(borders[:-1], pixels)
    return (np.clip(overlap, 0, None) * (num_cells / num_pixels)).astype(np.float32)
