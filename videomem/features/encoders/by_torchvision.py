"""Image and video classifiers of torchvision, up to any node of their graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from videomem.errors import VideomemError
from videomem.features.encoders.encoder import BackboneSettings, Blueprint, Encoder, refuse_wrong_segments
from videomem.features.preprocessing import Preprocessing
from videomem.features.weights import load_state, read_state
from videomem.utils.text import nearest

# Names of the layers of torchvision's AlexNet in Krizhevsky 2014, "One weird trick"; fc6 and fc7 are after the ReLU.
ALEXNET_LAYERS = {"pool5": "features.12", "fc6": "classifier.2", "fc7": "classifier.5", "logits": "classifier.6"}


class TorchvisionEncoder(Encoder):
    """A classifier up to a node. In-place operations are off: they would change the output of an earlier layer."""

    takes_clips: bool

    def __init__(self, network: Any, node: str, takes_clips: bool) -> None:
        super().__init__()
        self.node = node
        self.takes_clips = takes_clips
        for module in network.modules():
            if hasattr(module, "inplace"):
                module.inplace = False
        self.network = create_feature_extractor(network.eval(), {node: "features"})

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.transpose(1, 2) if self.takes_clips else images)["features"]


def blueprint(settings: BackboneSettings) -> Blueprint:
    """The preset of the default weights of a network. Downloads nothing.

    Raises:
        VideomemError: If torchvision has no classifier of that name, or it takes no such segments.
    """
    name = settings.name
    if name not in (available := torchvision.models.list_models(module=torchvision.models)) + _video_networks():
        raise VideomemError(
            f"backbone.name is {name!r:.200}, but torchvision does not have it; it has, for example, "
            f"{nearest(name, available)}, and of video networks {', '.join(_video_networks())}"
        )
    meta = torchvision.models.get_model_weights(name).DEFAULT.meta
    fewest = meta.get("min_temporal_size", 1)
    refuse_wrong_segments(settings, 0 if _takes_clips(name) else None)
    if settings.segment_frames < fewest and _takes_clips(name):
        raise VideomemError(
            f"backbone.segment_frames is {settings.segment_frames}, but {name} needs at least {fewest}; raise it"
        )
    return Blueprint(name, preset(name))


def preset(name: str) -> Preprocessing:
    """The preprocessing of the default weights of a classifier."""
    found = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    resize_px = found.resize_size[0] if len(found.resize_size) == 1 else tuple(found.resize_size)
    return Preprocessing(
        resize_px, found.crop_size[0], found.interpolation.value, tuple(found.mean), tuple(found.std),
        antialias=not _takes_clips(name),  # torchvision's preset of videos has none.
    )  # fmt: skip


def encoder(settings: BackboneSettings, blueprint: Blueprint, load_weights: bool) -> Encoder:
    """Build a network. Without `load_weights`, they must be loaded from a state_dict afterwards."""
    network = _build(settings) if load_weights else torchvision.models.get_model(blueprint.name, weights=None)
    return TorchvisionEncoder(network, _node(network, settings), _takes_clips(blueprint.name))


def outputs(settings: BackboneSettings, blueprint: Blueprint, images: Tensor) -> dict[str, Any]:
    """The output at each node of a network without weights, in the order of computation."""
    network = torchvision.models.get_model(blueprint.name, weights=None).eval()
    nodes = get_graph_node_names(network)[1][1:]
    clips = images.transpose(1, 2) if _takes_clips(blueprint.name) else images
    return dict(create_feature_extractor(network, nodes)(clips))


def _video_networks() -> list[str]:
    return list(torchvision.models.list_models(module=torchvision.models.video))


def _takes_clips(name: str) -> bool:
    return name in _video_networks()


def _build(settings: BackboneSettings) -> nn.Module:
    name, option = settings.name, "backbone.weights"
    published = "kinetics400" if _takes_clips(name) else "imagenet"
    if settings.weights == published:
        try:
            return torchvision.models.get_model(name, weights="DEFAULT")
        except (OSError, RuntimeError) as error:
            raise VideomemError(
                f"backbone.weights is {published}, but torchvision's {name} cannot be downloaded ({error}); "
                "connect to the network, or name a file or `random`"
            ) from error
    if settings.weights in ("imagenet", "kinetics400"):
        raise VideomemError(f"{option} is {settings.weights}, but {name} was trained on {published}; set it to that")
    if settings.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(settings.seed)
            return torchvision.models.get_model(name, weights=None)
    network = torchvision.models.get_model(name, weights=None)
    load_state(network, read_state(Path(settings.weights), option), settings.weights, name, option)
    return network


def _node(network: nn.Module, settings: BackboneSettings) -> str:
    layer = ALEXNET_LAYERS.get(settings.layer, settings.layer) if settings.name == "alexnet" else settings.layer
    nodes = get_graph_node_names(network)[1][1:]
    if not any(node == layer or node.startswith(f"{layer}.") for node in nodes):
        names = ", ".join(ALEXNET_LAYERS) if settings.name == "alexnet" else nearest(layer, nodes)
        raise VideomemError(
            f"backbone.layer is {settings.layer!r}, which {settings.name} does not have; try {names}, or list all by "
            "adding --layers to `videomem extract`"
        )
    return layer
