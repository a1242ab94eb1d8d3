"""Read feature arrays written by other tools, one (T, D) array per video: .npy, HDF5 or safetensors.

Untrusted files are safe to read: nothing is unpickled, no path is built from a name in the catalog, and links and
external storage of HDF5 are not followed.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import normalize
from zlib import decompressobj

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from videomem.errors import VideomemError, one_line, requires_extra
from videomem.utils.proportion import is_out_of_proportion
from videomem.video.files import files_below, split_template

SUFFIXES = (".npy", ".h5", ".hdf5", ".safetensors")
_MOST_BYTES = 4 * 2**30
FloatArray = NDArray[np.floating[Any]]
Readers = dict[str, Callable[[], FloatArray]]


class ArrayProblem(VideomemError):
    """A clip has no usable array. The message is the reason given in the failure table."""


class ArraySource:
    """Arrays by name; created by `open_source`.

    Args:
        path: The file or folder, for error messages.
        readers: A function for each name that reads the array.
    """

    def __init__(self, path: Path, readers: Readers) -> None:
        self.path = path
        self._readers: dict[str, list[Callable[[], FloatArray]]] = defaultdict(list)
        for name, read in readers.items():
            self._readers[_plain(name)].append(read)

    def find(self, written: str, relative: str) -> tuple[str, int]:
        """Find the array of a video: its name, and how it matches: 0 by path, 1 by path without suffix, 2 by file name.

        Args:
            written: The path as written in the catalog.
            relative: The path relative to the catalog's folder.
        Raises:
            ArrayProblem: If there is no such array.
        """
        paths = [_plain(split_template(path)[0].replace(os.sep, "/")) for path in (written, relative)]
        without = [os.path.splitext(path)[0] for path in paths]
        last = [os.path.basename(paths[1]), os.path.basename(without[1])]
        for looseness, names in enumerate((paths, without, last)):
            for name in names:
                if name in self._readers:
                    return name, looseness
        raise ArrayProblem(
            f"no array of its name in {self.path}, which has {len(self._readers)}; name it {without[1]} or {last[1]}"
        )

    def read(self, name: str) -> FloatArray:
        """The array (T, D) of a name returned by `find`.

        Raises:
            ArrayProblem: If it cannot be read, has fewer than two frames, or has values that are not finite.
        """
        readers = self._readers[name]
        if len(readers) > 1:
            raise ArrayProblem(f"{len(readers)} arrays are named {name}, in different Unicode forms; keep one")
        try:
            array = readers[0]()
        except ArrayProblem:
            raise
        except Exception as error:  # An unusual file may raise any error; only its clip fails.
            raise ArrayProblem(f"array {name} is not readable ({type(error).__name__}: {one_line(error)})") from error
        if len(array) < 2:
            raise ArrayProblem(f"array {name} has {len(array)} frame(s), but order needs at least 2")
        if not np.isfinite(array).all():
            raise ArrayProblem(f"array {name} has values that are not finite; fix it where it was made")
        return array


def _plain(name: str) -> str:
    """A name in a form for comparison: macOS decomposes accented letters, and HDF5 drops the leading slash."""
    return normalize("NFC", name).lstrip("/")


@contextmanager
def open_source(path: Path) -> Iterator[ArraySource]:
    """Open a file with one array per video (HDF5, safetensors), or a folder with one file per video, at any depth.

    Raises:
        VideomemError: If the file or folder does not exist, is damaged, or has no arrays.
    """
    with ExitStack() as stack:
        if path.is_dir():
            readers = _in_folder(path)
        elif not path.is_file():
            raise VideomemError(f"--features {path}: no such file or folder")
        elif path.suffix == ".safetensors":
            readers = _in_safetensors(path, stack)
        elif path.suffix in (".h5", ".hdf5"):
            readers = _in_hdf5(path, stack)
        else:
            raise VideomemError(f"--features {path}: neither a folder nor one of {', '.join(SUFFIXES[1:])}")
        if not readers:
            raise VideomemError(f"--features {path}: no arrays in it; a folder needs files {', '.join(SUFFIXES)}")
        yield ArraySource(path, readers)


def _in_folder(folder: Path) -> Readers:
    files = map(Path, files_below(str(folder)))
    readers: Readers = {}
    for file in (file for file in files if file.suffix in SUFFIXES):
        name = file.relative_to(folder).with_suffix("").as_posix()
        if name in readers:
            raise VideomemError(f"--features {folder}: more than one file is named {name}; keep one of {SUFFIXES}")
        readers[name] = partial(_read_only_one, file)
    return readers


def _read_only_one(file: Path) -> FloatArray:
    if not file.is_file():  # Opening a named pipe would wait for ever.
        raise ArrayProblem(f"{file} is not a regular file")
    if file.suffix == ".npy":
        # Memory-mapped, so that a header that claims more than the file holds raises instead of allocating memory.
        return _checked(np.load(file, mmap_mode="r", allow_pickle=False))
    with ExitStack() as stack:
        found = (_in_safetensors if file.suffix == ".safetensors" else _in_hdf5)(file, stack)
        if len(found) != 1:
            raise ArrayProblem(f"{file} has {len(found)} arrays, but a file of one video must have one")
        return next(iter(found.values()))()


def _in_safetensors(file: Path, stack: ExitStack) -> Readers:
    try:
        tensors = stack.enter_context(safe_open(file, "pt"))
    except (SafetensorError, OSError) as error:
        raise VideomemError(f"--features {file}: damaged, or not a safetensors file ({one_line(error)})") from error

    def read(name: str) -> FloatArray:
        tensor = tensors.get_tensor(name)
        return _checked((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())

    return {name: partial(read, name) for name in tensors.keys()}  # noqa: SIM118 - not a dict


def _in_hdf5(file: Path, stack: ExitStack) -> Readers:
    with requires_extra("hdf5", file.name):
        import h5py
    try:
        opened = stack.enter_context(h5py.File(file, "r"))
        found: list[Any] = []
        # `visititems` does not follow links, which may lead to other files.
        opened.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
        if odd := [name for name, _ in found if not isinstance(name, str)]:  # h5py leaves them as bytes.
            raise ValueError(f"the name {odd[0]!r} is not UTF-8")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise VideomemError(f"--features {file}: damaged, or not an HDF5 file ({one_line(error)})") from error
    return {name: partial(_read_dataset, item) for name, item in found}


def _read_dataset(dataset: Any) -> FloatArray:
    if dataset.is_virtual or dataset.external:
        raise ArrayProblem("its values are stored in another file; copy them into this one")
    if is_out_of_proportion(dataset.nbytes, stored := dataset.id.get_storage_size()):
        raise ArrayProblem(f"its shape is {dataset.shape}, but {stored} bytes are stored; write all values")
    if dataset.chunks is not None:
        _check_chunks(dataset)
    return _checked(dataset)


def _check_chunks(dataset: Any) -> None:
    """Raise if a chunk is larger than all values should be, or inflates to more, which HDF5 does not limit."""
    from h5py import h5z

    # Filters that are known to inflate in proportion, or are checked.
    known = {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF}
    chunk_bytes, stored = math.prod(dataset.chunks) * dataset.dtype.itemsize, dataset.id.get_storage_size()
    if is_out_of_proportion(chunk_bytes, stored):
        raise ArrayProblem(f"its chunks take {chunk_bytes} bytes each, but {stored} are stored; use smaller chunks")
    pipeline = dataset.id.get_create_plist()
    filters = [pipeline.get_filter(number)[0] for number in range(pipeline.get_nfilters())]
    if others := set(filters) - known or {one for one in filters if filters.count(one) > 1}:
        raise ArrayProblem(f"its values are compressed with filter {min(others)}; use gzip or lzf once, or none")
    if h5z.FILTER_DEFLATE in filters:
        for number in range(dataset.id.get_num_chunks()):
            skipped, content = dataset.id.read_direct_chunk(dataset.id.get_chunk_info(number).chunk_offset)
            if skipped >> filters.index(h5z.FILTER_DEFLATE) & 1:  # What gzip makes larger is stored as it is.
                continue
            inflating = decompressobj()
            inflating.decompress(content, chunk_bytes + 4)  # A checksum of 4 bytes may follow the values.
            if inflating.unconsumed_tail:
                raise ArrayProblem(f"a chunk inflates to more than its {chunk_bytes} bytes; write the file again")


def _checked(array: Any) -> FloatArray:
    """The values of an array or dataset in memory, in native byte order."""
    shape, dtype = array.shape, array.dtype
    if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
        raise ArrayProblem(f"its values are {dtype}, but must be float16, float32 or float64")
    if shape is None or len(shape) != 2 or shape[1] < 1:
        raise ArrayProblem(f"its shape is {shape}, but must be (frames, features)")
    if shape[0] * shape[1] * dtype.itemsize > _MOST_BYTES:
        raise ArrayProblem(f"its shape is {shape}, above the limit of {_MOST_BYTES / 2**30:.0f} GiB; take fewer frames")
    return np.array(array[()], dtype=dtype.newbyteorder("="), order="C")
