"""UCF101: clips of YouTube videos, 101 action classes, three official splits (crcv.ucf.edu/data/UCF101.php).

    ucfTrainTestlist/classInd.txt      1 ApplyEyeMakeup
    ucfTrainTestlist/trainlist01.txt   ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
    ucfTrainTestlist/testlist01.txt    ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
    UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi

The clips of a class with the same gNN are cut from one video. The class is the name of the folder: the files in
HandstandPushups are named v_HandStandPushups.
"""

from __future__ import annotations

import re
from pathlib import Path

from videomem.errors import VideomemError
from videomem.video.catalog import Clip
from videomem.video.datasets.common import Found, read_lines

_VIDEO = re.compile(r"(?P<label>[^/]+)/(?P<name>[^/]+_(?P<group>g\d+)_c\d+\.avi)(?:\s+(?P<index>\d{1,9}))?")


def from_ucf101(root: Path, annotations: Path, split: int) -> Found:
    """Clips of one official split. A group is a class and the gNN in the file name."""
    index_of = _class_indices(annotations / "classInd.txt")
    clips = []
    for name in ("train", "test"):
        for line, where in read_lines(annotations / f"{name}list{split:02}.txt"):
            match = _VIDEO.fullmatch(line)
            if match is None:
                raise VideomemError(f"{where}: {line!r} is not of the form Class/v_Class_g01_c01.avi 1")
            label, index = match["label"], match["index"]
            if label not in index_of:
                raise VideomemError(f"{where}: class {label!r} is not in classInd.txt")
            if name == "train" and index is None:
                raise VideomemError(f"{where}: {line!r} lacks the class index that training lists have")
            if index is not None and int(index) != index_of[label]:
                raise VideomemError(
                    f"{where}: class index {index} of {label!r}, but classInd.txt says {index_of[label]}; "
                    "use files of one download"
                )
            clips.append(Clip(str(root / label / match["name"]), label, name, f"{label}_{match['group']}"))
    return Found(clips)


def _class_indices(path: Path) -> dict[str, int]:
    indices: dict[str, int] = {}
    for line, where in read_lines(path):
        match = re.fullmatch(r"(\d{1,9})\s+(\S+)", line)
        if match is None or match[2] in indices:
            raise VideomemError(f"{where}: {line!r} is not a class of the form `1 ApplyEyeMakeup`, or is listed twice")
        indices[match[2]] = int(match[1])
    return indices
