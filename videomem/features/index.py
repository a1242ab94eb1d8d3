"""The index of a store: where the features of each clip are, in memory-mapped tables.

    <root>/<key>/index/000000.safetensors       the clips of a range of shards, sorted by key
    <root>/<key>/catalogs/<hash>.safetensors    the clips of a catalog, in its order; <hash> is that of its table

Both are derived from the headers of shards, so that a large store is opened without reading every header and without an
object for each clip. A table names the size and modification time of its shards, and counts only for those that are
unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from videomem.errors import VideomemError, one_line
from videomem.features.shard_plan import halves
from videomem.utils.checked_json import dump_checked, parse_checked

_KEY = re.compile("[0-9a-fA-F]{32}")
# Type and shape of a row of each part of a table.
_PARTS: dict[str, tuple[type, tuple[int, ...]]] = {
    "high": (np.uint64, ()), "low": (np.uint64, ()), "places": (np.int32, (5,)), "shards": (np.int64, (3,))
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """Location of a clip's features, and the number of frames of the clip."""

    shard: int
    start_row: int
    stop_row: int
    checksum: int
    num_available: int


class Entries(Sequence[Entry]):
    """Entries of clips, made when they are asked for.

    Shape:
        places_N5 int32: shard, first row, row after the last, checksum, number of frames; 0 rows: the clip failed
    """

    def __init__(self, places_N5: NDArray[np.int32]) -> None:
        self.places_N5 = places_N5

    @classmethod
    def of(cls, entries: Collection[Entry]) -> Entries:
        return cls(_places([(e.shard, e.start_row, e.stop_row, e.checksum, e.num_available) for e in entries]))

    def __len__(self) -> int:
        return len(self.places_N5)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return Entries(self.places_N5[row])
        shard, start, stop, checksum, num_available = self.places_N5[row].tolist()
        return Entry(shard, start, stop, checksum & 0xFFFFFFFF, num_available)

    @property
    def shards_N(self) -> NDArray[np.int32]:
        return self.places_N5[:, 0]

    @property
    def lengths_N(self) -> NDArray[np.int32]:
        return self.places_N5[:, 2] - self.places_N5[:, 1]


def _places(rows: list[tuple[int, ...]]) -> NDArray[np.int32]:
    return np.array(rows, np.int64).reshape(-1, 5).astype(np.int32)  # Wraps checksums, which have 32 bits.


# Size and modification time, by the number of the shard.
ShardStates = Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class ClipTable:
    """Keys and places of clips, and the shards that they are in.

    Shape:
        high_N, low_N uint64: the halves of a key; places_N5: see `Entries`; shards_S3 int64: number, size, time
    """

    high_N: NDArray[np.uint64]
    low_N: NDArray[np.uint64]
    places_N5: NDArray[np.int32]
    shards_S3: NDArray[np.int64]

    @classmethod
    def of(cls, entries: Mapping[str, Entry], failed: Mapping[str, int], states: ShardStates) -> ClipTable:
        """The table of clips by key; `failed` has the shards in which others were planned."""
        rows = Entries.of(entries.values()).places_N5
        none = _places([(shard, 0, 0, 0, 0) for shard in failed.values()])
        high_N, low_N = halves([*entries, *failed])
        return cls(high_N, low_N, np.concatenate([rows, none]), states_array(states))

    @classmethod
    def merged(cls, tables: Sequence[ClipTable], states: ShardStates) -> ClipTable:
        """The clips of these shards in all tables, sorted by key.

        A clip that failed in one shard may be in another one.
        """
        numbers = np.fromiter(states, np.int64, len(states))
        kept = [np.isin(table.places_N5[:, 0], numbers) for table in tables]
        high_N, low_N, places_N5 = (
            np.concatenate([getattr(table, name)[keep] for table, keep in zip(tables, kept, strict=True)])
            for name in ("high_N", "low_N", "places_N5")
        )
        order_N = np.lexsort((places_N5[:, 0], places_N5[:, 2] > 0, low_N, high_N))
        high_N, low_N, places_N5 = high_N[order_N], low_N[order_N], places_N5[order_N]
        is_last_N = np.ones(len(high_N), bool)
        is_last_N[:-1] = (high_N[1:] != high_N[:-1]) | (low_N[1:] != low_N[:-1])
        return cls(high_N[is_last_N], low_N[is_last_N], places_N5[is_last_N], states_array(states))

    def key(self, row: int) -> str:
        return f"{int(self.high_N[row]):016x}{int(self.low_N[row]):016x}"

    @property
    def states(self) -> dict[int, tuple[int, int]]:
        return {number: (size, time) for number, size, time in self.shards_S3.tolist()}

    def find(self, high: int, low: int) -> int | None:
        """The row of a key, by binary search; None if it is not in the table."""
        row = int(np.searchsorted(self.high_N, np.uint64(high)))
        while row < len(self.high_N) and self.high_N[row] == high:
            if self.low_N[row] == low:
                return row
            row += 1
        return None

    def content(self, identity: dict[str, Any]) -> bytes:
        """The content of its file."""
        parts = (self.high_N, self.low_N, self.places_N5, self.shards_S3)
        arrays: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(values) for name, values in zip(_PARTS, parts, strict=True)
        }
        text = dump_checked(identity, {name: crc32(values.data) for name, values in arrays.items()})
        return save(arrays, metadata={"index": text})

    @classmethod
    def read(cls, local: Path, path: Any, identity: dict[str, Any], remedy: str) -> ClipTable:
        """A table in memory-mapped arrays.

        Args:
            local: Its file on this machine.
            path: Its path or URL, for messages.
            identity: What it must be the table of.
            remedy: What to do if it is damaged.
        Raises:
            VideomemError: If it is damaged, or is that of another store.
            FileNotFoundError: If it is absent.
        """
        try:
            with safe_open(local, "pt") as file:  # For NumPy, safetensors copies arrays.
                checksums = parse_checked(file.metadata()["index"], path, identity, remedy)
                arrays = {name: file.get_tensor(name).numpy() for name in _PARTS}
            num_rows = len(arrays["high"])
            for name, values in arrays.items():
                dtype, row = _PARTS[name]
                if values.dtype != dtype or values.shape != (len(values) if name == "shards" else num_rows, *row):
                    raise ValueError(f"its {name} are {values.dtype} of shape {values.shape}")
                if crc32(values.data) != checksums[name]:
                    raise ValueError(f"the checksum of its {name} differs")
        except FileNotFoundError:
            raise
        except (SafetensorError, OSError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise VideomemError(f"{path}: a damaged index ({one_line(error)}); {remedy}") from error
        return cls(*arrays.values())


def states_array(states: ShardStates) -> NDArray[np.int64]:
    rows = [(number, *state) for number, state in sorted(states.items())]
    return np.array(rows, np.int64).reshape(-1, 3)


@dataclass(frozen=True)
class Segment:
    """A sorted table of a store's index, and those of its shards that count."""

    name: str
    table: ClipTable
    shards: frozenset[int]


@dataclass(frozen=True, eq=False)
class Index(Mapping[str, Entry]):
    """Entries of the clips in complete shards, by key.

    Attributes:
        segments: Tables on disk, the newest first.
        entries: Entries of the shards in no segment.
        failed: Shard of each clip that failed in one of those.
        states: All complete shards.
    """

    segments: Sequence[Segment]
    entries: Mapping[str, Entry]
    failed: Mapping[str, int]
    states: ShardStates

    @property
    def loose(self) -> dict[int, tuple[int, int]]:
        """The shards in no segment."""
        covered = frozenset[int]().union(*(segment.shards for segment in self.segments))
        return {number: state for number, state in self.states.items() if number not in covered}

    def __getitem__(self, key: str) -> Entry:
        if key in self.entries:
            return self.entries[key]
        for entry in self._found(key):
            if entry.stop_row:
                return entry
        raise KeyError(key)

    def table_of(self, keys: Iterable[str | None]) -> ClipTable:
        """The table of clips in this order; a clip without a key or features has 0 rows."""
        names = list(keys)
        none = Entry(-1, 0, 0, 0, 0)
        entries = [self.get(key, none) if key else none for key in names]
        places_N5 = Entries.of(entries).places_N5
        numbers = np.unique(places_N5[places_N5[:, 2] > 0, 0]).tolist()
        states = {number: self.states[number] for number in numbers}
        used = (key if key and entry is not none else "0" * 32 for key, entry in zip(names, entries, strict=True))
        return ClipTable(*halves(used), places_N5, states_array(states))

    def is_settled(self, key: str) -> bool:
        """Whether the clip has features or failed."""
        return key in self.entries or key in self.failed or any(True for _ in self._found(key))

    def _found(self, key: str) -> Iterator[Entry]:
        if not self.segments or not _KEY.fullmatch(key):
            return
        high, low = int(key[:16], 16), int(key[16:], 16)
        for segment in self.segments:
            row = segment.table.find(high, low)
            if row is not None and (entry := Entries(segment.table.places_N5)[row]).shard in segment.shards:
                yield entry

    def __iter__(self) -> Iterator[str]:
        seen = set()
        for key in self._keys():
            if key not in seen and key in self:
                seen.add(key)
                yield key

    def _keys(self) -> Iterator[str]:
        yield from self.entries
        for segment in self.segments:
            for high, low in zip(segment.table.high_N.tolist(), segment.table.low_N.tolist(), strict=True):
                yield f"{high:016x}{low:016x}"

    def __len__(self) -> int:
        return sum(1 for _ in self)
