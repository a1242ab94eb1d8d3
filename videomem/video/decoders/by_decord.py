"""Decode with decord, where it is asked for by name.

It seeks, but returns wrong frames without an error for many common encodings. Its last release (2021) contains FFmpeg
4.1, which gets no security fixes.
"""

from __future__ import annotations

import importlib.util
import os

import numpy as np
from numpy.typing import NDArray

from videomem.video.decoders.seeking import allow_list, ffmpeg_messages, first_failed, objection_to_frames
from videomem.video.decoders.video_stream import VideoStream


def is_installed() -> bool:
    return importlib.util.find_spec("decord") is not None


def _why_not(stream: VideoStream) -> str | None:
    """Why decord may not be exact for a stream, or None: the first unmet condition of its allow-list."""
    if not is_installed():
        return "decord is not installed"
    listing = stream.listing
    height, width = listing.size
    timing = {"there are B-frames": not listing.is_reordered, "the time stamps are not plain": listing.is_plain}
    is_regular = min(height, width) >= 64 and height % 2 == width % 2 == 0
    listed = allow_list(listing, {"mp4"}, {"h264"}, timing)
    listed[f"frames of {width}x{height} are too small or odd"] = is_regular
    return first_failed(listed) or objection_to_frames(stream)


def read(stream: VideoStream, wanted: NDArray[np.int64]) -> NDArray[np.uint8] | str:
    """Frames (T, height, width, 3) at ascending indices, or the reason why decord cannot be trusted."""
    if objection := _why_not(stream):
        return objection
    import decord

    decord.logging.set_level(decord.logging.ERROR)
    with ffmpeg_messages() as messages:
        try:
            # A reader created before a fork hangs in workers, so each call opens one; 0 threads fail on some codecs.
            reader = decord.VideoReader(os.path.abspath(stream.path), num_threads=1)
            if len(reader) != len(stream.listing.times_s):
                return f"decord counts {len(reader)} frames, the file has {len(stream.listing.times_s)}"
            frames: NDArray[np.uint8] = reader.get_batch(wanted.tolist()).asnumpy()
        except (decord.DECORDError, RuntimeError, UnicodeError) as error:
            return f"decord cannot read it: {error}"
    return f"decord complains: {messages[0]}" if messages else frames
