"""Where a clip's features come from: the feature store, or the backbone run on frames that are decoded now.

A source gives the items of the loaders, which worker processes read, and turns a batch on the device into features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from videomem.batch import VideoBatch, length_mask, pad_videos
from videomem.features.augmentation import Augmentation
from videomem.features.backbone import extract_features, load_backbone
from videomem.features.extraction import decode_frames
from videomem.features.store import FRAME_BATCH, Entry, FeatureSettings, FeatureStore
from videomem.training.seeds import mix_seed
from videomem.video.catalog import Clip

Storage = Literal["mmap", "ram", "device"]


class FeatureSource(ABC):
    """What a clip is read as, by its row, and what a batch of such clips becomes."""

    @abstractmethod
    def item(self, row: int, epoch: int | None) -> Tensor:
        """What a loader hands over of a clip, (T, ...); `epoch` is None outside training."""

    @abstractmethod
    def features_of_batch(self, batch: VideoBatch) -> VideoBatch:
        """The batch with features (B, T, D), where it is."""

    @abstractmethod
    def features(self, row: int, device: torch.device | str = "cpu") -> Tensor:
        """Features (T, D) of a clip on the CPU, without augmentation; `device` is where a backbone may run."""


@dataclass
class StoredFeatures(FeatureSource):
    """Features read from a store.

    Attributes:
        store: The store.
        entries: The entry of each clip.
        storage: `mmap` reads files as needed, `ram` keeps all features in memory, `device` on the batches' device.
    """

    store: FeatureStore
    entries: Sequence[Entry]
    storage: Storage
    _in_memory: list[Tensor] | None = field(default=None, repr=False)
    _on_device: Tensor | None = field(default=None, repr=False)

    def item(self, row: int, epoch: int | None) -> Tensor:
        if self.storage == "device":
            entry = self.entries[row]
            return torch.empty(entry.stop_row - entry.start_row, 0)  # Only the length, so that the GPU is not asked.
        return self.features(row)

    def features_of_batch(self, batch: VideoBatch) -> VideoBatch:
        if self.storage != "device":
            return batch
        device = batch.labels.device
        if self._on_device is None or self._on_device.device != device:
            self._on_device = pad_videos([self.store.read(entry) for entry in self.entries])[0].to(device)
        return batch._replace(x=self._on_device[batch.clip, : batch.x.shape[1]])

    def features(self, row: int, device: torch.device | str = "cpu") -> Tensor:
        return self.store.read(self.entries[row]) if self._in_memory is None else self._in_memory[row]

    def load(self) -> None:
        """Read all features into memory, for `ram`; worker processes share what is read before they start."""
        if self.storage == "ram" and self._in_memory is None:
            self._in_memory = [self.store.read(entry) for entry in self.entries]


@dataclass
class LiveVideo(FeatureSource):
    """Frames decoded at every visit, and the backbone run on them.

    Attributes:
        clips: The clips.
        settings: How videos become features.
        augmentation: Changes of the pixels in training.
        seed: Seed of augmentation.
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
        x_BTD[real_BT] = extract_features(backbone, batch.x[real_BT], FRAME_BATCH)
        return batch._replace(x=x_BTD.to(getattr(torch, self.settings.dtype)))  # As the store rounds.

    def features(self, row: int, device: torch.device | str = "cpu") -> Tensor:
        frames, _ = decode_frames(self.clips[row], self.settings)
        return extract_features(load_backbone(self.settings.backbone, device), frames, FRAME_BATCH).cpu()
