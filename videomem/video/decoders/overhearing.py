"""What C libraries write to standard error: caught, so that it reaches no terminal and can be heeded."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Catch the standard error of this process; what came of it is in the list at the end, nothing if there was none.

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
            if words := file.read(2000).decode(errors="replace"):
                heard.append(words)
