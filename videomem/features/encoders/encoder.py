"""Settings of the frozen network that computes features, and what the networks of each library have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.features.preprocessing import Preprocessing

Library = Literal["torchvision", "timm", "transformers"]
PUBLISHED = ("imagenet", "kinetics400", "pretrained", "random")  # weights that are no file
_WEIGHTS = {"timm": "pretrained, random or the file of a state_dict", "transformers": "pretrained or random"}
_GRID, _MOST_SEGMENT_FRAMES = 3, 1024


@dataclass(frozen=True)
class BackboneSettings:
    """The network, the layer whose output is used, and the source of the weights; see docs/encoders.md.

    Args:
        name: Network, folder or repository on the Hub.
        layer: One of `extract --layers`.
        weights: `imagenet`, `kinetics400`, `pretrained`, `random` or a file.
        library: Of the network.
        seed: Seed of `random` weights.
        grid: Largest grid of pooled feature maps.
        segment_frames: Frames of a video network's input.
        precision: Of convolutions and matrix products. `bfloat16` is faster on processors that have instructions for
            it, such as AVX512-BF16, and rounds to 8 significant bits.
    """

    name: str = "alexnet"
    layer: str = "fc6"
    weights: str = "imagenet"
    library: Library = "torchvision"
    seed: int = 0
    grid: int = _GRID
    segment_frames: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name, most in (("grid", 32), ("segment_frames", _MOST_SEGMENT_FRAMES)):
            if not 1 <= (value := getattr(self, name)) <= most:
                raise VideomemError(f"backbone.{name} is {value}, but must be within 1..{most}")
        if not 0 <= self.seed < 2**32:
            raise VideomemError(f"backbone.seed is {self.seed}, but must be within 0..{2**32 - 1}")
        if not (self.name + self.layer).isprintable():
            raise VideomemError(f"backbone.name or layer of {self.name!r:.80} cannot be printed")
        if self.library == "torchvision" and self.weights == "pretrained":
            raise VideomemError(
                "backbone.weights is pretrained, but torchvision's are called imagenet or, of video networks, "
                "kinetics400; set it to one of them, random or the file of a state_dict"
            )
        if self.library != "torchvision":
            if self.weights in ("imagenet", "kinetics400"):
                raise VideomemError(
                    f"backbone.weights is {self.weights}, which only torchvision has, but backbone.library is "
                    f"{self.library}; set it to {_WEIGHTS[self.library]}"
                )
            if self.grid != _GRID:
                raise VideomemError(
                    f"backbone.grid is {self.grid}, but pools maps of torchvision only, and backbone.library is "
                    f"{self.library}; leave it out"
                )
        if self.library == "transformers" and self.weights not in ("pretrained", "random"):
            raise VideomemError(
                f"backbone.weights is {self.weights!r}, but with transformers must be {_WEIGHTS['transformers']}; name "
                "a folder of `save_pretrained` as backbone.name"
            )

    def refuse_segments(self, user: str) -> None:
        """Raise a VideomemError if the network takes segments of frames, which a user of single frames cannot give."""
        if self.segment_frames > 1:
            raise VideomemError(
                f"{user} needs a network of single images, but {self.name} computes features of segments of "
                f"{self.segment_frames} frames (backbone.segment_frames)"
            )


@dataclass(frozen=True)
class Blueprint:
    """What builds a network without its weights and without their source; kept in exported folders.

    Attributes:
        name: The network, in keys of stores.
        preprocessing: That of its library for it.
        config: Its config, where the name does not determine it.
    """

    name: str
    preprocessing: Preprocessing
    config: dict[str, Any] = field(default_factory=dict)


class Encoder(nn.Module, ABC):
    """A network up to one of its layers.

    Attributes:
        node: The layer, in keys of stores.

    Shape:
        images (N, 3, crop, crop), of video networks (N, F, 3, crop, crop), float32, normalized
        -> the output of the layer: vectors (N, D), tokens (N, P, D) or maps
    """

    node: str

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...


def refuse_layer(settings: BackboneSettings, choices: Sequence[str]) -> None:
    """Raise a VideomemError if the layer is none of the choices."""
    if settings.layer not in choices:
        raise VideomemError(
            f"backbone.layer is {settings.layer!r}, which {settings.name} of {settings.library} does not have; it has "
            f"{', '.join(choices)}"
        )


def refuse_wrong_segments(settings: BackboneSettings, num_frames: int | None) -> None:
    """Raise a VideomemError if `segment_frames` does not fit the network.

    Args:
        settings: The settings.
        num_frames: F that a video network takes, or 0 if it takes several; None for networks of single images.
    """
    given, name = settings.segment_frames, settings.name
    if num_frames is None and given > 1:
        raise VideomemError(
            f"backbone.segment_frames is {given}, but {name} is a network of single images; set it to 1"
        )
    if num_frames is not None and (given == 1 or num_frames not in (0, given)):
        raise VideomemError(
            f"{name} is a video network, which takes segments of {num_frames or 'several'} frames, but "
            f"backbone.segment_frames is {given}; set it to {num_frames or 16}"
        )
