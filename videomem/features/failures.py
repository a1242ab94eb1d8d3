"""The failure table of a store: the clips whose features could not be computed, with the reason."""

from __future__ import annotations

import csv
import errno
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videomem.errors import VideomemError
from videomem.utils.atomic import cannot_write, write_atomic
from videomem.utils.csv_cells import csv_lines, plain_cell
from videomem.video.catalog import Clip, clip_of_row, number_of

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
    """The failure table at `path`; the file need not exist."""

    path: Path

    def add(self, failure: Failure) -> None:
        """Append a row to the file immediately, so that it is not lost in an interruption."""
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW  # A link would name a file to write to.
            with os.fdopen(os.open(self.path, flags, 0o666), "ab+", buffering=0) as file:
                num_bytes = file.tell()
                file.seek(max(num_bytes - 1, 0))
                # An interrupted write may have left an incomplete line.
                start = _csv_lines(COLUMNS) if num_bytes == 0 else b"" if file.read(1) == b"\n" else b"\n"
                line = start + _csv_lines(asdict(failure).values())
                if file.write(line) != len(line):  # The disk is full.
                    file.truncate(num_bytes)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def read(self) -> dict[tuple[str, float | None, float | None], Failure]:
        """The latest failure of each clip."""
        if not self.path.is_file():
            return {}
        text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
        rows = [_failure_of_line(line) for line in text.splitlines()[1:]]
        return {failure.location: failure for failure in rows if failure is not None}

    def rewrite(self, failures: Iterable[Failure]) -> None:
        """Replace the table by these failures."""
        lines = [_csv_lines(COLUMNS), *(_csv_lines(asdict(failure).values()) for failure in failures)]
        write_atomic(self.path, b"".join(lines))


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
