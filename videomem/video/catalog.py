"""The catalog: one table of videos, whatever the layout of the data set that it was built from.

Columns: `path, label, split, group, start_s, end_s`, as CSV or Parquet. `path` is a local file, relative to the
catalog's own folder unless absolute. `group` names the source that a clip was cut from: groups never straddle splits.
`start_s` and `end_s` trim the file to frames with start_s <= time < end_s; empty means the file's own start or end.
"""

from __future__ import annotations

import csv
import math
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from videomem.errors import VideomemError

COLUMNS = ("path", "label", "split", "group", "start_s", "end_s")
SPLITS = ("train", "val", "test")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(path: str) -> bool:
    return _URL.match(path) is not None


@dataclass(frozen=True, slots=True)
class Clip:
    """One row: a video file, or the part of one between two times in seconds."""

    path: str
    label: str
    split: str
    group: str
    start_s: float | None = None
    end_s: float | None = None

    def __str__(self) -> str:
        return self.path if self.interval == (None, None) else f"{self.path} [{self.start_s}, {self.end_s})"

    @property
    def interval(self) -> tuple[float | None, float | None]:
        return self.start_s, self.end_s


@dataclass(frozen=True)
class Catalog:
    """The clips of a data set in the order of the table; their paths are absolute once read."""

    clips: tuple[Clip, ...]
    path: Path | None = None

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Labels in sorted order; a clip's class index is its label's place here."""
        return tuple(sorted({clip.label for clip in self.clips}))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        return tuple(sorted({clip.split for clip in self.clips}, key=_split_order))

    def split(self, name: str) -> tuple[Clip, ...]:
        return tuple(clip for clip in self.clips if clip.split == name)


def _split_order(name: str) -> tuple[int, str]:
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)


def read_catalog(path: Path | str) -> Catalog:
    """Read a catalog and hold it to the rules that need no file opened.

    Raises:
        VideomemError: If the table is missing, malformed, or breaks a rule of `catalog_problems`.
    """
    catalog = absolute_clips(path)
    problems = catalog_problems(catalog)
    if problems:
        more = f" (and {len(problems) - 1} more; `videomem catalog check` lists all)" if len(problems) > 1 else ""
        raise VideomemError(f"{path}: {problems[0]}{more}")
    return catalog


def absolute_clips(path: Path | str) -> Catalog:
    """A catalog as it stands, whatever is wrong with it, its paths made absolute."""
    path = Path(path).absolute()
    clips = [
        clip if is_url(clip.path) else replace(clip, path=os.path.normpath(path.parent / clip.path))
        for clip in read_rows(path)
    ]
    return Catalog(tuple(clips), path)


def read_rows(path: Path, required: Sequence[str] = COLUMNS[:4]) -> list[Clip]:
    """Rows of a CSV or Parquet table as they stand; columns that are not required may be missing."""
    if not path.is_file():
        kind = "a folder, not a table" if path.is_dir() else "no such table"
        raise VideomemError(f"{path}: {kind}; `videomem catalog build` makes catalogs")
    rows = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    if rows and (missing := [name for name in required if name not in rows[0]]):
        raise VideomemError(f"{path.name}: lacks the column {', '.join(missing)}; it has {', '.join(rows[0])}")
    return [_clip(row, f"{path.name}: row {number}") for number, row in enumerate(rows, start=1)]


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return [{k: v or "" for k, v in row.items() if k is not None} for row in csv.DictReader(file)]
    except (OSError, csv.Error) as error:
        raise VideomemError(f"{path}: not readable as CSV: {error}") from error


def _read_parquet(path: Path) -> list[dict[str, str]]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise VideomemError(f"{path}: not readable as Parquet: {error}") from error
    return [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]


def _clip(row: Mapping[str, str], where: str) -> Clip:
    if not row["path"]:
        raise VideomemError(f"{where}: the path is empty")
    start_s, end_s = (_seconds(row.get(name, ""), name, where) for name in ("start_s", "end_s"))
    if not (start_s or 0.0) < (math.inf if end_s is None else end_s):
        raise VideomemError(f"{where}: start_s {start_s or 0.0} is not before end_s {end_s}")
    return Clip(row["path"], row.get("label", ""), row.get("split", ""), row.get("group", ""), start_s, end_s)


def _seconds(text: str, name: str, where: str) -> float | None:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        raise VideomemError(f"{where}: {name} is {text!r}, not a number of seconds") from None
    if not (math.isfinite(value) and value >= 0):
        raise VideomemError(f"{where}: {name} is {text}, but must be finite and not negative")
    return value


def write_catalog(catalog: Catalog, path: Path | str) -> None:
    """Write CSV, or Parquet where the name ends so; paths below the catalog's folder become relative to it."""
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [replace(clip, path=_relative(clip.path, path.parent)) for clip in catalog.clips]
    if path.suffix == ".parquet":
        columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
        types = [pa.string()] * 4 + [pa.float64()] * 2
        pq.write_table(pa.table(columns, schema=pa.schema(list(zip(COLUMNS, types, strict=True)))), path)
        return
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([["" if v is None else v for v in (getattr(row, n) for n in COLUMNS)] for row in rows])


def _relative(path: str, folder: Path) -> str:
    return os.path.relpath(path, folder) if Path(path).is_relative_to(folder) else path


def catalog_problems(catalog: Catalog) -> list[str]:
    """What is wrong with a catalog, a line each, judged from the table alone."""
    clips, problems = catalog.clips, []
    if not clips:
        return ["no videos in the table"]
    for name in ("label", "split", "group"):
        problems += [f"{clip}: the {name} is empty" for clip in clips if not getattr(clip, name)]
        odd = {value for clip in clips if not _is_utf8(value := getattr(clip, name))}
        problems += [f"the {name} {value!r} is not UTF-8; write it so, or rename its folder" for value in sorted(odd)]
    problems += [f"{clip}: a URL; videomem reads local files only" for clip in clips if is_url(clip.path)]
    counts = Counter((clip.path, clip.interval) for clip in clips)
    problems += [f"{path}: listed {count} times; keep one row" for (path, _), count in counts.items() if count > 1]
    if len(catalog.classes) < 2:
        problems.append(f"one class only ({catalog.classes[0]!r}); a classifier needs at least two")
    for group, splits in _splits_by(clips, "group").items():
        if len(splits) > 1:
            problems.append(f"group {group!r} is in splits {', '.join(splits)}; a group must stay in one split")
    if len(catalog.splits) > 1:
        for label, splits in _splits_by(clips, "label").items():
            if len(splits) == 1:
                problems.append(f"label {label!r} is in split {splits[0]!r} only; give every split every label")
    return problems


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _splits_by(clips: Iterable[Clip], field: str) -> dict[str, list[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        found[getattr(clip, field)].add(clip.split)
    return {key: sorted(splits, key=_split_order) for key, splits in found.items()}


def file_problem(path: str) -> str | None:
    """Why a path cannot be a video of a catalog, or None: it must be a local, regular, readable, non-empty file."""
    if is_url(path):
        return f"{path}: a URL; videomem reads local files only"
    if not os.path.exists(path):
        dangling = " (a dangling link)" if os.path.islink(path) else ""
        return f"{path}: no such file{dangling}"
    if not os.path.isfile(path):
        return f"{path}: not a regular file"
    if not os.access(path, os.R_OK):
        return f"{path}: no permission to read it"
    return f"{path}: an empty file" if os.path.getsize(path) == 0 else None


def assign_splits(
    clips: Sequence[Clip], fractions: Mapping[str, float] | None = None, seed: int = 0
) -> tuple[Clip, ...]:
    """Give every clip a split so that groups stay whole and labels are spread in proportion.

    Groups are placed in a seeded random order, largest first, each into the split that is furthest behind its share of
    the labels in that group.

    Args:
        clips: Clips whose `split` is ignored.
        fractions: Share of each split, by default train 0.7, val 0.15, test 0.15.
        seed: Seed of the random order.
    Raises:
        VideomemError: If a label has fewer groups than there are splits.
    """
    fractions = fractions or {"train": 0.7, "val": 0.15, "test": 0.15}
    groups: dict[str, list[Clip]] = defaultdict(list)
    groups_of_label: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        groups[clip.group].append(clip)
        groups_of_label[clip.label].add(clip.group)
    for label, names in groups_of_label.items():
        if len(names) < len(fractions):
            raise VideomemError(
                f"label {label!r} has {len(names)} group(s), but {len(fractions)} splits need one each; "
                "add videos, give `group` a finer meaning, or give the splits yourself"
            )
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda name: -len(groups[name]))
    total = Counter(clip.label for clip in clips)
    held: dict[str, Counter[str]] = {split: Counter() for split in fractions}
    chosen: dict[str, str] = {}
    for name in order:
        labels = Counter(clip.label for clip in groups[name])

        def shortfall(split: str, labels: Counter[str] = labels) -> float:
            share = fractions[split]
            return sum(n * (1 - held[split][lab] / (share * total[lab])) for lab, n in labels.items())

        chosen[name] = max(fractions, key=shortfall)
        held[chosen[name]].update(labels)
    return tuple(replace(clip, split=chosen[clip.group]) for clip in clips)
