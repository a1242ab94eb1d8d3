"""Image encoders of timm: pooled features or tokens, preprocessed as timm evaluates the model."""

from __future__ import annotations

import logging
import math
import re
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from videomem.errors import VideomemError, one_line, requires_extra
from videomem.features.encoders.encoder import (
    BackboneSettings,
    Blueprint,
    Encoder,
    refuse_layer,
    refuse_wrong_segments,
)
from videomem.features.hub import WEIGHTS_BYTES, download, hub_model
from videomem.features.preprocessing import Preprocessing
from videomem.features.weights import read_state
from videomem.utils.text import nearest

POOLED, CLASS_TOKEN, PATCH_MEAN = "pooled", "class_token", "patch_mean"


class TimmEncoder(Encoder):
    """A model without its classifier.

    `pooled` is what timm's own classifier gets, `forward_head(..., pre_logits=True)`; `class_token` and `patch_mean`
    are tokens of `forward_features`, the latter the mean without class and register tokens.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        super().__init__()
        self.network, self.node = network, layer

    def forward(self, images: Tensor) -> Tensor:
        network: Any = self.network
        tokens_NPD: Tensor = network.forward_features(images)
        if self.node == POOLED:
            return network.forward_head(tokens_NPD, pre_logits=True)
        return tokens_NPD[:, 0] if self.node == CLASS_TOKEN else tokens_NPD[:, _num_prefix(network) :].mean(1)


def blueprint(settings: BackboneSettings) -> Blueprint:
    """timm's data config of a model. Downloads nothing.

    Raises:
        VideomemError: If timm has no such model, or evaluates it on images that are not square.
    """
    timm = _timm()
    name, _, tag = settings.name.partition(".")
    if not timm.is_model(name):
        raise VideomemError(
            f"backbone.name is {settings.name!r:.200}, but timm does not have it; it has, for example, "
            f"{nearest(name, timm.list_models())}"
        )
    known = [known for known in timm.list_pretrained(f"{name}.*") if known.startswith(f"{name}.")]
    if tag and settings.name not in known:
        raise VideomemError(
            f"backbone.name is {settings.name!r:.200}, but timm's {name} has no such weights; it has "
            f"{', '.join(known) or 'none'}"
        )
    refuse_wrong_segments(settings, None)
    found = timm.get_pretrained_cfg(settings.name)
    config = timm.data.resolve_data_config(pretrained_cfg=found.to_dict() if found else {"crop_pct": None})
    return Blueprint(settings.name, _preprocessing(settings.name, config))


def encoder(settings: BackboneSettings, blueprint: Blueprint, load_weights: bool) -> Encoder:
    """Build a model. Without `load_weights`, they must be loaded from a state_dict afterwards."""
    refuse_layer(settings, _layers(blueprint.name))
    network = (_build(settings) if load_weights else _model(blueprint.name)).eval()
    return TimmEncoder(network, settings.layer)


def outputs(settings: BackboneSettings, blueprint: Blueprint, images: Tensor) -> dict[str, Any]:
    """The output of each layer of a model without weights."""
    network = _model(blueprint.name).eval()
    return {layer: TimmEncoder(network, layer)(images) for layer in _layers(blueprint.name)}


def _timm() -> ModuleType:
    """The package, without warnings of weights that are not used, such as those of a classifier."""
    with requires_extra("timm", "backbone.library timm"):
        import timm
        import timm.data
    logging.getLogger("timm").setLevel(logging.ERROR)
    return timm


def _model(name: str, **options: Any) -> Any:
    try:
        return _timm().create_model(name, num_classes=0, **options)
    except TypeError as error:
        raise VideomemError(f"{name} of timm cannot be built without a classifier: {one_line(error)}") from error


def _build(settings: BackboneSettings) -> Any:
    name, weights = settings.name, settings.weights
    if weights == "random":
        return _seeded(name, settings.seed)
    state = read_state(_downloaded(name) if weights == "pretrained" else Path(weights), "backbone.weights")
    try:  # timm renames what its own checkpoints have, and leaves out the classifier.
        network, other = (
            _seeded(name, seed, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)}) for seed in (0, 1)
        )
    except (RuntimeError, KeyError, ValueError) as error:
        found = re.search(r"size mismatch for (\S+):.*?Size\(\[(.*?)\]\).*?Size\(\[(.*?)\]\)", str(error), re.S)
        reason = f"{found[1]} has shape ({found[2]}), but ({found[3]}) is expected" if found else one_line(error)[:200]
        raise _not_of(name, weights, reason) from error
    values = other.state_dict()
    # timm ignores that weights are absent: they stay random, so they differ between seeds.
    if absent := [key for key, value in network.state_dict().items() if not torch.equal(value, values[key])]:
        raise _not_of(name, weights, f"{absent[0]} is absent")
    return network


def _seeded(name: str, seed: int, **options: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _model(name, **options)


def _not_of(name: str, weights: str, reason: str) -> VideomemError:
    return VideomemError(f"backbone.weights: {weights}: not the weights of {name}: {reason}; name those of the network")


def _downloaded(name: str) -> Path:
    """The published weights of a model in safetensors. timm itself would also unpickle those of other repositories."""
    config, remedy = _timm().get_pretrained_cfg(name), "name a file of weights, or `random`"
    file = (config and config.hf_hub_filename) or "model.safetensors"
    if not (config and config.hf_hub_id and file.endswith(".safetensors")):
        raise VideomemError(f"backbone.weights is pretrained, but timm has no safetensors of {name}; {remedy}")
    try:
        return download(hub_model(config.hf_hub_id), {file: WEIGHTS_BYTES}) / file
    except VideomemError as error:
        raise VideomemError(f"backbone.weights is pretrained, but {error}; or {remedy}") from error


@lru_cache(maxsize=16)
def _layers(name: str) -> list[str]:
    """The layers that a model has: tokens only if its features are tokens."""
    with torch.device("meta"), torch.no_grad():
        network = _model(name).eval()
        features = network.forward_features(
            torch.zeros(1, *_timm().data.resolve_model_data_config(network)["input_size"])
        )
    if features.ndim != 3:
        return [POOLED]
    return [POOLED, CLASS_TOKEN, PATCH_MEAN] if _has_class_token(network) else [POOLED, PATCH_MEAN]


def _has_class_token(network: Any) -> bool:
    stated = getattr(network, "has_class_token", None)
    return bool(stated) if isinstance(stated, bool) else getattr(network, "cls_token", None) is not None


def _num_prefix(network: Any) -> int:
    return int(getattr(network, "num_prefix_tokens", 0) or 0)


def _preprocessing(name: str, config: dict[str, Any]) -> Preprocessing:
    """The preprocessing of `timm.data.create_transform` for evaluation."""
    channels, height, width = config["input_size"]
    if channels != 3 or height != width or config["crop_mode"] not in ("center", "squash"):
        raise VideomemError(
            f"timm evaluates {name} on images of {channels} x {height} x {width} by crop mode {config['crop_mode']}, "
            "but videomem needs square color images without a border; choose another model"
        )
    resized = math.floor(height / config["crop_pct"])
    resize_px = (resized, resized) if config["crop_mode"] == "squash" else resized
    return Preprocessing(resize_px, height, config["interpolation"], tuple(config["mean"]), tuple(config["std"]))
