"""FFmpeg's words: caught, so that they reach no terminal and can be heeded."""

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
    """Catch what FFmpeg writes to the standard error of this process; it is in the list at the end, if there was any.

    decord and torchcodec hand out damaged pictures as if nothing were wrong: only FFmpeg's words there tell.
    """
    heard: list[str] = []
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        kept = os.dup(_STDERR)
        os.dup2(file.fileno(), _STDERR)
        try:
            yield heard
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            file.seek(0)
            for line in file.read(_MOST_BYTES).splitlines(keepends=True):
                if _FFMPEG.match(line):
                    heard.append(line.decode(errors="replace").strip())
                elif not heard:  # Another thread's words; FFmpeg's own go on over several lines.
                    os.write(_STDERR, line)


@contextmanager
def logged_errors() -> Iterator[list[Any]]:
    """Collect what PyAV's FFmpeg logs as errors, each of them: PyAV leaves out repeated lines unless told not to."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as complaints:
            yield complaints
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)
