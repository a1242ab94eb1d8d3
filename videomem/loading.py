"""How clips reach a batch: the order of training items, the items themselves, and the statistics of their frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from videomem.features.extraction import decode_frames

if TYPE_CHECKING:
    from videomem.data import VideoDataModule


class EpochSampler(Sampler[tuple[int, int]]):
    """Training items in an order that depends on seed and epoch alone, so that a resumed run sees the same one.

    Yields (item, epoch), which tells workers what augmentation to draw.
    """

    def __init__(self, num_items: int, seed: int, epoch: Callable[[], int], weights: Tensor | None = None) -> None:
        self._num_items = num_items
        self._seed = seed
        self._epoch = epoch
        self._weights = weights

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._epoch()
        generator = torch.Generator().manual_seed(mix_seed(self._seed, epoch))
        if self._weights is None:
            order = torch.randperm(self._num_items, generator=generator)
        else:
            order = torch.multinomial(self._weights, self._num_items, replacement=True, generator=generator)
        return iter([(int(item), epoch) for item in order])


class ClipDataset(Dataset[tuple[Tensor, int, int]], Sized):
    """Clips of a data module: features from its store, or frames decoded now."""

    def __init__(self, data: VideoDataModule, rows: list[int]) -> None:
        index = {name: number for number, name in enumerate(data.class_names)}
        self._rows = rows
        self._labels = [index[data.clips[row].label] for row in rows]
        self._clips = [data.clips[row] for row in rows]
        self._settings = data.settings
        self._augmentation = data.augmentation
        self._seed = data.seed
        self._source = data.source
        self._on_device = data._on_device
        self._memory = data.in_memory
        self._store = data.feature_store
        self._entries = [data.entry(row) for row in rows] if data.source == "features" else []

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, int, int]:
        number, epoch = item if isinstance(item, tuple) else (item, None)
        return self._video(number, epoch), self._labels[number], self._rows[number]

    def _video(self, number: int, epoch: int | None) -> Tensor:
        if self._source == "video":
            frames, _ = decode_frames(self._clips[number], self._settings)
            if epoch is None:
                return frames
            seed = mix_seed(self._seed, epoch, self._rows[number])
            return self._augmentation.apply(frames, torch.Generator().manual_seed(seed))
        if self._on_device:
            entry = self._entries[number]
            return torch.empty(entry.stop_row - entry.start_row, 0)  # Only the length, so that the GPU is not asked.
        if self._memory is not None:
            return self._memory[self._rows[number]]
        return self._store.read(self._entries[number])


def frame_statistics(videos: Iterable[Tensor], feature_dim: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) over the frames of videos (T, D)."""
    total, count = torch.zeros(2, feature_dim, dtype=torch.float64), 0
    for x_TD in videos:
        total += torch.stack([x_TD.double().sum(0), x_TD.double().square().sum(0)])
        count += len(x_TD)
    mean, square = total / count
    return mean.float(), (square - mean.square()).clamp(min=0).sqrt().float()


def mix_seed(*parts: int) -> int:
    """One seed from several numbers, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
