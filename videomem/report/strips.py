"""Film strips: clips shown frame by frame, and what the heads take them for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True)
class Strip:
    """A clip as a film strip in one order of its frames, and what each head takes it for.

    Attributes:
        condition: `ordered`, `shuffled` or `reversed`.
        frames_THWC: Frames in that order, (T, height, width, 3) uint8.
        predictions: Class named by each head.
    """

    condition: str
    frames_THWC: NDArray[np.uint8]
    predictions: Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """A clip of a class, whose reversal is a clip of its partner."""

    label: str
    partner: str
    strips: Sequence[Strip]


def strip_image(strip: Strip) -> str:
    """The frames side by side as a data address of a JPEG."""
    buffer = BytesIO()
    gap = np.full((strip.frames_THWC.shape[1], 3, 3), 255, np.uint8)
    row = [part for frame in strip.frames_THWC for part in (frame, gap)][:-1]
    Image.fromarray(np.concatenate(row, axis=1)).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"
