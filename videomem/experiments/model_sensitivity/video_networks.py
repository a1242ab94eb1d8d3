"""The video networks of torchvision, with published weights or with weights for the classes of a catalog."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.experiments.model_sensitivity.video_model import VideoModel
from videomem.experiments.model_sensitivity.views import three_crops
from videomem.features.weights import load_state, read_state

_NUM_FRAMES = 16


class VideoNetwork(nn.Module):
    """A network of torchvision whose input has the frames on axis 1.

    Shape:
        clips (B, T, 3, height, width) float32 -> logits (B, C)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> Tensor:
        return self.network(clips.transpose(1, 2))


@dataclass(frozen=True)
class TorchvisionFrame:
    """torchvision's preprocessing for a network.

    Attributes:
        preset: The preset of the weights; (1, 3, height, width) uint8 -> (3, 1, crop, crop) float32.
    """

    preset: Any

    def __call__(self, frame_HWC: NDArray[np.uint8], num_crops: int) -> Tensor:
        """The crops (K, 3, crop, crop) float32 of a frame."""
        image = torch.from_numpy(frame_HWC).permute(2, 0, 1)[None]
        center = self.preset(image)[:, 0]
        if num_crops == 1:
            return center[None]
        whole, resize = copy.copy(self.preset), list(self.preset.resize_size)
        short, sides = min(image.shape[2:]), image.shape[2:]
        whole.crop_size = resize if len(resize) == 2 else [resize[0] * side // short for side in sides]
        return three_crops(whole(image)[:, 0], center)


def video_networks() -> list[str]:
    """Names of the video networks of torchvision."""
    return list(torchvision.models.list_models(module=torchvision.models.video))


def load_video_network(
    name: str, weights: str, class_names: Sequence[str], num_frames: int | None = None, seed: int = 0
) -> VideoModel:
    """Load a network of torchvision with its preprocessing. torchvision averages probabilities over views.

    Args:
        name: Name of a video network for `torchvision.models.get_model`.
        weights: `kinetics400` or a name of torchvision's weights such as `KINETICS400_V1`, which are downloaded;
            `random`; or the path of a saved state_dict.
        class_names: Names of the outputs for random weights and those of a file.
        num_frames: T, which must not be below the minimum of the network; by default 16.
        seed: Seed of random weights.
    Raises:
        VideomemError: If the network or its weights do not exist, or do not fit the number of frames or classes.
    """
    available = video_networks()
    if name not in available:
        raise VideomemError(
            f"--model {name}: no video network of torchvision; it has {', '.join(available)}; other models are "
            "package.module:function, a folder of transformers, and hf://owner/name"
        )
    known = torchvision.models.get_model_weights(name)
    num_frames, fewest = num_frames or _NUM_FRAMES, known.DEFAULT.meta.get("min_temporal_size", 1)
    if num_frames < fewest:
        raise VideomemError(f"--frames {num_frames}: {name} needs at least {fewest}; pass --frames {fewest}")
    chosen = known.DEFAULT
    if weights == "kinetics400" or weights in known.__members__:
        chosen = chosen if weights == "kinetics400" else known[weights]
        network, class_names, weights = _downloaded(name, chosen), chosen.meta["categories"], chosen.name
    elif weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = torchvision.models.get_model(name, weights=None, num_classes=len(class_names))
    else:
        network = _from_file(name, weights, class_names, list(known.__members__))
    prepare = TorchvisionFrame(chosen.transforms())
    return VideoModel(
        name, weights, VideoNetwork(network).eval(), prepare, num_frames, "probabilities", list(class_names)
    )


def _downloaded(name: str, weights: Any) -> nn.Module:
    try:
        return torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:
        raise VideomemError(
            f"--weights {weights.name}: torchvision's {name} cannot be downloaded ({error}); connect to the network, "
            "or name a file or `random`"
        ) from error


def _from_file(name: str, weights: str, class_names: Sequence[str], known: Sequence[str]) -> nn.Module:
    path = Path(weights)
    if not path.is_file():
        raise VideomemError(
            f"--weights {weights}: neither kinetics400, nor random, nor {' or '.join(known)}, nor a file"
        )
    state = read_state(path, "--weights")
    bias = state.get(f"{_last_layer(name)}.bias")
    if bias is not None and len(bias) != len(class_names):
        raise VideomemError(
            f"--weights {path}: {len(bias)} outputs, but the catalog has {len(class_names)} classes; "
            "the catalog must be of the classes that the network was trained on, in sorted order"
        )
    network = torchvision.models.get_model(name, weights=None, num_classes=len(class_names))
    load_state(network, state, weights, name, "--weights")
    return network


def _last_layer(name: str) -> str:
    """Returns the name of the layer that computes the logits."""
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    return [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv3d)][-1]
