"""Atomic writes: after an interruption, a file has either its complete new content or its previous content."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from videomem.errors import VideomemError, one_line


@contextmanager
def atomic_path(path: Path, exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success, flush it to disk and rename it to `path`.

    Args:
        path: The file to write. Its folder must exist.
        exclusive: Keep the existing file if `path` exists.
    Raises:
        VideomemError: If the file cannot be written. An existing file is kept unchanged.
    """
    temporary = path.parent / f".{path.name}.{_host()}.{os.getpid()}.{uuid4().hex}.tmp"
    try:
        yield temporary
        _fsync(temporary)
        if exclusive:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return
        else:
            os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise VideomemError(f"{path}: cannot be written: {reason}; an existing file was not changed") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes, exclusive: bool = False) -> None:
    """Write a file atomically; see `atomic_path`."""
    with atomic_path(path, exclusive) as temporary, temporary.open("xb") as file:
        file.write(content)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    return socket.gethostname().replace(".", "-")


def remove_if_orphan(path: Path) -> None:
    """Remove a temporary file of `atomic_path` if the process on this machine that wrote it has ended."""
    host, pid = path.name.split(".")[-4:-2]
    if host != _host():
        return
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        path.unlink(missing_ok=True)
    except PermissionError:  # The process of another user.
        pass
