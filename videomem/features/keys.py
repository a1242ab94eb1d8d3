"""Keys of clips. A key depends on a clip's content, interval and frame rate, not on where its files are."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from hashlib import file_digest, sha256
from pathlib import Path

from videomem.errors import VideomemError
from videomem.features.failures import Failure
from videomem.video.catalog import Clip
from videomem.video.files import images_in, split_template


def clip_keys(clips: Iterable[Clip], root: Path | str) -> tuple[dict[Clip, str], list[Failure]]:
    """The key of each clip, and the failures of clips whose files cannot be read.

    Hashing reads every byte of a file, so hashes are cached in `root` by path, size and modification time. A video with
    a cached hash may be deleted; its features can still be used.
    """
    Path(root).mkdir(parents=True, exist_ok=True)
    keys, failures = {}, []
    path = Path(root) / "hashes.sqlite"
    with _named(path), closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as hashes:
        hashes.execute("PRAGMA synchronous = OFF")  # If a hash is lost, its file is read once more.
        hashes.execute(
            "CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT)"
        )
        for clip in clips:
            try:
                content = _content_hash(clip.path, hashes)
            except OSError as error:
                reason = f"{clip.path}: {error.strerror or error}"
                failures.append(Failure(clip.path, "hash", "", type(error).__name__, reason, 0.0, *clip.interval))
                continue
            rate = "" if clip.fps is None else f" {clip.fps}"
            keys[clip] = sha256(f"{content} {clip.start_s} {clip.end_s}{rate}".encode()).hexdigest()[:32]
    return keys, failures


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        remedy = "free disk space" if "full" in str(error) else "delete it"
        raise VideomemError(f"{path}: not usable as the cache of file hashes ({error}); {remedy}") from error


def _content_hash(path: str, hashes: sqlite3.Connection) -> str:
    name = os.fsencode(path)
    known = hashes.execute("SELECT size, mtime_ns, sha256 FROM hashes WHERE path = ?", (name,)).fetchone()
    try:
        files = _files(path)
        state = _state(files)
    except FileNotFoundError:
        if known:
            return str(known[2])
        raise
    if known and known[:2] == state:
        return str(known[2])
    value = _hash(files)
    hashes.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?)", (name, *state, value))
    return value


def _files(path: str) -> list[str]:
    """The file itself, or the images of a folder of frames."""
    folder, template = split_template(path)
    if template is None and not os.path.isdir(path):
        return [path]
    return [os.path.join(folder, name) for name in sorted(images_in(folder, template))]


def _state(files: Sequence[str]) -> tuple[int, int]:
    """Total size, and a number that changes with the modification time of any file. Reads no content."""
    states = [os.stat(file) for file in files]
    num_bytes = sum(state.st_size for state in states)
    if len(states) == 1:
        return num_bytes, states[0].st_mtime_ns
    listing = [(os.path.basename(file), s.st_size, s.st_mtime_ns) for file, s in zip(files, states, strict=True)]
    return num_bytes, int.from_bytes(sha256(repr(listing).encode("utf-8", "surrogateescape")).digest()[:7], "big")


def _hash(files: Sequence[str]) -> str:
    """SHA-256 of the content of one file, or of the names and contents of several."""
    digests = []
    for path in files:
        with Path(path).open("rb") as file:
            digests.append(file_digest(file, "sha256").hexdigest())
    if len(files) == 1:
        return digests[0]
    listing = [(os.path.basename(path), digest) for path, digest in zip(files, digests, strict=True)]
    return sha256(repr(listing).encode("utf-8", "surrogateescape")).hexdigest()
