"""Sampling: which frames of a clip are used. Pure functions, and the classes that configs name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from videomem.errors import VideomemError

# An hour of video. The limit protects against an untrusted exported folder that asks for more memory than there is.
MAX_FRAMES = 100_000
TOLERANCE_S = 1e-6  # A frame at 0.1 s counts as displayed at 3 * (1 / 30) s.
Interval = tuple[float | None, float | None]  # Start and end in seconds; None: those of the video.


def uniform_indices(num_available: int, num_frames: int) -> NDArray[np.int64]:
    """Indices of `num_frames` frames spread evenly over a clip of `num_available` frames, first and last included.

    The indices are symmetric, idx[T-1-i] == N-1-idx[i], so a clip and its reversal give the same frames: the first half
    is spaced evenly and rounded down, and the second half is its reflection. The one exception is the center index
    with odd T and even N, where the clip has no middle frame; it is rounded down. Frames repeat if T > N.

    Args:
        num_available: N, the number of decodable frames of the clip, at least 1.
        num_frames: T, at least 1.
    Raises:
        ValueError: If one of them is below 1.
    Shape:
        (T,), ascending, within 0..N-1
    """
    if num_available < 1 or num_frames < 1:
        raise ValueError(f"need at least one frame, got num_available={num_available}, num_frames={num_frames}")
    indices = np.arange(num_frames, dtype=np.int64) * (num_available - 1) // max(num_frames - 1, 1)
    half = num_frames // 2
    indices[num_frames - half :] = num_available - 1 - indices[:half][::-1]
    if num_frames % 2:
        indices[half] = (num_available - 1) // 2
    return indices


def fixed_rate_indices(times_s: NDArray[np.float64], fps: float, max_frames: int) -> NDArray[np.int64]:
    """Indices of the frames displayed at 0, 1/fps, 2/fps, ... seconds, up to the end of the clip or `max_frames`.

    Args:
        times_s: Presentation time of each frame (N,) in seconds, ascending from 0, N >= 1; the rate may vary.
        fps: Samples per second. Frames repeat if it exceeds the frame rate of the clip.
        max_frames: Maximum number of samples.
    Raises:
        ValueError: If there is no frame, or `fps` or `max_frames` is out of range.
    Shape:
        (T,), ascending, 1 <= T <= max_frames
    """
    if len(times_s) < 1 or max_frames < 1 or not fps > 0:
        raise ValueError(f"need frames and a rate above zero, got {len(times_s)} frames, {fps=}, {max_frames=}")
    count = min(max_frames, int(np.floor((times_s[-1] + TOLERANCE_S) * fps)) + 1)
    return np.searchsorted(times_s, np.arange(count) / fps + TOLERANCE_S, side="right").astype(np.int64) - 1


def frames_within(times_s: NDArray[np.float64], interval: Interval) -> NDArray[np.int64]:
    """Indices of the frames with start <= time < end, for times (N,) in seconds."""
    start_s, end_s = interval
    inside = (times_s >= (start_s or 0.0)) & (times_s < (np.inf if end_s is None else end_s))
    return np.flatnonzero(inside).astype(np.int64)


class Sampling(ABC):
    """Base class of samplings. Subclasses are frozen dataclasses whose fields determine the sampled frames.

    Attributes:
        needs_times: Whether the sampling depends on frame times, not only on the number of frames.
    """

    needs_times: ClassVar[bool] = True

    @abstractmethod
    def indices(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Ascending indices (T,) of the sampled frames, given the time of each frame (N,) in seconds from the first."""


@dataclass(frozen=True)
class Uniform(Sampling):
    """A fixed number of frames, spread evenly over the clip and symmetric in time.

    Args:
        num_frames: T, frames per clip, at least 2.
    """

    needs_times: ClassVar[bool] = False
    num_frames: int = 16

    def __post_init__(self) -> None:
        _check_frames("num_frames", self.num_frames)

    def indices(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        return uniform_indices(len(times_s), self.num_frames)


@dataclass(frozen=True)
class FixedRate(Sampling):
    """Frames at a fixed rate, so that the number of frames depends on the duration of the clip.

    Args:
        fps: Samples per second.
        max_frames: Maximum number of frames per clip, at least 2; later frames are not used.
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
    if value > MAX_FRAMES:
        raise VideomemError(f"sampling.{name} is {value}, above the limit of {MAX_FRAMES}; lower it")


# The classes that an exported folder or a checkpoint may name.
SAMPLINGS = {cls.__name__: cls for cls in (Uniform, FixedRate)}
