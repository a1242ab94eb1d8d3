"""Changes of the pixels in training, for live decoding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from videomem.errors import VideomemError


@dataclass(frozen=True)
class Augmentation:
    """Changes of the pixels in training, the same for all frames of a clip; needs `source: video`.

    Args:
        crop: Crop a random part of the frame, of 0.6 to 1 of its area, instead of the centre.
        horizontal_flip: Share of the clips that are mirrored.
        classes_survive_flip: Say that no class turns into another in a mirror; flips are refused without it.
    """

    crop: bool = False
    horizontal_flip: float = 0.0
    classes_survive_flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.horizontal_flip <= 1:
            raise VideomemError(f"augmentation.horizontal_flip is {self.horizontal_flip}, but must be within 0..1")
        if self.horizontal_flip and not self.classes_survive_flip:
            raise VideomemError(
                f"augmentation.horizontal_flip is {self.horizontal_flip}, but a mirror turns a move to the right "
                "into one to the left; set augmentation.classes_survive_flip if no class here has such a twin"
            )

    @property
    def active(self) -> bool:
        return self.crop or self.horizontal_flip > 0

    def apply(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """(T, 3, size, size) uint8 -> the same shape, one draw for the whole clip."""
        if self.crop:
            size = frames.shape[-1]
            side = round(size * (0.6 + 0.4 * float(torch.rand((), generator=generator))) ** 0.5)
            top, left = (int(torch.randint(size - side + 1, (), generator=generator)) for _ in range(2))
            frames = F.resized_crop(
                frames, top, left, side, side, [size, size], InterpolationMode.BILINEAR, antialias=True
            )
        if float(torch.rand((), generator=generator)) < self.horizontal_flip:
            frames = frames.flip(-1)
        return frames
