"""Clips for experiments: features, labels and groups, from a feature store or from arrays, and projected features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from videomem.batch import VideoBatch
from videomem.errors import DecodingError, VideomemError
from videomem.features.backbone import BackboneSettings
from videomem.heads import FeatureNorm
from videomem.training.data_module import VideoDataModule
from videomem.training.feature_sources import StoredFeatures, frame_statistics
from videomem.utils.sharing import shared_path
from videomem.utils.text import printable
from videomem.video.decoding import decode_clip
from videomem.video.files import file_problem

HEIGHT_PX = 96  # of frames that are shown
_log = logging.getLogger("videomem")
MAX_FRAMES = 20_000  # for fitting a projection; more frames change the components little


@dataclass(frozen=True)
class PaddedFeatures:
    """Features (T, D) of clips by their row, held as one tensor, from which batches are made fast.

    Attributes:
        padded_NTD: Features of all clips, padded with zeros.
        lengths: T of each clip.
    """

    padded_NTD: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, clips: Sequence[Tensor]) -> PaddedFeatures:
        return cls(pad_sequence(list(clips), batch_first=True), tuple(map(len, clips)))

    def __call__(self, row: int) -> Tensor:
        return self.padded_NTD[row, : self.lengths[row]]

    def batch(self, rows_B: Tensor, orders_BT: Tensor) -> Tensor:
        """The clips at some rows (B, T, D), each in its frame order."""
        frames_FD = self.padded_NTD.flatten(0, 1)
        places_BT = rows_B.unsqueeze(1) * self.padded_NTD.shape[1] + orders_BT
        # Several times faster than indexing with two tensors.
        return frames_FD.index_select(0, places_BT.flatten()).view(*orders_BT.shape, -1)


@dataclass(frozen=True, eq=False)
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
        segment_frames: Frames that each feature vector was computed from, more than 1 with a video network.
        names: Name of each clip for messages; empty if they have none.
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
    segment_frames: int = 1
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        counts = f"{len(self)} clips of {len(self.class_names)} classes and {len(np.unique(self.groups))} groups"
        frames = f"{self.lengths.min()} to {self.max_frames} frames of {self.feature_dim} features"
        return f"Clips: {counts}, {frames}; {self.made_of}"

    @property
    def max_frames(self) -> int:
        return int(self.lengths.max())

    def batch(self, rows: NDArray[np.int64], orders_BT: NDArray[np.int64] | None = None) -> VideoBatch:
        """Clips as a batch, each in its frame order (B, T) if any is given."""
        lengths = self.lengths[rows]
        if orders_BT is None:
            orders_BT = np.broadcast_to(np.arange(lengths.max()), (len(rows), lengths.max()))
        orders = torch.from_numpy(np.ascontiguousarray(orders_BT[:, : lengths.max()]))
        if isinstance(self.features, PaddedFeatures):
            x_BTD = self.features.batch(torch.from_numpy(rows), orders)
        else:
            videos = [
                self.features(row)[order_T[:length]]
                for row, order_T, length in zip(rows.tolist(), orders, lengths, strict=True)
            ]
            x_BTD = pad_sequence(videos, batch_first=True)
        return VideoBatch(x_BTD, *(torch.from_numpy(part) for part in (lengths, self.labels[rows], rows)))


def clips_of_data(data: VideoDataModule) -> Clips:
    """Returns the usable clips of a data module, in all splits.

    Raises:
        VideomemError: If the data module does not read stored features.
    """
    if data.source != "features":
        raise VideomemError("the order test reads stored features; set data.source to features")
    clips = data.clips
    source, settings = data.feature_source, data.settings
    if isinstance(source, StoredFeatures):
        source.load()
    imported = settings.imported
    return Clips(
        features=source.features,
        lengths=np.array([data.entry(row).stop_row - data.entry(row).start_row for row in range(len(clips))]),
        labels=np.array([data.class_names.index(clip.label) for clip in clips]),
        groups=_numbered([clip.group for clip in clips]),
        splits=tuple(clip.split for clip in clips),
        ids=tuple(f"{settings.key}/{data.key(row)}" for row in range(len(clips))),
        class_names=tuple(data.class_names),
        feature_dim=data.feature_dim,
        source=data.catalog_path,
        made_of=made_by(settings.backbone) if imported is None else f"imported: {imported.name}",
        segment_frames=settings.backbone.segment_frames if imported is None else 1,
        names=[str(clip) for clip in clips],
    )


def made_by(backbone: BackboneSettings) -> str:
    """Description of a backbone: network, layer and weights."""
    untrained = ": a network that was never trained" if backbone.weights == "random" else ""
    segments = f", of segments of {backbone.segment_frames} frames" if backbone.segment_frames > 1 else ""
    network = f"{shared_path(backbone.name)} {backbone.layer}{segments}"
    return f"{network}, {shared_path(backbone.weights)} weights{untrained}"


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
        features=PaddedFeatures.of(tensors),
        lengths=np.array([len(array) for array in tensors]),
        labels=np.array([names.index(label) for label in labels]),
        groups=_numbered(groups),
        splits=tuple(splits),
        ids=tuple(_content_hash(array) for array in tensors),
        class_names=names,
        feature_dim=dim,
        source=name,
        made_of="given as arrays",
    )


def _feature_dim(tensors: Sequence[Tensor]) -> int:
    """D of arrays (T, D), all of this shape and with finite values only."""
    dim = tensors[0].shape[-1] if tensors[0].ndim else 0
    for number, array in enumerate(tensors):
        if array.ndim != 2 or array.shape[1] != dim or not len(array):
            raise VideomemError(f"features of clip {number} have shape {tuple(array.shape)}, but must be (T, {dim})")
        if not torch.isfinite(array).all():
            raise VideomemError(f"features of clip {number} have values that are not finite; remove or recompute it")
    return dim


def _numbered(names: Sequence[str]) -> NDArray[np.int64]:
    """Each name as an integer (N,), numbered in order of first occurrence."""
    places: dict[str, int] = {}
    return np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)


def _content_hash(array: Tensor) -> str:
    plain = array.contiguous().cpu().numpy()
    return sha256(f"{plain.dtype} {plain.shape} ".encode() + plain.tobytes()).hexdigest()[:32]


def projected(clips: Clips, train: NDArray[np.int64], projection_dim: int) -> Clips:
    """Project all frames to the first principal components of the training frames. The result is held in memory.

    Frames are standardized by the statistics of the training frames, as in `FeatureNorm`. Labels and frame order do not
    affect the projection. It is fitted to each training set; the latest ones are cached, because the memories and
    training conditions of a run share theirs.

    Args:
        projection_dim: P, at most min(D, number of training frames).
    Reference:
        Halko et al. 2011, "Finding structure with randomness", algorithm 5.1 (as `torch.pca_lowrank`).
    """
    return _projected(clips, tuple(train.tolist()), projection_dim)


@lru_cache(maxsize=8)  # A stack of an order test has the clips of up to 8 runs.
def _projected(clips: Clips, train: tuple[int, ...], projection_dim: int) -> Clips:
    norm = FeatureNorm(clips.feature_dim)
    norm.set_statistics(*frame_statistics(map(clips.features, train), clips.feature_dim))

    def standardized(row: int) -> Tensor:
        x_TD: Tensor = norm(clips.features(row))
        return x_TD

    ends_N = np.cumsum(clips.lengths[list(train)])
    chosen = np.sort(np.random.default_rng(0).choice(ends_N[-1], min(MAX_FRAMES, ends_N[-1]), replace=False))
    # Filled in place: a list and its copy would take twice the memory.
    x_ND = torch.empty(len(chosen), clips.feature_dim)
    starts = np.searchsorted(chosen, [0, *ends_N])
    for row, end, start, stop in zip(train, ends_N, starts, starts[1:], strict=False):
        if start < stop:
            x_ND[start:stop] = standardized(row)[chosen[start:stop] - (end - clips.lengths[row])]
    dim = min(projection_dim, *x_ND.shape)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        components_DP = torch.pca_lowrank(x_ND, q=min(dim + 8, *x_ND.shape), center=False, niter=3)[2][:, :dim]
    features = [standardized(row) @ components_DP for row in range(len(clips))]
    return replace(clips, feature_dim=dim, features=PaddedFeatures.of(features))


def shown_frames(data: VideoDataModule, row: int) -> NDArray[np.uint8] | None:
    """The sampled frames of a clip at about `HEIGHT_PX` pixels, (T, height, width, 3); None if there is no video."""
    clip, settings = data.clips[row], data.settings
    if settings.imported is not None:
        return None
    if problem := file_problem(clip.path):
        _log.info("no video strip: %s", printable(problem))
        return None
    try:
        decoded = decode_clip(
            clip.path, settings.sampling, clip.interval, settings.decoder, clip.fps, settings.on_damage
        )
    except (DecodingError, VideomemError) as error:
        _log.warning("no video strip: %s", printable(error))
        return None
    step = max(1, decoded.frames_THWC.shape[1] // HEIGHT_PX)
    return decoded.frames_THWC[:, ::step, ::step]
