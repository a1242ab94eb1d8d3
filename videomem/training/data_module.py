"""The DataModule: batches of clips, with features from the feature store or from videos decoded on the fly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from videomem.batch import VideoBatch, collate
from videomem.errors import VideomemError
from videomem.features.index import ClipTable, Entries, Entry
from videomem.features.settings import FeatureSettings
from videomem.features.store import FeatureStore
from videomem.training.feature_sources import (
    Augmentation,
    ClipDataset,
    FeatureSource,
    LiveVideo,
    Storage,
    StoredFeatures,
    frame_statistics,
)
from videomem.training.reversed_pairs import check_pairs, check_symmetric, whole_pairs
from videomem.training.samplers import EpochSampler, ShareSampler
from videomem.utils.atomic import write_atomic
from videomem.utils.checked_json import dump_checked, read_checked
from videomem.utils.plain_data import as_plain
from videomem.utils.progress import tracked
from videomem.utils.workers import check_shared_memory
from videomem.video.catalog import Catalog, Clip, SelectedClips
from videomem.video.catalog_files import read_catalog

MAX_WORKERS = 256  # An untrusted checkpoint could ask for any number of processes.
PREFETCH = 2  # batches that each worker process prepares ahead


class VideoDataModule(LightningDataModule):
    """Clips of a catalog for training and evaluation.

    Args:
        catalog: Path of the catalog.
        features: How the features are computed; `videomem extract` stores features of these settings.
        store: Folder of feature stores, or its URL, such as `s3://bucket/prefix`.
        source: `features` reads the feature store; `video` decodes videos and runs the backbone in every epoch.
        storage: Where stored features are kept: `mmap` (memory-mapped files), `ram`, or `device` (all on the GPU).
        batch_size: Videos per batch and process: several processes train on batches of as many times more videos.
        num_workers: Number of processes that read features or decode videos.
        balanced_sampling: Sample training clips so that all classes are equally frequent.
        augmentation: Augmentation of training frames; requires `source: video`.
        reversed_pairs: Each group is a time-reversed pair. Incomplete pairs are left out, and both clips of a pair are
            checked to have the same frames.
        test_split: The split that `test` and `shuffle` evaluate.
        seed: Seed of the order of training clips and of augmentation.
        shuffle: Order of training clips: `global` draws from all clips; `shards` from a few shards of the store
            at a time, so that files are read one after another. `auto` uses `shards` if features in files are larger
            than the memory of the machine and classes are not balanced.
    """

    def __init__(
        self,
        catalog: str,
        features: FeatureSettings,
        store: str = "features",
        source: Literal["features", "video"] = "features",
        storage: Literal["mmap", "ram", "device"] = "mmap",
        batch_size: int = 32,
        num_workers: int = 0,
        balanced_sampling: bool = False,
        augmentation: Augmentation = Augmentation(),
        reversed_pairs: bool = False,
        test_split: str = "test",
        seed: int = 0,
        shuffle: Literal["auto", "global", "shards"] = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(as_plain(locals()), logger=False)
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
            if value < least:
                raise VideomemError(f"data.{name} is {value}, but must be at least {least}")
        if num_workers > MAX_WORKERS:
            raise VideomemError(f"data.num_workers is {num_workers}, but must be at most {MAX_WORKERS}")
        for refused, why in (
            (reversed_pairs and source == "video", "data.reversed_pairs is checked on stored features"),
            (features.imported is not None and source == "video", "data.features.imported names imported features"),
            (storage != "mmap" and source == "video", "data.storage keeps stored features"),
            (augmentation.active and source != "video", "data.augmentation changes frames"),
            (shuffle == "shards" and source == "video", "data.shuffle: shards orders stored features"),
        ):
            if refused:
                other = "features" if source == "video" else "video"
                raise VideomemError(f"{why}, but data.source is {source}; set data.source to {other}")
        if shuffle == "shards" and balanced_sampling:
            raise VideomemError(
                "data.shuffle is shards, which uses each clip once, but data.balanced_sampling draws clips repeatedly; "
                "set data.shuffle to global"
            )
        if storage == "device" and num_workers:
            raise VideomemError(
                f"data.num_workers is {num_workers}, but data.storage is device, which needs none; set it to 0"
            )
        if reversed_pairs:
            if features.imported is None:
                features.backbone.refuse_segments("data.reversed_pairs, where both clips must have the same features,")
            check_symmetric(features.sampling, num_available=1)  # Its class; the clips' frames are checked with them.
        self.catalog_path = catalog
        self.source = source
        self.storage: Storage = storage
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.balanced_sampling = balanced_sampling
        self.augmentation = augmentation
        self.reversed_pairs = reversed_pairs
        self.test_split = test_split
        self.seed = seed
        self.shuffle = shuffle
        self.settings = features
        self.console: Console | None = None  # where the progress of long passes is shown
        self.feature_store = FeatureStore(store, features)

    # Contents of the data, read on first use.

    @cached_property
    def catalog(self) -> Catalog:
        return read_catalog(self.catalog_path)

    @property
    def class_names(self) -> list[str]:
        return list(self.catalog.classes)

    @property
    def feature_dim(self) -> int:
        return self.settings.feature_dim

    @property
    def class_counts(self) -> list[int]:
        """Training clips of each class."""
        return np.bincount(self._labels(self._rows("train")), minlength=len(self.class_names)).tolist()

    @cached_property
    def clips(self) -> Sequence[Clip]:
        """The usable clips: without clips that failed and, with `reversed_pairs`, without incomplete pairs."""
        return SelectedClips(self.catalog.clips, self._catalog_rows)

    @cached_property
    def _catalog_rows(self) -> NDArray[np.int64]:
        """The rows in the catalog of the usable clips."""
        if self.source == "video":
            return np.arange(len(self.catalog.clips))
        rows_N = np.flatnonzero(self._table.places_N5[:, 2])
        if not self.reversed_pairs:
            return rows_N
        usable = SelectedClips(self.catalog.clips, rows_N)
        pairs = set(whole_pairs(usable))
        rows_N = rows_N[[clip in pairs for clip in usable]]
        for num_available in np.unique(self._table.places_N5[rows_N, 4]).tolist():
            check_symmetric(self.settings.sampling, num_available)
        return rows_N

    @property
    def num_unusable(self) -> int:
        """Number of clips of the catalog that are not used."""
        return len(self.catalog.clips) - len(self.clips)

    def rows(self, split: str) -> list[int]:
        """Indices into `clips` of the clips of a split."""
        return self._rows(split).tolist()

    def _rows(self, split: str) -> NDArray[np.int64]:
        if split not in self.catalog.splits:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.catalog.splits_N[self._catalog_rows] == self.catalog.splits.index(split))

    @property
    def _splits(self) -> str:
        return ", ".join(self.catalog.splits)

    @cached_property
    def _table(self) -> ClipTable:
        """Keys and places of all clips of the catalog."""
        store, clips = self.feature_store, self.catalog.clips
        if not store.exists():
            nearest = store.nearest()
            found = f"; the most similar store there has {nearest}" if nearest else ""
            raise VideomemError(f"{store.root}: no features of these settings{found}; run {self.settings.made_by}")
        table, reason = store.recorded_catalog(self.catalog), ""
        if table is None:
            keys, unreadable = store.clip_keys(clips)
            index = store.read_index()
            if absent := [clip for clip in clips if clip in keys and not index.is_settled(keys[clip])]:
                raise VideomemError(
                    f"{absent[0]}: not extracted yet ({len(absent)} of {len(clips)} clips are missing); "
                    f"run {self.settings.made_by}"
                )
            table, reason = index.table_of(map(keys.get, clips)), f" ({unreadable[0].message})" if unreadable else ""
        if not table.places_N5[:, 2].any():
            raise VideomemError(f"{self.catalog_path}: no clip could be extracted{reason}; see the failure table")
        return table

    def features(self, row: int) -> Tensor:
        """Features (T, D) of a clip."""
        return self.feature_source.features(row)

    @cached_property
    def feature_source(self) -> FeatureSource:
        """Where the features come from: the feature store, or videos."""
        if self.source == "video":
            return LiveVideo(self.clips, self.settings, self.augmentation, self.seed)
        return StoredFeatures(self.feature_store, self._entries, self.storage)

    def entry(self, row: int) -> Entry:
        return self._entries[row]

    def key(self, row: int) -> str:
        """The key of a clip in the feature store."""
        return self._table.key(self._catalog_rows[row])

    @cached_property
    def _entries(self) -> Entries:
        """The entries of the usable clips."""
        is_all = len(self._catalog_rows) == len(self.catalog.clips)  # They need not be copied then.
        return Entries(self._table.places_N5 if is_all else self._table.places_N5[self._catalog_rows])

    def feature_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) of the features of all training frames, without augmentation."""
        if self.source == "video":
            return self._statistics_of_videos()
        return self._statistics(map(self.feature_source.features, self._share_of_training_rows))

    def _statistics(self, features: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """The statistics of all training clips; `features` are those of the clips in the share of this process."""
        mean_D, std_D = frame_statistics(features, self.feature_dim, self._sum_over_processes)
        if not (torch.isfinite(mean_D).all() and torch.isfinite(std_D).all()):
            raise VideomemError(f"{self.catalog_path}: training clips have features that are not finite; extract again")
        return mean_D, std_D

    def _sum_over_processes(self, sums: Tensor) -> Tensor:
        if self._world_size == 1:
            return sums
        strategy = self.trainer.strategy  # type: ignore[union-attr]
        return strategy.reduce(sums.to(strategy.root_device), reduce_op="sum").cpu()

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _share_of_training_rows(self) -> list[int]:
        return self.rows("train")[self._rank :: self._world_size]

    def _statistics_of_videos(self) -> tuple[Tensor, Tensor]:
        """The same for `source: video`, kept in the folder of feature stores for the next training on these videos."""
        keys, unreadable = self.feature_store.clip_keys([self.clips[row] for row in self.rows("train")])
        name = sha256(json.dumps([self.settings.key, sorted(keys.values())]).encode()).hexdigest()[:32]
        path = self.feature_store.cache / "video_statistics" / f"{name}.json"
        identity = {"kind": "statistics of the features of videos", "name": name}
        content = None
        if self._rank == 0 and path.exists() and not unreadable:
            self._tell(f"mean and standard deviation of the features: those in {path}, of the same training videos")
            content = read_checked(path, identity, "delete it")
        if self.trainer:  # Another node may lack the file.
            content = self.trainer.strategy.broadcast(content)
        if content is not None:
            mean_D, std_D = (torch.tensor(content[part], dtype=torch.float32) for part in ("mean", "std"))
            return mean_D, std_D
        self._tell("first pass over the training videos, for the mean and standard deviation of their features")
        device, rows = self.trainer.strategy.root_device if self.trainer else "cpu", self._share_of_training_rows
        shown = tracked(rows, "first pass over the training videos", len(rows), self.console)
        mean_D, std_D = self._statistics(self.feature_source.features(row, device) for row in shown)
        if self._rank == 0 and os.access(self.feature_store.cache, os.W_OK) and not unreadable:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, dump_checked(identity, {"mean": mean_D.tolist(), "std": std_D.tolist()}).encode())
        return mean_D, std_D

    def _tell(self, text: str) -> None:
        if self.console is not None:
            self.console.print(f"videomem: {text}", soft_wrap=True, markup=False)

    # Lightning's hooks.

    def setup(self, stage: str) -> None:
        split = {"fit": "train", "validate": "val", "test": self.test_split}[stage]
        if not len(self._rows(split)):
            raise VideomemError(f"{self.catalog_path}: no usable clip in split {split!r}; it has {self._splits}")
        if self.test_split not in ("test", *self.catalog.splits):  # A catalog need not have a split `test`.
            raise VideomemError(
                f"data.test_split is {self.test_split!r}, but {self.catalog_path} has no such split; it has "
                f"{self._splits}"
            )
        if self.reversed_pairs:
            check_pairs(self.clips, self.rows("val" if stage == "fit" else split), self.features)

    def train_dataloader(self) -> DataLoader[Any]:
        rows, weights = self._rows("train"), None
        if self.balanced_sampling:
            weights = (
                1 / torch.tensor(self.class_counts, dtype=torch.float64)[torch.from_numpy(self._labels(rows)).long()]
            )
        shards = self._entries.shards_N[rows] if self._in_shards else None
        return self._loader(rows, EpochSampler(len(rows), self.seed, self._epoch, weights, shards))

    @property
    def _in_shards(self) -> bool:
        if self.shuffle != "auto" or self.balanced_sampling or self.storage != "mmap" or self.source == "video":
            return self.shuffle == "shards"
        value_bytes = 4 if self.settings.dtype == "float32" else 2
        num_bytes = int(self._entries.lengths_N.sum(dtype=np.int64)) * self.feature_dim * value_bytes
        # Of the machine, not what is free: an epoch must have the same order when training is resumed.
        return num_bytes > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        rows = self._rows("val")
        return self._loader(rows) if len(rows) else []

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self._rows(self.test_split))

    def _epoch(self) -> int:
        """The current epoch. With workers, this is read before Lightning calls `set_epoch`."""
        return self.trainer.fit_loop.epoch_progress.current.processed if self.trainer else 0  # type: ignore[attr-defined]

    def _loader(self, rows: NDArray[np.int64], sampler: Sampler[Any] | None = None) -> DataLoader[Any]:
        if isinstance(self.feature_source, StoredFeatures):
            self.feature_source.load()
        if self.num_workers:
            clip_bytes = self.feature_source.item(int(rows[0]), None).nbytes
            num_batches = PREFETCH * self.num_workers
            check_shared_memory("data.num_workers to 0", num_batches * min(self.batch_size, len(rows)) * clip_bytes)
        if self._world_size > 1:
            sampler = ShareSampler(sampler or SequentialSampler(rows), self._rank, self._world_size)
        return DataLoader(
            ClipDataset(rows, self._labels(rows), self.feature_source),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            prefetch_factor=PREFETCH if self.num_workers else None,
            collate_fn=collate,
            generator=torch.Generator().manual_seed(self.seed),
            pin_memory=torch.cuda.is_available(),
        )

    def _labels(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        return self.catalog.labels_N[self._catalog_rows[rows]]

    def on_after_batch_transfer(self, batch: VideoBatch, dataloader_idx: int) -> VideoBatch:
        """Complete a batch on the device: look up features kept there, or run the backbone on decoded frames."""
        return self.feature_source.features_of_batch(batch)

    def state_dict(self) -> dict[str, Any]:
        """The identity of the features and the class names. Has a hash of the backbone's weights, not the weights."""
        return {"features": self.settings.identity, "class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the data are those of a checkpoint.

        Raises:
            VideomemError: If the features or the classes differ.
        """
        if differing := self.feature_store.differences(state_dict["features"]):
            raise VideomemError(
                f"the checkpoint was trained on other features: {differing}; use the same `data` settings"
            )
        if state_dict["class_names"] != self.class_names:
            raise VideomemError(
                f"the checkpoint's classes are {', '.join(state_dict['class_names'])}, but the catalog's are "
                f"{', '.join(self.class_names)}"
            )
