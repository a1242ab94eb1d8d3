"""A clip, a row of a catalog; and clips that are rows of a mapped table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of the catalog: a video file or a folder of frames, optionally trimmed to an interval in seconds."""

    path: str
    label: str
    split: str
    group: str
    start_s: float | None = None
    end_s: float | None = None
    fps: float | None = None

    def __str__(self) -> str:
        return self.path if self.interval == (None, None) else f"{self.path} [{self.start_s}, {self.end_s})"

    @property
    def location(self) -> tuple[str, float | None, float | None]:
        """Path and interval; several clips may be parts of one file."""
        return self.path, self.start_s, self.end_s

    @property
    def interval(self) -> tuple[float | None, float | None]:
        return self.start_s, self.end_s


class MappedClips(Sequence[Clip]):
    """Clips of a memory-mapped table, made when they are asked for."""

    @abstractmethod
    def numbered(self, name: str) -> tuple[NDArray[np.int32], Sequence[Any]]:
        """The values of `label`, `split` or `group`, and for each clip the index of its value."""

    @abstractmethod
    def urls(self) -> list[Clip]:
        """The first clips whose path is a URL."""

    @abstractmethod
    def may_repeat(self) -> bool:
        """Whether two clips have the same path."""
