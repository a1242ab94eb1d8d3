"""Lists of videos or frame folders in the format of mmaction2, TSN, TRN, TSM and SlowFast.

    some/video.mp4 7            a video and its class, separated by a space, comma or tab
    some/folder 163 7           a folder of frames, their number, and the class
    classes.txt                 one name per line, starting with class 0; or `0 name`; from 1 with --first-class 1

The numbers are the last columns; paths may have spaces.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from videomem.errors import VideomemError
from videomem.video.catalog import Clip
from videomem.video.datasets.common import FRACTION, SPLIT_NAMES, Found, read_lines, refuse_doubled
from videomem.video.files import images_in, is_video_name, split_template

_LINE_BACKWARDS = re.compile(r"((?:\d{1,9}-?[\s,]+)+)(\S.*)")  # Forwards, its time would be quadratic.


class Row(NamedTuple):
    """A line of a list: its position, path, listed number of frames, and class."""

    where: str
    path: str
    num_frames: int | None
    label: int


def from_lists(
    root: Path,
    lists: Sequence[tuple[str, Path]],
    classes: Path | None,
    template: str | None,
    source_fps: float | None,
    first_class: int | None = None,
) -> Found:
    """Clips of lists. Each clip is a separate group, since lists do not name sources.

    Args:
        root: Folder that paths are relative to.
        lists: Pairs of a split and the path of its list.
        classes: File with the names of the classes; without it, classes are named `class 07`.
        template: Template of the image names in frame folders, such as `img_{:05}.jpg`.
        source_fps: Frames per second of frame folders.
        first_class: Number of the first class, 0 or 1; None: 0, which then must occur if there are names of classes.
    """
    rows = [(split, _row(line, where, root)) for split, path in lists for line, where in read_lines(path)]
    if not rows:
        raise VideomemError(f"{', '.join(str(path) for _, path in lists)}: no videos in the lists")
    first = first_class or 0
    names = _class_names(classes, first) if classes else None
    if names is not None and first_class is None and (lowest := min(row.label for _, row in rows)) > 0:
        raise VideomemError(
            f"{lists[0][1]}: no clip has class 0 ({names[0]!r}), the lowest is {lowest}: are classes numbered from 1? "
            "Give --first-class 1, or --first-class 0 if they are numbered from 0"
        )
    width = max(2, len(str(max(row.label for _, row in rows))))
    clips, counted, wrong = [], 0, []
    for split, row in rows:
        if names is not None and not 0 <= row.label - first < len(names):
            last = first + len(names) - 1
            raise VideomemError(f"{row.where}: class {row.label}, but {classes} has {len(names)} ({first}..{last})")
        is_video = is_video_name(row.path)
        path = os.path.normpath(os.path.join(root, row.path, "" if is_video else template or ""))
        label = f"class {row.label:0{width}}" if names is None else names[row.label - first]
        clips.append(Clip(path, label, split, os.path.normpath(row.path), fps=None if is_video else source_fps))
        folder, pattern = split_template(path)
        if row.num_frames is not None and os.path.isdir(folder):
            counted += 1
            if (found := len(list(images_in(folder, pattern)))) != row.num_frames:
                wrong.append(f"{row.path}: {row.num_frames} listed, {found} there")
    if not wrong:
        return Found(clips)
    hint = "" if template else "; if a folder has several series, select one with --template img_{:05}.jpg"
    warning = (
        f"{len(wrong)} of {counted} folders do not have the listed number of frames, the first {wrong[0]}; "
        f"the existing frames are used{hint}"
    )
    return Found(clips, warnings=(warning,))


def _row(line: str, where: str, root: Path) -> Row:
    match = _LINE_BACKWARDS.fullmatch(line[::-1])
    if match is None:
        raise VideomemError(f"{where}: {line!r} is neither `video.mp4 label` nor `folder num_frames label`")
    columns, before = match[1][::-1], match[2][::-1]
    path, found = before, list(re.finditer(r"[\s,]+(-?\d+)", columns))
    numbers = [int(number[1]) for number in found]
    expected = 1 if is_video_name(path) else 2
    if is_unclear := len(numbers) > expected:
        # Some numbers may belong to the path: only existing files distinguish `P 01` with one number from `P` with two.
        path = line[: len(before) + found[-expected].start()]
    is_unclear |= any(map(FRACTION.fullmatch, re.split(r"[\s,]+", before)[1:]))
    if is_unclear and not os.path.exists(os.path.join(root, path)):
        raise VideomemError(
            f"{where}: {line!r} has more columns than a path, a number of frames and a class; multi-label lists are "
            "not supported: give one label per video; neither are detection lists and lists with offsets"
        )
    label, num_frames = numbers[-1], numbers[-2] if expected == 2 and len(numbers) > 1 else None
    if label < 0:
        raise VideomemError(f"{where}: class {label}, but classes start at 0; leave out lists without labels")
    return Row(where, path, num_frames, label)


def _class_names(path: Path, first: int) -> list[str]:
    names = [line for line, _ in read_lines(path)]
    numbered = [match for name in names if (match := re.fullmatch(r"(\d{1,9})[\s,]+(.+)", name))]
    if len(numbered) == len(names):
        for place, match in enumerate(numbered, start=first):
            if (number := int(match[1])) != place:
                raise VideomemError(
                    f"{path}: class {place} is numbered {number}; number the names from 0 in order, or from 1 with "
                    "--first-class 1"
                )
        names = [match[2] for match in numbered]
    refuse_doubled(names, "class", path)
    return names


def split_and_file(text: str) -> tuple[str, Path]:
    """Converts `split=file` of the command line."""
    split, _, path = text.partition("=")
    if not (split and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form train=train.txt")
    return SPLIT_NAMES.get(split.lower(), split), Path(path)


def image_template(text: str) -> str:
    """Checks a template of the command line."""
    if "/" in text or split_template(os.path.join("folder", text))[1] is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an image name with one field, such as img_{{:05}}.jpg")
    return text
