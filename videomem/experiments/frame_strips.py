"""Video strips: the frames of a clip in one image, with the predictions of heads."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videomem.utils.atomic import write_atomic


@dataclass(frozen=True)
class Strip:
    """The frames of a clip in one order, with the prediction of each head.

    Attributes:
        condition: `ordered`, `shuffled` or `reversed`.
        frames_THWC: Frames in that order, (T, height, width, 3) uint8.
        predictions: Class predicted by each head, by its name.
    """

    condition: str
    frames_THWC: NDArray[np.uint8]
    predictions: Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """A clip of a class and its strips. Time reversal turns the class into its partner."""

    label: str
    partner: str
    strips: Sequence[Strip]


def strip_image(strip: Strip) -> str:
    """The strip as a JPEG in a data URL."""
    return f"data:image/jpeg;base64,{b64encode(strip_jpeg(strip)).decode()}"


def strip_jpeg(strip: Strip) -> bytes:
    """The strip as a JPEG, with the frames from left to right."""
    buffer = BytesIO()
    gap = np.full((strip.frames_THWC.shape[1], 3, 3), 255, np.uint8)
    row = [part for frame in strip.frames_THWC for part in (frame, gap)][:-1]
    Image.fromarray(np.concatenate(row, axis=1)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def write_strips(examples: Sequence[Example], folder: Path) -> list[tuple[Path, str]]:
    """Write each strip as a JPEG file.

    Returns:
        Path and caption of each file. The caption has the class, the frame order and the predictions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, example in enumerate(examples):
        for strip in example.strips:
            path = folder / f"strip-{number}-{strip.condition}.jpg"
            write_atomic(path, strip_jpeg(strip))
            predictions = ", ".join(f"{head}: {answer}" for head, answer in strip.predictions.items())
            written.append((path, f"{example.label}, {strip.condition}; {predictions}"))
    return written
