"""Checks of the data of an order test: what in them distorts its result, or leaves nothing to order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from videomem.experiments.clips import Clips
from videomem.experiments.order_test.run_splits import Rows, RunSplit
from videomem.experiments.tables import percent
from videomem.statistics.contrasts import class_weights, estimate_mean
from videomem.statistics.results import Estimate
from videomem.utils.result_models import SharedPath, SharedText, result_model

MIN_CLIPS = 10
MAX_EXAMPLES = 3
TREE_DEPTH = 3


@result_model
class DataCheck:
    """Something in the data that the reader of a result needs to know.

    Attributes:
        name: What was found, in a word or two.
        sentence: One sentence with numbers and what they imply.
        num_clips: Number of clips concerned.
        examples: Names of a few clips or classes concerned.
    """

    name: Literal["same content", "length", "static clips", "rare classes", "segments"]
    sentence: SharedText
    num_clips: int
    examples: tuple[SharedPath, ...] = ()


def join_groups(ids: Sequence[str], groups_N: Rows) -> Rows:
    """Groups (N,), joined where clips of different groups have the same content, directly or through other groups.

    A joined group has the smallest index of its parts. Other groups keep theirs.
    """
    parent = {group: group for group in groups_N.tolist()}

    def root(group: int) -> int:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    first: dict[str, int] = {}
    for content, group in zip(ids, groups_N.tolist(), strict=True):
        one, other = root(first.setdefault(content, group)), root(group)
        parent[max(one, other)] = min(one, other)
    return np.array([root(group) for group in groups_N.tolist()], dtype=np.int64)


def with_joined_groups(clips: Clips) -> tuple[Clips, DataCheck | None]:
    """The clips with groups joined by `join_groups`, and the check that tells of it; None if no group was joined.

    Clips with the same content are then counted once, and are never in both training and test of a random split.
    """
    groups_of: dict[str, set[int]] = {}
    for content, group in zip(clips.ids, clips.groups.tolist(), strict=True):
        groups_of.setdefault(content, set()).add(group)
    found = np.flatnonzero([len(groups_of[content]) > 1 for content in clips.ids])
    if not len(found):
        return clips, None
    sentence = (
        f"{_count(len(found), 'clip has', 'clips have')} the same content as a clip of another group; these groups "
        "were joined"
    )
    check = DataCheck("same content", sentence, len(found), _examples(found, clips))
    return replace(clips, groups=join_groups(clips.ids, clips.groups)), check


def data_checks(clips: Clips, splits: Sequence[RunSplit], overlap: float) -> tuple[DataCheck, ...]:
    """All checks that found something, in addition to that of `with_joined_groups`.

    Args:
        overlap: n_test / n_train if training sets of runs overlap, else 0.
    """
    checks = (
        segments_check(clips),
        length_check(clips, splits, overlap),
        static_check(clips, splits),
        rare_classes_check(clips),
    )
    return tuple(check for check in checks if check is not None)


def segments_check(clips: Clips) -> DataCheck | None:
    """Whether the features are those of segments of frames, so that order-blind heads see order within each."""
    if (length := clips.segment_frames) == 1:
        return None
    sentence = (
        f"each feature vector is of a segment of {length} frames, computed by a video network: the order of frames "
        "within a segment is in the features of all heads, order-blind ones too, and the test shuffles whole segments, "
        "so it measures only what the order of segments adds"
    )
    return DataCheck("segments", sentence, len(clips))


def length_accuracy(clips: Clips, splits: Sequence[RunSplit], overlap: float) -> Estimate:
    """Balanced accuracy of a classifier that sees only the number of frames.

    In each run, a decision tree of depth `TREE_DEPTH` is trained on the training clips, with classes weighted equally,
    and tested on the test clips. `overlap` is that of `data_checks`.
    """
    from sklearn.tree import DecisionTreeClassifier  # Only here: most data have clips of one length.

    right, groups, labels = [], [], []
    for split in splits:
        tree = DecisionTreeClassifier(max_depth=TREE_DEPTH, class_weight="balanced", random_state=0)
        tree.fit(clips.lengths[split.train, None], clips.labels[split.train])
        labels.append(clips.labels[split.test])
        right.append(tree.predict(clips.lengths[split.test, None]) == labels[-1])
        groups.append(clips.groups[split.test])
    runs_N = np.repeat(np.arange(len(splits)), [len(split.test) for split in splits])
    right_N, groups_N, labels_N = (np.concatenate(parts) for parts in (right, groups, labels))
    return estimate_mean(right_N, groups_N, runs_N, overlap, (0.0, 1.0), weights_N=class_weights(labels_N))


def length_check(clips: Clips, splits: Sequence[RunSplit], overlap: float) -> DataCheck | None:
    """Whether the number of frames predicts the class: the interval of `length_accuracy` is above chance.

    Chance is 1 / C with the C classes of the test clips; if a run tests fewer classes, that of this run.
    """
    tested = np.unique(np.concatenate([split.test for split in splits]))
    if len(np.unique(clips.lengths[tested])) == 1:
        return None
    chance = 1 / min(len(np.unique(clips.labels[split.test])) for split in splits)
    found = length_accuracy(clips, splits, overlap)
    if found.low <= chance:
        return None
    sentence = (
        f"the number of frames alone predicts the class with a balanced accuracy of {percent(found.value)} % (95 % "
        f"interval {percent(found.low)} to {percent(found.high)}, chance {percent(chance)} %): part of any accuracy "
        "may be due to length; sample the same number of frames from every clip"
    )
    return DataCheck("length", sentence, len(tested))


def static_rows(clips: Clips, rows: Rows) -> Rows:
    """Those rows of clips whose frames all have the same features, which no permutation changes."""
    static = []
    for row in rows.tolist():
        x_TD = clips.features(row)
        static.append(bool((x_TD == x_TD[:1]).all()))
    return rows[np.array(static, dtype=bool)]


def static_check(clips: Clips, splits: Sequence[RunSplit]) -> DataCheck | None:
    """Test clips whose frames all have the same features; if all are, there is nothing to order."""
    tested = np.unique(np.concatenate([split.test for split in splits]))
    static = static_rows(clips, tested)
    if not len(static):
        return None
    share = f"{len(static)} of {len(tested)} test clips ({percent(len(static) / len(tested))} %)"
    if len(static) == len(tested):
        sentence = f"all {len(tested)} test clips have the same features in all frames: there is nothing to order"
    else:
        sentence = f"{share} have the same features in all frames, so that their order cannot matter"
    return DataCheck("static clips", sentence, len(static), _examples(static, clips))


def rare_classes_check(clips: Clips) -> DataCheck | None:
    """Classes with fewer than `MIN_CLIPS` clips, or less than a third of the mean share, 1 / (3 C)."""
    counts_C = np.bincount(clips.labels, minlength=len(clips.class_names))
    rare = np.flatnonzero((counts_C < MIN_CLIPS) | (3 * len(counts_C) * counts_C < counts_C.sum()))
    if not len(rare):
        return None
    rare = rare[np.argsort(counts_C[rare], kind="stable")]
    sentence = (
        f"{len(rare)} of {len(counts_C)} classes {'has' if len(rare) == 1 else 'have'} fewer than {MIN_CLIPS} clips or "
        f"less than a third of the mean share ({clips.class_names[rare[0]]!r} has "
        f"{_count(counts_C[rare[0]], 'clip', 'clips')}): use balanced accuracy, in which all classes count equally"
    )
    examples = tuple(clips.class_names[label] for label in rare[:MAX_EXAMPLES])
    return DataCheck("rare classes", sentence, int(counts_C[rare].sum()), examples)


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _examples(rows: Rows, clips: Clips) -> tuple[str, ...]:
    return tuple(clips.names[row] if clips.names else f"clip {row}" for row in rows[:MAX_EXAMPLES].tolist())
