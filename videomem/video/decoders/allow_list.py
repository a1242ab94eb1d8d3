"""Conditions shared by the allow-lists of decord and torchcodec."""

from __future__ import annotations

from collections.abc import Mapping

from videomem.video.decoders.video_stream import VideoStream

_PIXEL_FORMATS = frozenset({"yuv420p", "gbrp"})


def first_failed(conditions: Mapping[str, bool]) -> str | None:
    """The first reason whose condition does not hold, or None."""
    return next((reason for reason, holds in conditions.items() if not holds), None)


def objection_to_frames(stream: VideoStream) -> str | None:
    """Why the frames are not 8-bit 4:2:0 or RGB, upright and progressive, or None. Decodes the first frame."""
    first = stream.first_frame()
    return first_failed(
        {
            f"the pixel format is {first.format.name}": first.format.name in _PIXEL_FORMATS,
            "the frames are rotated": first.rotation == 0,
            "the frames are interlaced": not first.interlaced_frame,
        }
    )
