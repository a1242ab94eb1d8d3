"""The video networks of torchvision, with published weights or with weights for the classes of a catalog."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.features.weights import load_state, read_state
from videomem.utils.text import nearest
from videomem.video.catalog import Clip
from videomem.video.decoding import DecodedClip, decode_clip
from videomem.video.sampling import Sampling


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
class VideoPreset:
    """torchvision's preprocessing for a network, which transforms each frame alone.

    Attributes:
        transform: The preset of the weights; (1, 3, height, width) uint8 -> (3, 1, crop, crop) float32.
        sampling: Which frames of a clip are decoded.
    """

    transform: nn.Module
    sampling: Sampling

    def read(self, clip: Clip) -> tuple[Tensor, DecodedClip]:
        """Returns the frames (T, 3, crop, crop) float32 of a clip, and how they were decoded."""
        decoded = decode_clip(clip.path, self.sampling, clip.interval, "auto", clip.fps)
        frames = torch.from_numpy(decoded.frames_THWC).permute(0, 3, 1, 2)
        # A frame at a time: resized at once, a long clip would be held as floating point numbers of full size.
        return torch.stack([self.transform(frame[None])[:, 0] for frame in frames]), decoded


def load_video_network(
    name: str, weights: str, class_names: Sequence[str], num_frames: int, seed: int = 0
) -> tuple[VideoNetwork, nn.Module, list[str]]:
    """Returns a network in evaluation mode, the preset that transforms its frames, and the names of its outputs.

    Args:
        name: Name of a video network for `torchvision.models.get_model`.
        weights: A name of torchvision's weights such as `KINETICS400_V1`, which are downloaded; `random`; or the path
            of a saved state_dict.
        class_names: Names of the outputs for random weights and those of a file.
        num_frames: T, which must not be below the minimum of the network.
        seed: Seed of random weights.
    Raises:
        VideomemError: If the network or its weights do not exist, or do not fit the number of frames or classes.
    """
    available = torchvision.models.list_models(module=torchvision.models.video)
    if name not in available:
        raise VideomemError(f"--model {name}: no video network of torchvision; it has {', '.join(available)}")
    known = torchvision.models.get_model_weights(name)
    fewest = known.DEFAULT.meta.get("min_temporal_size", 1)
    if num_frames < fewest:
        raise VideomemError(f"--frames {num_frames}: {name} needs at least {fewest}; pass --frames {fewest}")
    if weights in known.__members__:
        chosen = known[weights]
        return VideoNetwork(_downloaded(name, chosen)).eval(), chosen.transforms(), list(chosen.meta["categories"])
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = torchvision.models.get_model(name, weights=None, num_classes=len(class_names))
    else:
        network = _from_file(name, weights, class_names, list(known.__members__))
    return VideoNetwork(network).eval(), known.DEFAULT.transforms(), list(class_names)


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
        raise VideomemError(f"--weights {weights}: neither `random`, nor {' or '.join(known)}, nor a file")
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


def match_labels(labels: Sequence[str], categories: Sequence[str]) -> dict[str, int]:
    """Returns the index of the output of each label; case and underscores do not matter.

    Raises:
        VideomemError: If a label is not among them.
    """
    places = {_plain(category): place for place, category in enumerate(categories)}
    for label in labels:
        if _plain(label) not in places:
            raise VideomemError(
                f"label {label!r} is none of the {len(categories)} classes that these weights tell apart; near it are: "
                f"{nearest(_plain(label), list(categories))}; rename it in the catalog, or leave its clips out"
            )
    return {label: places[_plain(label)] for label in labels}


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())
