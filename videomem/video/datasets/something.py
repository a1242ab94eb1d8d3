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
    annotation_file,
    field,
    file_name,
    needed_file,
    read_json,
    read_lines,
    read_records,
)

FPS = 12.0  # Frame rate of the released JPEG images.
_TABLES = (("train", "train"), ("val", "validation"))
Row = tuple[str, str, str]  # The split, name and label of a clip.


def from_frames(root: Path, annotations: Path) -> Found:
    """Clips of Something-Something V1 or Jester. Each is a separate group, since the actors are not known."""
    labels = {label for label, _ in read_lines(needed_file(annotations, "labels.csv"))}
    rows = [row for split, name in _TABLES for row in _labeled(split, needed_file(annotations, f"{name}.csv"), labels)]
    notes = _add_test_clips(rows, annotations, "test.csv", labels)
    return Found([Clip(os.path.join(root, name), label, split, name, fps=FPS) for split, name, label in rows], notes)


def from_ssv2(root: Path, annotations: Path) -> Found:
    """Clips of Something-Something V2. The label is the template without brackets; each clip is a separate group."""
    labels_file = needed_file(annotations, "labels.json")
    labels = read_json(labels_file)
    if not isinstance(labels, dict):
        raise VideomemError(f"{labels_file}: must be an object of labels, but is a {type(labels).__name__}")
    rows = []
    for split, table in _TABLES:
        for record, where in read_records(needed_file(annotations, f"{table}.json")):
            label = field(record, "template", where).replace("[", "").replace("]", "")
            _check_label(labels, label, where)
            rows.append((split, file_name(field(record, "id", where), "id", where), label))
    notes = _add_test_clips(rows, annotations, "test.json", labels)
    return Found([Clip(os.path.join(root, f"{n}.webm"), label, split, n) for split, n, label in rows], notes)


def _labeled(split: str, table: Path, labels: Collection[str]) -> list[Row]:
    """Read lines `id;label`. This is not CSV, since labels have commas and quotes."""
    rows = []
    for line, where in read_lines(table):
        name, separator, label = (part.strip() for part in line.partition(";"))
        if not (name and separator and label):
            raise VideomemError(f"{where}: {line!r} is not of the form id;label")
        _check_label(labels, label, where)
        rows.append((split, file_name(name, "id", where), label))
    return rows


def _check_label(labels: Collection[str], label: str, where: str) -> None:
    if label not in labels:
        raise VideomemError(
            f"{where}: {label!r} is not one of the {len(labels)} labels; use files of one release of the data set"
        )


def _add_test_clips(rows: list[Row], annotations: Path, unlabeled: str, labels: Collection[str]) -> tuple[str, ...]:
    """Add the test clips if their labels are released; otherwise returns a note on how many are left out."""
    if answers := annotation_file(annotations, "test-answers.csv"):
        rows += _labeled("test", answers, labels)
    elif table := annotation_file(annotations, unlabeled):
        count = len(read_records(table) if table.suffix == ".json" else list(read_lines(table)))
        return (f"{table.name}: {count} clips have no label and are left out",)
    return ()
