"""Read and write catalogs, and other tables of clips: CSV, Parquet or Arrow files."""

from __future__ import annotations

import csv
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import file_digest, sha256
from pathlib import Path

from videomem.errors import VideomemError
from videomem.utils.atomic import atomic_path
from videomem.utils.csv_cells import csv_lines, plain_cell
from videomem.utils.text import printable
from videomem.video.catalog import COLUMNS, Catalog, Clip
from videomem.video.catalog_checks import catalog_problems, straddling_groups
from videomem.video.files import is_url

_FEW_CELLS = 100_000
_log = logging.getLogger("videomem")


def read_catalog(path: Path | str) -> Catalog:
    """Read and check a catalog without opening any video. Logs a warning if groups are in several splits.

    Raises:
        VideomemError: If the table is missing or malformed, or `catalog_problems` finds a problem.
    """
    catalog = absolute_clips(path)
    problems = catalog_problems(catalog)
    if problems:
        more = f" (and {len(problems) - 1} more; `videomem catalog check` lists all)" if len(problems) > 1 else ""
        raise VideomemError(f"{path}: {problems[0]}{more}")
    for warning in straddling_groups(catalog):
        _log.warning("%s: %s", printable(path), warning)
    return catalog


def absolute_clips(path: Path | str) -> Catalog:
    """Read a catalog without checking it, and make its paths absolute."""
    path = Path(path).absolute()
    if path.suffix == ".arrow" and path.is_file():
        from videomem.video.arrow_catalog import read_arrow  # It needs an extra.

        with ThreadPoolExecutor(1) as thread:  # For a large table, hashing takes as long as reading.
            digest = thread.submit(_digest, path)
            return Catalog(read_arrow(path), digest.result())
    clips = tuple(
        clip if is_url(clip.path) else replace(clip, path=os.path.normpath(path.parent / clip.path))
        for clip in read_rows(path)
    )
    return Catalog(clips, _digest(path))


def _digest(path: Path) -> str:
    """Hash of a table and of the folder that its paths are relative to."""
    with path.open("rb") as file:
        content = file_digest(file, "sha256").hexdigest()
    return sha256(f"{path.parent} {content}".encode("utf-8", "surrogateescape")).hexdigest()


def read_rows(path: Path) -> list[Clip]:
    """Read a CSV or Parquet table of clips, with paths as written."""
    if path.suffix == ".arrow":
        from videomem.video.arrow_catalog import read_arrow

        return [
            clip if is_url(clip.path) else replace(clip, path=os.path.relpath(clip.path, path.parent))
            for clip in read_arrow(path)
        ]
    rows = read_table(path, COLUMNS[:4])
    return [clip_of_row(row, f"{path.name}: row {number}") for number, row in enumerate(rows, start=1)]


def read_table(path: Path, required: Sequence[str] = ()) -> list[dict[str, str]]:
    """Read all columns of a CSV or Parquet table."""
    if not path.is_file():
        kind = "a folder, not a table" if path.is_dir() else "no such table"
        raise VideomemError(f"{path}: {kind}; `videomem catalog build` makes catalogs")
    if path.suffix == ".parquet":
        from videomem.video.parquet_table import read_parquet  # Only for Parquet, since its import is slow.

        rows = read_parquet(path)
    else:
        rows = _read_csv(path)
    if rows and (missing := [name for name in required if name not in rows[0]]):
        raise VideomemError(f"{path.name}: lacks the column {', '.join(missing)}; it has {', '.join(rows[0])}")
    return rows


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            rows, most_cells = [], _FEW_CELLS + path.stat().st_size
            names = reader.fieldnames or ()
            for row in reader:
                rows.append(row)
                if len(rows) * len(names) > most_cells:  # Rows with fewer cells than the header.
                    raise VideomemError(f"{path}: most cells of its {len(names)} columns are missing")
    except (OSError, csv.Error) as error:
        raise VideomemError(f"{path}: not readable as CSV: {error}") from error
    if doubled := [name for name, count in Counter(names).items() if count > 1 and name]:
        raise VideomemError(f"{path.name}: has several columns {doubled[0]!r}; rename or remove all but one")
    for number, row in enumerate(rows, start=1):
        extra: Sequence[str] = row.pop(None, ())  # The cells beyond the header.
        if any(extra):
            raise VideomemError(
                f"{path.name}: row {number} has {len(names) + len(extra)} cells, but the header has {len(names)}; put "
                "values that contain a comma in double quotes"
            )
    return [{plain_cell(name): plain_cell(value or "") for name, value in row.items()} for row in rows]


def clip_of_row(row: Mapping[str, str], where: str) -> Clip:
    """The clip of a row of a table; `where` names the row in error messages."""
    if not row["path"]:
        raise VideomemError(f"{where}: the path is empty")
    if "\0" in row["path"]:
        raise VideomemError(f"{where}: the path has a zero byte, which no file name has; fix the table")
    start_s, end_s = (number_of(row.get(name, ""), name, where, "seconds") for name in ("start_s", "end_s"))
    if not (start_s or 0.0) < (math.inf if end_s is None else end_s):
        raise VideomemError(f"{where}: start_s {start_s or 0.0} is not before end_s {end_s}")
    fps = number_of(row.get("fps", ""), "fps", where, "frames per second")
    if fps == 0:
        raise VideomemError(f"{where}: fps is 0, but must be above 0")
    # A start at 0 is the start of the video, so that a clip has one form only.
    return Clip(
        row["path"], row.get("label", ""), row.get("split", ""), row.get("group", ""), start_s or None, end_s, fps
    )


def number_of(text: str, name: str, where: str, unit: str) -> float | None:
    """A finite number that is not negative; None for an empty text."""
    if text == "":
        return None
    try:
        value = float(text if "_" not in text else "")  # Python would read 1_0 as 10.
    except ValueError:
        raise VideomemError(f"{where}: {name} is {text!r}, not a number of {unit}") from None
    if not (math.isfinite(value) and value >= 0):
        raise VideomemError(f"{where}: {name} is {text}, but must be finite and not negative")
    return value


def write_catalog(catalog: Catalog, path: Path | str) -> None:
    """Write a catalog atomically, as Parquet or Arrow if the name ends in `.parquet` or `.arrow`, else as CSV.

    Paths below the catalog's folder are written relative to it.
    """
    path = Path(path).absolute()
    folder = path.parent
    rows = [
        replace(clip, path=os.path.relpath(clip.path, folder)) if Path(clip.path).is_relative_to(folder) else clip
        for clip in catalog.clips
    ]
    names = COLUMNS if all(row.fps is None for row in rows) else (*COLUMNS, "fps")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        if path.suffix == ".arrow":
            from videomem.video.arrow_catalog import write_arrow

            write_arrow(rows, temporary)
        elif path.suffix == ".parquet":
            from videomem.video.parquet_table import write_parquet

            write_parquet(rows, names, temporary)
        else:
            lines = csv_lines([names, *([getattr(row, name) for name in names] for row in rows)])
            temporary.write_bytes(lines.encode("utf-8", "surrogateescape"))
