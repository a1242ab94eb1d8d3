"""Folders of numbered images, one per frame, as some data sets come."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from videomem.errors import DecodingError, one_line

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_FIELD = re.compile(r"\{(?::0?(\d*)d?)?\}")


def is_frame_folder(path: str) -> bool:
    """Whether a path names a folder, or a template of images in one such as `clip/img_{:05}.jpg`."""
    folder, name = os.path.split(path)
    return os.path.isdir(path) or (_FIELD.search(name) is not None and not os.path.exists(path) and os.path.isdir(folder))


@dataclass(frozen=True)
class FrameFolder:
    """The images of one numbered series, in the order of their numbers.

    Args:
        path: The folder, if all its images are one series, or a template with one field for the number.
    Raises:
        DecodingError: If there are none, or several series.
    """

    path: str

    @cached_property
    def _numbered(self) -> list[tuple[int, str]]:
        folder, pattern = _pattern(self.path)
        series: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        try:
            names = os.listdir(folder)
        except OSError as error:
            raise DecodingError(f"{self.path}: {error.strerror}") from error
        for name in names:
            if not name.startswith(".") and (found := pattern.fullmatch(name)):
                series[found[1], found[3]].append((int(found[2]), os.path.join(folder, name)))
        if not series:
            raise DecodingError(f"{self.path}: no numbered images in it ({', '.join(IMAGE_SUFFIXES)})")
        if len(series) > 1:
            names = [f"{prefix}...{rest}" for prefix, rest in sorted(series)]
            raise DecodingError(
                f"{self.path}: holds {len(series)} series of images ({', '.join(names[:4])}); name one by a template "
                "such as img_{:05}.jpg"
            )
        return sorted(series.popitem()[1])

    @cached_property
    def images(self) -> list[str]:
        """Paths of the images before the first gap in their numbers."""
        first = self._numbered[0][0]
        return [name for place, (number, name) in enumerate(self._numbered) if number == first + place]

    @property
    def damage(self) -> str | None:
        """Where images are missing from the series, if any are."""
        missing = self._numbered[0][0] + len(self.images)
        return f"image {missing} is missing" if len(self.images) < len(self._numbered) else None

    def read(self, wanted: NDArray[np.int64]) -> tuple[NDArray[np.uint8] | None, int, str]:
        """Frames (T, height, width, 3) at ascending indices; or None, the index of a damaged image, and what it has."""
        distinct, repeats = np.unique(wanted, return_inverse=True)
        kept = []
        for index in distinct.tolist():
            try:
                with Image.open(self.images[index]) as image:
                    kept.append(np.asarray(image.convert("RGB")))
            except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
                return None, index, f"{os.path.basename(self.images[index])}: {one_line(error)}"
        if len({image.shape for image in kept}) > 1:
            raise DecodingError(f"{self.path}: its images are not of one size")
        return np.stack(kept)[repeats], 0, ""


def _pattern(path: str) -> tuple[str, re.Pattern[str]]:
    """The folder, and the names that count: of a template, those it can make; else every numbered image."""
    if os.path.isdir(path):
        suffixes = "|".join(re.escape(suffix) for suffix in IMAGE_SUFFIXES)
        return path, re.compile(rf"(?s)(.*?)(\d+)({suffixes})", re.IGNORECASE)
    folder, name = os.path.split(path)
    before, after = (re.escape(part) for part in _FIELD.split(name)[::2])
    return folder, re.compile(rf"({before})(\d+)({after})")
