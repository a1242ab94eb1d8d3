"""Features imported from other tools: their description in a config, and the key of each clip's features."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videomem.errors import VideomemError
from videomem.features.failures import Failure, FailureTable
from videomem.utils.atomic import write_atomic
from videomem.video.catalog import Clip


@dataclass(frozen=True)
class ImportedFeatures:
    """Features imported by `videomem import-features`, used instead of those of a backbone.

    Args:
        name: The name given to them at import, such as `clip-vit-b32`.
        feature_dim: D, features per frame.
    """

    name: str
    feature_dim: int

    def __post_init__(self) -> None:
        if not self.name or self.name != " ".join(self.name.split()):
            raise VideomemError(
                f"imported.name is {self.name!r}, but must be a name without leading, trailing or repeated spaces"
            )
        if self.feature_dim < 1:
            raise VideomemError(f"imported.feature_dim is {self.feature_dim}, but must be at least 1")


@dataclass(frozen=True)
class ImportedKeys:
    """The table at `path` with the key of each clip, by path and interval. The file need not exist.

    The key of a clip is the hash of its array, since the video need not exist and its content cannot be hashed.
    """

    path: Path

    def read(self) -> dict[str, str | None]:
        """Keys by clip; None for clips whose import failed."""
        if not self.path.is_file():
            return {}
        try:
            return dict(json.loads(self.path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise VideomemError(f"{self.path}: damaged ({error}); delete it and import again") from error

    def add(self, keys: Mapping[Clip, str | None]) -> None:
        """Set the keys of these clips, and keep those of others."""
        rows = self.read() | {_name(clip): key for clip, key in keys.items()}
        write_atomic(self.path, (json.dumps(rows, sort_keys=True, indent=0) + "\n").encode())

    def of(self, clips: Sequence[Clip], failure_table: FailureTable) -> tuple[dict[Clip, str], list[Failure]]:
        """Keys of clips, and the failures of clips whose import failed.

        Raises:
            VideomemError: If a clip was never imported.
        """
        known = self.read()
        if absent := [clip for clip in clips if _name(clip) not in known]:
            raise VideomemError(
                f"{absent[0]}: not imported yet ({len(absent)} of {len(clips)} clips are not); "
                "run `videomem import-features` with this catalog"
            )
        keys = {clip: key for clip in clips if (key := known[_name(clip)]) is not None}
        reasons = failure_table.read()
        failures = [reasons.get((c.path, *c.interval), failure_of(c, "unknown", "failed")) for c in clips]
        return keys, [failure for clip, failure in zip(clips, failures, strict=True) if clip not in keys]


def failure_of(clip: Clip, error: str, reason: str) -> Failure:
    return Failure(clip.path, "import", "", error, f"{clip}: {reason}", 0.0, *clip.interval)


def _name(clip: Clip) -> str:
    return json.dumps([clip.path, *clip.interval])
