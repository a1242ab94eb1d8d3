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
from videomem.video.datasets.common import (
    OFFICIAL_SPLIT,
    Found,
    Layout,
    annotation_folder,
    existing_folder,
    read_lines,
)

_SPLITS = {"1": "train", "2": "test"}
_TAIL = re.compile(r"_[a-z]+_(?:nm|cm)_np\d+_(?:fr|ba|le|ri)_(?:goo|med|bad)_\d+$", re.IGNORECASE)


def from_hmdb51(root: Path | str, annotations: Path, split: int = 1) -> Found:
    """Clips of one official split. A group is a movie, over all classes."""
    root, annotations = existing_folder(root), existing_folder(annotations)
    ending = f"_test_split{split}.txt"
    lists = sorted(path for path in annotations.iterdir() if path.name.endswith(ending))
    if not lists:
        raise VideomemError(f"{annotations}: no lists <class>{ending}; give the folder that has them")
    clips, unused = [], 0
    for path in lists:
        label = path.name.removesuffix(ending)
        # Bytes that are not UTF-8 are kept, since files have such names.
        for line, where in read_lines(path, errors="surrogateescape"):
            name, _, use = line.replace("\t", " ").rpartition(" ")
            name = name.strip()
            if use not in ("0", "1", "2") or not name or "/" in name:
                raise VideomemError(f"{where}: {printable(line)!r} is not of the form name.avi 0|1|2")
            if use == "0":
                unused += 1
                continue
            clips.append(Clip(os.path.join(root, label, name), label, _SPLITS[use], movie(name, label)))
    return Found(clips, (f"{unused} clips are in no part of split {split}",) if unused else ())


def movie(name: str, label: str) -> str:
    """The movie that a clip was cut from: its file name up to the class or, for other names, up to the number."""
    text = printable(Path(name).stem)
    match = _TAIL.search(text)
    source = text[: match.start()] if match else re.sub(r"_\d+$", "", text)
    return source[: -len(label) - 1] if source.lower().endswith(f"_{label.lower()}") else source


def printable(text: str) -> str:
    """Text with invalid UTF-8 bytes replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


LAYOUT = Layout(
    from_hmdb51,
    "HMDB51: ROOT/CLASS/NAME.avi and the folder of lists CLASS_test_splitN.txt",
    {**annotation_folder("folder with CLASS_test_split1.txt ..."), "split": OFFICIAL_SPLIT},
    has_val=False,
)
