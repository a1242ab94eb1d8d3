"""Merge, verify, clean and describe the stores of a folder, whatever their settings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from videomem.errors import VideomemError
from videomem.features.folder import LocalFolder, StoreFolder, store_folder
from videomem.features.keys import copy_hashes
from videomem.features.settings import FeatureSettings, ImportedFeatures
from videomem.features.shard_files import is_shard
from videomem.features.store import FeatureStore, identity_in

_ABANDONED_S = 24 * 3600.0  # A write takes seconds.


@dataclass(frozen=True)
class StoredSettings:
    """The settings of a store as its folder states them, without the backbone that they name."""

    key: str
    content: bytes
    identity: dict[str, Any]
    feature_dim: int = 0

    @property
    def dtype(self) -> str:
        return str(self.identity["dtype"])

    @property
    def imported(self) -> ImportedFeatures | None:
        imported = self.identity.get("imported")
        return None if imported is None else ImportedFeatures(**imported)

    made_by = FeatureSettings.made_by

    @property
    def words(self) -> str:
        """The settings in words, such as `alexnet classifier.2, Uniform of 16 frames, float16`."""
        sampling = self.identity["sampling"]
        sampled = ", ".join(f"{name} {value}" for name, value in sampling.items() if name != "name" and value)
        backbone = self.identity.get("backbone", {})
        source = self.imported.name if self.imported else f"{backbone.get('name')} {backbone.get('node')}"
        return f"{source}, {sampling['name']} ({sampled}), {self.dtype}"


def stores_in(root: Path | str) -> list[FeatureStore]:
    """The stores in a folder.

    Raises:
        VideomemError: If there is none.
    """
    folder = store_folder(root)
    identities = {key: identity_in(folder, key) for key in folder.folders()}
    found = [
        FeatureStore(root, StoredSettings(key, folder.read(f"{key}/settings.json"), identity))
        for key, identity in identities.items()
        if identity is not None
    ]
    if not found:
        raise VideomemError(f"{root}: has no feature store; name a folder that `videomem extract` has written")
    return found


@dataclass(frozen=True)
class Merged:
    num_copied: int
    num_known: int


def merge(out: Path | str, roots: Sequence[Path | str]) -> Merged:
    """Copy the clips of all complete shards into the stores of `out`; clips that are there already are not copied.

    The copied clips form new shards. An interrupted merge can be repeated.
    """
    sources: dict[str, list[FeatureStore]] = {}
    for store in (store for root in roots for store in stores_in(root)):
        if str(store.root) != str(store_folder(out).place):
            sources.setdefault(store.settings.key, []).append(store)
    merged = [_merge_key(out, stores) for stores in sources.values()]
    target = store_folder(out).cache
    copy_hashes(target, [path for root in roots for path in sorted(store_folder(root).cache.glob("hashes*.sqlite"))])
    return Merged(sum(one.num_copied for one in merged), sum(one.num_known for one in merged))


def _merge_key(out: Path | str, sources: Sequence[FeatureStore]) -> Merged:
    settled = dict.fromkeys(key for source in sources for key in source.settled_clips())
    places = {key: (source, entry) for source in reversed(sources) for key, entry in source.read_index().items()}
    dims = [dim for source in sources if (dim := source.shards.feature_dim()) is not None]
    target = FeatureStore(out, replace(sources[0].settings, feature_dim=dims[0] if dims else 0))
    target.create()
    before = target.read_index()
    again = {key for key in target.settled_clips() if key in places and key not in before}
    for number, keys in target.extend_plan(settled, again).items():
        rows = []
        for key in keys:
            if key in places:
                source, entry = places[key]
                rows.append((key, source.shards.fields(entry), source.shards.read(entry)))
        target.shards.write(number, rows)
    target.update_index()
    known = target.failure_table.read()
    failures = {where: one for source in sources for where, one in source.failure_table.read().items()}
    target.failure_table.add(*(one for where, one in failures.items() if where not in known))
    for source in sources:
        target.imported_keys.add_rows(source.imported_keys.read())
    num_known = sum(key in before for key in places)
    return Merged(len(places) - num_known, num_known)


def problems(root: Path | str) -> Iterator[str]:
    """Read every file of the stores in a folder, and yield what is wrong with each damaged shard or clip."""
    for store in stores_in(root):
        try:
            store.check_index()
        except VideomemError as error:
            yield str(error)
        try:
            plan = store.read_plan()
        except VideomemError as error:
            yield str(error)
            continue
        for number in store.shards.states():
            if number < len(plan):
                yield from store.shards.problems(number, plan[number])
            else:
                yield f"{store.files.named(f'shards/{number:06d}.safetensors')}: not planned; run `videomem store gc`"


def garbage(root: Path | str) -> Iterator[tuple[StoreFolder, str, int]]:
    """Files that no store needs, as folder, name and bytes.

    They are shards that were never planned, and temporary files of processes that have ended or are a day old.
    """
    for store in stores_in(root):
        planned = len(store.read_plan())
        for part in ("plan", "shards", "failures", "index", "catalogs"):
            for name, (num_bytes, mtime_ns) in store.files.states(part).items():
                is_temporary = name.startswith(".") and name.endswith(".tmp") and isinstance(store.files, LocalFolder)
                is_old = is_temporary and time.time() - mtime_ns / 1e9 > _ABANDONED_S
                is_unplanned = part == "shards" and is_shard(name) and int(name.split(".")[0]) >= planned
                if is_old or is_unplanned or (is_temporary and store.files.is_orphan(f"{part}/{name}")):
                    yield store.files, f"{part}/{name}", num_bytes


@dataclass(frozen=True)
class StoreStatistics:
    key: str
    words: str
    num_clips: int
    num_frames: int
    num_bytes: int
    num_failures: int
    num_incomplete: int  # shards that are planned and not written


def statistics_of(store: FeatureStore) -> StoreStatistics:
    entries = list(store.read_index().values())
    num_bytes = sum(size for part in ("plan", "shards") for size, _ in store.files.states(part).values())
    num_incomplete = len(set(range(len(store.read_plan()))) - store.shards.states().keys())
    num_frames = sum(entry.stop_row - entry.start_row for entry in entries)
    num_failures = len(store.failure_table.read())
    settings: Any = store.settings
    return StoreStatistics(
        settings.key, settings.words, len(entries), num_frames, num_bytes, num_failures, num_incomplete
    )
