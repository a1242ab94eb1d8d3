"""Atomic writes: after an interruption, a file or folder has either its complete new or its previous content."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from videomem.errors import VideomemError, one_line

_LOCKED: set[Path] = set()  # folders that this process has reserved


@contextmanager
def atomic_path(path: Path, exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary path next to `path`; on success, flush it to disk and rename it to `path`.

    Args:
        path: The file to write. Its folder must exist.
        exclusive: Keep the existing file if `path` exists.
    Raises:
        VideomemError: If the file cannot be written. An existing file is kept unchanged.
    """
    temporary = _temporary(path)
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
        raise cannot_write(path, error) from error
    finally:
        _remove(temporary)


def write_atomic(path: Path, content: bytes | memoryview, exclusive: bool = False) -> None:
    """Write a file atomically; see `atomic_path`."""
    with atomic_path(path, exclusive) as temporary, temporary.open("xb") as file:
        file.write(content)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `folder`; on success, flush its files to disk and rename it to `folder`.

    What killed processes left of earlier attempts is removed first.

    Args:
        folder: The folder to write; it must be absent or empty.
    Raises:
        VideomemError: If a file cannot be written, or the folder has files by then. The folder is not changed.
    """
    if folder.is_mount():
        raise VideomemError(f"{folder}: a mount point, which cannot be replaced; name a new folder inside it")
    folder = folder.absolute()
    temporary = _temporary(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_orphans(folder.parent, glob.escape(folder.name))
        temporary.mkdir()
        yield temporary
        for path in sorted(temporary.rglob("*"), reverse=True):
            _fsync(path)
        os.rename(temporary, folder)
        _fsync(folder.parent)
    except OSError as error:
        raise cannot_write(folder, error) from error
    except VideomemError as error:
        raise VideomemError(str(error).replace(str(temporary), str(folder))) from error
    finally:
        _remove(temporary)


def make_folders(folder: Path, *names: str) -> None:
    """Make folders inside `folder`, if they do not exist, to write to them.

    Raises:
        VideomemError: If one is a link: whoever made the folder would choose where this process writes.
    """
    for inside in (folder / name for name in names):
        if inside.is_symlink():
            raise VideomemError(f"{inside}: a link, through which nothing is written; put the folder itself there")
        inside.mkdir(parents=True, exist_ok=True)


def cannot_write(path: Path, error: OSError) -> VideomemError:
    """The error of a file that cannot be written. It names this file, not the temporary one."""
    reason = error.strerror or one_line(error)
    return VideomemError(f"{path}: cannot be written: {reason}; what was there before was not changed")


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Reserve a folder for this process within the block. The lock ends with the process, even if it is killed.

    Within the block, the same process may reserve the folder again. A new folder that is empty at the end is removed.

    Raises:
        VideomemError: If another process has reserved the folder.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    if (place := folder.resolve()) in _LOCKED:
        yield
        return
    descriptor = _locked_file(folder / ".lock")
    _LOCKED.add(place)
    try:
        yield
    finally:
        _LOCKED.remove(place)
        _remove(folder / ".lock")  # While it is locked, so that it is not that of another process.
        os.close(descriptor)
        if is_new:
            with suppress(OSError):  # It is not empty.
                folder.rmdir()


def _locked_file(path: Path) -> int:
    """The descriptor of a locked file. A process that ends removes its file, so another one may have just been made."""
    while True:
        descriptor = None
        try:
            # A pipe that is opened for reading too does not wait for another process.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
            os.close(descriptor)
        except OSError as error:
            if descriptor is not None:
                os.close(descriptor)
            is_held = isinstance(error, BlockingIOError)
            why = "another process is writing to it" if is_held else f"cannot be locked: {error.strerror}"
            raise VideomemError(f"{path.parent}: {why}; choose another folder") from error


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.{_host()}.{os.getpid()}.{uuid4().hex[:8]}.tmp"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # As on a file system that is read-only; the first error is the one to report.
            path.unlink()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    return socket.gethostname().replace(".", "-")


def remove_orphans(folder: Path, name: str = "*") -> None:
    """Remove temporary files and folders of atomic writes whose process on this machine has ended.

    Args:
        folder: Folder of the files that were to be written.
        name: Pattern of their names.
    """
    for path in folder.glob(f".{name}.{_host()}.*.*.tmp"):
        if is_orphan(path):
            _remove(path)


def is_orphan(path: Path) -> bool:
    """Whether a temporary file or folder is that of a process on this machine that has ended."""
    *_, host, pid, _, _ = ["", "", "", "", *path.name.split(".")]
    if host != _host():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, ValueError):  # The process of another user, or a file of another program.
        pass
    return False
