"""What the layouts have in common: what one gives, what one is, and reading annotation files without a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from videomem.errors import VideomemError
from videomem.video.catalog import Clip

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val",
               "validation": "val", "test": "test", "testing": "test"}  # fmt: skip


class Found(NamedTuple):
    """The clips that a data set lists, whether their files are there or not, and what is to be said of them."""

    clips: list[Clip]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Layout(NamedTuple):
    """A layout of `videomem catalog build`.

    `read` is called with the root and with the values of `options`, by name. An option is named as the parameter of
    `read`, with `-` for `_`, and holds what `argparse` is to know of it.
    """

    read: Callable[..., Found]
    help: str
    options: Mapping[str, Mapping[str, Any]] = {}
    has_splits: bool = True  # else splits are drawn where the data set has none
    has_val: bool = True  # else --val-share can hold out a share of training
    missing_is_normal: bool = False  # files that are listed but absent are counted, not an error


def annotation_folder(help: str) -> dict[str, dict[str, Any]]:
    return {"annotations": {"type": Path, "required": True, "help": help}}


OFFICIAL_SPLIT: dict[str, Any] = {"type": int, "choices": (1, 2, 3), "default": 1, "help": "which official split"}


def existing_folder(folder: Path | str) -> Path:
    folder = Path(folder).absolute()
    if not folder.is_dir():
        kind = "a file, not a folder" if folder.exists() else "no such folder"
        raise VideomemError(f"{folder}: {kind}")
    return folder


def read_text(path: Path, errors: str = "strict") -> str:
    """A text file as UTF-8, with or without a byte order mark, its line ends made `\\n`."""
    if not path.is_file():
        raise VideomemError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        raise VideomemError(f"{path}: not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8") from error


def read_lines(path: Path, errors: str = "strict") -> Iterator[tuple[str, str]]:
    """Lines that are not blank, stripped, each with its place `file:line` for errors."""
    for number, line in enumerate(read_text(path, errors).split("\n"), start=1):
        if line := line.strip():
            yield line, f"{path.name}:{number}"


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise VideomemError(f"{path}: not JSON: {error}") from error


def read_records(path: Path) -> list[tuple[dict[str, Any], str]]:
    """A JSON list of objects, each with its place for errors."""
    content = read_json(path)
    if not isinstance(content, list):
        raise VideomemError(f"{path}: a list of objects is needed, but this is {type(content).__name__}")
    for number, record in enumerate(content, start=1):
        if not isinstance(record, dict):
            raise VideomemError(f"{path.name}: entry {number} is {type(record).__name__}, not an object")
    return [(record, f"{path.name}: entry {number}") for number, record in enumerate(content, start=1)]


def field(record: Mapping[str, Any], name: str, where: str) -> str:
    """A field of a JSON object that must be text or a whole number, as text."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        found = f"{name!r} is {value!r}" if name in record else f"no {name!r}, but {', '.join(record) or 'nothing'}"
        raise VideomemError(f"{where}: {found}; a text {name!r} is needed")
    return str(value)


def whole_number(text: str) -> int | None:
    """A number of digits alone, which no class index or second needs more than nine of."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= 9 else None


def annotation_file(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, or the one whose name ends in `-name` or `_name`; None where there is none."""
    found = sorted(path for path in folder.iterdir() if path.name.endswith((f"-{name}", f"_{name}")))
    found = [path for path in (folder / name, *found) if path.is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise VideomemError(f"{folder}: {names} could each be {name}; leave one data set's files in a folder")
    return found[0] if found else None


def needed_file(folder: Path, name: str) -> Path:
    path = annotation_file(folder, name)
    if path is None:
        raise VideomemError(f"{folder}: no file {name}, nor one that ends in -{name}; name the folder that has it")
    return path
