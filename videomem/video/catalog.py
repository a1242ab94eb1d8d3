"""The catalog: a table of clips, in the same format for every data set.

It is a CSV or Parquet file with the columns `path, label, split, group, start_s, end_s` and optionally `fps`.

`path` is a local path, absolute or relative to the catalog's folder, of a video file, of a folder with one numbered
series of images, or of a folder followed by a template of the image names, `folder/img_{:05}.jpg`.
`group` is the source from which a clip was cut; the clips of a group should be in one split.
`start_s` and `end_s` trim the clip to frames with start_s <= time < end_s; empty: the start or end of the video.
`fps` is the frame rate of a folder of images.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomem.errors import VideomemError, requires_extra
from videomem.utils.atomic import atomic_path
from videomem.utils.csv_cells import csv_lines, plain_cell
from videomem.utils.text import printable
from videomem.video.clip import Clip as Clip
from videomem.video.clip import MappedClips
from videomem.video.files import is_url

COLUMNS = ("path", "label", "split", "group", "start_s", "end_s")
SPLITS = ("train", "val", "test")
IMBALANCE = 10.0  # Ratio of the largest to the smallest training class from which a warning is given.
_FEW_CELLS = 100_000
_SURROGATE = re.compile("[\ud800-\udfff]")  # Stands for a byte that is not UTF-8.
_log = logging.getLogger("videomem")


class SelectedClips(Sequence[Clip]):
    """Some of the clips of a catalog, by their rows in it (N,)."""

    def __init__(self, clips: Sequence[Clip], rows_N: NDArray[np.int64]) -> None:
        self._clips, self._rows_N = clips, rows_N

    def __len__(self) -> int:
        return len(self._rows_N)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return SelectedClips(self._clips, self._rows_N[row])
        return self._clips[int(self._rows_N[row])]


@dataclass(frozen=True)
class Catalog:
    """The clips of a data set, in the order of the table. Reading a catalog makes their paths absolute."""

    clips: Sequence[Clip]
    digest: str = field(default="", compare=False)  # of the table that was read

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels; the class index of a clip is the index of its label."""
        return self._labels[0]

    @property
    def labels_N(self) -> NDArray[np.int32]:
        """The class index of each clip."""
        return self._labels[1]

    @property
    def splits(self) -> tuple[str, ...]:
        return self._splits[0]

    @property
    def splits_N(self) -> NDArray[np.int32]:
        """The index in `splits` of each clip's split."""
        return self._splits[1]

    def split(self, name: str) -> Sequence[Clip]:
        if name not in self.splits:
            return ()
        rows_N = np.flatnonzero(self.splits_N == self.splits.index(name))
        return (
            SelectedClips(self.clips, rows_N) if self.is_mapped else tuple(self.clips[row] for row in rows_N.tolist())
        )

    @property
    def is_mapped(self) -> bool:
        """Whether the clips are rows of a memory-mapped table."""
        return isinstance(self.clips, MappedClips)

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        return self._sorted("label", str)

    @cached_property
    def _splits(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        return self._sorted("split", _split_order)

    def _sorted(self, field: str, order: Callable[[str], Any]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """The values of a column in order, and for each clip the index of its value."""
        numbers_N, values = self.numbered(field)
        counts = np.bincount(numbers_N, minlength=len(values))
        used = [str(values[number]) for number in np.flatnonzero(counts).tolist()]
        names = tuple(sorted(set(used), key=order))
        place = {name: index for index, name in enumerate(names)}
        return names, np.array([place.get(str(value), 0) for value in values], np.int32)[numbers_N]

    def numbered(self, field: str) -> tuple[NDArray[np.int32], Sequence[Any]]:
        """The values of a column, and for each clip the index of its value."""
        if isinstance(self.clips, MappedClips):
            return self.clips.numbered(field)
        values = dict.fromkeys(getattr(clip, field) for clip in self.clips)
        number = {value: index for index, value in enumerate(values)}
        found = (number[getattr(clip, field)] for clip in self.clips)
        return np.fromiter(found, np.int32, len(self.clips)), list(number)


def _split_order(name: str) -> tuple[int, str]:
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)


def data_name(catalog: Path | str) -> str:
    """Name of a data set, from its catalog's path: `ucf101` for `data/ucf101.csv` and `data/ucf101/catalog.csv`."""
    path = Path(catalog).absolute()
    return path.parent.name if path.stem == "catalog" else path.stem


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
    for warning in _straddling_groups(catalog):
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
            return
        if path.suffix == ".parquet":
            with requires_extra("parquet", path.name):
                import pyarrow as pa
                import pyarrow.parquet as pq

            schema = pa.schema([(name, pa.string() if name in COLUMNS[:4] else pa.float64()) for name in names])
            columns = {name: [getattr(row, name) for row in rows] for name in names}
            pq.write_table(pa.table(columns, schema=schema), temporary)
            return
        lines = csv_lines([names, *([getattr(row, name) for name in names] for row in rows)])
        temporary.write_bytes(lines.encode("utf-8", "surrogateescape"))


def catalog_problems(catalog: Catalog) -> list[str]:
    """Problems that make a catalog unusable, one line each. Opens no video."""
    clips = catalog.clips
    if not clips:
        return ["no videos in the table"]
    problems: list[str] = []
    for name in ("label", "split", "group"):
        if catalog.is_mapped and name == "group":  # Names of groups are not shown, and are many.
            continue
        values = sorted(map(str, catalog.numbered(name)[1]))
        if "" in values:
            problems += [f"{clip}: the {name} is empty" for clip in clips if not getattr(clip, name)]
        odd = [value for value in values if _SURROGATE.search(value)]
        problems += [
            f"the {name} {value!r} is not UTF-8; save the table as UTF-8, or rename the folder" for value in odd
        ]
        if name != "group":  # Exported folders, tables and charts show labels and splits.
            problems += [
                f"the {name} {value!r} has characters that cannot be displayed, such as a no-break space or a line "
                "break; use ordinary spaces and letters"
                for value in values
                if not value.isprintable() and value not in odd
            ]
    urls = clips.urls() if isinstance(clips, MappedClips) else [clip for clip in clips if is_url(clip.path)]
    problems += [f"{clip}: a URL; videomem reads local files only" for clip in urls]
    if not isinstance(clips, MappedClips) or clips.may_repeat():
        counts = Counter((clip.path, clip.interval) for clip in clips)
        problems += [f"{path}: listed {count} times; keep one row" for (path, _), count in counts.items() if count > 1]
    if len(catalog.classes) < 2:
        problems.append(f"one class only ({catalog.classes[0]!r}); a classifier needs at least two")
    if "train" in catalog.splits:
        problems += [
            f"label {label!r} is in split {', '.join(splits)}, but not in train; a class needs "
            "training clips to be predicted; leave it out, or add clips to train"
            for label, splits in _splits_of_labels(catalog).items()
            if "train" not in splits
        ]
    return problems


def catalog_warnings(catalog: Catalog) -> list[str]:
    """Warnings about a usable catalog, one line each. Opens no video."""
    return [*_straddling_groups(catalog), *_labels_without_clips(catalog), *_imbalance(catalog)]


def _straddling_groups(catalog: Catalog) -> list[str]:
    groups_N, groups = catalog.numbered("group")
    is_in_GS = _is_in(groups_N, len(groups), catalog)
    found = np.flatnonzero(is_in_GS.sum(axis=1) > 1)
    return [
        f"{len(found)} group(s) are in more than one split, the first {str(groups[row])!r} in "
        f"{', '.join(_named(is_in_GS[row], catalog))}: clips of one source in both training and evaluation can inflate "
        "the accuracy"
        for row in found[:1]
    ]


def _is_in(values_N: NDArray[np.int32], num_values: int, catalog: Catalog) -> NDArray[np.bool_]:
    """Whether a value has clips in a split (V, S)."""
    splits = range(len(catalog.splits))
    counts = [np.bincount(values_N[catalog.splits_N == split], minlength=num_values) > 0 for split in splits]
    return np.stack(counts, axis=1)


def _named(is_in_S: NDArray[np.bool_], catalog: Catalog) -> list[str]:
    return [split for split, is_in in zip(catalog.splits, is_in_S, strict=True) if is_in]


def _splits_of_labels(catalog: Catalog) -> dict[str, list[str]]:
    is_in_CS = _is_in(catalog.labels_N, len(catalog.classes), catalog)
    return {label: _named(is_in_S, catalog) for label, is_in_S in zip(catalog.classes, is_in_CS, strict=True)}


def _labels_without_clips(catalog: Catalog) -> list[str]:
    splits_of = _splits_of_labels(catalog)
    trained = [label for label in catalog.classes if "train" in splits_of[label]]
    return [
        f"{len(lacking)} label(s) of train are not in {split}, the first {lacking[0]!r}: they are not evaluated there"
        for split in catalog.splits
        if (lacking := [label for label in trained if split not in splits_of[label]])
    ]


def _imbalance(catalog: Catalog) -> list[str]:
    if "train" not in catalog.splits:
        return []
    labels_N = catalog.labels_N[catalog.splits_N == catalog.splits.index("train")]
    numbers = np.bincount(labels_N, minlength=len(catalog.classes)).tolist()
    pairs = [(label, number) for label, number in zip(catalog.classes, numbers, strict=True) if number]
    counts = Counter(dict(pairs)).most_common()
    if not counts or counts[0][1] < IMBALANCE * counts[-1][1]:
        return []
    (most, many), (least, few) = counts[0], counts[-1]
    return [
        f"train has {many} clips of {most!r}, but {few} of {least!r}; set `data.balanced_sampling: true` to draw "
        "classes equally often"
    ]
