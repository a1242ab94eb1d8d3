"""The failure table: a table of the clips that no features could be made of, and why."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videomem.errors import VideomemError
from videomem.utils.atomic import write_atomic

COLUMNS = ("path", "stage", "decoder", "error", "message", "seconds", "start_s", "end_s")


@dataclass(frozen=True)
class Failure:
    """A line of the failure table: a clip that no features could be made of, and why."""

    path: str
    stage: str
    decoder: str
    error: str
    message: str
    seconds: float
    start_s: float | None = None
    end_s: float | None = None

    @property
    def clip(self) -> tuple[str, float | None, float | None]:
        """What failed: two clips may be parts of one file."""
        return self.path, self.start_s, self.end_s


@dataclass(frozen=True)
class FailureTable:
    """The table at `path`, which need not be there."""

    path: Path

    def add(self, failure: Failure) -> None:
        """Add a line to the failure table at once, so that nothing is lost in an interruption."""
        try:
            with self.path.open("ab+") as file:
                if file.tell() == 0:
                    file.write(_csv_lines(COLUMNS))
                file.seek(-1, os.SEEK_END)
                file.write(b"" if file.read(1) == b"\n" else b"\n")  # A kill may have left half a line.
                file.write(_csv_lines(asdict(failure).values()))
        except OSError as error:
            raise VideomemError(f"{self.path}: cannot be written: {error.strerror}") from error

    def read(self) -> dict[tuple[str, float | None, float | None], Failure]:
        """The latest failure of each clip that ever failed."""
        if not self.path.is_file():
            return {}
        text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
        rows = [_failure_of_line(line) for line in text.splitlines()[1:]]
        return {failure.clip: failure for failure in rows if failure is not None}

    def rewrite(self, failures: Iterable[Failure]) -> None:
        """Keep only these failures, a line each."""
        lines = [_csv_lines(COLUMNS), *(_csv_lines(asdict(failure).values()) for failure in failures)]
        write_atomic(self.path, b"".join(lines))


def _csv_lines(values: Iterable[Any]) -> bytes:
    """A line of CSV; line ends within values, which file names may have, become spaces."""
    text = io.StringIO()
    one_line = [" ".join(value.splitlines()) if isinstance(value, str) else value for value in values]
    csv.writer(text, lineterminator="\n").writerow(one_line)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _failure_of_line(line: str) -> Failure | None:
    """A line of the failure table, or None where a kill or another program left half a line."""
    try:
        row = dict(zip(COLUMNS, next(csv.reader([line])), strict=True))
        times = {name: float(row[name]) if row[name] else None for name in ("start_s", "end_s")}
        return Failure(**{**row, "seconds": float(row["seconds"]), **times})  # type: ignore[arg-type]
    except (csv.Error, StopIteration, TypeError, ValueError):
        return None
