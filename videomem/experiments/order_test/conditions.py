"""Arms of training and conditions of testing: in which order a clip's frames are shown."""

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

# Kinds of randomness, so that no two draws share a seed.
_FIXED, _EPOCH, _COMMON, _TEST = range(4)
PERTURBATION_FRAME_ORDERS = 5  # of each random perturbation but the shuffle, whose number is a setting


def clip_seed(clips: Clips, row: int) -> int:
    """A number of the clip's content, so that its permutations do not depend on its place in the catalog."""
    return int(clips.ids[row].rsplit("/", 1)[-1][:15], 16)


def training_order(
    arm: str, clips: Clips, row: int, settings: OrderSettings, seed: int, epoch: int
) -> NDArray[np.int64]:
    """The order (T,) in which an arm shows a training clip in an epoch.

    Args:
        arm: One of `plan.ARMS`.
        clips: The clips.
        row: The clip.
        settings: Sizes of windows and blocks.
        seed: The run's.
        epoch: Epoch of training, which matters to arm S only.
    """
    length = int(clips.lengths[row])
    if arm == "O":
        return permutations.ordered(length, length)[0]
    if arm == "C":
        return common_order(length, length, seed)[0]
    if arm == "S":
        return permutations.fixed(length, length, (_EPOCH, seed, epoch, clip_seed(clips, row)))[0]
    drawn = (_FIXED, seed, clip_seed(clips, row))
    return condition_of(arm, clips.max_frames, settings).frame_orders(length, length, 1, drawn)[0]


def common_order(length: int, num_frames: int, seed: int) -> FrameOrders:
    """The one permutation (1, T) of arm C in the run of a seed."""
    return permutations.common(length, num_frames, (_COMMON, seed))


def condition_of(arm: str, max_frames: int, settings: OrderSettings) -> Perturbation:
    """The perturbation that an arm is tested on, which is also how it is trained but for S and C."""
    label = {"W": f"windows of {settings.windows}", "B": f"blocks of {settings.blocks}"}.get(arm, "shuffle")
    return next(perturbation for perturbation in perturbations(max_frames, settings) if perturbation.label == label)


def perturbations(max_frames: int, settings: OrderSettings) -> tuple[Perturbation, ...]:
    """The perturbation suite, with the sizes of arms W and B in it."""
    return permutations.suite(max_frames, (settings.windows, settings.blocks))


def check_sizes(clips: Clips, settings: OrderSettings) -> None:
    """Refuse windows and blocks that are the whole clip, and clips that have no order."""
    longest = clips.max_frames
    if longest < 2:
        raise VideomemError(f"{clips.source}: its clips have {longest} frame; order needs at least 2")
    for arm, name, value in (("W", "windows", settings.windows), ("B", "blocks", settings.blocks)):
        if arm in settings.arms and value >= longest:
            raise VideomemError(
                f"order.{name} is {value}, but clips have {longest} frames at most; lower it, or leave {arm} out of "
                "order.arms"
            )


def test_orders(clips: Clips, row: int, perturbation: Perturbation, num_permutations: int) -> FrameOrders:
    """Frame orders (K, T_max) of a test clip under one perturbation: the same in all runs and for all heads."""
    number = num_permutations if perturbation.name == "shuffle" else min(PERTURBATION_FRAME_ORDERS, num_permutations)
    return perturbation.frame_orders(int(clips.lengths[row]), clips.max_frames, number, (_TEST, clip_seed(clips, row)))


class ArmData(LightningDataModule):
    """The training clips of one run, shown as one arm shows them; for validation, in the arm's own condition."""

    def __init__(
        self,
        clips: Clips,
        split: RunSplit,
        arm: str,
        settings: OrderSettings,
        seed: int,
        batch_size: int,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self._clips, self._split, self._arm, self._settings = clips, split, arm, settings
        self._seed, self._batch_size, self._balanced = seed, batch_size, balanced

    def train_dataloader(self) -> DataLoader[Any]:
        rows = self._split.train
        labels = self._clips.labels[rows]
        weights = torch.from_numpy(1 / np.bincount(labels)[labels]) if self._balanced else None
        order = partial(training_order, self._arm, self._clips, settings=self._settings, seed=self._seed)
        sampler = EpochSampler(len(rows), self._seed, self._epoch, weights)
        shown = _Shown(self._clips, rows, order, reshuffled=self._arm == "S")
        return DataLoader(shown, self._batch_size, sampler=sampler, collate_fn=collate)

    def _epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer else 0

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if not len(self._split.val):
            return []
        # As a fixed permutation: what an arm that never sees order must be judged by.
        shown_as = "F" if self._arm == "S" else self._arm
        seed = self._seed if self._arm == "C" else self._seed + 2**31
        order = partial(training_order, shown_as, self._clips, settings=self._settings, seed=seed)
        return DataLoader(_Shown(self._clips, self._split.val, order), 256, collate_fn=collate)

    def feature_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) over all training frames, the same for every arm of a run."""
        return feature_statistics(self._clips, self._split.train)


class _Shown(Dataset[tuple[Tensor, int, int]]):
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
    """Clips in order, as batches."""
    parts = [rows[start : start + batch_size].tolist() for start in range(0, len(rows), batch_size)]
    return [collate([(clips.features(row), int(clips.labels[row]), row) for row in part]) for part in parts]


_statistics: dict[tuple[int, bytes], tuple[Clips, Tensor, Tensor]] = {}


def feature_statistics(clips: Clips, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) over the frames of clips; the last run's are kept, since its arms share them."""
    key = (id(clips), rows.tobytes())
    if key not in _statistics:
        _statistics.clear()
        # The clips themselves are kept too, so that no others can take their id.
        _statistics[key] = clips, *frame_statistics(map(clips.features, rows.tolist()), clips.feature_dim)
    return _statistics[key][1:]
