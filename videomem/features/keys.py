"""Keys of clips: what a clip is, is its file's content and its interval, wherever the file lies."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from hashlib import file_digest, sha256
from pathlib import Path

from videomem.errors import VideomemError
from videomem.features.store import Failure
from videomem.video.catalog import Clip


def clip_keys(clips: Iterable[Clip], root: Path | str) -> tuple[dict[Clip, str], list[Failure]]:
    """A key of each clip from its file's content and its interval, and the files that could not be read.

    Hashing reads every byte, so hashes are kept in `root`, by path, size and time of change. A video that was hashed
    there once may be gone since: its features can still be used.
    """
    Path(root).mkdir(parents=True, exist_ok=True)
    keys, failures = {}, []
    with closing(_open_hashes(Path(root) / "hashes.sqlite")) as hashes:
        for clip in clips:
            try:
                content = _content_hash(clip.path, hashes)
            except OSError as error:
                reason = f"{clip.path}: {error.strerror or error}"
                failures.append(Failure(clip.path, "hash", "", type(error).__name__, reason, 0.0))
                continue
            keys[clip] = sha256(f"{content} {clip.start_s} {clip.end_s}".encode()).hexdigest()[:32]
    return keys, failures


def _open_hashes(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA synchronous = OFF")  # A lost hash costs one more reading of the file.
        connection.execute(
            "CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT)"
        )
    except sqlite3.Error as error:
        raise VideomemError(f"{path}: not usable as the cache of file hashes ({error}); delete it") from error
    return connection


def _content_hash(path: str, hashes: sqlite3.Connection) -> str:
    name = os.fsencode(path)
    known = hashes.execute("SELECT size, mtime_ns, sha256 FROM hashes WHERE path = ?", (name,)).fetchone()
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if known:
            return str(known[2])
        raise
    if known and known[:2] == (status.st_size, status.st_mtime_ns):
        return str(known[2])
    with Path(path).open("rb") as file:
        value = file_digest(file, "sha256").hexdigest()
    row = (name, status.st_size, status.st_mtime_ns, value)
    hashes.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", row)
    return value
