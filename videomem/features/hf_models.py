"""Models of Hugging Face's `transformers`: their configs, their weights and the preprocessing of their frames.

A model is read from a folder of `save_pretrained`, is downloaded from the Hub to such a folder, or has random weights.
Weights are read from safetensors only. No code of a repository runs: its classes are those of the installed package,
and of its config only the fields that these classes declare are used.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from videomem.errors import VideomemError, one_line, requires_extra
from videomem.features.hub import (
    CONFIG_BYTES,
    NOT_CACHED,
    PREFIX,
    WEIGHTS_BYTES,
    HubModel,
    download,
    is_offline,
    named_model,
)
from videomem.features.preprocessing import Preprocessing
from videomem.utils.checked_json import read_object
from videomem.utils.text import nearest

CONFIG, PROCESSOR, VIDEO_PROCESSOR = "config.json", "preprocessor_config.json", "video_preprocessor_config.json"
# The only files that are downloaded, with the largest accepted number of bytes.
_REQUIRED = {CONFIG: CONFIG_BYTES}
_OPTIONAL = dict.fromkeys((PROCESSOR, VIDEO_PROCESSOR), CONFIG_BYTES)
_WEIGHTS = dict.fromkeys(("model.safetensors", "model-*-of-*.safetensors"), WEIGHTS_BYTES)
_WEIGHTS |= {"model.safetensors.index.json": CONFIG_BYTES}
_KNOWN_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
_INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # numbers of Pillow


@dataclass(frozen=True)
class HFSource:
    """Where a model comes from.

    Args:
        name: A folder of `save_pretrained`; a repository on the Hub, as `named_model` reads it; or, with random
            weights, a model type such as `dinov2`.
        random: Draw random weights instead of reading those of the model.
        seed: Seed of random weights.
        option: The setting that has the name, for error messages.
    """

    name: str
    random: bool = False
    seed: int = 0
    option: str = "backbone.name"

    def folder(self, weights: bool = False) -> Path | None:
        """The folder of the model, to which a repository is downloaded; None if the name is neither.

        Args:
            weights: Download the weights too, unless they are random.
        Raises:
            VideomemError: If the repository cannot be downloaded.
        """
        if (repository := named_model(self.name)) is not None:
            return (_snapshot_with_weights if weights and not self.random else _snapshot)(repository)
        return Path(self.name) if Path(self.name).is_dir() else None

    def problem(self, text: str) -> VideomemError:
        return VideomemError(f"{self.option} is {self.name!r:.200}, {text}")


def transformers_library() -> ModuleType:
    """The package, without progress bars and messages.

    Raises:
        VideomemError: If it is not installed.
    """
    with requires_extra("transformers", "a model of transformers"):
        import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def hf_config(source: HFSource, model_types: Collection[str]) -> Any:
    """The config of a model, of a type that is supported.

    Args:
        source: The model.
        model_types: The supported types.
    Raises:
        VideomemError: If there is no such model, or its config is not valid or of another type.
    """
    known = transformers_library().CONFIG_MAPPING
    if (folder := source.folder()) is None:
        if source.name not in model_types:
            raise source.problem(
                f"which is no folder, no repository on the Hub ({PREFIX}owner/name) and no supported model type; near "
                f"it are {nearest(source.name, sorted(model_types))}"
            )
        if not source.random:
            raise source.problem(
                "a model type without weights of its own; name a folder of `save_pretrained` or a repository on the "
                "Hub, or set its weights to random"
            )
        plain = {"model_type": source.name}
    else:
        plain = read_object(folder / CONFIG)
    kind = plain.get("model_type")
    if not isinstance(kind, str) or kind not in model_types or kind not in known:
        raise source.problem(
            f"a model of type {one_line(repr(kind))[:80]}, but supported types are {', '.join(sorted(model_types))}"
        )
    return config_from_plain(kind, plain)


def config_from_plain(model_type: str, plain: Mapping[str, Any]) -> Any:
    """A config from untrusted plain data, of which only the fields that its class declares are used.

    Others may name code to run, such as `auto_map` and `attn_implementation`.

    Raises:
        VideomemError: If a value is not valid.
    """
    cls = transformers_library().CONFIG_MAPPING[model_type]
    nested = {name: sub.model_type for name, sub in getattr(cls, "sub_configs", {}).items()}
    names = {*_own_fields(cls), "id2label", "label2id"}
    given = {name: value for name, value in plain.items() if name in names}
    for name, value in given.items():
        most = 1024 if "layers" in name else 2**20  # Some classes make lists of so many values.
        if any(type(one) is int and one > most for one in (value if isinstance(value, list) else [value])):
            raise VideomemError(f"a config of {model_type} whose {name} is {value!r:.80}, but must be within 0..{most}")
    for name, kind in nested.items():
        if name in given:
            given[name] = config_from_plain(kind, given[name])
    try:
        return cls(**given)
    except Exception as error:  # It raises errors of many types.
        raise VideomemError(f"not a valid config of {model_type}: {one_line(error)[:300]}") from error


def plain_config(config: Any) -> dict[str, Any]:
    """The fields of a config that differ from the defaults of its class, as plain data for `config_from_plain`."""
    usual = type(config)()
    names = [name for name in _own_fields(type(config)) if not name.startswith("_")]
    values = {name: getattr(config, name) for name in names}
    return dict(
        json.loads(json.dumps({name: value for name, value in values.items() if value != getattr(usual, name)}))
    )


def _own_fields(cls: type) -> list[str]:
    """The fields that a class of configs declares itself."""
    of_all = {field.name for field in fields(transformers_library().PreTrainedConfig)}
    return [field.name for field in fields(cls) if field.name not in of_all]


def hf_model(source: HFSource, class_name: str, config: Any, **arguments: Any) -> nn.Module:
    """A model in evaluation mode and float32, with the weights of the source.

    Args:
        source: The model.
        class_name: Class of `transformers`.
        config: Its config.
        arguments: Further arguments of the class.
    Raises:
        VideomemError: If there are no weights in safetensors, or they are not those of the class.
    """
    cls = getattr(transformers_library(), class_name)
    if source.random or (folder := source.folder(weights=True)) is None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(source.seed)
            return cls(config, **arguments).eval()
    if not any(folder.glob("*.safetensors")):
        raise source.problem(
            "which has no model.safetensors, and pickled weights such as pytorch_model.bin are not read; save them "
            "with `save_pretrained` of a recent transformers"
        )
    try:
        network, found = cls.from_pretrained(
            folder, config=config, use_safetensors=True, local_files_only=True, trust_remote_code=False,
            dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **arguments,
        )  # fmt: skip
    except Exception as error:  # It raises errors of many types.
        raise source.problem(f"whose weights cannot be loaded into {class_name}: {one_line(error)[:300]}") from error
    wrong = [f"{key} is absent" for key in found["missing_keys"]] + [
        f"{key} has shape {tuple(theirs)}, but {tuple(ours)} is expected"
        for key, theirs, ours in found["mismatched_keys"]
    ]
    if wrong:
        raise source.problem(
            f"whose weights are not those of {class_name} with its {CONFIG}: {min(wrong)}; save both again with "
            "`save_pretrained`"
        )
    if bad := [name for name, value in network.state_dict().items() if not torch.isfinite(value).all()]:
        raise source.problem(f"whose weight {bad[0]} has values that are not finite")
    return network.eval()


def hf_preprocessing(source: HFSource, config: Any, processor_type: str = "") -> Preprocessing:
    """The preprocessing of a model's own image processor.

    Without a file of it, as for a model type or a folder with a config only, that of the type is used with random
    weights, for images of the config's size.

    Args:
        source: The model.
        config: Its config.
        processor_type: The model type whose image processor is the default; by default that of the config.
    Raises:
        VideomemError: If there is none, or it does what `Preprocessing` does not.
    """
    folder = source.folder()
    has_file = folder is not None and (folder / PROCESSOR).is_file()
    if not has_file and not source.random:
        raise source.problem(f"which has no {PROCESSOR}; save it beside the model with the processor's save_pretrained")
    processors = transformers_library().models.auto.image_processing_auto
    try:
        if has_file:
            plain = processors.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            ).to_dict()
        else:
            names = processors.IMAGE_PROCESSOR_MAPPING_NAMES[processor_type or config.model_type]
            cls = getattr(transformers_library(), names["torchvision"])
            plain = _of_size(cls().to_dict(), config.image_size)
        return preprocessing_of(plain)
    except Exception as error:  # It raises errors of many types.
        raise source.problem(f"whose {PROCESSOR} is not usable: {one_line(error)[:300]}") from error


def preprocessing_of(plain: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that the settings of an image processor describe.

    Raises:
        VideomemError: If they ask for another step, another scale than 0..1, or a crop that is not a square.
    """
    if strange := [name for name, value in plain.items() if name.startswith("do_") and value
                   and name not in _KNOWN_STEPS]:  # fmt: skip
        raise VideomemError(f"{strange[0]} is a step that videomem does not have")
    steps = {name: bool(plain.get(name, True)) for name in _KNOWN_STEPS}
    if not steps["do_resize"] or not steps["do_rescale"] or abs(plain.get("rescale_factor", 0) * 255 - 1) > 1e-6:
        raise VideomemError("frames must be resized, and scaled by 1/255")
    size = dict(plain["size"])
    square = bool(plain.get("do_center_crop")) and plain["crop_size"]
    resize = [size["shortest_edge"]] if "shortest_edge" in size else [size["height"], size["width"]]
    height, width = (square["height"], square["width"]) if square else (resize * 2)[:2]
    if height != width or (not square and len(resize) == 1) or size.get("longest_edge"):
        raise VideomemError(f"its size is {size}, cropped to {square or 'nothing'}, which is not a square")
    mean, std = (plain["image_mean"], plain["image_std"]) if steps["do_normalize"] else ((0.0,) * 3, (1.0,) * 3)
    interpolation = _INTERPOLATION.get(int(plain["resample"]), f"method {int(plain['resample'])} of Pillow")
    resize_px = resize[0] if len(resize) == 1 else (height, width) if not square else (resize[0], resize[1])
    return Preprocessing(resize_px, height, interpolation, tuple(mean), tuple(std), crop_rounding="down")


def _of_size(plain: dict[str, Any], image_size: int) -> dict[str, Any]:
    """The default settings of an image processor, for images of another size in the same proportions."""
    square = plain["crop_size"]["height"] if plain.get("do_center_crop") else plain["size"]["height"]
    scaled = {name: round(value * image_size / square) for name, value in plain["size"].items() if value}
    return {**plain, "size": scaled, "crop_size": {"height": image_size, "width": image_size}}


@cache  # Config and weights are of one commit, also if the repository changes meanwhile.
def _snapshot(repository: HubModel) -> Path:
    return download(repository, _REQUIRED, _OPTIONAL)


@cache
def _snapshot_with_weights(repository: HubModel) -> Path:
    commit = replace(repository, revision=_snapshot(repository).name)
    folder = download(commit, _REQUIRED, _OPTIONAL | _WEIGHTS)
    if is_offline() and not any(folder.glob("*.safetensors")):
        raise VideomemError(f"{repository}: its weights are {NOT_CACHED}")
    return folder
