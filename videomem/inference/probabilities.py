"""From logits to probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from videomem.errors import VideomemError


def probabilities(logits: Tensor) -> Tensor:
    """Probabilities of the classes, along the last axis.

    Raises:
        VideomemError: If a logit is not finite.
    """
    if not torch.isfinite(logits).all():
        raise VideomemError("the model gives logits that are not finite; its training diverged, or its weights are bad")
    return logits.float().softmax(dim=-1)
