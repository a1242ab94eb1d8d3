"""Read files of `torch.save` that may come from an untrusted source.

`torch.load(weights_only=True)` runs no code of a file, but a small file can make it allocate any amount of memory:
compressed records, `bytearray(10**10)`, tensors larger than their storage. Here a file must be what `torch.save` writes
for dictionaries, lists, numbers, text and dense tensors, and nothing read is larger than the file.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videomem.errors import VideomemError, one_line
from videomem.utils.plain_data import MAX_DEPTH, MAX_ITEMS

MAX_PICKLE_BYTES = 4 * 2**20  # Of everything but the tensors' values.
MAX_TUPLES = (
    20_000  # About four per tensor. Without a limit, tuples could be nested until their hash overflows the stack.
)
# The pickle instructions that `torch.save` writes.
_INSTRUCTIONS = {
    "PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE",
    "SETITEM", "SETITEMS", "APPEND", "APPENDS", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE",
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
}  # fmt: skip
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


class _Dictionary(dict[Any, Any]):
    """An OrderedDict of the file. `state_dict()` has an attribute `_metadata`, which is pickled too."""


class _Type(NamedTuple):
    dtype: torch.dtype


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    num_values: int


class _View(NamedTuple):
    """A tensor before it is checked. Unlike a tensor it has no `__setstate__` that the file could call."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_file(path: Path) -> Any:
    """The content of a file of `torch.save`, with tensors on the CPU. No code is run and no class is imported.

    Raises:
        VideomemError: If the file is damaged, compressed, in torch's format before 1.6, or has anything but plain data
            and dense tensors.
    """
    if not zipfile.is_zipfile(path):
        raise VideomemError("not a file of torch.save, or in its format before torch 1.6; save it again")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path.stat().st_size)
    except VideomemError:
        raise
    except Exception as error:  # Untrusted instructions make pickle raise errors of any type.
        raise VideomemError(f"not a file of torch.save ({type(error).__name__}: {one_line(error)[:80]})") from error


def _read(archive: zipfile.ZipFile, num_bytes: int) -> Any:
    records = {record.filename: record for record in archive.infolist()}
    (main,) = (name for name in records if name.count("/") == 1 and name.endswith("/data.pkl"))
    if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
        raise VideomemError("it is compressed, which torch.save never does")
    if (total := sum(record.file_size for record in archive.infolist())) > num_bytes:
        raise VideomemError(f"it declares {total} bytes, but has {num_bytes}")
    if (size := records[main].file_size) > MAX_PICKLE_BYTES:
        raise VideomemError(f"its structure has {size} bytes, above the limit of {MAX_PICKLE_BYTES}")
    folder = main.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in records and archive.read(order).decode() != sys.byteorder:
        raise VideomemError("it was written on a machine with another byte order")
    structure = archive.read(main)
    _check_instructions(structure)
    return _Tensors(archive, f"{folder}data/").build(_Structure(io.BytesIO(structure)).load())


def _check_instructions(structure: bytes) -> None:
    """Raise if a pickle has instructions that `torch.save` does not write, or that need much memory."""
    num_tuples = 0
    for number, (instruction, argument, _) in enumerate(pickletools.genops(structure)):
        num_tuples += instruction.name.startswith("TUPLE")
        index = argument if instruction.name == "LONG_BINPUT" and isinstance(argument, int) else 0
        if instruction.name not in _INSTRUCTIONS or num_tuples > MAX_TUPLES or index > number:
            raise VideomemError(f"it has more than plain data and tensors (pickle instruction {instruction.name})")


class _Structure(pickle.Unpickler):
    """Reads plain data with a `_View` for each tensor; any other name in the file is an error."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Type(_STORAGES[name])
        # Functions made for this call: a file can set attributes of what it names, and of a class they would last.
        known = {
            ("collections", "OrderedDict"): lambda *arguments: _Dictionary(*arguments),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: _View(*arguments[:4]),
            ("torch._utils", "_rebuild_parameter"): lambda *arguments: arguments[0],
        }
        if (module, name) not in known:
            raise VideomemError(f"it names {one_line(f'{module}.{name}')[:80]}, neither plain data nor a tensor")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, (dtype,), key, _, num_values = pid
        if kind != "storage":
            raise VideomemError(f"it has a {one_line(kind)[:80]}, which is not a tensor")
        return _Storage(key, dtype, num_values)


class _Tensors:
    """Reads the tensors of a file into a structure."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive, self._folder, self._num_items = archive, folder, 0
        self._storages: dict[_Storage, Tensor] = {}

    def build(self, value: Any, depth: int = 0) -> Any:
        """The value with a tensor for each `_View`. Its depth and size are limited, so cyclic data are refused."""
        self._num_items += 1
        if depth > MAX_DEPTH or self._num_items > MAX_ITEMS:
            raise VideomemError(f"it is more than {MAX_DEPTH} levels deep, or has more than {MAX_ITEMS:,} values")
        if type(value) is _View:
            return self._tensor(value)
        if type(value) in (dict, _Dictionary):
            return {self._key(key): self.build(item, depth + 1) for key, item in dict.items(value)}
        if type(value) in (list, tuple):
            return type(value)(self.build(item, depth + 1) for item in value)
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise VideomemError(f"it has a {type(value).__name__}, neither plain data nor a tensor")

    @staticmethod
    def _key(key: Any) -> Any:
        if type(key) not in (str, int):
            raise VideomemError(f"it has a key of type {type(key).__name__}; keys must be text or integers")
        return key

    def _tensor(self, view: _View) -> Tensor:
        """A view of a storage that lies within it and has no more values."""
        storage, (offset, shape, stride) = self._storage(view.storage), view[1:]
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if min((offset, *shape, *stride)) < 0 or math.prod(shape) > len(storage) or last >= max(len(storage), 1):
            raise VideomemError("a tensor is larger than its values")
        return storage.as_strided(shape, stride, offset)

    def _storage(self, storage: _Storage) -> Tensor:
        record = self._archive.getinfo(f"{self._folder}{storage.key}")
        if storage.num_values * storage.dtype.itemsize != record.file_size:
            raise VideomemError("a tensor does not have as many values as it declares")
        if storage not in self._storages:
            values = torch.empty(storage.num_values, dtype=storage.dtype)
            with self._archive.open(record) as file:
                if file.readinto(values.view(torch.uint8).numpy().data) != record.file_size:  # type: ignore[attr-defined]
                    raise VideomemError("the values of a tensor are truncated")
            self._storages[storage] = values
        return self._storages[storage]


def misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The first tensor that is missing, unexpected, or of another shape or kind, in words; None if all fit."""
    for name in sorted(expected.keys() | found.keys(), key=str):
        ours, theirs = (
            None if one is None else f"{'floating-point' if one.is_floating_point() else 'integer'} {tuple(one.shape)}"
            for one in (expected.get(name), found.get(name))
        )
        if ours != theirs:
            return f"{one_line(name)[:80]} is {theirs or 'absent'}, but {ours or 'absent'} is expected"
    return None
