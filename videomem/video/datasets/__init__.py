"""Layouts of public data sets: functions that list the clips of a data set on disk, one module per layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from videomem.errors import VideomemError
from videomem.video.datasets import diving48, hmdb51, kinetics, lists, own, something, ucf101
from videomem.video.datasets.common import Found


class Layout(NamedTuple):
    """A layout of `videomem catalog build`.

    `read` is called with the root folder, the folder of annotations if there is one, and the values of `options` as
    keyword arguments. `options` has the keyword arguments of `add_argument` by flag; an option without any is one that
    commands share.
    """

    read: Callable[..., Found]
    help: str
    annotations: str = ""  # Help of --annotations, a folder with the released lists; empty: there is no such option.
    options: Mapping[str, Mapping[str, Any]] = {}
    has_splits: bool = True  # False: splits are drawn if the data set has none.
    has_val: bool = True  # False: --val-share holds out a fraction of train.
    missing_is_normal: bool = False  # Listed files that do not exist are counted, not an error.

    def find(self, root: Path, annotations: Path | None, **options: Any) -> Found:
        """The clips of a data set on disk.

        Raises:
            VideomemError: If a folder does not exist, or a list is not of the form that the layout describes.
        """
        folders = [_existing_folder(folder) for folder in (root, annotations) if folder is not None]
        return self.read(*folders, **options)


def _existing_folder(folder: Path) -> Path:
    folder = folder.absolute()
    if not folder.is_dir():
        kind = "a file, not a folder" if folder.exists() else "no such folder"
        raise VideomemError(f"{folder}: {kind}")
    return folder


_OFFICIAL_SPLIT = {"--split": {"type": int, "choices": (1, 2, 3), "default": 1, "help": "which official split"}}
_SEVERAL = {"required": True, "action": "append"}

_FRAME_LISTS = "folder with the files ...labels.csv, train.csv, validation.csv as released"

# Each layout is a subcommand of `videomem catalog build`.
LAYOUTS: dict[str, Layout] = {
    "folder": Layout(own.from_folder, "ROOT/[train|val|test/]CLASS/VIDEO", options={
        "--group-by": {"type": own.group_pattern, "metavar": "REGEX", "help": "regular expression whose match in the "
                       "path below ROOT, or its parenthesized part, is the group of a clip, such as '(person[0-9]+)_'; "
                       "default: every file is a group of its own"},
    }, has_splits=False, missing_is_normal=True),
    "csv": Layout(own.from_csv, "your own table: path,label and optionally split,group,start_s,end_s,fps", options={
        "--table": {"type": Path, "required": True, "help": "your CSV or Parquet file"},
        "--group-by": {"metavar": "COLUMN", "help": "column of the table with the group of each clip (default: group, "
                       "if there is one; otherwise every file is a group of its own)"},
    }, has_splits=False),
    "list": Layout(lists.from_lists, "lists of `video label` or `folder num_frames label`, as for mmaction2, TSN, TSM, "
                   "SlowFast", options={
        "--list": {**_SEVERAL, "dest": "lists", "type": lists.split_and_file, "metavar": "SPLIT=FILE",
                   "help": "a list and its split, as train=train.txt; may be given several times"},
        "--classes": {"type": Path, "help": "file with the names of the classes, one per line; default: `class 07`"},
        "--first-class": {"type": int, "choices": (0, 1), "help": "number of the first class (default: 0, which must "
                          "occur in the lists if --classes is given)"},
        "--template": {"type": lists.image_template,
                       "help": "template of the image names in frame folders, such as img_{:05}.jpg"},
        "--source-fps": {},
    }),
    "ucf101": Layout(ucf101.from_ucf101, "UCF101: ROOT/CLASS/v_CLASS_gNN_cNN.avi and the folder ucfTrainTestlist",
                     "folder with classInd.txt, trainlist01.txt ...", _OFFICIAL_SPLIT, has_val=False),
    "hmdb51": Layout(hmdb51.from_hmdb51, "HMDB51: ROOT/CLASS/NAME.avi and the folder of lists CLASS_test_splitN.txt",
                     "folder with CLASS_test_split1.txt ...", _OFFICIAL_SPLIT, has_val=False),
    "kinetics": Layout(kinetics.from_kinetics, "Kinetics: YOUTUBEID_START_END.mp4 anywhere below ROOT and the tables "
                       "train.csv, val.csv, test.csv", options={
        "--annotations": {**_SEVERAL, "dest": "tables", "type": Path, "metavar": "ANNOTATIONS",
                          "help": "a table; may be given several times"},
    }, missing_is_normal=True),
    "ssv1": Layout(something.from_frames, "Something-Something V1: ROOT/ID/00001.jpg, CSV files of id;label",
                   _FRAME_LISTS),
    "ssv2": Layout(something.from_ssv2, "Something-Something V2: ROOT/ID.webm, JSON files",
                   "folder with the files ...labels.json, train.json, validation.json as released"),
    "jester": Layout(something.from_frames, "Jester: ROOT/ID/00001.jpg, CSV files of id;label", _FRAME_LISTS),
    "diving48": Layout(diving48.from_diving48, "Diving48: ROOT/VID_NAME.mp4 and Diving48_V2_train.json, "
                       "Diving48_V2_test.json, Diving48_vocab.json", "folder with the JSON files of one version",
                       has_val=False),
}  # fmt: skip
