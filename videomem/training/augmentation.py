"""Augmentation of training frames, for videos decoded on the fly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from videomem.errors import VideomemError


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training frames, the same for all frames of a clip. Requires `source: video`.

    Args:
        crop: Crop a random region of 0.6 to 1 times the frame area, and resize it.
        horizontal_flip: Probability that a clip is mirrored horizontally.
        classes_survive_flip: Confirm that mirroring a clip never changes its class. Required for `horizontal_flip`.
    """

    crop: bool = False
    horizontal_flip: float = 0.0
    classes_survive_flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.horizontal_flip <= 1:
            raise VideomemError(f"augmentation.horizontal_flip is {self.horizontal_flip}, but must be within 0..1")
        if self.horizontal_flip and not self.classes_survive_flip:
            raise VideomemError(
                f"augmentation.horizontal_flip is {self.horizontal_flip}, but mirroring turns a move to the right "
                "into a move to the left; set augmentation.classes_survive_flip if it changes no class of your data"
            )

    @property
    def active(self) -> bool:
        return self.crop or self.horizontal_flip > 0

    def apply(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a clip (T, 3, size, size) uint8; the shape is unchanged."""
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
