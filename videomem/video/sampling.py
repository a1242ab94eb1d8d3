"""Which frames of a clip are looked at: pure functions of its frames' times, and the parts that configs name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from videomem.errors import VideomemError

MOST_FRAMES = 100_000  # of one clip, an hour of video; a folder from anywhere may ask for more than there is memory


def uniform_indices(num_available: int, num_frames: int) -> NDArray[np.int64]:
    """`num_frames` indices spread over a clip of `num_available` frames, first and last included.

    The choice is its own mirror image, idx[T-1-i] == N-1-idx[i], so a clip and its reversal give the same frames:
    the first half is spaced evenly and rounded down, the second half is its reflection. Frames repeat when T > N.
    With odd T and even N there is no middle frame and the centre index (rounded down) is the one exception.

    Args:
        num_available: N, the decodable frames of the clip, at least 1.
        num_frames: T, at least 1.
    Shape:
        (T,), ascending, within 0..N-1
    """
    if num_available < 1 or num_frames < 1:
        raise ValueError(f"need at least one frame, got num_available={num_available}, num_frames={num_frames}")
    position = np.arange(num_frames, dtype=np.int64)
    last = max(num_frames - 1, 1)
    ascending = position * (num_available - 1) // last
    half = num_frames // 2
    indices = ascending.copy()
    indices[num_frames - half :] = num_available - 1 - ascending[:half][::-1]
    if num_frames % 2:
        indices[half] = (num_available - 1) // 2
    return indices


def fixed_rate_indices(times_s: NDArray[np.float64], fps: float, max_frames: int) -> NDArray[np.int64]:
    """Indices of the frames on screen at 0, 1/fps, 2/fps, ... seconds, until the clip or `max_frames` ends.

    Args:
        times_s: Presentation time of each frame (N,) in seconds, ascending from 0, N >= 1; the rate may vary.
        fps: Samples per second; where it exceeds the clip's own rate, frames repeat.
        max_frames: The clip is cut after this many samples.
    Shape:
        (T,), ascending, 1 <= T <= max_frames
    """
    if len(times_s) < 1 or max_frames < 1 or not fps > 0:
        raise ValueError(f"need frames and a rate above zero, got {len(times_s)} frames, {fps=}, {max_frames=}")
    tolerance_s = 1e-6  # A frame at 0.1 s counts as on screen at 3 * (1 / 30) s.
    count = min(max_frames, int(np.floor((times_s[-1] + tolerance_s) * fps)) + 1)
    return np.searchsorted(times_s, np.arange(count) / fps + tolerance_s, side="right").astype(np.int64) - 1


class Sampling(ABC):
    """Chooses frames of a clip; a frozen dataclass, so that its fields are the whole cause of the choice.

    Attributes:
        needs_times: Whether the choice depends on times, not on the number of frames alone.
    """

    needs_times: ClassVar[bool] = True

    @abstractmethod
    def indices(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Ascending indices (T,) into a clip whose frames are shown at `times_s` (N,), in seconds from its start."""


@dataclass(frozen=True)
class Uniform(Sampling):
    """`num_frames` frames spread evenly over the clip, symmetric in time.

    Args:
        num_frames: T, frames per clip; 2 or more, since one frame has no order.
    """

    needs_times: ClassVar[bool] = False
    num_frames: int = 16

    def __post_init__(self) -> None:
        _check_frames("num_frames", self.num_frames)

    def indices(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        return uniform_indices(len(times_s), self.num_frames)


@dataclass(frozen=True)
class FixedRate(Sampling):
    """Frames at a fixed rate, so that clips differ in length.

    Args:
        fps: Samples per second.
        max_frames: Longest sequence; later frames are not looked at. 2 or more, since one frame has no order.
    """

    fps: float = 5.0
    max_frames: int = 64

    def __post_init__(self) -> None:
        _check_frames("max_frames", self.max_frames)
        if not 0 < self.fps <= 1000:
            raise VideomemError(f"sampling.fps is {self.fps}, but must be above 0 and at most 1000")

    def indices(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        return fixed_rate_indices(times_s, self.fps, self.max_frames)


def _check_frames(name: str, value: int) -> None:
    if value < 2:
        raise VideomemError(f"sampling.{name} is {value}, but order needs at least 2 frames; raise it")
    if value > MOST_FRAMES:
        raise VideomemError(f"sampling.{name} is {value}, above the limit of {MOST_FRAMES}; lower it")


# What an exported folder or a checkpoint may name.
SAMPLINGS = {cls.__name__: cls for cls in (Uniform, FixedRate)}
