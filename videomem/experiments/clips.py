"""Clips for experiments: features, labels and groups, from a feature store or from arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import VideomemError
from videomem.features.backbone import BackboneSettings
from videomem.features.store import FeatureSettings
from videomem.training.data_module import VideoDataModule
from videomem.training.feature_sources import StoredFeatures


@dataclass(frozen=True)
class Clips:
    """Clips with features, labels and groups.

    Attributes:
        features: Features (T, D) of a clip by its row.
        lengths: T of each clip (N,).
        labels: Class index of each clip (N,).
        groups: Index of each clip's group (N,), the source that it was cut from.
        splits: Split of each clip in the catalog; empty strings if it has none.
        ids: Hash of everything that determines the features of each clip; part of the keys of training results.
        class_names: Names of the C classes.
        feature_dim: D.
        source: Path or name of the data, for the report.
        made_of: Network, layer and weights of the features, for the report.
    """

    features: Callable[[int], Tensor]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    splits: tuple[str, ...]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    feature_dim: int
    source: str
    made_of: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def max_frames(self) -> int:
        return int(self.lengths.max())


def clips_of_data(data: VideoDataModule) -> Clips:
    """Returns the usable clips of a data module, in all splits.

    Raises:
        VideomemError: If the data module does not read stored features.
    """
    if data.source != "features":
        raise VideomemError("the order test reads stored features; set data.source to features")
    clips = data.clips
    keys, _ = data.feature_store.clip_keys(clips)
    store_key = data.settings.key
    source = data.feature_source
    if isinstance(source, StoredFeatures):
        source.load()
    return Clips(
        features=source.features,
        lengths=np.array([data.entry(row).stop_row - data.entry(row).start_row for row in range(len(clips))]),
        labels=np.array([data.class_names.index(clip.label) for clip in clips]),
        groups=index_of([clip.group for clip in clips]),
        splits=tuple(clip.split for clip in clips),
        ids=tuple(f"{store_key}/{keys[clip]}" for clip in clips),
        class_names=tuple(data.class_names),
        feature_dim=data.feature_dim,
        source=data.catalog_path,
        made_of=_made_of(data.settings),
    )


def _made_of(settings: FeatureSettings) -> str:
    if settings.imported is not None:
        return f"imported: {settings.imported.name}"
    return made_by(settings.backbone)


def made_by(backbone: BackboneSettings) -> str:
    """Description of a backbone: network, layer and weights."""
    untrained = ": a network that was never trained" if backbone.weights == "random" else ""
    return f"{backbone.name} {backbone.layer}, {backbone.weights} weights{untrained}"


def clips_of_arrays(
    features: Sequence[NDArray[np.floating] | Tensor],
    labels: Sequence[str],
    groups: Sequence[str],
    splits: Sequence[str] | None = None,
    name: str = "arrays",
) -> Clips:
    """Returns clips from one (T, D) array per video.

    Args:
        features: Features (T, D) of each video, with the same D.
        labels: Class of each video.
        groups: Source of each video, such as a person or a long recording. Groups are never split.
        splits: `train` or `test` for each video, for a fixed split.
        name: Name of the data in the report.
    Raises:
        VideomemError: If lengths differ, an array is not (T, D), or a value is not finite.
    """
    tensors = [torch.as_tensor(array).cpu() for array in features]
    tensors = [array if array.is_floating_point() else array.float() for array in tensors]
    labels, groups = [str(label) for label in labels], [str(group) for group in groups]
    splits = [""] * len(labels) if splits is None else [str(split) for split in splits]
    for what, values in (("labels", labels), ("groups", groups), ("splits", splits)):
        if len(values) != len(tensors):
            raise VideomemError(f"{len(values)} {what} for {len(tensors)} arrays of features; give one per array")
    if not tensors:
        raise VideomemError("no features; give at least one array")
    dim = _feature_dim(tensors)
    names = tuple(sorted(set(labels)))
    return Clips(
        features=tensors.__getitem__,
        lengths=np.array([len(array) for array in tensors]),
        labels=np.array([names.index(label) for label in labels]),
        groups=index_of(groups),
        splits=tuple(splits),
        ids=tuple(_content_hash(array) for array in tensors),
        class_names=names,
        feature_dim=dim,
        source=name,
        made_of="given as arrays",
    )


def _feature_dim(tensors: Sequence[Tensor]) -> int:
    """D of arrays (T, D), after checking that all have this shape and only finite values."""
    dim = tensors[0].shape[-1] if tensors[0].ndim else 0
    for number, array in enumerate(tensors):
        if array.ndim != 2 or array.shape[1] != dim or not len(array):
            raise VideomemError(f"features of clip {number} have shape {tuple(array.shape)}, but must be (T, {dim})")
        if not torch.isfinite(array).all():
            raise VideomemError(f"features of clip {number} have values that are not finite; remove or recompute it")
    return dim


def index_of(names: Sequence[str]) -> NDArray[np.int64]:
    """Each name as an integer (N,), numbered in order of first occurrence."""
    places: dict[str, int] = {}
    return np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)


def _content_hash(array: Tensor) -> str:
    plain = array.contiguous().cpu().numpy()
    return sha256(f"{plain.dtype} {plain.shape} ".encode() + plain.tobytes()).hexdigest()[:32]
