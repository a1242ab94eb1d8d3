"""The codecs of a Parquet file, read before any page is inflated.

pyarrow has them too, but ends the process where the metadata of a column are damaged. Metadata are a Thrift struct in
the compact protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

from videomem.errors import VideomemError

_NAMES = ("UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW")
_ROW_GROUPS, _COLUMNS, _OF_COLUMN, _CODEC = 4, 1, 3, 4  # numbers of fields in parquet.thrift


def codecs_of(path: Path) -> set[str]:
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
