"""The feature store: the features of each clip, extracted once for all heads, seeds and epochs.

    <root>/hashes.sqlite              content hashes of video files, by path, size and modification time
    <root>/<key>/settings.json        everything that determines the features except the videos; <key> is its hash
    <root>/<key>/plan/000000.json     the clips of each shard; new clips add a plan, and no plan is ever changed
    <root>/<key>/shards/000000.safetensors    the features of the clips of a shard, see `videomem.features.shard_files`
    <root>/<key>/failures.csv         clips that failed, with the reason
    <root>/<key>/clips.json           imported features only: the key of each clip
    <root>/<key>/index, catalogs      large stores only: tables of their clips, see `videomem.features.index`

All files are written atomically, so an existing file is complete; only the failure table is appended to. Features with
different settings have different keys and are never mixed. JSON has the identity of its file and a checksum, and the
features of a clip are compared with their checksum when a process first reads them. A store is read without writing.
`<root>` is a folder or the URL of one, see `videomem.features.folder`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from videomem.errors import VideomemError
from videomem.features.failures import Failure, FailureTable
from videomem.features.folder import StoreFolder, store_folder
from videomem.features.index import ClipTable, Entry, Index, Segment
from videomem.features.keys import ImportedKeys, clip_keys
from videomem.features.settings import FeatureSettings
from videomem.features.shard_files import Shards, is_shard
from videomem.features.shard_plan import Plan, PlannedShards, halves
from videomem.utils.checked_json import dump_checked
from videomem.utils.plain_data import check_plain
from videomem.video.catalog import Catalog, Clip

SHARD_CLIPS = 256
MIN_SEGMENT_SHARDS = 64  # The headers of fewer shards are read faster than an index is worth.
MIN_RECORD_CLIPS = 10_000  # of a catalog whose clips are recorded
_PLAN = re.compile(r"[0-9].*\.json")


class FeatureStore:
    """The plan, the shards and the index of a store."""

    def __init__(self, root: Path | str, settings: FeatureSettings | Any, part: str = "") -> None:
        self._stores = store_folder(root)
        self.settings = settings
        self.files = self._stores.inside(settings.key)
        self.failure_table = FailureTable(self.files, part)
        self.imported_keys = ImportedKeys(self.files)
        self.shards = Shards(self.files, settings)
        self._part = part

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

    def read_index(self) -> Index:
        """Entries of the clips in all complete shards, by clip key."""
        states = self.shards.states()
        segments = list(self._segments(states))
        loose = Index(segments, {}, {}, states).loose
        entries: dict[str, Entry] = {}
        failed: dict[str, int] = {}
        for number, planned in self._planned(loose):
            entries |= (found := self.shards.entries(number, planned))
            failed |= {key: number for key in planned if key not in found}
        return Index(segments, entries, {key: shard for key, shard in failed.items() if key not in entries}, states)

    def _planned(self, numbers: Collection[int]) -> Iterator[tuple[int, list[str]]]:
        """Numbers and planned clips of these shards. A shard that was never planned is none of the store."""
        plan = self.read_plan() if numbers or not self.files.names("index") else []
        return ((number, plan[number]) for number in sorted(numbers) if number < len(plan))

    def _segments(self, states: Mapping[int, tuple[int, int]]) -> Iterator[Segment]:
        """The tables of the index, the newest first, with those of their shards that are unchanged."""
        free = dict(states)
        for name in sorted(filter(is_shard, self.files.states("index")), reverse=True):
            try:
                table = self._read_table(f"index/{name}", self._identity("index", name.split(".")[0]))
            except FileNotFoundError:  # Another process has just merged it into a newer one.
                continue
            shards = frozenset(number for number, state in table.states.items() if free.get(number) == state)
            for number in shards:
                del free[number]
            yield Segment(f"index/{name}", table, shards)

    def check_index(self) -> None:
        """Raise a VideomemError if a table of the index is damaged."""
        list(self._segments(self.shards.states()))

    def _read_table(self, name: str, identity: dict[str, Any]) -> ClipTable:
        path = self.files.named(name)
        remedy = f"delete {name.split('/')[1]}, and run {self.settings.made_by} to make it again"
        return ClipTable.read(self.files.local(name), path, identity, remedy)

    def update_index(self) -> Index:
        """Add the shards that are in no table of the index to it, if they are many; returns the entries of all clips.

        Tables are merged so that each has more than twice the shards of the next one: their number stays small.
        """
        self._merge_tables()
        return self.read_index()

    def _merge_tables(self) -> None:
        states = self.shards.states()
        segments = list(self._segments(states))
        loose = Index(segments, {}, {}, states).loose
        if len(loose) < MIN_SEGMENT_SHARDS:
            return
        self.files.make("index")
        tables = [self._table_of(number, planned, loose[number]) for number, planned in self._planned(loose)]
        merged = dict(loose)
        replaced: list[Segment] = []
        for segment in segments:
            if len(segment.shards) > 2 * len(merged):
                break
            merged |= {number: states[number] for number in segment.shards}
            replaced.append(segment)
        number = 1 + max((int(segment.name.split("/")[1].split(".")[0]) for segment in segments), default=-1)
        table = ClipTable.merged([*tables, *(segment.table for segment in replaced)], merged)
        self.files.write(f"index/{number:06d}.safetensors", table.content(self._identity("index", number)))
        for segment in replaced:
            self.files.remove(segment.name)

    def _table_of(self, number: int, planned: Sequence[str], state: tuple[int, int]) -> ClipTable:
        entries = self.shards.entries(number, planned)
        return ClipTable.of(entries, {key: number for key in planned if key not in entries}, {number: state})

    def record_catalog(self, digest: str, keys: Sequence[str | None], index: Index) -> None:
        """Record where the clips of a large catalog are, so that it is opened without their files.

        Args:
            digest: Hash of the catalog's table.
            keys: Key of each clip; None if it has none.
            index: The index of the store.
        """
        if len(keys) < MIN_RECORD_CLIPS or not digest or any(key and not index.is_settled(key) for key in keys):
            return
        self.files.make("catalogs")
        self.files.write(_record_name(digest), index.table_of(keys).content(self._record_identity(digest)))

    def recorded_catalog(self, catalog: Catalog) -> ClipTable | None:
        """The clips of a catalog, as `record_catalog` has written them; None if a table or a shard is not the same."""
        name = _record_name(catalog.digest)
        if not catalog.digest or len(catalog.clips) < MIN_RECORD_CLIPS or not self.files.is_file(name):
            return None
        table = self._read_table(name, self._record_identity(catalog.digest))
        states = self.shards.states()
        is_current = all(states.get(number) == state for number, state in table.states.items())
        return table if is_current and len(table.high_N) == len(catalog.clips) else None

    def _record_identity(self, digest: str) -> dict[str, Any]:
        return {"kind": "clips of a catalog", "store": self.settings.key, "catalog": digest}

    def read_plan(self) -> Plan:
        """Clip keys of each shard, in the order of shard numbers."""
        return Plan.merged([self._read_plan(name) for name in self._plans()])

    def _plans(self) -> list[str]:
        """The plan files, which are numbered without gaps: a missing one would give its shards to others."""
        plans = [name for name in self.files.names("plan") if _PLAN.fullmatch(name)]
        for number, name in enumerate(plans):
            if name != (expected := f"{number:06d}.json"):
                raise VideomemError(f"{self.files.named(f'plan/{expected}')}: is missing; {self._remedy}")
        return plans

    def _read_plan(self, name: str) -> Plan:
        path = self.files.named(f"plan/{name}")
        shards = self.files.read_checked(f"plan/{name}", self._identity("plan", name.split(".")[0]), self._remedy)
        try:
            return Plan.of_texts(shards)
        except (TypeError, ValueError) as error:
            raise VideomemError(f"{path}: damaged (not a list of shards); {self._remedy}") from error

    def _identity(self, kind: str, number: int | str) -> dict[str, Any]:
        return {"kind": kind, "store": self.settings.key, "number": int(number)}

    def extend_plan(self, clip_keys: Iterable[str], again: Collection[str] = ()) -> PlannedShards:
        """Plan new shards for clips that are in no planned shard. Returns the shards to write, by their numbers.

        A planned shard counts if it is complete or consists of these clips only. It does not count if the extraction of
        another catalog left it incomplete.

        Two processes may plan at the same time: only one can create the next plan file, and the other one repeats.

        Args:
            clip_keys: Keys of the clips.
            again: Keys of clips to plan again although they failed in a complete shard.
        """
        wanted, repeated = halves(clip_keys), halves(again)
        while True:
            plan = self.read_plan()
            is_complete_S = np.isin(np.arange(len(plan)), list(self.shards.states()))
            new, incomplete = plan.missing_from(wanted, repeated, is_complete_S)
            if not len(new):
                return PlannedShards(plan, incomplete.tolist())
            starts_S = np.append(np.arange(0, len(new), SHARD_CLIPS), len(new))
            number = len(self._plans())
            content = dump_checked(self._identity("plan", number), Plan(wanted[0][new], wanted[1][new], starts_S).texts)
            self.files.write(f"plan/{number:06d}.json", content.encode(), exclusive=True)

    def settled_clips(self) -> list[str]:
        """Keys of the clips in complete shards, in their order. Each is either in the index or failed."""
        complete = self.shards.states()
        return [key for number, shard in enumerate(self.read_plan()) if number in complete for key in shard]

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


def _record_name(digest: str) -> str:
    return f"catalogs/{digest[:32]}.safetensors"


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
