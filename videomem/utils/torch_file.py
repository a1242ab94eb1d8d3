"""Read files of `torch.save` that may come from an untrusted source.

`torch.load(weights_only=True)` runs no code of a file, but a small file can make it allocate any amount of memory:
compressed records, `bytearray(10**10)`, tensors larger than their storage. Here a file must be what `torch.save` writes
for dictionaries, lists, numbers, text and dense tensors, and nothing read is larger than the file.
"""

from __future__ import annotations

import math
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
_MOST_AXES = 64  # of a tensor, in torch
_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip


_DICTIONARY, _TENSOR, _PARAMETER = (
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
)  # fmt: skip
_NAMES = {_DICTIONARY, _TENSOR, _PARAMETER, *(f"torch {name}" for name in _STORAGES)}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Name(NamedTuple):
    """A class or function that the file names."""

    path: str


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    num_values: int


class _View(NamedTuple):
    """A tensor of the file, before it is read."""

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
    except Exception as error:  # Untrusted instructions raise errors of any type.
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
    return _Tensors(archive, f"{folder}data/").build(_Structure().of(archive.read(main)))


class _Structure:
    """Executes the pickle instructions that `torch.save` writes; gives plain data with a `_View` for each tensor.

    `pickle.Unpickler` would hash keys of nested tuples, copy dictionaries, and set attributes, each in a few bytes of
    the file and in any time. Here an instruction takes as long as the values that it removes.
    """

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def of(self, content: bytes) -> Any:
        for instruction, argument, _ in pickletools.genops(content):
            self._execute(instruction.name, argument)
        return self._stack.pop()

    def _execute(self, name: str, argument: Any) -> None:
        stack = self._stack
        match name:
            case "MARK":
                self._marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "EMPTY_DICT" | "EMPTY_LIST":
                stack.append({} if name == "EMPTY_DICT" else [])
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else self._pop_to_mark()
                list.extend(stack[-1], items)
            case "SETITEM" | "SETITEMS":
                items = [stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self._pop_to_mark()
                dict.update(stack[-1], zip(map(_key, items[::2]), items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_name(argument))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_called(stack.pop(), arguments))
            case "BUILD":  # Attributes, such as `_metadata` of a state_dict.
                stack.pop()
            case "PROTO" | "STOP":
                pass
            case _ if name in _TUPLES:
                stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case _ if name in _VALUES:
                stack.append(_number_or_text(argument))
            case _:
                raise VideomemError(f"it has more than plain data and tensors (pickle instruction {name})")

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items


def _key(key: Any) -> Any:
    if type(key) not in (str, int):
        raise VideomemError(f"it has a key of type {type(key).__name__}; keys must be text or integers")
    return key


def _number_or_text(value: Any) -> Any:
    if type(value) is int and abs(value) >= 2**63:
        raise VideomemError("it has a number of more than 64 bits")
    return value


def _name(path: str) -> _Name:
    if path not in _NAMES:
        shown = one_line(path.replace(" ", ".", 1))[:80]
        raise VideomemError(f"it names {shown}, neither plain data nor a tensor")
    return _Name(path)


def _storage(pid: Any) -> _Storage:
    kind, name, key, _, num_values = pid
    if kind != "storage" or type(name) is not _Name or type(key) is not str or type(num_values) is not int:
        raise VideomemError("it has a reference that is not the storage of a tensor")
    return _Storage(key, _STORAGES[name.path.removeprefix("torch ")], num_values)


def _called(function: Any, arguments: Any) -> Any:
    """The result of a function of the file."""
    match function:
        case _Name(path=str(path)) if path == _DICTIONARY and arguments == ():
            return {}
        case _Name(path=str(path)) if path == _TENSOR and len(arguments) in (6, 7):
            storage, offset, shape, stride = arguments[:4]
            if type(storage) is _Storage and type(offset) is int and _are_sizes(shape) and _are_sizes(stride):
                return _View(storage, offset, shape, stride)
        case _Name(path=str(path)) if path == _PARAMETER and len(arguments) == 3 and type(arguments[0]) is _View:
            return arguments[0]
    raise VideomemError("it has a call that is neither of plain data nor of a tensor")


def _are_sizes(value: Any) -> bool:
    return type(value) is tuple and len(value) <= _MOST_AXES and all(type(size) is int for size in value)


class _Tensors:
    """Reads the tensors of a file into a structure."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        self._archive, self._folder, self._num_items = archive, folder, 0
        self._storages: dict[_Storage, Tensor] = {}
        self._tensors: dict[_View, Tensor] = {}  # A view that is used many times is one tensor.

    def build(self, value: Any, depth: int = 0) -> Any:
        """The value with a tensor for each `_View`. Its depth and size are limited, so cyclic data are refused."""
        self._num_items += 1
        if depth > MAX_DEPTH or self._num_items > MAX_ITEMS:
            raise VideomemError(f"it is more than {MAX_DEPTH} levels deep, or has more than {MAX_ITEMS:,} values")
        if type(value) is _View:
            if value not in self._tensors:
                self._tensors[value] = self._tensor(value)
            return self._tensors[value]
        if type(value) is dict:
            return {key: self.build(item, depth + 1) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.build(item, depth + 1) for item in value)
        if value is None or type(value) in (bool, int, float, str):
            return value
        raise VideomemError(f"it has a {type(value).__name__}, neither plain data nor a tensor")

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
