"""Catalogs as memory-mapped Arrow tables: the clips of a large data set without an object for each.

The file is Arrow IPC without compression, with the columns of a catalog: `path` string; `label`, `split`, `group`
strings with a dictionary; `start_s`, `end_s`, `fps` float64, where null is none.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomem.errors import VideomemError, one_line, requires_extra
from videomem.video.catalog import Clip, MappedClips
from videomem.video.files import is_url

with requires_extra("parquet", "a catalog as an Arrow table"):
    import pyarrow as pa
    import pyarrow.compute as pc

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [("path", pa.string()), *((name, _TEXT) for name in ("label", "split", "group")),
     *((name, pa.float64()) for name in ("start_s", "end_s", "fps"))]
)  # fmt: skip
_BATCH_ROWS = 2**20
_COMPRESSION = 3  # Number of the field of RecordBatch in Message.fbs.


class ArrowClips(MappedClips):
    """The clips of an Arrow table, made when they are asked for, with absolute paths."""

    def __init__(self, table: pa.Table, folder: Path) -> None:
        self._table = table if all(map(_has_one_dictionary, table.columns)) else table.unify_dictionaries()
        self._folder = folder

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return tuple(self[number] for number in range(*row.indices(len(self))))
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        values = [column[row].as_py() for column in self._table.columns]
        return self._clip(*values)

    def __iter__(self) -> Iterator[Clip]:
        for batch in self._table.to_batches(max_chunksize=4096):
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield self._clip(*values)

    def _clip(self, path: str, label: str, split: str, group: str, *times: float | None) -> Clip:
        start_s, end_s, fps = times
        place = path if is_url(path) else os.path.normpath(self._folder / path)
        return Clip(place, label, split, group, start_s or None, end_s, fps)

    def numbered(self, name: str) -> tuple[NDArray[np.int32], pa.Array]:
        """The values of `label`, `split` or `group`, and for each clip the index of its value."""
        chunks = self._table[name].chunks
        if not chunks:
            return np.empty(0, np.int32), pa.array([], pa.string())
        return np.concatenate([chunk.indices.to_numpy() for chunk in chunks]), chunks[0].dictionary

    def check(self, name: str) -> None:
        """Raise a `VideomemError` at a row that no catalog can have."""
        first = 0
        for batch in self._table.to_batches(max_chunksize=_BATCH_ROWS):
            for is_wrong, problem in chain(_wrong_paths(batch["path"]), _wrong_times(batch)):
                rows = np.flatnonzero(is_wrong)
                if len(rows):
                    raise VideomemError(f"{name}: row {first + int(rows[0]) + 1}: {problem}; fix the table")
            first += batch.num_rows

    def urls(self) -> list[Clip]:
        """The clips whose path is a URL."""
        found: list[Clip] = []
        first = 0
        for chunk in self._table["path"].chunks:
            if _has_byte(chunk, b":"):
                rows = np.flatnonzero(pc.match_substring(chunk, "://"))[: 1000 - len(found)]
                found += [clip for row in rows if is_url((clip := self[first + int(row)]).path)]
            first += len(chunk)
        return found

    def may_repeat(self) -> bool:
        """Whether two clips have the same path. Not looked for in more than a million rows, where it takes long."""
        return len(self) <= _BATCH_ROWS and pc.count_distinct(self._table["path"]).as_py() < len(self)


def _has_one_dictionary(column: pa.ChunkedArray) -> bool:
    """Whether all chunks have the dictionary in the same memory; comparing or uniting its texts takes long."""
    if not pa.types.is_dictionary(column.type):
        return True
    dictionaries = (chunk.dictionary for chunk in column.chunks)
    return len({tuple(buffer and buffer.address for buffer in one.buffers()) for one in dictionaries}) <= 1


def _wrong_paths(paths: pa.StringArray) -> Iterator[tuple[Any, str]]:
    """Whether each path is wrong, and what is wrong with it."""
    yield np.diff(_offsets(paths)) == 0, "the path is empty"
    if _has_byte(paths, b"\0"):
        yield pc.match_substring(paths, "\0"), "the path has a zero byte, which no file name has"


def _wrong_times(batch: pa.RecordBatch) -> Iterator[tuple[Any, str]]:
    """The same for the times and the frame rate."""
    if all(batch[name].null_count == batch.num_rows for name in SCHEMA.names[4:]):
        return
    start_s, end_s, fps = (
        batch[name].fill_null(fill).to_numpy() for name, fill in (("start_s", 0.0), ("end_s", 1e300), ("fps", 1))
    )
    numbers = np.isfinite(start_s) & np.isfinite(end_s) & np.isfinite(fps) & (start_s >= 0)
    yield ~numbers, "a time or fps is not finite or negative"
    yield ~(start_s < end_s), "start_s is not before end_s"
    yield ~(fps > 0), "fps must be above 0"


def _offsets(texts: pa.StringArray) -> NDArray[np.int32]:
    """Places (N + 1,) of the texts among their bytes."""
    return np.frombuffer(texts.buffers()[1] or b"\0\0\0\0", np.int32)[texts.offset : texts.offset + len(texts) + 1]


def _has_byte(texts: pa.StringArray, byte: bytes) -> bool:
    """Whether a byte is in any of the texts: one look at all bytes is many times as fast as one at each text."""
    start, stop = _offsets(texts)[[0, -1]]
    content = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[start:stop]
    return any((content[place : place + 2**20] == ord(byte)).any() for place in range(0, len(content), 2**20))


def read_arrow(path: Path) -> ArrowClips:
    """Memory-map and check a table.

    Raises:
        VideomemError: If it is damaged or compressed, or has other columns than a catalog.
    """
    try:
        source = pa.memory_map(str(path))
        if source.read(8) != b"ARROW1\0\0":
            raise VideomemError(f"{path}: not an Arrow table; `videomem catalog build` makes catalogs")
        for message in pa.ipc.MessageReader.open_stream(source):
            if _is_compressed(message.metadata.to_pybytes()):  # It could inflate to any size.
                raise VideomemError(f"{path}: a compressed Arrow table; write it without compression")
        source.seek(8)
        reader = pa.ipc.open_stream(source)
        if reader.schema != SCHEMA:
            raise VideomemError(
                f"{path}: its columns are not those of a catalog; make it with `videomem catalog build`"
            )
        table = reader.read_all()
        table.validate(full=True)
        for name in SCHEMA.names[:4]:
            column = table[name]
            empty = column.chunks[0].dictionary if column.num_chunks and name != "path" else column
            if name == "group" and pc.any(pc.equal(pc.binary_length(empty), 0)).as_py():
                raise VideomemError(f"{path}: a group is empty; fix the table")
            if column.null_count or any(chunk.dictionary.null_count for chunk in column.chunks if name != "path"):
                raise VideomemError(f"{path}: a {name} is missing; fix the table")
    except (OSError, ValueError, MemoryError, struct.error, pa.ArrowException) as error:
        raise VideomemError(f"{path}: not readable as an Arrow table: {one_line(error)}") from error
    clips = ArrowClips(table, path.parent)
    clips.check(path.name)
    return clips


def write_arrow(clips: Sequence[Clip], path: Path) -> None:
    """Write clips to a table."""
    columns = {name: [getattr(clip, name) for clip in clips] for name in SCHEMA.names}
    texts = {name: pa.array(columns[name]).dictionary_encode() for name in ("label", "split", "group")}
    table = pa.table(columns | texts, schema=SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_table(table, max_chunksize=_BATCH_ROWS)


def _is_compressed(message: bytes) -> bool:
    """Whether a message of Arrow IPC, a flatbuffer, is a batch with compressed buffers."""
    root = _reference(message, 0)
    kind, header = _field(message, root, 1), _field(message, root, 2)
    if kind is None or header is None or message[kind] not in (2, 3):  # a dictionary or a batch
        return False
    batch = _reference(message, header)
    if message[kind] == 2:
        data = _field(message, batch, 1)
        if data is None:
            return False
        batch = _reference(message, data)
    return _field(message, batch, _COMPRESSION) is not None


def _reference(message: bytes, place: int) -> int:
    return place + int(struct.unpack_from("<I", message, place)[0])


def _field(message: bytes, table: int, number: int) -> int | None:
    """Place of a field of a table; None if it is absent."""
    fields = table - struct.unpack_from("<i", message, table)[0]
    num_bytes = struct.unpack_from("<H", message, fields)[0]
    offset = struct.unpack_from("<H", message, fields + 4 + 2 * number)[0] if 4 + 2 * number < num_bytes else 0
    return table + int(offset) if offset else None
