"""The failure table of a store: the clips whose features could not be computed, with the reason."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from videomem.errors import VideomemError
from videomem.features.folder import LocalFolder, StoreFolder
from videomem.utils.atomic import cannot_write
from videomem.utils.csv_cells import csv_lines, plain_cell
from videomem.video.catalog import Clip
from videomem.video.catalog_files import clip_of_row, number_of

COLUMNS = ("path", "stage", "decoder", "error", "message", "seconds", "start_s", "end_s")


@dataclass(frozen=True)
class Failure:
    """A row of the failure table: a clip whose features could not be computed, and why."""

    path: str
    stage: str
    decoder: str
    error: str
    message: str
    seconds: float
    start_s: float | None = None
    end_s: float | None = None

    @classmethod
    def of(cls, clip: Clip, stage: str, error: str, message: str, decoder: str = "", seconds: float = 0.0) -> Failure:
        return cls(clip.path, stage, decoder, error, message, round(seconds, 3), *clip.interval)

    @property
    def location(self) -> tuple[str, float | None, float | None]:
        """Path and interval of the clip."""
        return self.path, self.start_s, self.end_s


@dataclass(frozen=True)
class FailureTable:
    """The failure table of a folder: `failures.csv`, and the files in `failures/`, none of which need exist.

    A part of an extraction appends to a file of its own, because several machines cannot safely append to one file. An
    object store has no appending: rows are added there as an object of their own.
    """

    files: StoreFolder
    part: str = ""

    @property
    def path(self) -> Any:
        """Path of the table, for messages."""
        return self.files.named(f"failures/{self.part}.csv" if self.part else "failures.csv")

    def add(self, *failures: Failure) -> None:
        """Add rows immediately, so that they are not lost in an interruption."""
        if not failures:
            return
        lines = b"".join(_csv_lines(asdict(failure).values()) for failure in failures)
        if not isinstance(self.files, LocalFolder):
            self.files.write(f"failures/{uuid4().hex}.csv", _csv_lines(COLUMNS) + lines)
            return
        if self.part:
            self.files.make("failures")
        try:
            _append(self.path, lines)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def read(self) -> dict[tuple[str, float | None, float | None], Failure]:
        """The latest failure of each clip."""
        rows: list[Failure | None] = []
        for name in filter(self.files.is_file, self._names()):
            text = self.files.read(name).decode("utf-8", "surrogateescape")
            rows += [_failure_of_line(line) for line in text.splitlines()[1:]]
        return {failure.location: failure for failure in rows if failure is not None}

    def _names(self) -> list[str]:
        names = ["failures.csv", *(f"failures/{name}" for name in self.files.states("failures"))]
        return [name for name in names if name.endswith(".csv")]

    def rewrite(self, failures: Iterable[Failure]) -> None:
        """Replace the table by these failures."""
        parts = self._names()[1:]
        lines = [_csv_lines(COLUMNS), *(_csv_lines(asdict(failure).values()) for failure in failures)]
        self.files.write("failures.csv", b"".join(lines))
        for name in parts:
            self.files.remove(name)


def _append(path: Path, lines: bytes) -> None:
    """Append lines to a local file, all or none."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW  # A link would name a file to write to.
    with os.fdopen(os.open(path, flags, 0o666), "ab+", buffering=0) as file:
        num_bytes = file.tell()
        file.seek(max(num_bytes - 1, 0))
        # An interrupted write may have left an incomplete line.
        start = _csv_lines(COLUMNS) if num_bytes == 0 else b"" if file.read(1) == b"\n" else b"\n"
        if file.write(start + lines) != len(start + lines):  # The disk is full.
            file.truncate(num_bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _csv_lines(values: Iterable[Any]) -> bytes:
    """A line of CSV. Line breaks within values, which file names may contain, become spaces."""
    one_line = [" ".join(value.splitlines()) if isinstance(value, str) else value for value in values]
    return csv_lines([one_line]).encode("utf-8", "surrogateescape")


def _failure_of_line(line: str) -> Failure | None:
    """The failure of a line, or None for an incomplete line and for one that no clip can have."""
    try:
        row = dict(zip(COLUMNS, map(plain_cell, next(csv.reader([line]))), strict=True))
        clip, seconds = clip_of_row(row, ""), number_of(row["seconds"], "seconds", "", "seconds")
    except (csv.Error, StopIteration, ValueError, VideomemError):
        return None
    if seconds is None:
        return None
    return Failure(clip.path, row["stage"], row["decoder"], row["error"], row["message"], seconds, *clip.interval)
