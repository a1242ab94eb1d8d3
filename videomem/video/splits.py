"""Assign splits to clips of data sets that have none, or not all of them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from videomem.errors import VideomemError
from videomem.video.catalog import Clip


def assign_splits(
    clips: Sequence[Clip],
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
    option: str = "--fractions 0.7,0,0.3",
) -> tuple[Clip, ...]:
    """Assign a split to every clip, with each group in one split and labels stratified.

    Groups are assigned in a seeded random order, largest first, each to the split that lacks most of its share of the
    labels in the group.

    Args:
        clips: The clips; their current `split` is ignored.
        fractions: Fraction of each split; default: train 0.7, val 0.15, test 0.15.
        seed: Seed of the random order.
        option: The option with which fewer splits are drawn, for the error message.
    Raises:
        VideomemError: If a label has fewer groups than there are splits.
    """
    fractions = fractions or {"train": 0.7, "val": 0.15, "test": 0.15}
    groups: dict[str, list[Clip]] = defaultdict(list)
    groups_of_label: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        groups[clip.group].append(clip)
        groups_of_label[clip.label].add(clip.group)
    for label, names in groups_of_label.items():
        if len(names) < len(fractions):
            raise VideomemError(
                f"label {label!r} has {len(names)} group(s), but {len(fractions)} splits need one each; "
                f"add videos, use smaller groups, leave the label out, or draw fewer splits: {option}"
            )
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    order.sort(key=lambda name: -len(groups[name]))
    total = Counter(clip.label for clip in clips)
    held: dict[str, Counter[str]] = {split: Counter() for split in fractions}
    chosen: dict[str, str] = {}
    for name in order:
        labels = Counter(clip.label for clip in groups[name])
        shortfall = {
            split: sum(n * (1 - held[split][label] / (share * total[label])) for label, n in labels.items())
            for split, share in fractions.items()
        }
        chosen[name] = max(shortfall, key=shortfall.__getitem__)
        held[chosen[name]].update(labels)
    return tuple(replace(clip, split=chosen[clip.group]) for clip in clips)


def hold_out(clips: Sequence[Clip], share: float, seed: int = 0) -> tuple[Clip, ...]:
    """Move a fraction of the training clips to the split `val`, by groups. Other splits are unchanged."""
    fractions = {"train": 1 - share, "val": share}
    split = iter(assign_splits([clip for clip in clips if clip.split == "train"], fractions, seed, "--val-share 0"))
    return tuple(next(split) if clip.split == "train" else clip for clip in clips)
