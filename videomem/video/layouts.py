"""From a data set as it lies on disk to the clips of a catalog."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from videomem.errors import VideomemError
from videomem.video.catalog import Clip, is_url, read_rows

VIDEO_SUFFIXES = frozenset(
    [".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
     ".webm", ".wmv"]
)  # fmt: skip
SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
                 "test": "test", "testing": "test"}  # fmt: skip


def from_folder(root: Path | str) -> list[Clip]:
    """Clips of `root/[split/]class/**/video`; the split is empty where no split folders are there.

    Each file is its own group; give groups with the `csv` layout where several clips come from one source.
    """
    root = _existing_folder(root)
    folders = [folder for folder in _subfolders(root) if next(_videos_below(folder), None)]
    splits = {folder: SPLIT_FOLDERS.get(folder.name.lower()) for folder in folders}
    if any(splits.values()) and not all(splits.values()):
        odd = next(folder.name for folder, split in splits.items() if split is None)
        raise VideomemError(
            f"{root}: some folders are splits, but {odd!r} is none; rename it to train, val or test, "
            "or give your own table with the csv layout"
        )
    if folders and all(splits.values()):
        classes = [(folder, str(split)) for top, split in splits.items() for folder in _subfolders(top)]
    else:
        classes = [(folder, "") for folder in folders]
    clips = [
        Clip(str(path), folder.name, split, os.path.relpath(path, root))
        for folder, split in classes
        for path in _videos_below(folder)
    ]
    if not clips:
        raise VideomemError(f"{root}: no videos in it; expected {root.name}/[train|val|test/]<class>/<video>.mp4")
    return clips


def from_csv(root: Path | str, table: Path | str) -> list[Clip]:
    """Clips of the user's own table with at least `path,label`; paths are relative to `root`.

    Without a `group` column each file is its own group, so that trimmed parts of one file share one.
    """
    root = _existing_folder(root)
    rows = read_rows(Path(table), required=("path", "label"))
    if not rows:
        raise VideomemError(f"{table}: no videos in the table")
    return [
        replace(
            row,
            path=row.path if is_url(row.path) else os.path.join(root, row.path),
            group=row.group or row.path,
            split=SPLIT_FOLDERS.get(row.split.lower(), row.split),
        )
        for row in rows
    ]


def _existing_folder(root: Path | str) -> Path:
    root = Path(root).absolute()
    if not root.is_dir():
        raise VideomemError(f"{root}: no such folder")
    return root


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _videos_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".") and not path.is_dir():
            yield path
