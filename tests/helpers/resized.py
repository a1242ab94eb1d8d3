"""Frames as backbones get them, in a module that imports little, since a test runs it in a process of its own."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import torch

from videomem.features.encoders.by_torchvision import preset


def shaped_digest() -> str:
    images = np.random.default_rng(0).integers(0, 256, (1, 120, 90, 3), dtype=np.uint8)
    shaped = [preset(name).shape_frames(images) for name in ("alexnet", "efficientnet_b0")]
    return sha256(torch.cat([frames.flatten() for frames in shaped]).numpy().tobytes()).hexdigest()
