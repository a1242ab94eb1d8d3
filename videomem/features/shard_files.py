"""The shards of a feature store: safetensors files with the features of some clips and an index of them.

The features (R, D) of the clips are concatenated. The index in the header has the rows, checksum, frames and decoder of
each clip. A shard is written atomically, so that an existing one is complete.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from videomem.errors import VideomemError, one_line
from videomem.features.folder import StoreFolder
from videomem.features.index import Entry
from videomem.utils.checked_json import dump_checked, parse_checked

_MOST_OPEN = 512  # A process may have 1,024 open files.
_MAX_FRAMES = 2**31 - 1
_SHARD = re.compile(r"\d{6,9}\.safetensors")
_DTYPES = {"float16": "F16", "float32": "F32"}  # names in safetensors
# Types in the index of a shard.
_ROW = {"clip": str, "start_row": int, "stop_row": int, "checksum": int, "num_available": int, "fps": float,
        "decoder": str, "damage": str, "indices": list}  # fmt: skip
# Those of the fields that describe the decoded clip.
_DECODED = ("num_available", "fps", "decoder", "damage", "indices")


class Shards:
    """Reads shards through memory-mapped files, and writes them.

    Args:
        files: Folder of the store.
        settings: The settings of the store.
    """

    def __init__(self, files: StoreFolder, settings: Any) -> None:
        self._files, self._settings = files, settings
        self._open: dict[int, Any] = {}
        self._checked: dict[int, int] = {}  # By shard, a bit for the first row of each clip whose checksum is right.
        self._fields: tuple[int, dict[int, dict[str, Any]]] = (-1, {})  # of the clips of the shard read last

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def states(self) -> dict[int, tuple[int, int]]:
        """Size and modification time of the complete shards, by number."""
        states = self._files.states("shards")
        return dict(sorted((int(name.split(".")[0]), state) for name, state in states.items() if is_shard(name)))

    def fields(self, entry: Entry) -> dict[str, Any]:
        """The fields of a clip that `write` was given, from the header of its shard."""
        if self._fields[0] != entry.shard:
            rows = self._rows(entry.shard)
            self._fields = entry.shard, {row["start_row"]: {name: row[name] for name in _DECODED} for row in rows}
        return self._fields[1][entry.start_row]

    def entries(self, number: int, planned: Sequence[str]) -> dict[str, Entry]:
        """Entries of the clips of a complete shard, by clip key."""
        known = frozenset(planned)
        names = ("start_row", "stop_row", "checksum", "num_available")
        entries = {row["clip"]: Entry(number, *(row[name] for name in names)) for row in self._rows(number)}
        if foreign := [key for key in entries if key not in known]:
            raise self._damaged(number, f"its index has clip {one_line(foreign[0])}, which was not planned in it")
        return entries

    def _rows(self, number: int) -> list[dict[str, Any]]:
        """The rows of the index of a complete shard."""
        path = self._files.named(_name(number))
        try:
            with self._files.header(_name(number)) as local, safe_open(local, "pt") as shard:
                text = shard.metadata()["index"]
                index = parse_checked(text, path, self._identity(number), self._remedy)
                features = shard.get_slice("features")
                found = {"shape": features.get_shape(), "dtype": features.get_dtype()}
            if (stated := {name: index[name] for name in found}) != found:
                raise ValueError(f"its features are {found}, not {stated}")
            imported = self._settings.imported
            if len(found["shape"]) != 2 or (imported is not None and found["shape"][1] != imported.feature_dim):
                raise ValueError(f"its features have shape {found['shape']}")
            for row in index["clips"]:
                wrong = [name for name in _ROW.keys() | row.keys() if type(row.get(name)) is not _ROW.get(name)]
                if wrong or not all(type(index) is int for index in row["indices"]) or not math.isfinite(row["fps"]):
                    raise TypeError(f"its index has a clip with another {wrong[0] if wrong else 'fps or indices'}")
                if not 0 <= row["start_row"] < row["stop_row"] <= min(found["shape"][0], _MAX_FRAMES):
                    raise ValueError(f"its index has clip {one_line(row['clip'])}, which has no rows in it")
                if not re.fullmatch("[0-9a-f]{32}", row["clip"]):
                    raise ValueError(f"its index has clip {one_line(row['clip'])}, which is no key")
                if not (0 <= row["num_available"] <= _MAX_FRAMES and 0 <= row["checksum"] < 2**32):
                    raise ValueError(f"its index has clip {one_line(row['clip'])} of a number beyond its range")
        except (SafetensorError, OSError, TypeError, KeyError, ValueError, AttributeError) as error:
            raise self._damaged(number, one_line(error)) from error
        return list(index["clips"])

    @property
    def _remedy(self) -> str:
        return f"delete it and run {self._settings.made_by}"

    def _damaged(self, number: int, reason: str) -> VideomemError:
        return VideomemError(f"{self._files.named(_name(number))}: a damaged shard ({reason}); {self._remedy}")

    def _identity(self, number: int) -> dict[str, Any]:
        return {"kind": "shard", "store": self._settings.key, "number": number}

    def feature_dim(self) -> int | None:
        """D of the stored features, or None without any shard."""
        for number in self.states():
            with self._files.header(_name(number)) as local, safe_open(local, "pt") as shard:
                return int(shard.get_slice("features").get_shape()[1])
        return None

    def problems(self, number: int, planned: Sequence[str]) -> Iterator[str]:
        """Read a shard, and say what is wrong with it or with each of its clips."""
        self._checked.clear()
        try:
            entries = self.entries(number, planned)
        except VideomemError as error:
            yield str(error)
            return
        for key, entry in entries.items():
            try:
                self.read(entry)
            except VideomemError as error:
                yield f"clip {key}: {error}"
        self._open.pop(number, None)

    def write(self, number: int, clips: Sequence[tuple[str, dict[str, Any], Tensor]]) -> None:
        """Write a shard: the key, entry fields and features (T, D) of each clip that did not fail.

        Raises:
            VideomemError: If a feature is beyond the range of the data type.
        """
        dtype = getattr(torch, self._settings.dtype)
        rows, features, start = [], [torch.empty(0, self._settings.feature_dim, dtype=dtype)], 0
        for key, fields, values_TD in clips:
            stored_TD = values_TD.to(dtype)
            if not torch.isfinite(stored_TD).all():
                problem = f"shard {number} has features beyond the range of {self._settings.dtype}"
                raise VideomemError(f"{problem}; set data.features.dtype to float32")
            place = {"start_row": start, "stop_row": start + len(stored_TD), "checksum": _checksum(stored_TD)}
            rows.append({"clip": key, **place, **fields})
            start += len(stored_TD)
            features.append(stored_TD)
        stored = torch.cat(features)
        index = {"shape": list(stored.shape), "dtype": _DTYPES[self._settings.dtype], "clips": rows}
        # The index is in the same file, so that it always belongs to its rows. It is a single metadata entry, since the
        # order of several entries varies.
        text = dump_checked(self._identity(number), index)
        self._files.write(_name(number), save({"features": stored}, metadata={"index": text}))

    def read(self, entry: Entry) -> Tensor:
        """Features (T, D) of a clip, in their stored data type.

        Raises:
            VideomemError: If they cannot be read, or their checksum is not that of the index.
        """
        path = self._files.named(name := _name(entry.shard))
        try:
            if entry.shard not in self._open:
                if len(self._open) == _MOST_OPEN:
                    del self._open[next(iter(self._open))]  # The one that was opened first.
                local = self._files.local(name)
                self._open[entry.shard] = safe_open(local, "pt").__enter__().get_slice("features")
            rows_TD: Tensor = self._open[entry.shard][entry.start_row : entry.stop_row]
        except (SafetensorError, OSError) as error:
            raise VideomemError(f"{path}: not readable ({one_line(error)}); run {self._settings.made_by}") from error
        checked = self._checked.get(entry.shard, 0)
        if not checked >> entry.start_row & 1:
            if _checksum(rows_TD) != entry.checksum:
                raise VideomemError(
                    f"{path}: damaged (the checksum of rows {entry.start_row} to {entry.stop_row - 1} differs); delete "
                    f"it and run {self._settings.made_by}"
                )
            if not torch.isfinite(rows_TD).all():
                raise VideomemError(
                    f"{path}: has values that are not finite; delete it and run {self._settings.made_by}"
                )
            self._checked[entry.shard] = checked | 1 << entry.start_row
        return rows_TD

    def close(self) -> None:
        """Close the files that `read` opened. Their pages in memory count as memory of the process."""
        self._open.clear()


def is_shard(name: str) -> bool:
    """Whether a file name is that of a shard, or of a table of an index."""
    return _SHARD.fullmatch(name) is not None


def _name(number: int) -> str:
    return f"shards/{number:06d}.safetensors"


def _checksum(rows_TD: Tensor) -> int:
    # CRC-32 finds what storage does to a file; it is twice as fast as the hashes of hashlib.
    return crc32(rows_TD.contiguous().numpy().data)
