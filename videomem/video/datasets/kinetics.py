"""Kinetics-400, -600 and -700: 10 s clips of YouTube videos, many no longer available (github.com/cvdfoundation).

train.csv   label,youtube_id,time_start,time_end,split[,is_cc]
            "air drumming",-3B32lodo2M,59,69,train,0
test.csv    youtube_id,time_start,time_end,split                     without labels
root/[<split>/][<class>/]-3B32lodo2M_000059_000069.mp4
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from videomem.errors import VideomemError
from videomem.video.catalog import Clip
from videomem.video.catalog_files import read_table
from videomem.video.datasets.common import SPLIT_NAMES, Found, whole_number
from videomem.video.files import VIDEO_SUFFIXES

_COLUMNS = ("youtube_id", "time_start", "time_end", "split")


def from_kinetics(root: Path, tables: Sequence[Path]) -> Found:
    """Clips of all tables, with their files at any depth below the root. A group is a YouTube video.

    Rows without a label are left out and counted. A clip without a file has the path that it would have in the root.
    """
    files = _videos_below(root)
    clips: list[Clip] = []
    notes = []
    for path in tables:
        rows = read_table(path, _COLUMNS)
        num_before = len(clips)
        for line, row in enumerate(rows, start=2):
            where = f"{path.name}:{line}"
            name, split = _file_stem(row, where), row["split"].strip()
            if not split:
                raise VideomemError(f"{where}: the split is empty")
            if label := row.get("label", "").strip():
                file = _file(files.get(name, []), label, split) or os.path.join(root, f"{name}.mp4")
                clips.append(Clip(file, label, SPLIT_NAMES.get(split.lower(), split), row["youtube_id"]))
        if unlabeled := len(rows) - (len(clips) - num_before):
            notes.append(f"{path.name}: {unlabeled} of {len(rows)} rows have no label and are left out")
    if not clips:
        raise VideomemError(f"{', '.join(map(str, tables))}: no row has a label; give train.csv and val.csv")
    return Found(clips, tuple(notes))


def _file_stem(row: Mapping[str, str], where: str) -> str:
    stem = row["youtube_id"]
    for name in ("time_start", "time_end"):
        whole, _, part = row[name].strip().partition(".")
        seconds = None if part.strip("0") else whole_number(whole)
        if seconds is None:
            raise VideomemError(f"{where}: {name} is {row[name]!r}, not a whole number of seconds")
        stem += f"_{seconds:06}"
    if not row["youtube_id"] or "/" in row["youtube_id"]:
        raise VideomemError(f"{where}: youtube_id is {row['youtube_id']!r}, which is not a video id")
    return stem


def _videos_below(root: Path) -> dict[str, list[str]]:
    """All videos below a folder that are not hidden, by file name without suffix. Follows links, each once."""

    def refuse(error: OSError) -> None:
        raise VideomemError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    files: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for folder, below, names in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if name[0] != ".")
        for name in names:
            start, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES and name[0] != ".":
                files[start].append(os.path.join(folder, name))
    return files


def _file(files: Sequence[str], label: str, split: str) -> str | None:
    """Of several files with the same name, the one in the folders of its split and class."""
    if len(files) < 2:
        return files[0] if files else None
    own = {split, SPLIT_NAMES.get(split.lower(), split), label, label.replace(" ", "_")}
    matches = [len(own & set(Path(file).parts)) for file in files]
    if matches.count(max(matches)) > 1:
        raise VideomemError(f"{files[0]}: another file has the same name, {files[1]}; keep one below --root")
    return files[matches.index(max(matches))]
