"""HMDB51: clips of movies, 51 action classes, three official splits (serre-lab.clps.brown.edu, HMDB).

    testTrainMulti_7030_splits/brush_hair_test_split1.txt   April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1
    videos/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi

0 is unused, 1 training, 2 test. Files are named
<movie>_<class>_<visible body parts>_<camera motion: nm, cm>_np<people>_<viewpoint: fr, ba, le, ri>_<quality>_<number>;
names of movies may have brackets and any other characters.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from videomem.errors import VideomemError
from videomem.video.catalog import Clip
from videomem.video.datasets.common import Found, read_lines

_SPLITS = {"0": "", "1": "train", "2": "test"}
_TAIL = re.compile(r"_[a-z]+_(?:nm|cm)_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+$", re.IGNORECASE)


def from_hmdb51(root: Path, annotations: Path, split: int) -> Found:
    """Clips of one official split. A group is a movie, over all classes."""
    ending = f"_test_split{split}.txt"
    lists = sorted(path for path in annotations.iterdir() if path.name.endswith(ending))
    if not lists:
        raise VideomemError(f"{annotations}: no lists <class>{ending}; give the folder that has them")
    clips = []
    for path in lists:
        label = path.name.removesuffix(ending)
        # Bytes that are not UTF-8 are kept, since files have such names.
        for line, where in read_lines(path, errors="surrogateescape"):
            name, _, use = line.replace("\t", " ").rpartition(" ")
            name = name.strip()
            if use not in _SPLITS or not name or "/" in name:
                raise VideomemError(f"{where}: {_printable(line)!r} is not of the form name.avi 0|1|2")
            clips.append(Clip(os.path.join(root, label, name), label, _SPLITS[use], movie(name, label)))
    used = [clip for clip in clips if clip.split]
    unused = len(clips) - len(used)
    return Found(used, (f"{unused} clips are in no part of split {split}",) if unused else ())


def movie(name: str, label: str) -> str:
    """The movie that a clip was cut from: its file name up to the class or, for other names, up to the number."""
    text = _printable(Path(name).stem)
    match = _TAIL.search(text)
    source = text[: match.start()] if match else re.sub(r"_\d+$", "", text)
    return source[: -len(label) - 1] if source.lower().endswith(f"_{label.lower()}") else source


def _printable(text: str) -> str:
    """Text with invalid UTF-8 bytes replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
