"""Capture messages of FFmpeg, so that they can be checked and are not printed."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av.logging

_STDERR = 2
_MOST_BYTES = 100_000
_FFMPEG = re.compile(rb"\[[^\]]+ @ 0x[0-9a-f]+\]")
_ONE_AT_A_TIME = threading.RLock()


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


@contextmanager
def logged_errors() -> Iterator[list[Any]]:
    """Collect all errors logged by PyAV's FFmpeg, including repeated ones, which PyAV skips by default."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as complaints:
            yield complaints
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)
