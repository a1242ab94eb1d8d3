"""The feature store: the features of each clip, extracted once for all heads, seeds and epochs.

    <root>/hashes.sqlite              content hashes of video files, by path, size and modification time
    <root>/<key>/settings.json        everything that determines the features except the videos; <key> is its hash
    <root>/<key>/plan/000000.json     the clips of each shard; new clips add a plan, and no plan is ever changed
    <root>/<key>/shards/000000.safetensors    features (R, D) of the clips of a shard, concatenated; the header has the
                                      rows, checksum, frames and decoder of each clip
    <root>/<key>/failures.csv         clips that failed, with the reason
    <root>/<key>/clips.json           imported features only: the key of each clip

All files are written atomically, so an existing file is complete; only the failure table is appended to. Features with
different settings have different keys and are never mixed. JSON has the identity of its file and a checksum, and the
features of a clip are compared with their checksum when a process first reads them. A store is read without writing.
`<root>` is a folder or the URL of one, see `videomem.features.folder`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from videomem.errors import VideomemError, one_line
from videomem.features.failures import Failure, FailureTable
from videomem.features.folder import StoreFolder, store_folder
from videomem.features.keys import ImportedKeys, clip_keys
from videomem.features.settings import FeatureSettings
from videomem.utils.checked_json import dump_checked, parse_checked
from videomem.utils.plain_data import check_plain
from videomem.video.catalog import Clip

SHARD_CLIPS = 256
_PLAN = re.compile(r"[0-9].*\.json")
_SHARD = re.compile(r"\d{6,9}\.safetensors")
_DTYPES = {"float16": "F16", "float32": "F32"}  # names in safetensors
# Types in the index of a shard.
_ROW = {"clip": str, "start_row": int, "stop_row": int, "checksum": int, "num_available": int, "fps": float,
        "decoder": str, "damage": str, "indices": list}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Location of a clip's features, and facts about the decoded clip."""

    shard: int
    start_row: int
    stop_row: int
    checksum: int
    num_available: int
    fps: float
    decoder: str
    damage: str
    indices: tuple[int, ...]


class FeatureStore:
    """Reads a store through memory-mapped files, and adds shards to it."""

    def __init__(self, root: Path | str, settings: FeatureSettings | Any, part: str = "") -> None:
        self._stores = store_folder(root)
        self.settings = settings
        self.files = self._stores.inside(settings.key)
        self.failure_table = FailureTable(self.files, part)
        self.imported_keys = ImportedKeys(self.files)
        self._part = part
        self._open_shards: dict[int, Any] = {}
        self._checked: set[Entry] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_shards": {}}

    @property
    def root(self) -> Path | str:
        """Folder of stores, or its URL."""
        return self._stores.place

    @property
    def folder(self) -> Path | str:
        """Folder of this store, or its URL."""
        return self.files.place

    @property
    def cache(self) -> Path:
        """Folder on this machine for results that belong to the folder of stores: itself, or one for its URL."""
        return self._stores.cache

    def exists(self) -> bool:
        """Whether the store has been created.

        Raises:
            VideomemError: If its settings are damaged.
        """
        if not self.files.is_file("settings.json"):
            return False
        if self.files.read("settings.json") != self.settings.content:
            path = self.files.named("settings.json")
            raise VideomemError(f"{path}: damaged (its hash is not {self.settings.key}); {self._remedy}")
        return True

    @property
    def _remedy(self) -> str:
        return f"delete {self.folder} and run {self.settings.made_by}"

    def create(self) -> None:
        """Create missing folders, and remove temporary files of processes that were killed.

        Raises:
            VideomemError: If a folder of the store is a link, through which it is only read.
        """
        self.files.make("plan", "shards")
        if not self.exists():
            self.files.write("settings.json", self.settings.content)

    def clip_keys(self, clips: Sequence[Clip]) -> tuple[dict[Clip, str], list[Failure]]:
        """The key of each clip, and the failures of clips that have none: an unreadable file or a failed import."""
        if self.settings.imported is None:
            return clip_keys(clips, self.cache, self._part)
        return self.imported_keys.of(clips, self.failure_table)

    def read_index(self) -> dict[str, Entry]:
        """Entries of the clips in all complete shards, by clip key."""
        complete = self.complete_shards()
        return {
            key: entry
            for number, planned in enumerate(self.read_plan())
            if number in complete
            for key, entry in self._entries(number, planned).items()
        }

    def _entries(self, number: int, planned: Sequence[str]) -> dict[str, Entry]:
        """Entries of the clips of a complete shard, by clip key."""
        name = _shard_name(number)
        path, remedy = self.files.named(name), f"delete it and run {self.settings.made_by}"
        known = frozenset(planned)
        try:
            with self.files.header(name) as local, safe_open(local, "pt") as shard:
                index = parse_checked(shard.metadata()["index"], path, self._identity("shard", number), remedy)
                features = shard.get_slice("features")
                found = {"shape": features.get_shape(), "dtype": features.get_dtype()}
            if (stated := {name: index[name] for name in found}) != found:
                raise ValueError(f"its features are {found}, not {stated}")
            imported = self.settings.imported
            if len(found["shape"]) != 2 or (imported is not None and found["shape"][1] != imported.feature_dim):
                raise ValueError(f"its features have shape {found['shape']}")
            entries = {}
            for row in index["clips"]:
                wrong = [name for name in _ROW.keys() | row.keys() if type(row.get(name)) is not _ROW.get(name)]
                if wrong or not all(type(index) is int for index in row["indices"]) or not math.isfinite(row["fps"]):
                    raise TypeError(f"its index has a clip with another {wrong[0] if wrong else 'fps or indices'}")
                key, indices = row.pop("clip"), tuple(row.pop("indices"))
                entries[key] = Entry(shard=number, indices=indices, **row)
                if key not in known or not 0 <= row["start_row"] < row["stop_row"] <= found["shape"][0]:
                    raise ValueError(f"its index has clip {one_line(key)}, which was not planned or has no rows in it")
        except (SafetensorError, OSError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise VideomemError(f"{path}: a damaged shard ({one_line(error)}); {remedy}") from error
        return entries

    def read_plan(self) -> list[list[str]]:
        """Clip keys of each shard, in the order of shard numbers."""
        return [shard for name in self._plans() for shard in self._read_plan(name)]

    def _plans(self) -> list[str]:
        """The plan files, which are numbered without gaps: a missing one would give its shards to others."""
        plans = [name for name in self.files.names("plan") if _PLAN.fullmatch(name)]
        for number, name in enumerate(plans):
            if name != (expected := f"{number:06d}.json"):
                raise VideomemError(f"{self.files.named(f'plan/{expected}')}: is missing; {self._remedy}")
        return plans

    def _read_plan(self, name: str) -> list[list[str]]:
        path = self.files.named(f"plan/{name}")
        shards = self.files.read_checked(f"plan/{name}", self._identity("plan", name.split(".")[0]), self._remedy)
        lists = [shards, *shards] if isinstance(shards, list) else [None]
        if not (all(isinstance(one, list) for one in lists) and all(isinstance(k, str) for one in shards for k in one)):
            raise VideomemError(f"{path}: damaged (not a list of shards); {self._remedy}")
        return list(shards)

    def _identity(self, kind: str, number: int | str) -> dict[str, Any]:
        return {"kind": kind, "store": self.settings.key, "number": int(number)}

    def extend_plan(self, clip_keys: Iterable[str], again: Collection[str] = ()) -> dict[int, list[str]]:
        """Plan new shards for clips that are in no planned shard. Returns the shards to write, by their numbers.

        A planned shard counts if it is complete or consists of these clips only. It does not count if the extraction of
        another catalog left it incomplete.

        Two processes may plan at the same time: only one can create the next plan file, and the other one repeats.

        Args:
            clip_keys: Keys of the clips.
            again: Keys of clips to plan again although they failed in a complete shard.
        """
        wanted = dict.fromkeys(clip_keys)
        while True:
            plan = self.read_plan()
            mine = [number for number, shard in enumerate(plan) if all(key in wanted for key in shard)]
            complete = self.complete_shards()
            known = {k for n in {*mine, *complete} for k in plan[n] if not (n in complete and k in again)}
            new = [key for key in wanted if key not in known]
            if not new:
                return {number: plan[number] for number in mine if number not in complete}
            shards = [new[start : start + SHARD_CLIPS] for start in range(0, len(new), SHARD_CLIPS)]
            number = len(self._plans())
            content = dump_checked(self._identity("plan", number), shards).encode()
            self.files.write(f"plan/{number:06d}.json", content, exclusive=True)

    def settled_clips(self) -> set[str]:
        """Keys of the clips in complete shards. Each is either in the index or failed."""
        complete = self.complete_shards()
        return {key for number, shard in enumerate(self.read_plan()) if number in complete for key in shard}

    def settled_clips_in_order(self) -> list[str]:
        """The same, in the order of shard numbers."""
        complete = self.complete_shards()
        return [key for number, shard in enumerate(self.read_plan()) if number in complete for key in shard]

    def complete_shards(self) -> set[int]:
        return {int(name.split(".")[0]) for name in self.files.states("shards") if self.is_shard(name)}

    @staticmethod
    def is_shard(name: str) -> bool:
        return _SHARD.fullmatch(name) is not None

    def stored_dim(self) -> int | None:
        """D of the features in the store, or None without any shard."""
        for number in sorted(self.complete_shards()):
            with self.files.header(_shard_name(number)) as local, safe_open(local, "pt") as shard:
                return int(shard.get_slice("features").get_shape()[1])
        return None

    def shard_problems(self, number: int, planned: Sequence[str]) -> Iterator[str]:
        """Read a shard, and say what is wrong with it or with each of its clips."""
        self._checked.clear()
        try:
            entries = self._entries(number, planned)
        except VideomemError as error:
            yield str(error)
            return
        for key, entry in entries.items():
            try:
                self.read(entry)
            except VideomemError as error:
                yield f"clip {key}: {error}"
        self._open_shards.pop(number, None)

    def write_shard(self, number: int, clips: Sequence[tuple[str, dict[str, Any], Tensor]]) -> None:
        """Write a shard: the key, entry fields and features (T, D) of each clip that did not fail.

        Raises:
            VideomemError: If a feature is beyond the range of the data type.
        """
        dtype = getattr(torch, self.settings.dtype)
        rows, features, start = [], [torch.empty(0, self.settings.feature_dim, dtype=dtype)], 0
        for key, fields, values_TD in clips:
            stored_TD = values_TD.to(dtype)
            if not torch.isfinite(stored_TD).all():
                problem = f"shard {number} has features beyond the range of {self.settings.dtype}"
                raise VideomemError(f"{problem}; set data.features.dtype to float32")
            place = {"start_row": start, "stop_row": start + len(stored_TD), "checksum": _checksum(stored_TD)}
            rows.append({"clip": key, **place, **fields})
            start += len(stored_TD)
            features.append(stored_TD)
        stored = torch.cat(features)
        index = {"shape": list(stored.shape), "dtype": _DTYPES[self.settings.dtype], "clips": rows}
        # The index is in the same file, so that it always belongs to its rows. It is a single metadata entry, since the
        # order of several entries varies.
        text = dump_checked(self._identity("shard", number), index)
        self.files.write(_shard_name(number), save({"features": stored}, metadata={"index": text}))

    def read(self, entry: Entry) -> Tensor:
        """Features (T, D) of a clip, in their stored data type.

        Raises:
            VideomemError: If they cannot be read, or their checksum is not that of the index.
        """
        path = self.files.named(name := _shard_name(entry.shard))
        try:
            if entry.shard not in self._open_shards:
                self._open_shards[entry.shard] = (
                    safe_open(self.files.local(name), "pt").__enter__().get_slice("features")
                )
            rows_TD: Tensor = self._open_shards[entry.shard][entry.start_row : entry.stop_row]
        except (SafetensorError, OSError) as error:
            raise VideomemError(f"{path}: not readable ({one_line(error)}); run {self.settings.made_by}") from error
        if entry not in self._checked:
            if _checksum(rows_TD) != entry.checksum:
                raise VideomemError(
                    f"{path}: damaged (the checksum of rows {entry.start_row} to {entry.stop_row - 1} differs); delete "
                    f"it and run {self.settings.made_by}"
                )
            if not torch.isfinite(rows_TD).all():
                raise VideomemError(
                    f"{path}: has values that are not finite; delete it and run {self.settings.made_by}"
                )
            self._checked.add(entry)
        return rows_TD

    def differences(self, identity: dict[str, Any]) -> str:
        """Differences from other settings, such as `backbone.node classifier.5 not classifier.2`."""
        differing = self._differing(identity)
        return ", ".join(f"{name} {theirs} not {ours}" for name, theirs, ours in differing[:4])

    def _differing(self, identity: dict[str, Any]) -> list[tuple[str, Any, Any]]:
        """Names and both values of the settings that differ from others."""
        theirs, ours = _flat(identity), _flat(self.settings.identity)
        pairs = [(name, theirs.get(name), ours.get(name)) for name in sorted(ours | theirs)]
        return [(name, their, our) for name, their, our in pairs if their != our]

    def nearest(self) -> str:
        """Differences of the store in the root with the fewest of them, for error messages; empty without stores."""
        found = (identity_in(self._stores, name) for name in self._stores.folders())
        identities = [identity for identity in found if identity is not None]
        return self.differences(min(identities, key=lambda one: len(self._differing(one)))) if identities else ""


def _shard_name(number: int) -> str:
    return f"shards/{number:06d}.safetensors"


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return flat


def identity_in(stores: StoreFolder, key: str) -> dict[str, Any] | None:
    """The settings of a store, if they are those that its folder is named for."""
    name = f"{key}/settings.json"
    content = stores.read(name) if stores.is_file(name) else b""
    if sha256(content).hexdigest()[:16] != key:
        return None
    try:
        identity = json.loads(content)
        check_plain(identity, str(stores.named(name)))
    except (ValueError, RecursionError, VideomemError):
        return None
    return identity if isinstance(identity, dict) else None


def _checksum(rows_TD: Tensor) -> int:
    # CRC-32 finds what storage does to a file; it is twice as fast as the hashes of hashlib.
    return crc32(rows_TD.contiguous().numpy().data)
