"""Decode with torchcodec, if it is installed and finds FFmpeg."""

from __future__ import annotations

import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from videomem.video.decoders.listing import Listing
from videomem.video.decoders.seeking import allow_list, ffmpeg_messages, first_failed, objection_to_frames
from videomem.video.decoders.video_stream import VideoStream

if TYPE_CHECKING:
    from torchcodec.decoders import VideoDecoder

_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1"})
_TIME_TOLERANCE_S = 1e-3
_KEPT = "torchcodec"


@cache
def versions() -> dict[str, str]:
    """Versions of torchcodec and of the FFmpeg that it loads; empty if one of them is missing."""
    try:
        found = version("torchcodec")
    except PackageNotFoundError:
        return {}
    os.environ.setdefault("TORCHCODEC_FFMPEG_LOG_LEVEL", "ERROR")  # torchcodec reads it on import.
    try:
        from torchcodec._core import get_ffmpeg_library_versions

        ffmpeg = get_ffmpeg_library_versions()["ffmpeg_version"]
    except (ImportError, OSError, RuntimeError):  # It can load no FFmpeg; raised at import or at the call.
        return {}
    return {"torchcodec": found, "torchcodec's FFmpeg": str(ffmpeg)}


def _why_not(stream: VideoStream) -> str | None:
    """Why torchcodec may not be exact for a stream, or None: the first unmet condition of its allow-list."""
    listing = stream.listing
    timing = {
        "frames have no time stamps of their own": listing.is_timed,
        "some packets show no frame": listing.shows_all,
    }
    if objection := first_failed(allow_list(listing, {"mp4", "matroska"}, _CODECS, timing)):
        return objection
    if not versions():  # Checked last, since it imports torch.
        return "torchcodec is not installed, or finds no FFmpeg"
    return objection_to_frames(stream)


def read(stream: VideoStream, wanted: NDArray[np.int64]) -> NDArray[np.uint8] | str:
    """Frames (T, height, width, 3) at ascending indices, or the reason why torchcodec cannot be trusted."""
    if objection := _why_not(stream):
        return objection
    known = stream.listing.opened
    # Opened for the first of several clips in a file, because it then scans the whole file. After any message it is
    # opened again: a decoder that goes on behind damage would give no message for the frames that refer to it.
    decoder = known.pop(_KEPT, None)
    with ffmpeg_messages() as messages:
        try:
            decoder = decoder or _open(stream.listing)
            batch = decoder.get_frames_at(wanted.tolist())
        except (RuntimeError, ValueError, IndexError, UnicodeError) as error:
            return f"torchcodec cannot read it: {error}"
    times_s = batch.pts_seconds.numpy() - (decoder.metadata.begin_stream_seconds or 0.0)
    if not np.allclose(times_s, stream.listing.times_s[wanted], rtol=0, atol=_TIME_TOLERANCE_S):
        return "torchcodec gives frames of other times"
    if messages:
        return f"torchcodec complains: {messages[0]}"
    known[_KEPT] = decoder
    frames: NDArray[np.uint8] = batch.data.numpy()
    return frames


def _open(listing: Listing) -> VideoDecoder:
    from torchcodec.decoders import VideoDecoder

    path = os.path.abspath(listing.path)
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    if len(decoder) != len(listing.times_s):
        raise ValueError(f"it counts {len(decoder)} frames, the file has {len(listing.times_s)}")
    return decoder
