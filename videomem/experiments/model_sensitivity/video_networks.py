"""torchvision's networks that see whole clips, for what they were trained to tell apart or for classes of your own."""

from __future__ import annotations

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
from videomem.features.backbone import load_state, nearest, read_state
from videomem.video.catalog import Clip
from videomem.video.decoding import DecodedClip, decode_clip
from videomem.video.sampling import Sampling


class VideoNetwork(nn.Module):
    """A network on clips whose frames stand along axis 1.

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
    """torchvision's preset for a network, on decoded frames: every step of it concerns one frame.

    Attributes:
        transform: The preset of its weights; (1, 3, height, width) uint8 -> (3, 1, crop, crop) float32.
        sampling: Which frames of a clip are looked at.
    """

    transform: nn.Module
    sampling: Sampling

    def read(self, clip: Clip) -> tuple[Tensor, DecodedClip]:
        """Frames (T, 3, crop, crop) float32 of a clip as the network takes them, and how they were decoded."""
        decoded = decode_clip(clip.path, self.sampling, clip.interval, "auto", clip.fps)
        return self.shape_frames(decoded.frames_THWC), decoded

    def shape_frames(self, frames_THWC: NDArray[np.uint8]) -> Tensor:
        """(T, height, width, 3) uint8 of any size -> (T, 3, crop, crop) float32."""
        frames = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
        # A frame at a time: resized at once, a long clip would be held as floating point numbers of full size.
        return torch.stack([self.transform(frame[None])[:, 0] for frame in frames])


def load_video_network(
    name: str, weights: str, class_names: Sequence[str], num_frames: int, seed: int = 0
) -> tuple[VideoNetwork, nn.Module, list[str]]:
    """A network in evaluation mode, torchvision's preset for its frames, and the names of its outputs.

    Args:
        name: A video network, by the name that `torchvision.models.get_model` knows.
        weights: A name of torchvision's weights such as `KINETICS400_V1`, which are downloaded; `random`; or the path
            of a saved state_dict.
        class_names: Classes that random weights and those of a file are for, in their order.
        num_frames: T, held against the fewest that the network takes.
        seed: Seed of random weights.
    Raises:
        VideomemError: If the network, its weights or its number of outputs are not as asked for.
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
    last = _last_layer(name)
    bias = state.get(f"{last}.bias")
    num_outputs = len(class_names) if bias is None else len(bias)
    if num_outputs != len(class_names):
        raise VideomemError(
            f"--weights {path}: {num_outputs} outputs, but the catalog has {len(class_names)} classes; "
            "the catalog must be of the classes that the network was trained on, in sorted order"
        )
    network = torchvision.models.get_model(name, weights=None, num_classes=num_outputs)
    load_state(network, state, weights, name, "--weights")
    return network


def _last_layer(name: str) -> str:
    """Name of the layer that gives the logits."""
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None)
    return [path for path, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv3d)][-1]


def match_labels(labels: Sequence[str], categories: Sequence[str]) -> dict[str, int]:
    """Place of each label among the names of a network's outputs; case and underscores do not matter.

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
