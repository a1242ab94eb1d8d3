"""Read folders of numbered images, one per frame."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from functools import lru_cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from videomem.errors import DecodingError, one_line
from videomem.video.decoders.limits import check_size
from videomem.video.files import IMAGE_SUFFIXES, images_in, split_template

_MOST_FILE_BYTES = 2**29
_NUMBERED = re.compile(r".*?(?P<number>\d+)\.[A-Za-z]+", re.DOTALL)


class FrameFolder:
    """The images of one numbered series, in the order of their numbers.

    Args:
        path: A folder whose images are one series, or a template with a field for the number.
    Attributes:
        images: Paths of the images before the first gap in their numbers.
        damage: Which image is missing from the series, if any.
    Raises:
        DecodingError: If there are no images, several series, or two images with one number.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        numbered = _numbered(path)
        first = numbered[0][0]
        self.images = [image for place, (number, image) in enumerate(numbered) if number == first + place]
        is_whole = len(self.images) == len(numbered)
        self.damage = None if is_whole else f"image {first + len(self.images)} is missing"

    def read(self, wanted: NDArray[np.int64]) -> tuple[NDArray[np.uint8] | None, int, str]:
        """Frames (T, height, width, 3) at ascending indices; or None, the index of a damaged image, and its error."""
        frames_THWC: NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
        for index in np.unique(wanted).tolist():
            try:
                image = _read_image(self.images[index])
            except DecodingError:
                raise
            except Exception as error:  # noqa: BLE001 - Pillow raises errors of any type for unusual metadata
                return None, index, f"{os.path.basename(self.images[index])}: {one_line(error)}"
            if len(frames_THWC) == 0:
                check_size(self.path, len(wanted), *image.shape[:2])
                frames_THWC = np.empty((len(wanted), *image.shape), np.uint8)
            if image.shape != frames_THWC.shape[1:]:
                raise DecodingError(f"{self.path}: its images are not of one size")
            frames_THWC[wanted == index] = image
        return frames_THWC, 0, ""


@lru_cache(maxsize=1)
def unchanged_folder(path: str, state: tuple[int, ...]) -> FrameFolder:
    """The images of the latest folder of which parts were decoded, listed once while its state is the same."""
    return FrameFolder(path)


def _numbered(path: str) -> list[tuple[int, str]]:
    """Numbers and paths of the images of the one series, in order."""
    folder, template = split_template(path)
    series: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    try:
        names = list(images_in(folder, template))
    except OSError as error:
        raise DecodingError(f"{path}: {error.strerror}") from error
    for name in names:
        if found := (template or _NUMBERED).fullmatch(name):
            place = name[: found.start("number")], name[found.end("number") :]
            series[place].append((int(found["number"]), os.path.join(folder, name)))
    if not series:
        raise DecodingError(f"{path}: no numbered images in it ({', '.join(IMAGE_SUFFIXES)})")
    if len(series) > 1:
        names = [f"{prefix}...{rest}" for prefix, rest in sorted(series)]
        raise DecodingError(
            f"{path}: has {len(series)} series of images ({', '.join(names[:4])}); select one with a template "
            "such as img_{:05}.jpg"
        )
    numbered = sorted(series.popitem()[1])
    for (number, one), (next_number, other) in pairwise(numbered):
        if number == next_number:
            both = f"{os.path.basename(one)} and {os.path.basename(other)}"
            raise DecodingError(f"{path}: two images have the number {number}, {both}; remove one")
    return numbered


def _read_image(path: str) -> NDArray[np.uint8]:
    """An upright image (height, width, 3). Raises for a truncated image, even if Pillow would fill it up."""
    if (num_bytes := os.path.getsize(path)) > _MOST_FILE_BYTES:
        raise DecodingError(f"{path}: {num_bytes} bytes, above the limit of {_MOST_FILE_BYTES} for an image")
    content = Path(path).read_bytes()
    if content[:2] == b"\xff\xd8" and content.rfind(b"\xff\xd9") < len(content) // 2:
        raise OSError("it ends within the picture")
    # Pillow would also open PostScript, for which it starts Ghostscript, and many rarely tested formats.
    with Image.open(BytesIO(content), formats=("JPEG", "PNG")) as image:
        check_size(path, 1, image.height, image.width)
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow would clip 16-bit values instead of scaling them to 8 bits.
            gray = (np.asarray(upright) >> 8).astype(np.uint8)
            return np.repeat(gray[:, :, None], 3, axis=2)
        if upright.mode in ("I", "F"):
            raise OSError(f"its pixels have mode {upright.mode}, whose range is unknown; save it with 8 bits")
        return np.asarray(upright.convert("RGB"))
