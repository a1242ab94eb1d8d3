"""The splits of the runs: folds of groups, or the split of the catalog, and shares of the training groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from videomem.errors import VideomemError
from videomem.experiments.clips import Clips
from videomem.experiments.order_test.plan import OrderSettings
from videomem.video.catalog import Clip
from videomem.video.splits import assign_splits

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class RunSplit:
    """Rows of the clips of one run. Each group is in one part only, except with a fixed split that shares groups."""

    train: Rows
    val: Rows
    test: Rows


def possible_folds(clips: Clips, settings: OrderSettings) -> int:
    """Number of folds: that of the settings, or the number of groups of the class with the fewest groups if lower.

    Raises:
        VideomemError: If a class has a single group.
    """
    if settings.split == "fixed":
        return settings.folds
    num_groups = {int(label): len(np.unique(clips.groups[clips.labels == label])) for label in np.unique(clips.labels)}
    rarest = min(num_groups, key=lambda label: num_groups[label])
    if num_groups[rarest] < 2:
        raise VideomemError(
            f"class {clips.class_names[rarest]!r} has clips of one group only, but training and testing need different "
            "groups; remove the class, add videos of it, or use a finer `group`"
        )
    return min(settings.folds, num_groups[rarest])


def run_splits(clips: Clips, settings: OrderSettings) -> list[RunSplit]:
    """The split of every run.

    A random split distributes groups over folds, stratified by label. Run r tests fold r modulo the number of folds.
    The folds are drawn again after all of them have been tested, so that every group is tested equally often. With
    `selection: validation`, the next fold is held out from training. A fixed split takes the catalog's `train` and
    `test` clips, and its `val` clips for validation.

    Raises:
        VideomemError: If a class has fewer groups than folds, or the catalog lacks a split.
    """
    validate = settings.selection == "validation"
    if settings.split == "fixed":
        return [_fixed(clips, validate)] * settings.runs
    return [_fold(clips, settings, run, validate) for run in range(settings.runs)]


def _fixed(clips: Clips, validate: bool) -> RunSplit:
    rows = {name: np.flatnonzero(np.array(clips.splits) == name) for name in ("train", "val", "test")}
    for name in ("train", "test", *(("val",) if validate else ())):
        if not len(rows[name]):
            has = ", ".join(sorted(set(clips.splits) - {""})) or "none"
            raise VideomemError(f"{clips.source}: no clip in split {name!r} (it has {has}); set order.split to random")
    return RunSplit(rows["train"], rows["val"] if validate else rows["val"][:0], rows["test"])


def _fold(clips: Clips, settings: OrderSettings, run: int, validate: bool) -> RunSplit:
    deal, fold = divmod(run, settings.folds)
    fold_N = _deal(tuple(clips.labels), tuple(clips.groups), clips.class_names, settings.folds, settings.seed + deal)
    test = fold_N == fold
    val = (fold_N == (fold + 1) % settings.folds) & ~test if validate else np.zeros(len(fold_N), dtype=bool)
    train = ~test & ~val
    if missing := set(range(len(clips.class_names))) - set(clips.labels[train].tolist()):
        name = clips.class_names[min(missing)]
        raise VideomemError(
            f"class {name!r} is in no training clip of run {run}; lower order.folds or add videos of it"
        )
    return RunSplit(*(np.flatnonzero(part) for part in (train, val, test)))


@lru_cache(maxsize=8)
def _deal(
    labels: tuple[int, ...], groups: tuple[int, ...], names: tuple[str, ...], folds: int, seed: int
) -> NDArray[np.int64]:
    """The fold of each clip (N,)."""
    # Zero-padded, so that the order of groups does not depend on how many there are.
    rows = [Clip("", names[label], "", f"{group:09d}") for label, group in zip(labels, groups, strict=True)]
    try:
        dealt = assign_splits(rows, {str(fold): 1 / folds for fold in range(folds)}, seed)
    except VideomemError as error:
        raise VideomemError(f"{error}; or lower order.folds, which is {folds}") from error
    return np.array([int(clip.split) for clip in dealt])


def training_share(clips: Clips, train: Rows, share: float, seed: int) -> Rows:
    """Rows of a share of the training groups. Larger shares contain the smaller ones, and every class is kept.

    Args:
        clips: The clips.
        train: Rows of the complete training split.
        share: Share of the training groups, in (0, 1].
        seed: Seed of the order in which groups are added.
    """
    groups, labels = clips.groups[train], clips.labels[train]
    order = np.random.default_rng((seed, 7)).permutation(np.unique(groups)).tolist()
    needed: list[int] = []
    covered: set[int] = set()
    for group in order:
        if not (classes := set(labels[groups == group].tolist())) <= covered:
            needed.append(group)
            covered |= classes
    first = needed + [group for group in order if group not in needed]
    taken = first[: max(len(needed), math.ceil(share * len(first)))]
    return train[np.isin(groups, taken)]


def overlap(splits: list[RunSplit], fixed: bool) -> float:
    """Mean n_test / n_train over runs; 0 with a fixed split, where all runs share one training set."""
    return 0.0 if fixed else float(np.mean([len(split.test) / len(split.train) for split in splits]))
