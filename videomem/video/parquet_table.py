"""Rows of a Parquet file, in memory in proportion to the file.

A page that repeats one long text takes a few bytes for each row. Texts are therefore read as dictionaries, which hold
it once, and are measured before they become a text for each row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from videomem.errors import VideomemError, one_line, requires_extra
from videomem.utils.proportion import RATIO, SMALL, is_out_of_proportion
from videomem.video.parquet_footer import codecs_of

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
    if foreign := sorted(codecs_of(path) - _CODECS):
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
