"""Keys of clips, of video files and of imported features.

A key depends on a clip's content, interval and frame rate, not on where its files are.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from videomem.errors import VideomemError
from videomem.features.failures import Failure, FailureTable
from videomem.features.folder import StoreFolder
from videomem.utils.checked_json import dump_checked
from videomem.video.catalog import Clip
from videomem.video.files import images_in, is_image_folder, split_template

_TABLE = "CREATE TABLE hashes (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT)"
_SCHEMA = {("table", "hashes", _TABLE), ("index", "sqlite_autoindex_hashes_1", None)}
# The end of a journal that names a file, as those of transactions on several databases do (SQLite file format,
# section 3). SQLite deletes the file.
_NAMES_A_FILE = bytes.fromhex("d9d505f920a163d7")


def clip_keys(clips: Sequence[Clip], root: Path | str, part: str = "") -> tuple[dict[Clip, str], list[Failure]]:
    """The key of each clip, and the failures of clips whose files cannot be read.

    Hashing reads every byte of a file, so hashes are cached in `root` by path, size and modification time. A video with
    a cached hash may be deleted; its features can still be used. If `root` is read-only, new hashes are not kept.

    Args:
        clips: The clips.
        root: Folder of the cache, on this machine or shared.
        part: The part of a catalog, such as `3-of-16`, that this process has. Each part writes a file of its own,
            because SQLite cannot share one between machines; what others know is copied.
    """
    Path(root).mkdir(parents=True, exist_ok=True)
    keys, failures = {}, []
    path = Path(root) / (f"hashes.{part}.sqlite" if part else "hashes.sqlite")
    with _named(path), closing(_open_cache(path)) as hashes:
        _copy_known(hashes, path, clips)
        hash_of = lru_cache(maxsize=1)(partial(_content_hash, hashes=hashes))  # Parts of a file follow each other.
        for clip in clips:
            try:
                content = hash_of(clip.path)
            except OSError as error:
                reason = f"{clip.path}: {error.strerror or error}"
                failures.append(Failure.of(clip, "hash", type(error).__name__, reason))
                continue
            keys[clip] = key_of(clip, content, clip.fps)
    return keys, failures


def _copy_known(hashes: sqlite3.Connection, path: Path, clips: Sequence[Clip]) -> None:
    """Copy the hashes of clips that the cache lacks from the caches of other parts."""
    others = [other for other in sorted(path.parent.glob("hashes*.sqlite")) if other != path]
    known = "SELECT 1 FROM hashes WHERE path = ?"
    names = {os.fsencode(clip.path) for clip in clips} if others else set()
    lacking = {name for name in names if not hashes.execute(known, (name,)).fetchone()}
    if lacking:
        _copy_rows(hashes, others, lacking)


def _copy_rows(hashes: sqlite3.Connection, others: Sequence[Path], names: set[bytes] | None) -> None:
    for other in others:
        _check_files(other)
        # Another machine may be writing to it: what cannot be read is computed again.
        with suppress(sqlite3.Error), closing(_read_only(other)) as theirs:
            if set(theirs.execute("SELECT type, name, sql FROM sqlite_schema")) == _SCHEMA:
                rows = theirs.execute("SELECT path, size, mtime_ns, sha256 FROM hashes")
                kept = (row for row in rows if names is None or row[0] in names)
                hashes.executemany("INSERT OR IGNORE INTO hashes VALUES (?, ?, ?, ?)", kept)


def copy_hashes(root: Path, caches: Sequence[Path]) -> None:
    """Add what the caches of other folders know to that of `root`."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "hashes.sqlite"
    with _named(path), closing(_open_cache(path)) as hashes:
        hashes.execute("BEGIN")
        _copy_rows(hashes, [cache for cache in caches if cache != path], None)
        hashes.execute("COMMIT")


def key_of(clip: Clip, content: str, fps: float | None) -> str:
    """The key of a clip whose file or array has the hash `content`."""
    rate = "" if fps is None else f" {fps}"
    return sha256(f"{content} {clip.start_s} {clip.end_s}{rate}".encode()).hexdigest()[:32]


def _open_cache(path: Path) -> sqlite3.Connection:
    """The cache of hashes. If it cannot be written, what it has is copied to memory.

    Raises:
        VideomemError: If it has anything but the table of hashes: views and triggers run as long as they like.
    """
    _check_files(path)
    writable = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
    hashes = sqlite3.connect(path if writable else ":memory:", timeout=60, isolation_level=None)
    if not writable and path.exists():
        with closing(_read_only(path)) as known:
            known.backup(hashes)
    hashes.execute("PRAGMA synchronous = OFF")  # If a hash is lost, its file is read once more.
    hashes.execute("PRAGMA trusted_schema = OFF")
    hashes.execute(_TABLE.replace("TABLE", "TABLE IF NOT EXISTS"))
    if set(hashes.execute("SELECT type, name, sql FROM sqlite_schema")) != _SCHEMA:
        hashes.close()
        raise VideomemError(f"{path}: has other content than a cache of file hashes; delete it")
    return hashes


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)


def _check_files(path: Path) -> None:
    """Raise if SQLite would wait for a pipe, write to the target of a link, or delete a file that a journal names."""
    for suffix in ("", "-journal", "-wal", "-shm"):
        file = path.with_name(path.name + suffix)
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(file.lstat().st_mode):
                raise VideomemError(f"{file}: not a regular file; delete it")
    with (
        suppress(FileNotFoundError),
        path.with_name(path.name + "-journal").open("rb") as journal,
    ):  # Another process may be at its end.
        journal.seek(max(os.fstat(journal.fileno()).st_size - len(_NAMES_A_FILE), 0))
        if journal.read() == _NAMES_A_FILE:
            raise VideomemError(f"{journal.name}: names another file, as no journal of videomem does; delete it")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        remedies = {"full": "free disk space", "locked": "wait for the process that uses it"}
        remedy = next((remedy for word, remedy in remedies.items() if word in str(error)), "delete it")
        raise VideomemError(f"{path}: not usable as the cache of file hashes ({error}); {remedy}") from error


def _content_hash(path: str, hashes: sqlite3.Connection) -> str:
    name = os.fsencode(path)
    row = "SELECT size, mtime_ns, sha256 FROM hashes WHERE path = ? AND typeof(sha256) = 'text' AND length(sha256) = 64"
    known = hashes.execute(row, (name,)).fetchone()
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
    if not is_image_folder(path):
        if os.path.exists(path) and not os.path.isfile(path):  # Opening a named pipe would wait for ever.
            raise OSError("not a regular file")
        return [path]
    folder, template = split_template(path)
    return [os.path.join(folder, name) for name in sorted(images_in(folder, template))]


def _state(files: Sequence[str]) -> tuple[int, int]:
    """Total size, and a number that changes with the modification time of any file. Reads no content."""
    states = [os.stat(file) for file in files]
    num_bytes = sum(state.st_size for state in states)
    if len(states) == 1:
        return num_bytes, states[0].st_mtime_ns
    listing = [(os.path.basename(file), s.st_size, s.st_mtime_ns) for file, s in zip(files, states, strict=True)]
    return num_bytes, int.from_bytes(_digest(listing).digest()[:7], "big")


def _hash(files: Sequence[str]) -> str:
    """SHA-256 of the content of one file, or of the names and contents of several."""
    listing = []
    for path in files:
        with Path(path).open("rb") as file:
            listing.append((os.path.basename(path), file_digest(file, "sha256").hexdigest()))
    return listing[0][1] if len(files) == 1 else _digest(listing).hexdigest()


def _digest(listing: list[tuple[Any, ...]]) -> Any:
    return sha256(repr(listing).encode("utf-8", "surrogateescape"))


@dataclass(frozen=True)
class ImportedKeys:
    """The table `clips.json` with the key of each clip, by path and interval. The file need not exist.

    The key of a clip is the hash of its array, since the video need not exist and its content cannot be hashed.
    """

    files: StoreFolder

    def read(self) -> dict[str, str | None]:
        """Keys by clip; None for clips whose import failed."""
        if not self.files.is_file("clips.json"):
            return {}
        remedy = "delete it and run `videomem import-features`"
        keys = self.files.read_checked("clips.json", self._identity, remedy)
        if not isinstance(keys, dict) or not all(isinstance(key, str | None) for key in keys.values()):
            raise VideomemError(f"{self.files.named('clips.json')}: damaged (not a table of keys); {remedy}")
        return keys

    @property
    def _identity(self) -> dict[str, Any]:
        return {"kind": "keys of imported features", "store": Path(self.files.place).name}

    def add(self, keys: Mapping[Clip, str | None]) -> None:
        """Set the keys of these clips, and keep those of others."""
        self.add_rows({json.dumps(clip.location): key for clip, key in keys.items()})

    def add_rows(self, keys: Mapping[str, str | None]) -> None:
        """The same for rows that `read` has returned."""
        if not keys:
            return
        rows = self.read() | dict(keys)
        self.files.write("clips.json", dump_checked(self._identity, rows).encode())

    def of(self, clips: Sequence[Clip], failure_table: FailureTable) -> tuple[dict[Clip, str], list[Failure]]:
        """Keys of clips, and the failures of clips whose import failed.

        Raises:
            VideomemError: If a clip was never imported.
        """
        known = self.read()
        if absent := [clip for clip in clips if json.dumps(clip.location) not in known]:
            raise VideomemError(
                f"{absent[0]}: not imported yet ({len(absent)} of {len(clips)} clips are not); "
                "run `videomem import-features` with this catalog"
            )
        keys = {clip: key for clip in clips if (key := known[json.dumps(clip.location)]) is not None}
        reasons, failed = failure_table.read(), [clip for clip in clips if clip not in keys]
        unknown = [Failure.of(clip, "import", "unknown", f"{clip}: failed") for clip in failed]
        return keys, [reasons.get(failure.location, failure) for failure in unknown]
