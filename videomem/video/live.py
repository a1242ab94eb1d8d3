"""Frames as they come, one at a time: from a video file, or from a pipe of raw frames."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import count
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from videomem.errors import DecodingError, VideomemError
from videomem.video.decoders.by_pyav import Converter
from videomem.video.decoders.frame_folder import FrameFolder
from videomem.video.decoders.video_stream import open_stream
from videomem.video.files import file_problem, split_template

_TOLERANCE_S = 1e-6  # as in `fixed_rate_indices`


class LiveFrame(NamedTuple):
    """A frame of a stream.

    Attributes:
        place: Number of the frame in the stream, from 0.
        time_s: Seconds from the first frame; None where the rate is not known.
        frame_HWC: (height, width, 3) uint8 RGB.
    """

    place: int
    time_s: float | None
    frame_HWC: NDArray[np.uint8]


def frames_of_file(path: str, rate: float | None = None) -> Iterator[LiveFrame]:
    """Every frame of a video file, decoded forwards, upright; or every image of a folder.

    Args:
        path: A local video file, a folder of numbered images, or a template of their names.
        rate: Frames per second of a folder of images; videos have their own times.
    Raises:
        DecodingError: Before the first frame if the file is no video; after the last sound one if it is damaged.
    """
    if problem := file_problem(path):
        raise DecodingError(problem)
    if split_template(path)[1] is not None or os.path.isdir(path):
        yield from _images(path, rate)
        return
    with open_stream(path) as stream:
        convert, first = Converter(), None
        for place, frame in enumerate(stream.frames()):
            first = frame.pts if place == 0 else first
            if frame.pts is not None and first is not None:
                time_s = (frame.pts - first) * stream.time_base
            else:
                time_s = float(stream.times_s[min(place, len(stream.times_s) - 1)])
            yield LiveFrame(place, time_s, convert(frame))
        if stream.damage:
            raise DecodingError(f"{path}: damaged: {stream.damage}; the last answers may be of altered frames")


def _images(path: str, rate: float | None) -> Iterator[LiveFrame]:
    folder = FrameFolder(path)
    for place in range(len(folder.images)):
        frames_THWC, _, wrong = folder.read(np.array([place]))
        if frames_THWC is None:
            raise DecodingError(f"{path}: damaged: {wrong}")
        yield LiveFrame(place, None if rate is None else place / rate, frames_THWC[0])
    if folder.damage:
        raise DecodingError(f"{path}: damaged: {folder.damage}")


def frames_of_pipe(pipe: BinaryIO, size: tuple[int, int], rate: float | None = None) -> Iterator[LiveFrame]:
    """Raw frames, 3 bytes a pixel, as `ffmpeg -f rawvideo -pix_fmt rgb24` writes them.

    Args:
        pipe: Where bytes come from.
        size: Width and height of a frame, in pixels.
        rate: Frames per second, for their times.
    Raises:
        DecodingError: If the pipe ends within a frame.
    """
    width, height = size
    for place in count():
        frame_HWC = np.empty((height, width, 3), np.uint8)
        num_bytes = _fill(pipe, frame_HWC.data.cast("B"))
        if num_bytes == 0:
            return
        if num_bytes < frame_HWC.nbytes:
            raise DecodingError(
                f"the pipe ended within frame {place}: {num_bytes} of {frame_HWC.nbytes} bytes; is its size "
                f"{width}x{height} and its pixel format rgb24?"
            )
        yield LiveFrame(place, None if rate is None else place / rate, frame_HWC)


def _fill(pipe: BinaryIO, package: memoryview) -> int:
    """Bytes read; fewer than there is package for only at the end. A pipe gives them in pieces."""
    filled = 0
    while filled < len(package) and (num_bytes := pipe.readinto(package[filled:])):  # type: ignore[attr-defined]
        filled += num_bytes
    return filled


def at_rate(frames: Iterable[LiveFrame], fps: float) -> Iterator[LiveFrame]:
    """The frames on screen at 0, 1/fps, 2/fps, ... seconds: those that `FixedRate` chooses of the whole video.

    Which frame is on screen is known when the next one comes, so the stream is one frame late.

    Raises:
        VideomemError: If a frame has no time.
    """
    taken, held = 0, None
    for frame in frames:
        if frame.time_s is None:
            raise VideomemError("these frames have no times; give --source-fps, their frames per second")
        while held is not None and taken / fps + _TOLERANCE_S < frame.time_s:
            yield held
            taken += 1
        held = frame
    while held is not None and held.time_s is not None and taken / fps <= held.time_s + _TOLERANCE_S:
        yield held
        taken += 1
