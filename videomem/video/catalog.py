"""The catalog: a table of clips, in the same format for every data set.

It is a CSV or Parquet file with the columns `path, label, split, group, start_s, end_s` and optionally `fps`.

`path` is a local path, absolute or relative to the catalog's folder, of a video file, of a folder with one numbered
series of images, or of a folder followed by a template of the image names, `folder/img_{:05}.jpg`.
`group` is the source from which a clip was cut; the clips of a group should be in one split.
`start_s` and `end_s` trim the clip to frames with start_s <= time < end_s; empty: the start or end of the video.
`fps` is the frame rate of a folder of images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COLUMNS = ("path", "label", "split", "group", "start_s", "end_s")
SPLITS = ("train", "val", "test")


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


class SelectedClips(Sequence[Clip]):
    """Some of the clips of a catalog, by their rows in it (N,)."""

    def __init__(self, clips: Sequence[Clip], rows_N: NDArray[np.int64]) -> None:
        self._clips, self._rows_N = clips, rows_N

    def __len__(self) -> int:
        return len(self._rows_N)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return SelectedClips(self._clips, self._rows_N[row])
        return self._clips[int(self._rows_N[row])]


@dataclass(frozen=True)
class Catalog:
    """The clips of a data set, in the order of the table. Reading a catalog makes their paths absolute."""

    clips: Sequence[Clip]
    digest: str = field(default="", compare=False)  # of the table that was read

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels; the class index of a clip is the index of its label."""
        return self._labels[0]

    @property
    def labels_N(self) -> NDArray[np.int32]:
        """The class index of each clip."""
        return self._labels[1]

    @property
    def splits(self) -> tuple[str, ...]:
        return self._splits[0]

    @property
    def splits_N(self) -> NDArray[np.int32]:
        """The index in `splits` of each clip's split."""
        return self._splits[1]

    def split(self, name: str) -> Sequence[Clip]:
        if name not in self.splits:
            return ()
        return SelectedClips(self.clips, np.flatnonzero(self.splits_N == self.splits.index(name)))

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        return self._sorted("label", str)

    @cached_property
    def _splits(self) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        return self._sorted("split", _split_order)

    def _sorted(self, field: str, order: Callable[[str], Any]) -> tuple[tuple[str, ...], NDArray[np.int32]]:
        """The values of a column in order, and for each clip the index of its value."""
        numbers_N, values = self.numbered(field)
        counts = np.bincount(numbers_N, minlength=len(values))
        used = [str(values[number]) for number in np.flatnonzero(counts).tolist()]
        names = tuple(sorted(set(used), key=order))
        place = {name: index for index, name in enumerate(names)}
        return names, np.array([place.get(str(value), 0) for value in values], np.int32)[numbers_N]

    def numbered(self, field: str) -> tuple[NDArray[np.int32], Sequence[Any]]:
        """The values of a column, and for each clip the index of its value."""
        if isinstance(self.clips, MappedClips):
            return self.clips.numbered(field)
        values = dict.fromkeys(getattr(clip, field) for clip in self.clips)
        number = {value: index for index, value in enumerate(values)}
        found = (number[getattr(clip, field)] for clip in self.clips)
        return np.fromiter(found, np.int32, len(self.clips)), list(number)


def _split_order(name: str) -> tuple[int, str]:
    return (SPLITS.index(name) if name in SPLITS else len(SPLITS), name)


def data_name(catalog: Path | str) -> str:
    """Name of a data set, from its catalog's path: `ucf101` for `data/ucf101.csv` and `data/ucf101/catalog.csv`."""
    path = Path(catalog).absolute()
    return path.parent.name if path.stem == "catalog" else path.stem
