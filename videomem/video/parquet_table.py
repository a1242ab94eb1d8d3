"""Read and write tables in Parquet; the rows that are read take memory in proportion to the file.

A page that repeats one long text takes a few bytes for each row. Texts are therefore read as dictionaries, which hold
it once, and are measured before they become a text for each row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from videomem.errors import VideomemError, one_line, requires_extra
from videomem.utils.proportion import RATIO, SMALL, is_out_of_proportion
from videomem.video.catalog import COLUMNS, Clip

with requires_extra("parquet", "a table in Parquet"):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

# Other codecs of Parquet can inflate a page by more than a thousand, and a page is inflated before it can be measured.
_CODECS = {"SNAPPY", "UNCOMPRESSED"}
_MOST_ROWS = 2**16
_FEW_ROWS = 4  # All may repeat one text, which snappy stores in a twentieth of its bytes.
_BYTES_PER_CELL = 64  # of a table in memory, besides its text


def read_parquet(path: Path) -> list[dict[str, str]]:
    """The rows of a table as text; a missing value is empty.

    Raises:
        VideomemError: If the file is damaged, or its rows would take far more memory than it has bytes.
    """
    if foreign := sorted(_codecs_of(path) - _CODECS):
        raise VideomemError(
            f"{path}: compressed with {foreign[0]}; save it with snappy, without compression, or as CSV"
        )
    try:
        try:
            return list(_rows(path, _MOST_ROWS))
        except OSError:  # Also if pyarrow does not read an encoding as a dictionary, such as one of shared prefixes.
            return list(_rows(path, _FEW_ROWS))
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise VideomemError(f"{path}: not readable as Parquet: {one_line(error)}") from error


def _rows(path: Path, most_rows: int) -> Iterator[dict[str, str]]:
    num_bytes = 0
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
    texts = [field.name for field in schema if _is_text(field.type)]
    if not all(_is_text(kind) or pa.types.is_primitive(kind) or pa.types.is_null(kind) for kind in schema.types):
        most_rows = _FEW_ROWS  # One value of another type can be as long as the file.
    num_rows = max(min(most_rows, SMALL // (_BYTES_PER_CELL * max(len(schema), 1))), 1)
    with pq.ParquetFile(path, read_dictionary=texts if num_rows > _FEW_ROWS else None) as file:
        for batch in file.iter_batches(num_rows):
            num_bytes += sum(map(_text_bytes, batch.columns)) + _BYTES_PER_CELL * batch.num_columns * batch.num_rows
            if is_out_of_proportion(num_bytes, path.stat().st_size):
                raise VideomemError(f"{path}: its rows take more than {RATIO} times the bytes of the file")
            columns = [_words(column) for column in batch.columns]
            for values in zip(*columns, strict=True):
                yield dict(zip(schema.names, values, strict=True))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _text_bytes(column: pa.Array) -> int:
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)


def _words(column: pa.Array) -> list[str]:
    if not pa.types.is_dictionary(column.type):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    words: list[Any] = ["" if value is None else str(value) for value in column.dictionary.to_pylist()]
    return ["" if place is None else words[place] for place in column.indices.to_pylist()]


def write_parquet(clips: Sequence[Clip], names: Sequence[str], path: Path) -> None:
    """Write these columns of clips to a table."""
    schema = pa.schema([(name, pa.string() if name in COLUMNS[:4] else pa.float64()) for name in names])
    pq.write_table(pa.table({name: [getattr(clip, name) for clip in clips] for name in names}, schema=schema), path)


# The codecs are read before any page is inflated. pyarrow has them too, but ends the process where the metadata of a
# column are damaged. Metadata are a Thrift struct in the compact protocol:
# https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
_NAMES = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")
_ROW_GROUPS, _COLUMNS, _OF_COLUMN, _CODEC = 4, 1, 3, 4  # numbers of fields in parquet.thrift


def _codecs_of(path: Path) -> set[str]:
    """Names of the codecs of all columns.

    Raises:
        VideomemError: If the file has no metadata of Parquet, or they are damaged or encrypted.
    """
    try:
        with path.open("rb") as file:
            file.seek(-8, os.SEEK_END)
            num_bytes, magic = int.from_bytes(file.read(4), "little"), file.read()
            if magic != b"PAR1":
                raise ValueError
            file.seek(-8 - num_bytes, os.SEEK_END)
            footer = _value(BytesIO(file.read(num_bytes)), 12)
        columns = [column for group in footer[_ROW_GROUPS] for column in group[_COLUMNS]]
        return {_NAMES[column[_OF_COLUMN][_CODEC]] for column in columns}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise VideomemError(f"{path}: not readable as Parquet: its metadata are damaged or encrypted") from error


def _value(file: BytesIO, kind: int) -> Any:
    """The next value, of a type of the protocol. Structs are dictionaries by the numbers of their fields."""
    if kind in (1, 2):  # true and false
        return kind == 1
    if kind in (4, 5, 6):  # integers of 16, 32 and 64 bits
        return _integer(file)
    if kind in (3, 7, 8):  # a byte, a double, bytes
        return _bytes(file, {3: 1, 7: 8}.get(kind) or _varint(file))
    if kind in (9, 10):  # a list and a set
        head = _bytes(file, 1)[0]
        length = head >> 4 if head >> 4 < 15 else _varint(file)
        inside = head & 15
        return [_bytes(file, 1) if inside in (1, 2) else _value(file, inside) for _ in range(length)]
    if kind == 12:
        fields: dict[int, Any] = {}
        number = 0
        while (head := _bytes(file, 1)[0]) & 15:
            number = number + (head >> 4) if head >> 4 else _integer(file)
            fields[number] = _value(file, head & 15)
        return fields
    raise ValueError(f"type {kind}, which metadata of Parquet do not have")


def _bytes(file: BytesIO, length: int) -> bytes:
    if len(content := file.read(length)) != length:
        raise ValueError("the metadata end too early")
    return content


def _varint(file: BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _bytes(file, 1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("an integer of more than 64 bits")


def _integer(file: BytesIO) -> int:
    value = _varint(file)
    return (value >> 1) ^ -(value & 1)
