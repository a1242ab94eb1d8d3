"""Import features computed by other tools into the feature store, for use with all commands."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from videomem.errors import VideomemError
from videomem.features.arrays import ArrayProblem, ArraySource, FloatArray, open_source
from videomem.features.backbone import BackboneSettings
from videomem.features.failures import Failure
from videomem.features.keys import key_of
from videomem.features.settings import FeatureDtype, FeatureSettings, ImportedFeatures
from videomem.features.store import FeatureStore
from videomem.utils.atomic import locked_folder
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import read_catalog, read_rows
from videomem.video.sampling import Sampling, frames_within


@dataclass(frozen=True)
class ImportReport:
    """Result of an import: clips imported now, clips imported before, and failures.

    `num_imprecise` is the number of features that are not 0, but are in every clip too small for the full precision of
    the stored data type.
    """

    num_imported: int
    num_done_before: int
    failures: tuple[Failure, ...]
    feature_dim: int
    num_imprecise: int
    folder: Path | str


@dataclass(frozen=True)
class Importing:
    """How features of clips are taken from arrays.

    Attributes:
        name: Name of the features.
        sampling: Which rows of an array are used.
        dtype: Data type of the stored features.
        fps: Rows per second; None uses `fps` of the catalog, if it has this column.
    """

    name: str
    sampling: Sampling
    dtype: FeatureDtype = "float16"
    fps: float | None = None


class _Found(NamedTuple):
    """The array of a clip: its name in the source, its key, and the largest absolute value of each feature (D,)."""

    name: str
    key: str
    largest_D: FloatArray

    @property
    def feature_dim(self) -> int:
        return len(self.largest_D)


def import_features(catalog_path: Path | str, features: Path, root: Path | str, importing: Importing) -> ImportReport:
    """Import an array (T, D) of each clip of a catalog; the videos need not exist.

    A clip whose array is missing or invalid is added to the failure table, and the other clips are imported. Existing
    features are kept; an array that has changed is imported again.

    Args:
        catalog_path: The catalog.
        features: File or folder of arrays, see `open_source`.
        root: Folder of feature stores, or its URL.
        importing: Name, sampling and data type of the features.
    Raises:
        VideomemError: If there are no arrays, no array is valid, or the store cannot be written.
    """
    catalog = read_catalog(catalog_path)
    with open_source(features) as source:
        names, failures = _names(catalog, Path(catalog_path), source)
        found = {}
        for clip, name in names.items():
            try:
                found[clip] = _look_at(clip, name, source, importing)
            except ArrayProblem as problem:
                failures[clip] = _failure(clip, str(problem))
        if not found:
            first = next(iter(failures.values()))
            raise VideomemError(f"--features {features}: no clip has features in it; {first.message}")
        feature_dim = Counter(item.feature_dim for item in found.values()).most_common(1)[0][0]
        for clip, item in list(found.items()):
            if item.feature_dim != feature_dim:
                reason = f"array {item.name} has {item.feature_dim} features, but most have {feature_dim}"
                failures[clip] = _failure(clip, reason)
                del found[clip]
        imported = ImportedFeatures(importing.name, feature_dim)
        settings = FeatureSettings(BackboneSettings(), importing.sampling, dtype=importing.dtype, imported=imported)
        store = FeatureStore(root, settings)
        store.create()
        with locked_folder(store.files.cache):
            done = store.read_index()
            _write(store, found, source, importing)
            index = store.update_index()
            keys = [found[clip].key if clip in found else None for clip in catalog.clips]
            store.record_catalog(catalog.digest, keys, index)
            store.imported_keys.add(dict(zip(catalog.clips, keys, strict=True)))
            failure_table = store.failure_table.read() | {failure.location: failure for failure in failures.values()}
            good = {clip.location for clip in found}
            store.failure_table.rewrite(failure for failure in failure_table.values() if failure.location not in good)
    num_before = sum(item.key in done for item in found.values())
    in_order = tuple(failures[clip] for clip in catalog.clips if clip in failures)
    largest_D = np.max([item.largest_D for item in found.values()], axis=0)
    num_imprecise = int(((largest_D > 0) & (largest_D < np.finfo(importing.dtype).tiny)).sum())
    return ImportReport(len(found) - num_before, num_before, in_order, feature_dim, num_imprecise, store.folder)


def _failure(clip: Clip, reason: str) -> Failure:
    return Failure.of(clip, "import", "ArrayProblem", f"{clip}: {reason}")


def _names(catalog: Catalog, path: Path, source: ArraySource) -> tuple[dict[Clip, str], dict[Clip, Failure]]:
    """The name of each clip's array. An array belongs to one video only, the one whose path it matches best."""
    claims, failures = {}, {}
    videos: dict[str, dict[str, int]] = defaultdict(dict)
    for clip, row in zip(catalog.clips, read_rows(path.absolute()), strict=True):
        try:
            name, looseness = source.find(row.path, os.path.relpath(clip.path, path.absolute().parent))
        except ArrayProblem as problem:
            failures[clip] = _failure(clip, str(problem))
            continue
        claims[clip] = name
        videos[name][clip.path] = min(looseness, videos[name].get(clip.path, looseness))
    for clip, name in list(claims.items()):
        closest = min(videos[name].values())
        owners = [video for video, looseness in videos[name].items() if looseness == closest]
        if owners != [clip.path]:
            reason = f"array {name} matches {' and '.join(owners[:2])}; name arrays by their complete path"
            failures[clip] = _failure(clip, reason)
            del claims[clip]
    return claims, failures


def _look_at(clip: Clip, name: str, source: ArraySource, importing: Importing) -> _Found:
    """Read and check an array before a shard is planned for it."""
    array = source.read(name)
    _features(clip, array, importing)
    content = sha256(f"{array.dtype} {array.shape}\n".encode())
    content.update(array.data)
    largest_D = np.abs(array).max(axis=0)
    if not largest_D.any():
        raise ArrayProblem(f"all values of array {name} are 0; compute the features of this clip again")
    if largest_D.max() < np.finfo(importing.dtype).tiny:
        raise ArrayProblem(f"its values reach only {largest_D.max():.3g}, where {importing.dtype} is imprecise; "
                           f"{_remedy(importing)}")  # fmt: skip
    return _Found(name, key_of(clip, content.hexdigest(), importing.fps or clip.fps), largest_D)


def _remedy(importing: Importing) -> str:
    return "pass --dtype float32, set data.features.dtype to it" if importing.dtype == "float16" else "scale it"


def _features(clip: Clip, array_TD: FloatArray, importing: Importing) -> tuple[Tensor, dict[str, Any]]:
    """The sampled rows of a clip in the stored data type, and the fields of its entry."""
    fps = importing.fps or clip.fps
    if fps is None and (importing.sampling.needs_times or clip.interval != (None, None)):
        raise ArrayProblem(
            f"arrays have no times, but {type(importing.sampling).__name__} and trims need them; pass --source-fps"
        )
    times_s = np.arange(len(array_TD)) / (fps or 1.0)
    inside = frames_within(times_s, clip.interval)
    if len(inside) < 2:
        raise ArrayProblem(f"{len(inside)} of its {len(array_TD)} rows are between {clip.start_s} and {clip.end_s} s")
    indices = importing.sampling.indices(times_s[inside] - times_s[inside[0]])
    with np.errstate(over="ignore"):
        chosen = torch.from_numpy(array_TD[inside[indices]].astype(importing.dtype))
    if not torch.isfinite(chosen).all():
        largest = float(np.abs(array_TD).max())
        raise ArrayProblem(
            f"its values reach {largest:.3g}, beyond the range of {importing.dtype}; {_remedy(importing)}"
        )
    fields = {"num_available": len(inside), "fps": float(fps or 0.0), "decoder": "imported", "damage": ""}
    return chosen, {**fields, "indices": indices.tolist()}


def _write(store: FeatureStore, found: dict[Clip, _Found], source: ArraySource, importing: Importing) -> None:
    """Write the missing shards, one at a time."""
    by_key = {item.key: clip for clip, item in found.items()}
    for number, keys in store.extend_plan(by_key).items():
        rows = []
        for key in keys:
            features_TD, fields = _features(by_key[key], source.read(found[by_key[key]].name), importing)
            rows.append((key, fields, features_TD))
        store.shards.write(number, rows)
