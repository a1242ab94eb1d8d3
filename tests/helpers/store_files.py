"""Files of a store that are the same however it was made."""

from __future__ import annotations

from pathlib import Path


def shard_files(root: Path) -> dict[str, bytes]:
    """Plans and shards, by their path in the folder of stores."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.parent.name in ("plan", "shards")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths if not path.name.startswith(".")}
