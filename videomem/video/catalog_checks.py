"""Problems and warnings of catalogs, found without opening any video."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from videomem.video.catalog import Catalog, MappedClips
from videomem.video.files import is_url

IMBALANCE = 10.0  # Ratio of the largest to the smallest training class from which a warning is given.
_SURROGATE = re.compile("[\ud800-\udfff]")  # Stands for a byte that is not UTF-8.


def catalog_problems(catalog: Catalog) -> list[str]:
    """Problems that make a catalog unusable, one line each. Opens no video."""
    clips = catalog.clips
    if not clips:
        return ["no videos in the table"]
    problems: list[str] = []
    for name in ("label", "split", "group"):
        if isinstance(clips, MappedClips) and name == "group":  # Names of groups are not shown, and are many.
            continue
        values = sorted(map(str, catalog.numbered(name)[1]))
        if "" in values:
            problems += [f"{clip}: the {name} is empty" for clip in clips if not getattr(clip, name)]
        odd = [value for value in values if _SURROGATE.search(value)]
        problems += [
            f"the {name} {value!r} is not UTF-8; save the table as UTF-8, or rename the folder" for value in odd
        ]
        if name != "group":  # Exported folders, tables and charts show labels and splits.
            problems += [
                f"the {name} {value!r} has characters that cannot be displayed, such as a no-break space or a line "
                "break; use ordinary spaces and letters"
                for value in values
                if not value.isprintable() and value not in odd
            ]
    urls = clips.urls() if isinstance(clips, MappedClips) else [clip for clip in clips if is_url(clip.path)]
    problems += [f"{clip}: a URL; videomem reads local files only" for clip in urls]
    if not isinstance(clips, MappedClips) or clips.may_repeat():
        counts = Counter((clip.path, clip.interval) for clip in clips)
        problems += [f"{path}: listed {count} times; keep one row" for (path, _), count in counts.items() if count > 1]
    if len(catalog.classes) < 2:
        problems.append(f"one class only ({catalog.classes[0]!r}); a classifier needs at least two")
    if "train" in catalog.splits:
        problems += [
            f"label {label!r} is in split {', '.join(splits)}, but not in train; a class needs "
            "training clips to be predicted; leave it out, or add clips to train"
            for label, splits in _splits_of_labels(catalog).items()
            if "train" not in splits
        ]
    return problems


def catalog_warnings(catalog: Catalog) -> list[str]:
    """Warnings about a usable catalog, one line each. Opens no video."""
    return [*straddling_groups(catalog), *_labels_without_clips(catalog), *_imbalance(catalog)]


def straddling_groups(catalog: Catalog) -> list[str]:
    groups_N, groups = catalog.numbered("group")
    is_in_GS = _is_in(groups_N, len(groups), catalog)
    found = np.flatnonzero(is_in_GS.sum(axis=1) > 1)
    return [
        f"{len(found)} group(s) are in more than one split, the first {str(groups[row])!r} in "
        f"{', '.join(_named(is_in_GS[row], catalog))}: clips of one source in both training and evaluation can inflate "
        "the accuracy"
        for row in found[:1]
    ]


def _is_in(values_N: NDArray[np.int32], num_values: int, catalog: Catalog) -> NDArray[np.bool_]:
    """Whether a value has clips in a split (V, S)."""
    splits = range(len(catalog.splits))
    counts = [np.bincount(values_N[catalog.splits_N == split], minlength=num_values) > 0 for split in splits]
    return np.stack(counts, axis=1)


def _named(is_in_S: NDArray[np.bool_], catalog: Catalog) -> list[str]:
    return [split for split, is_in in zip(catalog.splits, is_in_S, strict=True) if is_in]


def _splits_of_labels(catalog: Catalog) -> dict[str, list[str]]:
    is_in_CS = _is_in(catalog.labels_N, len(catalog.classes), catalog)
    return {label: _named(is_in_S, catalog) for label, is_in_S in zip(catalog.classes, is_in_CS, strict=True)}


def _labels_without_clips(catalog: Catalog) -> list[str]:
    splits_of = _splits_of_labels(catalog)
    trained = [label for label in catalog.classes if "train" in splits_of[label]]
    return [
        f"{len(lacking)} label(s) of train are not in {split}, the first {lacking[0]!r}: they are not evaluated there"
        for split in catalog.splits
        if (lacking := [label for label in trained if split not in splits_of[label]])
    ]


def _imbalance(catalog: Catalog) -> list[str]:
    if "train" not in catalog.splits:
        return []
    labels_N = catalog.labels_N[catalog.splits_N == catalog.splits.index("train")]
    numbers = np.bincount(labels_N, minlength=len(catalog.classes)).tolist()
    pairs = [(label, number) for label, number in zip(catalog.classes, numbers, strict=True) if number]
    counts = Counter(dict(pairs)).most_common()
    if not counts or counts[0][1] < IMBALANCE * counts[-1][1]:
        return []
    (most, many), (least, few) = counts[0], counts[-1]
    return [
        f"train has {many} clips of {most!r}, but {few} of {least!r}; set `data.balanced_sampling: true` to draw "
        "classes equally often"
    ]
