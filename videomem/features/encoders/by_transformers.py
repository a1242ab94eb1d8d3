"""Image and video encoders of Hugging Face's transformers: tokens or projected embeddings of their vision models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.features.encoders.encoder import (
    BackboneSettings,
    Blueprint,
    Encoder,
    refuse_layer,
    refuse_wrong_segments,
)
from videomem.features.hf_models import HFSource, config_from_plain, hf_config, hf_model, hf_preprocessing, plain_config

CLASS_TOKEN, PATCH_MEAN, EMBEDDING = "class_token", "patch_mean", "embedding"


class _Kind(NamedTuple):
    """What is known about a model type.

    Attributes:
        class_name: Class of `transformers`.
        num_prefix: Tokens before those of the patches, without register tokens.
        embedding: Name of the output that is the embedding of an image, if there is one.
        processor: Model type whose image processor is the default.
        has_pooler: Whether the class has a pooling layer that can be left out, as weights of classifiers lack it.
    """

    class_name: str
    num_prefix: int = 1
    embedding: str = ""
    processor: str = ""
    has_pooler: bool = False


KINDS = {
    "vit": _Kind("ViTModel", has_pooler=True),
    "deit": _Kind("DeiTModel", num_prefix=2, has_pooler=True),
    "dinov2": _Kind("Dinov2Model"),
    "dinov2_with_registers": _Kind("Dinov2WithRegistersModel", processor="dinov2"),
    "dinov3_vit": _Kind("DINOv3ViTModel"),
    "clip_vision_model": _Kind("CLIPVisionModelWithProjection", embedding="image_embeds", processor="clip"),
    "siglip_vision_model": _Kind("SiglipVisionModel", num_prefix=0, embedding="pooler_output", processor="siglip"),
    "videomae": _Kind("VideoMAEModel", num_prefix=0),
    "timesformer": _Kind("TimesformerModel"),
}
# Models of images and text, of which the vision part is used.
_WITH_TEXT = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}


class TransformersEncoder(Encoder):
    """A vision model. Its last hidden states are tokens (N, P, D): the class token, registers, and the patches.

    `class_token` is the first one, `patch_mean` the mean of the patches, and `embedding` what CLIP and SigLIP compare
    with the embedding of a text.
    """

    def __init__(self, network: nn.Module, kind: _Kind, config: Any, layer: str) -> None:
        super().__init__()
        self.network, self.node, self._embedding = network, layer, kind.embedding
        self._num_prefix = kind.num_prefix + getattr(config, "num_register_tokens", 0)

    def forward(self, images: Tensor) -> Tensor:
        output = self.network(pixel_values=images)
        if self.node == EMBEDDING:
            return output[self._embedding]
        tokens_NPD: Tensor = output["last_hidden_state"]
        return tokens_NPD[:, 0] if self.node == CLASS_TOKEN else tokens_NPD[:, self._num_prefix :].mean(1)


def blueprint(settings: BackboneSettings) -> Blueprint:
    """The config and the preprocessing of a model, which are downloaded with it if it is on the Hub.

    Raises:
        VideomemError: If there is no such model, or it is of a type that is not supported.
    """
    source = _source(settings)
    config = hf_config(source, KINDS.keys() | _WITH_TEXT.keys())
    if config.model_type in _WITH_TEXT:
        vision = config.vision_config
        if hasattr(config, "projection_dim"):
            vision.projection_dim = config.projection_dim
        config = vision
    kind = KINDS[config.model_type]
    refuse_wrong_segments(settings, getattr(config, "num_frames", None))
    preprocessing = hf_preprocessing(source, config, kind.processor)
    return Blueprint(config.model_type, preprocessing, plain_config(config))


def _check_size(config: Any) -> None:
    """Refuse a config, which may be untrusted, whose model has more layers or tokens than any known one."""
    image_px, patch_px = (max(value) if isinstance(value, list | tuple) else value
                          for value in (config.image_size, config.patch_size))  # fmt: skip
    num_tokens = (image_px // max(patch_px, 1)) ** 2 * getattr(config, "num_frames", 1)
    for name, value, most in (
        ("num_hidden_layers", config.num_hidden_layers, 256),
        ("hidden_size", config.hidden_size, 2**14),
        ("number of patches", num_tokens, 2**17),
        ("num_register_tokens", getattr(config, "num_register_tokens", 0), 2**10),
    ):
        if not 0 <= value <= most:
            raise VideomemError(
                f"a config of {config.model_type} whose {name} is {value}, but must be within 0..{most}"
            )


def encoder(settings: BackboneSettings, blueprint: Blueprint, load_weights: bool) -> Encoder:
    """Build a model. Without `load_weights`, they must be loaded from a state_dict afterwards."""
    kind, config = _kind(blueprint), config_from_plain(blueprint.name, blueprint.config)
    refuse_layer(settings, _layers(kind))
    _check_size(config)
    source = _source(settings) if load_weights else HFSource(blueprint.name, random=True)
    arguments = {"add_pooling_layer": False} if kind.has_pooler else {}
    network = hf_model(source, kind.class_name, config, **arguments)
    return TransformersEncoder(network, kind, config, settings.layer)


def outputs(settings: BackboneSettings, blueprint: Blueprint, images: Tensor) -> dict[str, Any]:
    """The output of each layer of a model without weights."""
    built = {layer: encoder(replace(settings, layer=layer), blueprint, False) for layer in _layers(_kind(blueprint))}
    return {layer: network(images) for layer, network in built.items()}


def _source(settings: BackboneSettings) -> HFSource:
    return HFSource(settings.name, settings.weights == "random", settings.seed)


def _kind(blueprint: Blueprint) -> _Kind:
    if blueprint.name not in KINDS:
        raise VideomemError(f"{blueprint.name!r:.80} is no model type that videomem supports: {', '.join(KINDS)}")
    return KINDS[blueprint.name]


def _layers(kind: _Kind) -> list[str]:
    return [*[CLASS_TOKEN] * (kind.num_prefix > 0), PATCH_MEAN, *[EMBEDDING] * bool(kind.embedding)]
