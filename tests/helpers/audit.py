"""Watch what Python does: imports, writes, deletions, processes, sockets, and reads of other files."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

# Events of `sys.addaudithook` that reading a model must not cause, besides imports and reads of other files.
_ACTIONS = ("os.", "shutil.", "subprocess.", "socket.", "urllib.", "http.", "sqlite3.", "pickle.", "pty.",
            "webbrowser.", "ctypes.dlopen", "tempfile.")  # fmt: skip
_HARMLESS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_events: list[str] | None = None  # None while nothing is watched.
_readable: set[str] = set()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _events is None:
        return
    if event == "open":
        path, _, flags = arguments
        is_file = isinstance(path, str | bytes | os.PathLike)  # Otherwise it is the number of an open file.
        if is_file and ((flags or 0) & _WRITING or os.fsdecode(path) not in _readable):
            _events.append(f"open {path!r} {'for writing' if (flags or 0) & _WRITING else 'for reading'}")
    elif event == "import":
        _events.append(f"import {arguments[0]}")
    elif event.startswith(_ACTIONS) and event not in _HARMLESS:
        _events.append(f"{event} {arguments!r:.80}")


sys.addaudithook(_hook)  # It cannot be removed, so it is switched.


@contextmanager
def watched(readable: Collection[Path | str] = (), time_limit_s: float = 10) -> Iterator[list[str]]:
    """Yield the list of forbidden events so far. Raises TimeoutError in the code that runs longer.

    Args:
        readable: Files that may be read.
        time_limit_s: Seconds.
    """
    global _events, _readable

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"longer than {time_limit_s} s")

    events: list[str] = []
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, time_limit_s)
    _events, _readable = events, set(map(str, readable))
    try:
        yield events
    finally:
        _events = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
