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
from videomem.video.files import IMAGE_SUFFIXES, images_in, split_template

_NUMBERED = re.compile(r".*?(?P<number>\d+)\.[A-Za-z]+", re.DOTALL)


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
        folder, template = split_template(self.path)
        series: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
        try:
            names = list(images_in(folder, template))
        except OSError as error:
            raise DecodingError(f"{self.path}: {error.strerror}") from error
        for name in names:
            if found := (template or _NUMBERED).fullmatch(name):
                place = name[: found.start("number")], name[found.end("number") :]
                series[place].append((int(found["number"]), os.path.join(folder, name)))
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
