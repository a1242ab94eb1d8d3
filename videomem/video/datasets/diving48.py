"""Diving48: 48 types of competitive dives, with similar scenes in all classes (svcl.ucsd.edu/projects/resound).

    Diving48_V2_train.json   [{"vid_name": "_8Vy3dlHg2w_00000", "label": 3, "start_frame": 0, "end_frame": 91}, ...]
    Diving48_V2_test.json    the same
    Diving48_vocab.json      [["Back", "15som", "05Twis", "FREE"], ...]     takeoff, somersaults, twists, position
    root/_8Vy3dlHg2w_00000.mp4

The files are already cut; start_frame and end_frame refer to the original videos.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from videomem.errors import VideomemError
from videomem.video.catalog import Clip
from videomem.video.datasets.common import (
    Found,
    annotation_file,
    field,
    file_name,
    needed_file,
    read_json,
    read_records,
    refuse_doubled,
    whole_number,
)


def from_diving48(root: Path, annotations: Path) -> Found:
    """Clips of the official split. A group is the competition video that dives were cut from."""
    vocabulary = annotation_file(annotations, "vocab.json")
    names = _names(vocabulary) if vocabulary else None
    clips = []
    for split in ("train", "test"):
        for record, where in read_records(needed_file(annotations, f"{split}.json")):
            video = file_name(field(record, "vid_name", where), "vid_name", where)
            label = _label(field(record, "label", where), names, where)
            clips.append(Clip(os.path.join(root, f"{video}.mp4"), label, split, re.sub(r"_\d+$", "", video)))
    return Found(clips, () if vocabulary else ("no Diving48_vocab.json: labels are numbers",))


def _label(text: str, names: list[str] | None, where: str) -> str:
    number = whole_number(text)
    if number is None:
        raise VideomemError(f"{where}: label is {text!r}, not a whole number from 0")
    if names is None:
        return f"dive {number:02}"
    if number >= len(names):
        raise VideomemError(f"{where}: label {number}, but the vocabulary has {len(names)} dives (0..{len(names) - 1})")
    return names[number]


def _names(path: Path) -> list[str]:
    content = read_json(path)
    dives: list[Any] = content if isinstance(content, list) else [content]
    if not all(isinstance(dive, list) and dive and all(isinstance(part, str) for part in dive) for dive in dives):
        raise VideomemError(f"{path}: must be a list of lists of text, one list per dive")
    names = [" / ".join(dive) for dive in dives]
    refuse_doubled(names, "dive", path)
    return names
