"""How frames become the input of an encoder: resized, cropped, scaled and normalized as its library does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import functional as F

from videomem.errors import VideomemError

_MOST_PX = 4096


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the center, scale to 0..1, normalize.

    `shape_frames` resizes and crops uint8 images where frames are decoded. `normalize` does the rest, on the device.

    Args:
        resize_px: One number resizes the shorter side to it; two are height and width, whatever the shape of a frame.
        crop_px: Side of the square that is cropped.
        interpolation: `bilinear` or `bicubic`.
        mean: Subtracted from each channel.
        std: By which each channel is divided.
        antialias: Whether pixels are averaged when a frame gets smaller.
        crop_rounding: Where the crop starts if the margins are odd: `half_even` as in torchvision, `down` as in
            transformers.
    """

    resize_px: int | tuple[int, int]
    crop_px: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    antialias: bool = True
    crop_rounding: Literal["half_even", "down"] = "half_even"

    def __post_init__(self) -> None:
        sizes = (*([self.resize_px] if isinstance(self.resize_px, int) else self.resize_px), self.crop_px)
        if len(sizes) not in (2, 3) or not all(type(size) is int and 1 <= size <= _MOST_PX for size in sizes):
            raise VideomemError(f"sizes of the preprocessing are {sizes}, but must be within 1..{_MOST_PX}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise VideomemError(f"frames are resized by {self.interpolation!r}, but must be by bilinear or bicubic")
        values = (*self.mean, *self.std)
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, values)) or min(self.std) <= 0:
            raise VideomemError(f"mean {self.mean} and std {self.std} must be three finite numbers, std above 0")

    def shape_frames(self, frames_THWC: NDArray[np.uint8]) -> Tensor:
        """Resize and crop frames (T, height, width, 3) uint8 of any size to (T, 3, crop, crop) uint8.

        Integers are resized as integers, as Pillow does: several times faster than in floating point, and with the same
        bits on every processor.
        """
        size = self.resized(*frames_THWC.shape[1:3])
        # One frame at a time: a resize of all frames would hold a long clip twice in memory.
        frames = torch.from_numpy(frames_THWC)
        return torch.stack([self._crop(self._resize(frame.permute(2, 0, 1)[None], size)[0]) for frame in frames])

    def resized(self, height: int, width: int) -> list[int]:
        """Height and width after resizing."""
        if not isinstance(self.resize_px, int):
            return list(self.resize_px)
        return [self.resize_px * side // min(height, width) for side in (height, width)]

    def _resize(self, image: Tensor, size: list[int]) -> Tensor:
        if self.antialias:
            return interpolate(image, size, mode=self.interpolation, antialias=True)
        return interpolate(image.float(), size, mode=self.interpolation).round_().clamp_(0, 255).to(torch.uint8)

    def _crop(self, image: Tensor) -> Tensor:
        if self.crop_rounding == "half_even":
            return F.center_crop(image, [self.crop_px])
        top, left = (int((side - self.crop_px) / 2) for side in image.shape[1:])
        return F.crop(image, top, left, self.crop_px, self.crop_px)

    def normalize(self, frames: Tensor) -> Tensor:
        """Scale and normalize frames (..., 3, crop, crop) uint8 to float32."""
        # Bit-identical to torchvision's `normalize`, which cannot be exported because it checks std for zeros.
        mean_311, std_311 = (
            torch.tensor(row)[:, None, None].to(frames.device, non_blocking=True) for row in (self.mean, self.std)
        )
        images = frames.float() / 255
        return images.sub_(mean_311).div_(std_311)
