"""The user's own videos: a folder per class, or a table.

root/[train|val|test/]<class>/**/<video>

path,label[,split,group,start_s,end_s,fps]
a.mp4,wave,train,anna,,,
"""

from __future__ import annotations

import json
import os
import re
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from videomem.errors import VideomemError
from videomem.video.catalog import Clip
from videomem.video.catalog_files import clip_of_row, read_table
from videomem.video.datasets.common import FRACTION, SPLIT_NAMES, Found
from videomem.video.files import file_problem, files_below, is_url, is_video_name, videos_below

UNGROUPED = (
    "every file is a group of its own; if several files come from one source or show one person, name the groups with "
    "--group-by, because splits and intervals rest on groups"
)
_MOST_KINDS = 5
_BOXES = ({"x1", "y1", "x2", "y2"}, {"xmin", "ymin", "xmax", "ymax"})


def from_folder(root: Path, group_by: re.Pattern[str] | None = None) -> Found:
    """Clips of `root/[split/]class/**/video`. The split is empty if there are no split folders.

    Files that cannot be read, such as empty ones, are left out with a warning.

    Args:
        root: The folder.
        group_by: Searched in the path of each file below `root`. The group of a clip is what it matches: its
            parenthesized parts, if it has any. By default each file is a group of its own.
    """
    folders = [folder for folder in _subfolders(root) if videos_below(str(folder))]
    splits = {folder: SPLIT_NAMES.get(folder.name.lower(), "") for folder in folders}
    if any(splits.values()) and not all(splits.values()):
        odd = next(folder.name for folder, split in splits.items() if not split)
        raise VideomemError(
            f"{root}: some folders are splits, but {odd!r} is not; rename it to train, val or test, "
            "or use the csv layout"
        )
    found = [
        (path, folder.name, split)
        for top, split in splits.items()
        for folder in (_subfolders(top) if split else [top])
        for path in videos_below(str(folder))
    ]
    if not found:
        loose = len(videos_below(str(root)))
        has = f"{loose} videos, but none in the folder of a class" if loose else "no videos"
        raise VideomemError(
            f"{root}: has {has}; expected {root.name}/[train|val|test/]<class>/<video>.mp4, or use the csv layout"
        )
    problem_of = {path: problem for path, _, _ in found if (problem := file_problem(path))}
    if len(problem_of) == len(found):
        raise VideomemError(f"{root}: no video can be read; the first: {next(iter(problem_of.values()))}")
    clips = [
        Clip(path, label, split, _group(os.path.relpath(path, root), group_by))
        for path, label, split in found
        if path not in problem_of
    ]
    warnings = tuple(f"left out: {problem}" for problem in problem_of.values())
    notes = () if group_by else (UNGROUPED,)
    others = [path for folder in folders for path in files_below(str(folder)) if not is_video_name(path)]
    if not others:
        return Found(clips, notes, warnings)
    kinds = Counter(os.path.splitext(path)[1].lower() or "no suffix" for path in others).most_common()
    named = ", ".join(f"{kind} ({count})" for kind, count in kinds[:_MOST_KINDS]) + ", ..." * (len(kinds) > _MOST_KINDS)
    left_out = f"{len(others)} files do not have the suffix of a video and are left out: {named}"
    return Found(clips, (*notes, left_out), warnings)


def group_pattern(text: str) -> re.Pattern[str]:
    """Compile the value of `--group-by`."""
    try:
        return re.compile(text)
    except re.error as error:
        raise ArgumentTypeError(f"{text!r} is not a regular expression ({error})") from error


def _group(path: str, group_by: re.Pattern[str] | None) -> str:
    if group_by is None:
        return path
    match = group_by.search(path)
    group = "/".join(part or "" for part in match.groups()) or match[0] if match else ""
    if not group:
        raise VideomemError(f"--group-by {group_by.pattern!r} matches nothing in {path}; every clip needs a group")
    return group


def from_csv(root: Path, table: Path, group_by: str | None = None) -> Found:
    """Clips of a table with at least the columns `path,label`; paths are relative to `root`.

    Without a column of groups, each file is a group, so that trimmed parts of a file are in the same group.

    Args:
        root: Folder of the videos.
        table: The table.
        group_by: The column of groups; by default `group`, if there is one.
    """
    rows = read_table(table)
    if not rows:
        raise VideomemError(f"{table}: no videos in the table")
    _refuse_other_tasks(table.name, rows)
    needed = ["path", "label"] + ([group_by] if group_by else [])
    if missing := [name for name in needed if name not in rows[0]]:
        raise VideomemError(f"{table.name}: lacks the column {', '.join(missing)}; it has {', '.join(rows[0])}")
    clips = []
    for number, row in enumerate(rows, start=1):
        clip = clip_of_row(row, f"{table.name}: row {number}")
        path = clip.path if is_url(clip.path) else os.path.normpath(os.path.join(root, clip.path))
        group = row[group_by] if group_by else clip.group
        if group_by and not group:
            raise VideomemError(f"{table.name}: row {number} has no {group_by}; every clip needs a group")
        group = group or (path if is_url(path) else os.path.relpath(path, root))
        clips.append(replace(clip, path=path, group=group, split=SPLIT_NAMES.get(clip.split.lower(), clip.split)))
    return Found(clips, () if group_by or any(row.get("group") for row in rows) else (UNGROUPED,))


def _refuse_other_tasks(table: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Raise for tables of detection or multi-label data sets, which use the same columns with another meaning.

    Fractions among the names of the columns are those of a detection list without a header.
    """
    columns = {name.lower().strip() for name in rows[0]}
    if any(boxes <= columns for boxes in _BOXES) or sum(map(bool, map(FRACTION.fullmatch, rows[0]))) >= 4:
        raise VideomemError(
            f"{table}: has bounding boxes; detection is not supported: give one label per video and no boxes"
        )
    for number, row in enumerate(rows, start=1):
        labels = row.get("labels", "")
        if _is_json_list(row.get("label", "")) or _is_json_list(labels) or "|" in labels or ";" in labels:
            raise VideomemError(
                f"{table}: row {number} has several labels ({row.get('label') or labels}); multi-label tables are not "
                "supported: give one label per video, in a column `label`"
            )


def _is_json_list(text: str) -> bool:
    if not text.lstrip().startswith("["):
        return False
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
