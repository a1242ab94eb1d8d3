"""Sources of features, and the dataset that reads items from them.

Features come from the feature store or from the backbone, run on decoded frames. A source reads the items of a data
loader, in worker processes, and turns a batch on the device into features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as F

from videomem.batch import IGNORED, VideoBatch, length_mask, pad_videos
from videomem.errors import VideomemError
from videomem.features.backbone import extract_features, load_backbone
from videomem.features.clip_decoding import decode_frames
from videomem.features.index import Entries
from videomem.features.settings import FeatureSettings
from videomem.features.store import FeatureStore
from videomem.training.samplers import PADDING, mix_seed
from videomem.video.catalog import Clip

Storage = Literal["mmap", "ram", "device"]


class FeatureSource(ABC):
    """Base class of sources. A row is the index of a clip in the data module's list of clips."""

    @abstractmethod
    def item(self, row: int, epoch: int | None) -> Tensor:
        """The data loader's item for a clip, (T, ...); `epoch` is None outside training."""

    @abstractmethod
    def features_of_batch(self, batch: VideoBatch) -> VideoBatch:
        """The batch with features (B, T, D), on the device of the batch."""

    @abstractmethod
    def features(self, row: int, device: torch.device | str = "cpu") -> Tensor:
        """Features (T, D) of a clip on the CPU, without augmentation. A backbone runs on `device`."""


@dataclass
class StoredFeatures(FeatureSource):
    """Features read from a store.

    Attributes:
        store: The feature store.
        entries: The store's entry of each clip.
        storage: Where features are kept: `mmap` (memory-mapped files), `ram`, or `device` (the device of the batches).
    """

    store: FeatureStore
    entries: Entries
    storage: Storage
    _in_memory: Tensor | None = field(default=None, repr=False)  # Of all clips, one after another.
    _starts: list[int] = field(default_factory=list, repr=False)
    _on_device: Tensor | None = field(default=None, repr=False)

    def item(self, row: int, epoch: int | None) -> Tensor:
        if self.storage != "device":
            return self.features(row)
        return torch.empty(int(self.entries.lengths_N[row]), 0)  # Only the length; the features are on the device.

    def features_of_batch(self, batch: VideoBatch) -> VideoBatch:
        if self.storage != "device":
            return batch
        device = batch.labels.device
        if self._on_device is None or self._on_device.device != device:
            self._on_device = pad_videos([self.store.shards.read(entry) for entry in self.entries])[0].to(device)
        return batch._replace(x=self._on_device[batch.clip, : batch.x.shape[1]])

    def features(self, row: int, device: torch.device | str = "cpu") -> Tensor:
        if self._in_memory is None:
            return self.store.shards.read(self.entries[row])
        return self._in_memory[self._starts[row] : self._starts[row + 1]]

    def load(self) -> None:
        """With `ram`, read all features into memory. Call this before workers start, so that they share the memory.

        It is one tensor: workers share each tensor through a file descriptor of its own, and whole shards with it.
        """
        if self.storage != "ram" or self._in_memory is not None or not self.entries:
            return
        self._starts = list(accumulate(self.entries.lengths_N.tolist(), initial=0))
        for entry, start in zip(self.entries, self._starts, strict=False):
            values_TD = self.store.shards.read(entry)
            if start == 0:
                rows = values_TD.new_empty(self._starts[-1], values_TD.shape[1])
            rows[start : start + len(values_TD)] = values_TD
        self.store.shards.close()
        self._in_memory = rows


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training frames, the same for all frames of a clip. Requires `source: video`.

    Args:
        crop: Crop a random region of 0.6 to 1 times the frame area, and resize it.
        horizontal_flip: Probability that a clip is mirrored horizontally.
        classes_survive_flip: Confirm that mirroring a clip never changes its class. Required for `horizontal_flip`.
    """

    crop: bool = False
    horizontal_flip: float = 0.0
    classes_survive_flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.horizontal_flip <= 1:
            raise VideomemError(f"augmentation.horizontal_flip is {self.horizontal_flip}, but must be within 0..1")
        if self.horizontal_flip and not self.classes_survive_flip:
            raise VideomemError(
                f"augmentation.horizontal_flip is {self.horizontal_flip}, but mirroring turns a move to the right "
                "into a move to the left; set augmentation.classes_survive_flip if it changes no class of your data"
            )

    @property
    def active(self) -> bool:
        return self.crop or self.horizontal_flip > 0

    def apply(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a clip (T, 3, size, size) or segments of it (S, F, 3, size, size), uint8; the shape is unchanged."""
        if self.crop:
            shape, size = frames.shape, frames.shape[-1]
            side = round(size * (0.6 + 0.4 * float(torch.rand((), generator=generator))) ** 0.5)
            top, left = (int(torch.randint(size - side + 1, (), generator=generator)) for _ in range(2))
            images = F.resized_crop(frames.flatten(0, -4), top, left, side, side, [size, size], antialias=True)
            frames = images.view(shape)
        if float(torch.rand((), generator=generator)) < self.horizontal_flip:
            frames = frames.flip(-1)
        return frames


@dataclass
class LiveVideo(FeatureSource):
    """Videos decoded in every epoch, and the backbone run on their frames.

    Attributes:
        clips: The clips.
        settings: How features are computed.
        augmentation: Augmentation of training frames.
        seed: Seed of the augmentation.
    """

    clips: Sequence[Clip]
    settings: FeatureSettings
    augmentation: Augmentation
    seed: int

    def item(self, row: int, epoch: int | None) -> Tensor:
        frames, _ = decode_frames(self.clips[row], self.settings)
        if epoch is None:
            return frames
        return self.augmentation.apply(frames, torch.Generator().manual_seed(mix_seed(self.seed, epoch, row)))

    def features_of_batch(self, batch: VideoBatch) -> VideoBatch:
        backbone = load_backbone(self.settings.backbone, batch.x.device)
        real_BT = length_mask(batch.lengths, batch.x.shape[1])
        x_BTD = torch.zeros(*real_BT.shape, self.settings.feature_dim, device=batch.x.device)
        x_BTD[real_BT] = extract_features(backbone, batch.x[real_BT])
        return batch._replace(x=x_BTD.to(getattr(torch, self.settings.dtype)))  # Rounds as the store does.

    def features(self, row: int, device: torch.device | str = "cpu") -> Tensor:
        frames, _ = decode_frames(self.clips[row], self.settings)
        return extract_features(load_backbone(self.settings.backbone, device), frames).cpu()


class ClipDataset(Dataset[tuple[Tensor, int, int]], Sized):
    """Clips of a split as (item of the source, label, row).

    Args:
        rows: Row of each clip.
        labels: Class index of each clip.
        source: Reads a clip by its row.
    """

    def __init__(self, rows: NDArray[np.int64], labels: NDArray[np.int32], source: FeatureSource) -> None:
        self._rows, self._labels, self._source = rows, labels, source

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: int | tuple[int, int]) -> tuple[Tensor, int, int]:
        number, epoch = item if isinstance(item, tuple) else (item, None)
        row, label = int(self._rows[number]), IGNORED if number == PADDING else int(self._labels[number])
        return self._source.item(row, epoch), label, row


def frame_statistics(
    videos: Iterable[Tensor], feature_dim: int, sum_over_processes: Callable[[Tensor], Tensor] = lambda sums: sums
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (D,) of the features of all frames of videos (T, D).

    Args:
        videos: The features of each video; with several processes, those of one share of the videos.
        feature_dim: D.
        sum_over_processes: Adds up a tensor of the same shape over processes.
    """
    sums_3D = torch.zeros(3, feature_dim, dtype=torch.float64)
    for x_TD in videos:
        x_TD = x_TD.double()
        sums_3D += torch.stack([x_TD.sum(0), x_TD.square().sum(0), torch.full_like(x_TD[0], len(x_TD))])
    total, squares, count = sum_over_processes(sums_3D)
    mean, square = total / count, squares / count
    return mean.float(), (square - mean.square()).clamp(min=0).sqrt().float()
