"""The data of training jobs: the frame orders of the conditions, and batches of clips."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments import permutations
from videomem.experiments.clips import Clips
from videomem.experiments.order_test.plan import OrderSettings
from videomem.experiments.order_test.run_splits import Rows, RunSplit
from videomem.experiments.permutations import FrameOrders, Perturbation
from videomem.training.feature_sources import frame_statistics
from videomem.training.samplers import EpochSampler

# First element of every seed of frame orders, so that draws for different purposes never share a seed.
_FIXED, _EPOCH, _COMMON, _TEST = range(4)
EVERY_EPOCH = ("reshuffled", "rotated")  # training conditions that draw new frame orders in every epoch
PERTURBATION_FRAME_ORDERS = 5  # per random perturbation, except the shuffle: its number is `num_permutations`


def _clip_seed(clips: Clips, row: int) -> int:
    """A number derived from the clip's content, so that its permutations do not depend on its row."""
    return int(clips.ids[row].rsplit("/", 1)[-1][:15], 16)


def training_orders(
    condition: str, clips: Clips, rows: Rows, settings: OrderSettings, seed: int, epoch: int
) -> FrameOrders:
    """The frame order of each training clip in one epoch, (N, T_max); padding is not moved.

    Args:
        condition: A training condition, a key of `plan.CONDITIONS`.
        clips: The clips.
        rows: Rows of the N clips.
        settings: The protocol, for the sizes of windows and blocks.
        seed: Seed of the run.
        epoch: Epoch of training; used by the conditions in `EVERY_EPOCH` only. Their frame orders are drawn for all
            clips together, which is much faster; those of other conditions depend on the content of each clip.
    """
    num_frames, lengths_N1 = clips.max_frames, clips.lengths[rows, None]
    positions_NT = permutations.ordered(num_frames, num_frames).repeat(len(rows), axis=0)
    if condition in EVERY_EPOCH:
        rng = np.random.default_rng((_EPOCH, seed, epoch))
        if condition == "rotated":
            offsets_N1 = rng.integers(1, np.maximum(lengths_N1, 2))
            return np.where(positions_NT < lengths_N1, (positions_NT + offsets_N1) % lengths_N1, positions_NT)
        keys_NT = rng.random(positions_NT.shape)
        return np.where(positions_NT < lengths_N1, keys_NT, 1 + positions_NT).argsort(axis=1)
    if condition == "ordered":
        return positions_NT
    draw = test_perturbation(condition, clips.max_frames, settings).frame_orders
    for row, order_T in zip(rows.tolist(), positions_NT, strict=True):
        length = int(clips.lengths[row])
        order_T[:] = (
            common_order(length, num_frames, seed)[0]
            if condition == "common_permutation"
            else draw(length, num_frames, 1, (_FIXED, seed, _clip_seed(clips, row)))[0]
        )
    return positions_NT


def common_order(length: int, num_frames: int, seed: int) -> FrameOrders:
    """The permutation (1, T) that `common_permutation` applies to every clip in the run with this seed."""
    return permutations.common(length, num_frames, (_COMMON, seed))


def label_of(test_condition: str, settings: OrderSettings) -> str:
    """The label of a test condition's perturbation; `ordered` and `common_permutation` have their own name."""
    sized = {"windows": f"windows of {settings.windows}", "blocks": f"blocks of {settings.blocks}"}
    labels = {"shuffled": "shuffle", "reversed": "reverse", "rotated": "rotate", **sized}
    return labels.get(test_condition, test_condition)


def test_perturbation(condition: str, max_frames: int, settings: OrderSettings) -> Perturbation:
    """The perturbation of the test clips for a training condition.

    `fixed_permutation`, `rotated`, `windows` and `blocks` are trained on frame orders of the same perturbation.
    """
    label = label_of(condition if condition in ("rotated", "windows", "blocks") else "shuffled", settings)
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
    return _drawn(perturbation, int(clips.lengths[row]), clips.max_frames, number, _clip_seed(clips, row))


@lru_cache(maxsize=2**14)  # Drawn once for all heads and training conditions; a few KiB each.
def _drawn(perturbation: Perturbation, length: int, num_frames: int, number: int, clip_seed: int) -> FrameOrders:
    orders_KT = perturbation.frame_orders(length, num_frames, number, (_TEST, clip_seed))
    orders_KT.setflags(write=False)
    return orders_KT


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
        self.clips, self._split, self._condition, self._settings = clips, split, condition, settings
        self._seed, self._batch_size, self._balanced = seed, batch_size, balanced

    def train_dataloader(self) -> DataLoader[Any]:
        labels = self.clips.labels[self._split.train]
        weights = torch.from_numpy(1 / np.bincount(labels)[labels]) if self._balanced else None
        sampler = EpochSampler(len(labels), self._seed, self._epoch, weights)
        permuted = self._permuted(self._split.train, self._condition, self._seed)
        return DataLoader(permuted, self._batch_size, sampler=sampler, collate_fn=_as_it_is)

    def _epoch(self) -> int:
        return self.trainer.current_epoch if self.trainer else 0

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if not len(self._split.val):
            return []
        # Validation uses one fixed permutation per clip, so that its accuracy is comparable between epochs.
        condition = "fixed_permutation" if self._condition == "reshuffled" else self._condition
        seed = self._seed if self._condition == "common_permutation" else self._seed + 2**31
        return DataLoader(self._permuted(self._split.val, condition, seed), 256, collate_fn=_as_it_is)

    def _permuted(self, rows: Rows, condition: str, seed: int) -> _PermutedClips:
        orders = partial(training_orders, condition, self.clips, rows, self._settings, seed)
        return _PermutedClips(self.clips, rows, orders, again=condition in EVERY_EPOCH)

    def feature_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) over all training frames, identical for all training conditions of a run."""
        return feature_statistics(self.clips, self._split.train)


class _PermutedClips(Dataset[VideoBatch]):
    """Clips in the frame orders (N, T_max) of an epoch, read as whole batches."""

    def __init__(self, clips: Clips, rows: Rows, orders: Callable[[int], FrameOrders], again: bool) -> None:
        self._clips, self._rows, self._orders, self._again = clips, rows, orders, again
        self._epoch, self._of_epoch = -1, np.zeros((0, 0), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, items: list[int] | list[tuple[int, int]]) -> VideoBatch:
        pairs = [item if isinstance(item, tuple) else (item, 0) for item in items]
        numbers, epoch = [number for number, _ in pairs], pairs[0][1] if self._again else 0
        if self._epoch != epoch:
            self._epoch, self._of_epoch = epoch, self._orders(epoch)
        return self._clips.batch(self._rows[numbers], self._of_epoch[numbers])


def _as_it_is(batch: Any) -> Any:
    return batch


def plain_batches(clips: Clips, rows: Rows, batch_size: int = 256) -> list[VideoBatch]:
    """Clips with their frames in order, as batches."""
    return [clips.batch(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]


_statistics: dict[tuple[int, bytes], tuple[Clips, Tensor, Tensor]] = {}


def feature_statistics(clips: Clips, rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) over the frames of clips; cached for the training jobs of the latest run."""
    key = (id(clips), rows.tobytes())
    if key not in _statistics:
        _statistics.clear()
        # Keep a reference to the clips, so that their id is not reused.
        _statistics[key] = clips, *frame_statistics(map(clips.features, rows.tolist()), clips.feature_dim)
    return _statistics[key][1:]
