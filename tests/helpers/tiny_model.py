"""An untrained model whose backbone is a few pixels of each frame."""

from __future__ import annotations

import torch
from helpers.small_heads import D
from torch import Tensor, nn

from videomem.features.backbone import Backbone, BackboneSettings
from videomem.features.settings import FeatureSettings
from videomem.heads import Head, MemoryFactory, ReadoutFactory
from videomem.inference.model import Classifier
from videomem.video.sampling import Uniform


class TinyBackbone(nn.Module):
    """A replacement for a network: a few pixels of each frame."""

    feature_dim = D
    settings = BackboneSettings(weights="random")
    device, batch_size = Backbone.device, Backbone.batch_size

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1 / 64), requires_grad=False)

    def forward(self, frames: Tensor) -> Tensor:
        return (frames.flatten(1)[:, :D].float() - 128) * self.scale


def tiny_model(
    memory: MemoryFactory,
    readout: ReadoutFactory | None = None,
    class_names: tuple[str, ...] = ("left", "right", "up"),
    num_layers: int = 1,
) -> Classifier:
    torch.manual_seed(0)
    head = Head(memory, D, len(class_names), num_layers, readout)
    head.classify.weight.data.mul_(3)
    settings = FeatureSettings(BackboneSettings(weights="random"), Uniform(6), dtype="float32")
    return Classifier(head, class_names, settings, TinyBackbone())  # type: ignore[arg-type]
