"""JSON with the identity of its file and a checksum, so that a damaged or exchanged file is noticed when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

from videomem.errors import VideomemError, one_line
from videomem.utils.plain_data import check_plain

_MOST_BYTES = 16 * 2**20  # of a file without a checksum
_KEYS = {"checksum", "identity", "content"}


def dump_checked(identity: dict[str, Any], content: Any) -> str:
    """JSON text of a file.

    Args:
        identity: What the file is, as plain data: its kind, and whose it is.
        content: Plain data.
    """
    body = {"identity": identity, "content": content}
    return json.dumps({**body, "checksum": _checksum(body)}, sort_keys=True, indent=1) + "\n"


def parse_checked(text: str | bytes, path: Path | str, identity: dict[str, Any], remedy: str) -> Any:
    """The content of JSON text that `dump_checked` has made.

    Args:
        text: The text.
        path: Its file, for error messages.
        identity: What the file must be.
        remedy: What to do about a damaged file, for error messages.
    Raises:
        VideomemError: If the text is damaged, or is that of another file.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VideomemError(f"{path}: damaged ({one_line(error)}); {remedy}") from error
    if not isinstance(found, dict) or found.keys() != _KEYS or not isinstance(found["identity"], dict):
        raise VideomemError(f"{path}: damaged (not a file with identity and checksum); {remedy}")
    if found.pop("checksum") != _checksum(found):
        raise VideomemError(f"{path}: damaged (its checksum differs from that of its content); {remedy}")
    if found["identity"] != identity:
        theirs = found["identity"]
        missing = object()  # Not None, which an entry may be.
        name = next(name for name in [*identity, *theirs] if theirs.get(name, missing) != identity.get(name, missing))
        values = [one_line(of.get(name, "absent"))[:40] for of in (theirs, identity)]
        raise VideomemError(
            f"{path}: the file of another {one_line(name)[:40]} ({values[0]}, but must be {values[1]}); {remedy}"
        )
    return found["content"]


def read_checked(path: Path, identity: dict[str, Any], remedy: str) -> Any:
    """The content of a file; see `parse_checked`."""
    if not path.is_file():  # A pipe or a device would be read for ever.
        raise VideomemError(f"{path}: not a regular file; {remedy}")
    return parse_checked(path.read_bytes(), path, identity, remedy)


def _checksum(body: dict[str, Any]) -> int:
    return crc32(json.dumps(body, sort_keys=True).encode())


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of plain data of limited size, from an untrusted file.

    Raises:
        VideomemError: If the file is missing, too large, or anything else.
    """
    if not path.is_file():
        raise VideomemError(f"{path.parent}: has no {path.name}")
    if (num_bytes := path.stat().st_size) > _MOST_BYTES:
        raise VideomemError(f"{path}: {num_bytes} bytes, above the limit of {_MOST_BYTES}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise VideomemError(f"{path}: not readable as JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise VideomemError(f"{path}: is not a JSON object")
    check_plain(content, str(path))
    return content
