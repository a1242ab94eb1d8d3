"""How clips reach a batch: the order of training items, the items themselves, and the statistics of their frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from videomem.training.feature_sources import FeatureSource
from videomem.training.seeds import mix_seed


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
    """Clips of a split as (what the source reads of it, label, row).

    Args:
        rows: Row of each clip.
        labels: Class index of each clip.
        source: Reads a clip by its row.
    """

    def __init__(self, rows: Sequence[int], labels: Sequence[int], source: FeatureSource) -> None:
        self._rows, self._labels, self._source = rows, labels, source

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, int, int]:
        number, epoch = item if isinstance(item, tuple) else (item, None)
        row = self._rows[number]
        return self._source.item(row, epoch), self._labels[number], row


def frame_statistics(videos: Iterable[Tensor], feature_dim: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) over the frames of videos (T, D)."""
    total, count = torch.zeros(2, feature_dim, dtype=torch.float64), 0
    for x_TD in videos:
        total += torch.stack([x_TD.double().sum(0), x_TD.double().square().sum(0)])
        count += len(x_TD)
    mean, square = total / count
    return mean.float(), (square - mean.square()).clamp(min=0).sqrt().float()
