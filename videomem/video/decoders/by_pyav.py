"""PyAV, which decodes everything: forwards from the first frame, or only the groups of pictures that are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from videomem.errors import DecodingError
from videomem.video.decoders.packets import frame_times
from videomem.video.decoders.stream import VideoStream

# Groups are decoded alone where that saves at least this share of the packets.
_LEAST_SAVING = 0.2


@dataclass(frozen=True)
class ForwardPass:
    """What decoding from the first frame on gave.

    Attributes:
        frames_THWC: The wanted frames, or None where there are fewer.
        times_s: Times of all sound frames on the way, in seconds from the first.
        damage: What ended the pass before its time, if anything.
    """

    frames_THWC: NDArray[np.uint8] | None
    times_s: NDArray[np.float64]
    damage: str | None


def read_forward(
    stream: VideoStream, wanted: NDArray[np.int64], assumed_s: NDArray[np.float64], end_s: float | None
) -> ForwardPass:
    """Decode all frames until the stream or `end_s` ends; keep those at the wanted indices."""
    distinct, repeats = np.unique(wanted, return_inverse=True)
    keep, kept = set(distinct.tolist()), []
    pts: list[int | None] = []
    damage = None
    for number, frame in enumerate(stream.frames()):
        pts.append(frame.pts)
        if number in keep:
            kept.append(_upright(frame))
        known = end_s is not None and pts[0] is not None and frame.pts is not None
        if known and (frame.pts - pts[0]) * stream.time_base >= end_s:  # type: ignore[operator]
            break
    else:
        damage = stream.damage
    if damage:
        pts = pts[: stream.num_sound(pts)]
    times_s = frame_times(pts, stream.time_base, assumed_s)
    frames = np.ascontiguousarray(_stack(stream.path, kept)[repeats]) if len(kept) == len(distinct) else None
    return ForwardPass(frames, times_s, damage)


def why_not_groups(stream: VideoStream) -> str | None:
    """Why groups of pictures cannot be decoded alone, or None where they can."""
    return "its groups of pictures may refer to each other" if stream.groups() is None else None


def read_groups(stream: VideoStream, wanted: NDArray[np.int64]) -> NDArray[np.uint8] | str:
    """Decode only the groups of pictures that hold wanted frames, or give the reason not to.

    Each group must give a frame for each of its packets, at the packet's own time.
    """
    keep = set(wanted.tolist())
    needed = [(start, stop) for start, stop in stream.groups() or [] if not keep.isdisjoint(range(start, stop))]
    if sum(stop - start for start, stop in needed) > (1 - _LEAST_SAVING) * len(stream.packets):
        return "nearly all groups of pictures are needed"
    kept = []
    for start, stop in needed:
        pts = []
        for number, frame in enumerate(stream.frames(start, stop), start=start):
            pts.append(frame.pts)
            if number in keep:
                kept.append(_upright(frame))
        stream.restart()
        if stream.damage or pts != stream.stamps(start, stop):
            return stream.damage or "a group of pictures gave other frames than its packets promise"
    return _stack(stream.path, kept)


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    return np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90))


def _stack(path: str, images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    if len({image.shape for image in images}) > 1:
        raise DecodingError(f"{path}: the frame size changes within the video")
    return np.stack(images)
