"""Conditions for the decoders that seek, decord and torchcodec: their allow-lists, and no message of FFmpeg."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager

from videomem.video.decoders.listing import Listing
from videomem.video.decoders.orientation import display_matrix
from videomem.video.decoders.video_stream import VideoStream

_PIXEL_FORMATS = frozenset({"yuv420p", "gbrp"})
_STDERR = 2
_MOST_BYTES = 100_000
_FFMPEG = re.compile(rb"\[[^\]]+ @ 0x[0-9a-f]+\]")
_ONE_AT_A_TIME = threading.RLock()


def allow_list(listing: Listing, containers: Set[str], codecs: Set[str], timing: Mapping[str, bool]) -> dict[str, bool]:
    """Conditions by the reason to refuse the stream if they do not hold. `timing` are those on packets and times."""
    return {
        f"the container is {listing.container}": not containers.isdisjoint(listing.container.split(",")),
        f"the codec is {listing.codec}": listing.codec in codecs,
        **timing,
        "some key frames are not IDR pictures": listing.has_idr_only,
        "there are several video streams": listing.num_streams == 1,
        "the file is damaged": listing.damage is None,
    }


def first_failed(conditions: Mapping[str, bool]) -> str | None:
    """The first reason whose condition does not hold, or None."""
    return next((reason for reason, holds in conditions.items() if not holds), None)


def objection_to_frames(stream: VideoStream) -> str | None:
    """Why the frames are not 8-bit 4:2:0 or RGB, upright and progressive, or None. Decodes the first frame once."""
    known = stream.listing.opened
    if "first frame" not in known:
        first = stream.first_frame()
        known["first frame"] = first_failed(
            {
                f"the pixel format is {first.format.name}": first.format.name in _PIXEL_FORMATS,
                "the frames are turned or mirrored": display_matrix(first) is None,
                "the frames are interlaced": not first.interlaced_frame,
            }
        )
    objection: str | None = known["first frame"]
    return objection


@contextmanager
def ffmpeg_messages() -> Iterator[list[str]]:
    """Capture what FFmpeg writes to the standard error of this process. The list is filled when the context exits.

    decord and torchcodec return damaged frames without an error; only messages of FFmpeg reveal the damage.
    """
    messages: list[str] = []
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(_STDERR)
        os.dup2(file.fileno(), _STDERR)
        try:
            yield messages
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            file.seek(0)
            for line in file.read(_MOST_BYTES).splitlines(keepends=True):
                if _FFMPEG.match(line):
                    messages.append(line.decode(errors="replace").strip())
                elif not messages:  # Written by another thread; messages of FFmpeg may have several lines.
                    os.write(_STDERR, line)
