"""The frame orders of training and test conditions, and the training data of one condition."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videomem.batch import VideoBatch, collate
from videomem.errors import VideomemError
from videomem.experiments import permutations
from videomem.experiments.clips import Clips
from videomem.experiments.order_test.folds import RunSplit
from videomem.experiments.order_test.plan import OrderSettings
from videomem.experiments.permutations import FrameOrders, Perturbation
from videomem.training.feature_sources import EpochSampler, frame_statistics

# First element of every seed, so that draws for different purposes never share a seed.
_FIXED, _EPOCH, _COMMON, _TEST = range(4)
PERTURBATION_FRAME_ORDERS = 5  # per random perturbation, except the shuffle: its number is `num_permutations`


def clip_seed(clips: Clips, row: int) -> int:
    """A number derived from the clip's content, so that its permutations do not depend on its row."""
    return int(clips.ids[row].rsplit("/", 1)[-1][:15], 16)


def training_order(
    condition: str, clips: Clips, row: int, settings: OrderSettings, seed: int, epoch: int
) -> NDArray[np.int64]:
    """The frame order (T,) of a training clip in one epoch.

    Args:
        condition: A training condition, a key of `conditions.TRAINING_CONDITIONS`.
        clips: The clips.
        row: Row of the clip.
        settings: The protocol, for the sizes of windows and blocks.
        seed: Seed of the run.
        epoch: Epoch of training; used by `reshuffled` only.
    """
    length = int(clips.lengths[row])
    if condition == "ordered":
        return permutations.ordered(length, length)[0]
    if condition == "common_permutation":
        return common_order(length, length, seed)[0]
    if condition == "reshuffled":
        return permutations.fixed(length, length, (_EPOCH, seed, epoch, clip_seed(clips, row)))[0]
    drawn = (_FIXED, seed, clip_seed(clips, row))
    return test_perturbation(condition, clips.max_frames, settings).frame_orders(length, length, 1, drawn)[0]


def common_order(length: int, num_frames: int, seed: int) -> FrameOrders:
    """The permutation (1, T) that `common_permutation` applies to every clip in the run with this seed."""
    return permutations.common(length, num_frames, (_COMMON, seed))


def test_perturbation(condition: str, max_frames: int, settings: OrderSettings) -> Perturbation:
    """The perturbation of the test clips for a training condition.

    `fixed_permutation`, `windows` and `blocks` are trained on frame orders of the same perturbation.
    """
    labels = {"windows": f"windows of {settings.windows}", "blocks": f"blocks of {settings.blocks}"}
    label = labels.get(condition, "shuffle")
    return next(perturbation for perturbation in perturbations(max_frames, settings) if perturbation.label == label)


def perturbations(max_frames: int, settings: OrderSettings) -> tuple[Perturbation, ...]:
    """The perturbation suite, including the sizes of the conditions `windows` and `blocks`."""
    return permutations.suite(max_frames, (settings.windows, settings.blocks))


def check_sizes(clips: Clips, settings: OrderSettings) -> None:
    """Check that clips have at least two frames, and that windows and blocks are shorter than the longest clip.

    Raises:
        VideomemError: If they are not.
    """
    longest = clips.max_frames
    if longest < 2:
        raise VideomemError(f"{clips.source}: the longest clip has {longest} frame, but frame order needs at least 2")
    for name in ("windows", "blocks"):
        value = getattr(settings, name)
        if name in settings.training_conditions and value >= longest:
            raise VideomemError(
                f"order.{name} is {value}, but clips have {longest} frames at most; lower it, or remove {name} from "
                "order.training_conditions"
            )


def test_orders(clips: Clips, row: int, perturbation: Perturbation, num_permutations: int) -> FrameOrders:
    """Frame orders (K, T_max) of a test clip under one perturbation, identical in all runs and for all heads."""
    number = num_permutations if perturbation.name == "shuffle" else min(PERTURBATION_FRAME_ORDERS, num_permutations)
    return perturbation.frame_orders(int(clips.lengths[row]), clips.max_frames, number, (_TEST, clip_seed(clips, row)))


class ConditionData(LightningDataModule):
    """Training and validation clips of one run, in the frame orders of one training condition."""

    def __init__(
        self,
        clips: Clips,
        split: RunSplit,
        condition: str,
        settings: OrderSettings,
        seed: int,
        batch_size: int,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self._clips, self._split, self._condition, self._settings = clips, split, condition, settings
        self._seed, self._batch_size, self._balanced = seed, batch_size, balanced

    def train_dataloader(self) -> DataLoader[Any]:
        rows = self._split.train
        labels = self._clips.labels[rows]
        weights = torch.from_numpy(1 / np.bincount(labels)[labels]) if self._balanced else None
        order = partial(training_order, self._condition, self._clips, settings=self._settings, seed=self._seed)
        sampler = EpochSampler(len(rows), self._seed, self._epoch, weights)
        permuted = _PermutedClips(self._clips, rows, order, reshuffled=self._condition == "reshuffled")
        return DataLoader(permuted, self._batch_size, sampler=sampler, collate_fn=collate)

    def _epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer else 0

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if not len(self._split.val):
            return []
        # Validation uses one fixed permutation per clip, so that its accuracy is comparable between epochs.
        condition = "fixed_permutation" if self._condition == "reshuffled" else self._condition
        seed = self._seed if self._condition == "common_permutation" else self._seed + 2**31
        order = partial(training_order, condition, self._clips, settings=self._settings, seed=seed)
        return DataLoader(_PermutedClips(self._clips, self._split.val, order), 256, collate_fn=collate)

    def feature_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) over all training frames, identical for all training conditions of a run."""
        return feature_statistics(self._clips, self._split.train)


class _PermutedClips(Dataset[tuple[Tensor, int, int]]):
    def __init__(self, clips: Clips, rows: NDArray[np.int64], order: Any, reshuffled: bool = False) -> None:
        self._clips, self._rows, self._labels = clips, rows.tolist(), clips.labels[rows].tolist()
        self._order, self._reshuffled = order, reshuffled
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, int, int]:
        number, epoch = item if isinstance(item, tuple) else (item, 0)
        row = self._rows[number]
        if row not in self._kept or self._reshuffled:
            self._kept[row] = torch.from_numpy(self._order(row=row, epoch=epoch))
        return self._clips.features(row)[self._kept[row]], self._labels[number], row


def plain_batches(clips: Clips, rows: NDArray[np.int64], batch_size: int = 256) -> list[VideoBatch]:
    """Clips with their frames in order, as batches."""
    parts = [rows[start : start + batch_size].tolist() for start in range(0, len(rows), batch_size)]
    return [collate([(clips.features(row), int(clips.labels[row]), row) for row in part]) for part in parts]


_statistics: dict[tuple[int, bytes], tuple[Clips, Tensor, Tensor]] = {}


def feature_statistics(clips: Clips, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) over the frames of clips; cached for the training jobs of the latest run."""
    key = (id(clips), rows.tobytes())
    if key not in _statistics:
        _statistics.clear()
        # Keep a reference to the clips, so that their id is not reused.
        _statistics[key] = clips, *frame_statistics(map(clips.features, rows.tolist()), clips.feature_dim)
    return _statistics[key][1:]
