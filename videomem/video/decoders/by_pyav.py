"""Decode with PyAV: all frames from the first one, or only the groups of pictures that are needed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from videomem.errors import DecodingError
from videomem.video.decoders.limits import check_size
from videomem.video.decoders.orientation import orientation
from videomem.video.decoders.video_stream import VideoStream


class ForwardPass(NamedTuple):
    """Result of decoding from the first frame.

    Attributes:
        frames_THWC: The requested frames, or None if some of them do not exist.
        times_s: Times of all undamaged frames, in seconds from the first.
        damage: The damage at which decoding stopped, if any.
    """

    frames_THWC: NDArray[np.uint8] | None
    times_s: NDArray[np.float64]
    damage: str | None


def read_forward(
    stream: VideoStream, wanted: NDArray[np.int64], assumed_s: NDArray[np.float64], end_s: float | None
) -> ForwardPass:
    """Decode all frames up to the end of the stream or `end_s`, and keep those at the requested indices."""
    keep, kept = set(wanted.tolist()), _Kept(stream.path, wanted)
    pts: list[int | None] = []
    damage = None
    for number, frame in enumerate(stream.frames()):
        pts.append(frame.pts)
        if number in keep:
            kept.add(number, frame)
        known = end_s is not None and pts[0] is not None and frame.pts is not None
        if known and (frame.pts - pts[0]) * stream.listing.time_base >= end_s:  # type: ignore[operator]
            break
    else:
        damage = stream.damage
    if damage:
        pts = pts[: stream.num_sound(pts)]
    times_s = _frame_times(pts, stream.listing.time_base, assumed_s)
    return ForwardPass(kept.frames_THWC if kept.is_full else None, times_s, damage)


def _frame_times(pts: Sequence[int | None], time_base: float, assumed_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times in seconds from the first frame; without usable time stamps, frames have the assumed mean spacing."""
    stamps = [p for p in pts if p is not None]
    if stamps and len(stamps) == len(pts) and all(a < b for a, b in pairwise(stamps)):
        return (np.array(stamps, dtype=np.float64) - stamps[0]) * time_base
    return np.arange(len(pts)) * (assumed_s[-1] / max(len(assumed_s) - 1, 1))


def read_groups(stream: VideoStream, wanted: NDArray[np.int64]) -> NDArray[np.uint8] | str:
    """Decode only the groups of pictures that contain the frames at ascending indices.

    Returns the frames, or the reason why they cannot be trusted: groups may refer to each other, or a group did not
    give one frame per packet, with the time of the packet.
    """
    listing = stream.listing
    if not listing.groups_are_separate:
        return "its groups of pictures may refer to each other"
    keep, kept = set(wanted.tolist()), _Kept(stream.path, wanted)
    for start, stop in listing.ranges_of(wanted).tolist():
        pts = []
        for number, frame in enumerate(stream.frames(start, stop), start=start):
            pts.append(frame.pts)
            if number in keep:
                kept.add(number, frame)
        stream.restart()
        if stream.damage or pts != listing.stamps(start, stop).tolist():
            return stream.damage or "a group of pictures does not give the frames that its packets list"
    return kept.frames_THWC


class Converter:
    """Converts the frames of a file to upright images (height, width, 3) uint8 RGB."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._reformatter = VideoReformatter()  # Shared by all frames: creating it takes as long as using it.

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        image = np.asarray(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)
        try:
            return orientation(frame).apply(image)
        except ValueError as error:
            remedy = "multiples of 90 degrees are supported; encode it again, upright"
            raise DecodingError(f"{self._path}: its frames are {error}, but only {remedy}") from error


class _Kept:
    """Collects the frames at ascending indices, some of them repeated, into one array (T, height, width, 3)."""

    def __init__(self, path: str, wanted: NDArray[np.int64]) -> None:
        self._path, self._wanted, self._num_kept = path, wanted, 0
        self._convert = Converter(path)
        self.frames_THWC: NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)

    @property
    def is_full(self) -> bool:
        return self._num_kept == len(self._wanted)

    def add(self, number: int, frame: VideoFrame) -> None:
        upright = self._convert(frame)
        if self._num_kept == 0:
            check_size(self._path, len(self._wanted), *upright.shape[:2])
            self.frames_THWC = np.empty((len(self._wanted), *upright.shape), np.uint8)
        if upright.shape != self.frames_THWC.shape[1:]:
            raise DecodingError(f"{self._path}: the frame size changes within the video")
        stop = int(np.searchsorted(self._wanted, number, side="right"))
        self.frames_THWC[self._num_kept : stop] = upright
        self._num_kept = stop


def repeated(frames_THWC: NDArray[np.uint8], repeats_T: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Repeat distinct frames as requested; without a copy if no frame is repeated."""
    return frames_THWC if len(frames_THWC) == len(repeats_T) else np.ascontiguousarray(frames_THWC[repeats_T])
