"""Folders: where the configs are, and whether an output folder can be created."""

from __future__ import annotations

from pathlib import Path

import videomem
from videomem.errors import VideomemError


def is_empty_or_absent(folder: Path) -> bool:
    """Whether a folder is empty or does not exist, so that writing into it cannot affect existing files.

    Raises:
        VideomemError: If the path is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise VideomemError(f"{folder}: is a file, but must be a folder; choose another path")
    return not folder.exists() or not any(folder.iterdir())


def config_folder() -> Path:
    """Folder of the configs: inside an installed package, or next to it in a source checkout."""
    package = Path(videomem.__file__).parent
    return next(path for path in (package / "configs", package.parent / "configs") if path.is_dir())
