"""Turn and mirror frames as the display matrix of a video says. Cameras write it instead of turning the pixels."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray

_MOST_SLANT = 0.01  # Matrices are rounded; a slant of this tangent is less than a degree.


def _unnamed(cls: type[Type], value: object) -> Type | None:
    if not isinstance(value, int):
        return None
    member = object.__new__(cls)
    member._name_ = f"UNNAMED_{value}"
    member._value_ = value  # type: ignore[assignment]
    return member


# PyAV has no names for the newest kinds of side data, such as Exif, and then gives none of a frame's side data.
Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment]


class Orientation(NamedTuple):
    """How the pixels of a frame become an upright image: first rows and columns are exchanged, then it is flipped."""

    is_transposed: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    def apply(self, image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        turned = image_HWC.swapaxes(0, 1) if self.is_transposed else image_HWC
        return turned[:: -1 if self.flips_rows else 1, :: -1 if self.flips_columns else 1]


def display_matrix(frame: VideoFrame) -> bytes | None:
    side_data = frame.side_data.get("DISPLAYMATRIX")
    return None if side_data is None else bytes(side_data)  # type: ignore[call-overload]


def orientation(frame: VideoFrame) -> Orientation:
    """The orientation of a frame.

    The matrix maps a point (x, y) of the frame to (a x + c y, b x + d y), up to a shift (ISO/IEC 14496-12, section
    8.3.2). A matrix without an inverse says nothing, and frames remain as they are stored.

    Raises:
        ValueError: If the frame is turned by an angle that is no multiple of 90 degrees.
    """
    if (matrix := display_matrix(frame)) is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix)
    if a * d == b * c:
        return Orientation()
    if max(abs(b), abs(c)) <= _MOST_SLANT * min(abs(a), abs(d)):
        return Orientation(False, d < 0, a < 0)
    if max(abs(a), abs(d)) <= _MOST_SLANT * min(abs(b), abs(c)):
        return Orientation(True, b < 0, c < 0)
    raise ValueError(f"turned by {math.degrees(math.atan2(b, a)):.0f} degrees")
