"""Something-Something V1 and V2, and Jester (20BN, now Qualcomm): each clip shows one acted gesture or event.

V1 and Jester are folders of JPEG images at 12 frames per second:

    something-something-v1-labels.csv       Holding something
    something-something-v1-train.csv        100218;Something falling like a feather or paper
    something-something-v1-validation.csv   56557;Closing something
    something-something-v1-test.csv         59651
    root/100218/00001.jpg

V2 has WebM videos:

    labels.json            {"Holding something": "0", ...}
    train.json             [{"id": "78687", "label": "holding potato next to vicks vaporub bottle",
                             "template": "Holding [something] next to [something]", "placeholders": [...]}, ...]
    validation.json        the same
    test.json              [{"id": "1420"}, ...]
    root/78687.webm

Later releases have the labels of the test clips in test-answers.csv, with lines `id;label`.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from videomem.errors import VideomemError
from videomem.video.catalog import Clip
from videomem.video.datasets.common import (
    Found,
    Layout,
    annotation_file,
    annotation_folder,
    existing_folder,
    field,
    needed_file,
    read_json,
    read_lines,
    read_records,
)

FPS = 12.0  # Frame rate of the released JPEG images.


def from_frames(root: Path | str, annotations: Path) -> Found:
    """Clips of Something-Something V1 or Jester. Each is a separate group, since the actors are not known."""
    root, annotations = existing_folder(root), existing_folder(annotations)
    labels = {label for label, _ in read_lines(needed_file(annotations, "labels.csv"))}
    tables = [("train", needed_file(annotations, "train.csv")), ("val", needed_file(annotations, "validation.csv"))]
    answers = annotation_file(annotations, "test-answers.csv")
    tables += [("test", answers)] if answers else []
    clips = [
        Clip(os.path.join(root, name), label, split, name, fps=FPS)
        for split, table in tables
        for name, label in _labelled(table, labels)
    ]
    withheld = annotation_file(annotations, "test.csv") if answers is None else None
    return Found(clips, _left_out(withheld, len(list(read_lines(withheld))) if withheld else 0))


def from_ssv2(root: Path | str, annotations: Path) -> Found:
    """Clips of Something-Something V2. The label is the template without brackets; each clip is a separate group."""
    root, annotations = existing_folder(root), existing_folder(annotations)
    labels_file = needed_file(annotations, "labels.json")
    labels = read_json(labels_file)
    if not isinstance(labels, dict):
        raise VideomemError(f"{labels_file}: must be an object of labels, but is a {type(labels).__name__}")
    clips = []
    for split, name in (("train", "train.json"), ("val", "validation.json")):
        for record, where in read_records(needed_file(annotations, name)):
            label = field(record, "template", where).replace("[", "").replace("]", "")
            _check_label(labels, label, where)
            clips.append(_video(root, _plain(field(record, "id", where), where), label, split))
    if answers := annotation_file(annotations, "test-answers.csv"):
        clips += [_video(root, name, label, "test") for name, label in _labelled(answers, labels)]
        return Found(clips)
    withheld = annotation_file(annotations, "test.json")
    return Found(clips, _left_out(withheld, len(read_records(withheld)) if withheld else 0))


def _video(root: Path, name: str, label: str, split: str) -> Clip:
    return Clip(os.path.join(root, f"{name}.webm"), label, split, name)


def _labelled(table: Path, labels: Collection[str]) -> list[tuple[str, str]]:
    """Read lines `id;label`. This is not CSV, since labels have commas and quotes."""
    rows = []
    for line, where in read_lines(table):
        name, separator, label = (part.strip() for part in line.partition(";"))
        if not (name and separator and label):
            raise VideomemError(f"{where}: {line!r} is not of the form id;label")
        _check_label(labels, label, where)
        rows.append((_plain(name, where), label))
    return rows


def _check_label(labels: Collection[str], label: str, where: str) -> None:
    if label not in labels:
        raise VideomemError(
            f"{where}: {label!r} is not one of the {len(labels)} labels; use files of one release of the data set"
        )


def _plain(name: str, where: str) -> str:
    if "/" in name or name in (".", ".."):
        raise VideomemError(f"{where}: id {name!r} is not a file name")
    return name


def _left_out(table: Path | None, count: int) -> tuple[str, ...]:
    return (f"{table.name}: {count} clips have no label and are left out",) if table else ()


_HELP = "folder with the files ...{} as released"
SSV1 = Layout(
    from_frames,
    "Something-Something V1: ROOT/ID/00001.jpg, CSV files of id;label",
    annotation_folder(_HELP.format("labels.csv, train.csv, validation.csv")),
)
JESTER = SSV1._replace(help="Jester: ROOT/ID/00001.jpg, CSV files of id;label")
SSV2 = Layout(
    from_ssv2,
    "Something-Something V2: ROOT/ID.webm, JSON files",
    annotation_folder(_HELP.format("labels.json, train.json, validation.json")),
)
