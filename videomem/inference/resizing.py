"""Preprocessing of frames as tensor operations that support variable sizes, for exported graphs.

Resizing with antialiasing is linear and separable, so it is two matrix products. Cropping selects rows of the matrices.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from videomem.features.backbone import Preprocessing

Kernel = Callable[[Tensor], Tensor]


def shape_in_graph(frames_NHWC: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Like `Preprocessing.shape_frames`: (N, height, width, 3) uint8 of any size -> (N, 3, crop, crop) uint8.

    Since sums have another order, a few tens of values in a million differ by one level; see `docs/export.md`.
    """
    height, width = frames_NHWC.shape[1:3]
    # Sizes as tensors: a comparison of Python integers would be evaluated at export and become constant.
    sizes_2 = torch.stack([torch.full((), size, dtype=torch.int64) for size in (height, width)])
    resized_2 = preprocessing.resize_px * sizes_2 // sizes_2.min()
    kernel = KERNELS[preprocessing.interpolation]
    rows, columns = (
        crop_matrix(size, sizes_2[axis], resized_2[axis], preprocessing.crop_px, kernel)
        for axis, size in enumerate((height, width))
    )
    shaped = rows @ (frames_NHWC.movedim(3, 1).float() @ columns.T)
    return shaped.round().clamp(0, 255).to(torch.uint8)


def crop_matrix(num_pixels: int, size: Tensor, resized: Tensor, crop_px: int, kernel: Kernel) -> Tensor:
    """Weights (crop, pixels) that resize and centre-crop one axis.

    Args:
        num_pixels: Length of the axis.
        size: Length of the axis, as a tensor.
        resized: Length after resizing.
        crop_px: Length of the crop.
        kernel: Weight as a function of the distance in pixels of the coarser grid.
    Reference:
        torch's `interpolate(antialias=True)`; torchvision's `center_crop`, which rounds half to even.
    """
    scale = size.float() / resized.float()
    first = torch.round((resized - crop_px).float() / 2)
    centres_P1 = (scale * (torch.arange(crop_px, device=size.device) + first + 0.5)).unsqueeze(1)
    distances = torch.arange(num_pixels, device=size.device) + 0.5 - centres_P1
    weights = kernel((distances / scale.clamp(min=1)).abs())
    return weights / weights.sum(dim=1, keepdim=True)


def triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def cubic(distance: Tensor) -> Tensor:
    """Cubic kernel of Keys 1981 with a = -0.5, as used by Pillow and by torch with antialiasing."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))


KERNELS: dict[str, Kernel] = {"bilinear": triangle, "bicubic": cubic}
