"""Names of files for what people share: results, reports, model cards, logs. The folders of a machine name its user."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

# An absolute path in a text, up to a space or punctuation.
_ABSOLUTE = re.compile(r"(?<![\w.:/~-])~?/(?:[^\s/'\":,;()\[\]{}]+/)+[^\s'\":,;()\[\]{}]*")


def shared_path(path: Path | str) -> str:
    """A path as it is shared: a relative path inside the working directory is unchanged, any other keeps its name and
    the folder above, which often is the name of the data set; a home directory is left out.
    """
    text, path = str(path), Path(path)
    if not path.is_absolute() and ".." not in path.parts and not text.startswith("~"):
        return text
    is_private = path.parent in (Path.home(), Path(path.anchor)) or path.parent.parent in map(Path, ("/home", "/Users"))
    parts = path.parts[-1:] if is_private else path.parts[-2:]
    return "/".join(part for part in parts if part not in ("..", "~", path.anchor)) or path.name


def shared_text(text: str, paths: Sequence[str] = ()) -> str:
    """A text with shared paths instead of `paths` and of whatever else looks like an absolute path."""
    for path in filter(None, paths):
        text = text.replace(path, shared_path(path))
    return _ABSOLUTE.sub(lambda found: shared_path(found[0]), text)


def shared_command(arguments: Sequence[str]) -> str:
    """A command line of videomem, quoted for a shell, with shared paths."""
    shared = []
    for argument in arguments:
        option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        is_path = value.startswith(("/", "~", "../"))
        shared.append(f"{option}{equals}{shared_path(value) if is_path else shared_text(value)}")
    return shlex.join(["videomem", *shared])
