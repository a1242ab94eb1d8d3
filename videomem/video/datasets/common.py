"""Shared by all layouts: the clips that a data set lists, and functions that read annotation files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from videomem.errors import VideomemError
from videomem.video.catalog import Clip

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val",
               "validation": "val", "test": "test", "testing": "test"}  # fmt: skip
FRACTION = re.compile(r"-?\d*\.\d+")  # As in the columns of detection lists.


class Found(NamedTuple):
    """The clips that a data set lists, whether or not their files exist, with notes and warnings for the user."""

    clips: list[Clip]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_text(path: Path, errors: str = "strict") -> str:
    """Read a UTF-8 text file, with or without a byte order mark; line ends become `\\n`."""
    if not path.is_file():
        raise VideomemError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig", errors=errors)
    except UnicodeDecodeError as error:
        raise VideomemError(f"{path}: not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8") from error


def read_lines(path: Path, errors: str = "strict") -> Iterator[tuple[str, str]]:
    """Non-blank lines, stripped, each with its position `file:line` for error messages."""
    for number, line in enumerate(read_text(path, errors).split("\n"), start=1):
        if line := line.strip():
            yield line, f"{path.name}:{number}"


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise VideomemError(f"{path}: not JSON: {error}") from error


def read_records(path: Path) -> list[tuple[dict[str, Any], str]]:
    """Read a JSON list of objects, each with its position for error messages."""
    content = read_json(path)
    if not isinstance(content, list):
        raise VideomemError(f"{path}: must be a list of objects, but is a {type(content).__name__}")
    records = [(record, f"{path.name}: entry {number}") for number, record in enumerate(content, start=1)]
    for record, where in records:
        if not isinstance(record, dict):
            raise VideomemError(f"{where} is {type(record).__name__}, not an object")
    return records


def field(record: Mapping[str, Any], name: str, where: str) -> str:
    """A field of a JSON object, as text. It must be a non-empty string or an integer."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        found = f"{name!r} is {value!r}" if name in record else f"no {name!r}, but {', '.join(record) or 'nothing'}"
        raise VideomemError(f"{where}: {found}; a text {name!r} is needed")
    return str(value)


def file_name(text: str, name: str, where: str) -> str:
    """The text of the field `name`, if it can be the name of a file in a folder."""
    if "/" in text or text in (".", ".."):
        raise VideomemError(f"{where}: {name} {text!r} is not a file name")
    return text


def refuse_doubled(names: Sequence[str], what: str, path: Path) -> None:
    if doubled := sorted(name for name in names if names.count(name) > 1):
        raise VideomemError(f"{path}: {doubled[0]!r} is there twice; each {what} needs its own name")


def whole_number(text: str) -> int | None:
    """A non-negative integer of at most nine digits, or None."""
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) <= 9 else None


def annotation_file(folder: Path, name: str) -> Path | None:
    """The file in a folder with this name, or a name that ends in `-name` or `_name`; None if there is none."""
    found = sorted(path for path in folder.iterdir() if path.name.endswith((f"-{name}", f"_{name}")))
    found = [path for path in (folder / name, *found) if path.is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise VideomemError(f"{folder}: {names} all match {name}; keep the files of one data set only")
    return found[0] if found else None


def needed_file(folder: Path, name: str) -> Path:
    path = annotation_file(folder, name)
    if path is None:
        raise VideomemError(f"{folder}: no file {name}, nor one that ends in -{name}; give the folder that has it")
    return path
