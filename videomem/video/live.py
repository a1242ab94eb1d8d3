"""Iterate over the frames of a video file or of a pipe of raw frames, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from statistics import median
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from videomem.errors import DecodingError, VideomemError
from videomem.video.decoders.by_pyav import Converter
from videomem.video.decoders.frame_folder import FrameFolder
from videomem.video.decoders.limits import check_size
from videomem.video.decoders.video_stream import read_live
from videomem.video.files import file_problem, is_image_folder
from videomem.video.sampling import TOLERANCE_S


class LiveFrame(NamedTuple):
    """A frame of a stream.

    Attributes:
        place: Index of the frame in the stream, from 0.
        time_s: Seconds from the first frame; None if the frame rate is unknown.
        frame_HWC: (height, width, 3) uint8 RGB.
    """

    place: int
    time_s: float | None
    frame_HWC: NDArray[np.uint8]


def frames_of_file(path: str, rate: float | None = None) -> Iterator[LiveFrame]:
    """Iterate over all frames of a video file, upright, or over all images of a folder.

    Args:
        path: A local video file, a folder of numbered images, or a template of their names.
        rate: Frames per second of a folder of images; ignored for video files.
    Raises:
        DecodingError: Before the first frame if the file is not a video, or after the last undamaged frame.
    """
    if problem := file_problem(path):
        raise DecodingError(problem)
    if is_image_folder(path):
        yield from _images(path, rate)
        return
    convert = Converter(path)
    for place, (frame, time_s) in enumerate(read_live(path)):
        check_size(path, 1, frame.height, frame.width)
        yield LiveFrame(place, time_s, convert(frame))


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
    """Iterate over raw RGB frames, as written by `ffmpeg -f rawvideo -pix_fmt rgb24`.

    Args:
        pipe: The stream of bytes.
        size: Width and height of a frame, in pixels.
        rate: Frames per second, used for the times of the frames.
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


def _fill(pipe: BinaryIO, buffer: memoryview) -> int:
    """Fill a buffer from a pipe, which may deliver it in pieces. Returns fewer bytes only at the end of the pipe."""
    filled = 0
    while filled < len(buffer) and (num_bytes := pipe.readinto(buffer[filled:])):  # type: ignore[attr-defined]
        filled += num_bytes
    return filled


_RECENT_STEPS, _FEWEST_STEPS = 100, 5  # by which the usual step between two frames is judged
_GAP_STEPS, _EVEN_SHARE = 8, 0.9  # as for the gaps of a whole file, see `first_hole`


def telling_of_gaps(frames: Iterable[LiveFrame], tell: Callable[[str], None]) -> Iterator[LiveFrame]:
    """The same frames; `tell` is called with a sentence before each frame whose time jumps.

    Times jump if they do not increase or, where the steps between the latest frames are even, if one is as long as 8.
    """
    steps: deque[float] = deque(maxlen=_RECENT_STEPS)
    last_s = None
    for frame in frames:
        if last_s is not None and frame.time_s is not None:
            step_s = frame.time_s - last_s
            usual_s = median(steps) if len(steps) >= _FEWEST_STEPS else 0.0
            is_even = sum(abs(one - usual_s) < usual_s / 2 for one in steps) >= _EVEN_SHARE * len(steps)
            if step_s <= 0:
                tell(
                    f"the time of frame {frame.place} is {-step_s:.3g} s before that of the last: its time stamps jump"
                )
            elif is_even and 0 < _GAP_STEPS * usual_s <= step_s:
                ratio = f"{step_s:.3g} s after the last, {step_s / usual_s:.0f} times the usual step"
                tell(f"frame {frame.place} follows {ratio}: frames are missing, or time stamps jump")
            steps.append(step_s)
        last_s = frame.time_s
        yield frame


_MOST_GAP_S = 3600.0


def at_rate(frames: Iterable[LiveFrame], fps: float) -> Iterator[LiveFrame]:
    """The frames displayed at 0, 1/fps, 2/fps, ... seconds: the same that `FixedRate` selects of the video.

    The output is delayed by one frame, since a frame is displayed until the next one arrives.

    Raises:
        VideomemError: If a frame has no time.
    """
    taken, held = 0, None
    for frame in frames:
        if frame.time_s is None:
            raise VideomemError(
                "these frames have no times; give --source-fps for raw frames and images, or copy the video into a "
                "file with a frame rate, such as mp4"
            )
        if held is not None and frame.time_s - (held.time_s or 0.0) > _MOST_GAP_S:
            gap_s = frame.time_s - (held.time_s or 0.0)
            raise DecodingError(f"frame {frame.place} follows {gap_s:g} s after the last, above {_MOST_GAP_S:g} s")
        while held is not None and taken / fps + TOLERANCE_S < frame.time_s:
            yield held
            taken += 1
        held = frame
    while held is not None and held.time_s is not None and taken / fps <= held.time_s + TOLERANCE_S:
        yield held
        taken += 1
