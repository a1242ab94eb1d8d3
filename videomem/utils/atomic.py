"""Files that are there whole or not at all, whatever interrupts their writing."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from uuid import uuid4

from videomem.errors import VideomemError


def write_atomic(path: Path, content: bytes, exclusive: bool = False) -> None:
    """Write a file so that it is there complete or not at all; `exclusive` keeps one that is there already."""
    temporary = path.parent / f".{path.name}.{_host()}.{os.getpid()}.{uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return
        else:
            os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise VideomemError(f"{path}: cannot be written: {error.strerror}; what was written before is kept") from error
    finally:
        temporary.unlink(missing_ok=True)


def _host() -> str:
    return socket.gethostname().replace(".", "-")


def remove_if_orphan(path: Path) -> None:
    """Remove a temporary file of `write_atomic` whose writer on this machine is gone."""
    host, pid = path.name.split(".")[-4:-2]
    if host == _host() and not _is_alive(int(pid)):
        path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
