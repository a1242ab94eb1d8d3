"""Limits of memory: a small file can describe huge pictures, and a sampling can ask for any number of frames."""

from __future__ import annotations

from videomem.errors import DecodingError

MOST_BYTES = 4 * 2**30  # All frames of a clip, with repeated ones.
MOST_PIXELS = 2**26  # One frame; videos of 8K have half as many.


def check_size(path: str, num_frames: int, height: int, width: int) -> None:
    """Raise a DecodingError for frames that exceed the limits."""
    if height * width > MOST_PIXELS:
        raise DecodingError(
            f"{path}: frames of {width}x{height} are above the limit of {MOST_PIXELS} pixels; scale them down"
        )
    if (num_bytes := num_frames * height * width * 3) > MOST_BYTES:
        raise DecodingError(
            f"{path}: {num_frames} frames of {width}x{height} need {num_bytes / 2**30:.1f} GiB, above the limit of "
            f"{MOST_BYTES / 2**30:.0f} GiB; sample fewer frames or scale the video down"
        )
