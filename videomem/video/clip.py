"""A clip: a row of a catalog."""

from __future__ import annotations

from dataclasses import dataclass


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
