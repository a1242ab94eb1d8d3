"""Write and read a model as a folder in the layout of model hubs: safetensors and JSON, no pickle and no code.

    README.md                  the model card
    config.json                the head and its arguments, the classes, the backbone, facts about the training, and
                               the checksums of the tensors and of both JSON files
    preprocessor_config.json   sampling, decoding and preprocessing
    model.safetensors          `head.*` and `backbone.*`

A folder may come from an untrusted source. The classes that it names are looked up in fixed tables, the shapes of its
tensors are checked against its config before memory is allocated, and a config is refused unless videomem would write
the same one for the model that it describes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from videomem.errors import VideomemError, one_line
from videomem.features.backbone import Backbone, Blueprint
from videomem.features.hub import CONFIG_BYTES, WEIGHTS_BYTES, HubModel, download
from videomem.features.settings import FeatureSettings
from videomem.heads import Head
from videomem.inference.folder_config import (
    FORMAT,
    PARTS,
    SIZES,
    Parts,
    architecture_of,
    arguments_of,
    check_facts,
    check_same,
    class_names,
    config_of,
    preprocessor_of,
    settings_of,
    short_name,
)
from videomem.inference.model_card import model_card
from videomem.utils.atomic import atomic_folder, write_atomic
from videomem.utils.checked_json import read_object
from videomem.utils.folders import is_empty_or_absent

CONFIG, PREPROCESSOR, WEIGHTS, MODEL_CARD = "config.json", "preprocessor_config.json", "model.safetensors", "README.md"
FILES = (CONFIG, PREPROCESSOR, WEIGHTS)
_MOST_BYTES = {CONFIG: CONFIG_BYTES, PREPROCESSOR: CONFIG_BYTES, WEIGHTS: WEIGHTS_BYTES}  # of a file on the Hub
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}


def write_folder(parts: Parts, folder: Path) -> None:
    """Write the four files of a model. The folder appears when they are complete.

    Raises:
        VideomemError: If the folder is not empty or cannot be written, or the model has classes of other packages.
    """
    if not is_empty_or_absent(folder):
        raise VideomemError(f"{folder}: is not empty; choose a new folder")
    config, preprocessor = config_of(parts), preprocessor_of(parts)
    tensors = _tensors_of(parts.head, parts.backbone)
    config["weights_checksum"] = checksum_of(tensors)
    config["checksum"] = checksum_of_json(config, preprocessor)
    with atomic_folder(folder) as unfinished:
        write_atomic(unfinished / WEIGHTS, save({name: value.cpu().contiguous() for name, value in tensors.items()}))
        write_json(unfinished / PREPROCESSOR, preprocessor)
        write_json(unfinished / CONFIG, config)
        write_model_card(unfinished)


def write_model_card(folder: Path, graphs: str = "", name: str = ".", license: str | None = None) -> None:
    """Write the model card of a folder; see `model_card`."""
    config, preprocessor = (read_object(folder / file) for file in (CONFIG, PREPROCESSOR))
    write_atomic(folder / MODEL_CARD, model_card(config, preprocessor, graphs, name, license).encode())


def write_json(path: Path, content: Any) -> None:
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def read_repository(model: HubModel) -> Parts:
    """Download the files of the format from the Hugging Face Hub, and read them as `read_folder` does.

    Raises:
        VideomemError: If a file cannot be downloaded, or for the reasons of `read_folder`.
    """
    folder = download(model, _MOST_BYTES)
    try:
        return read_folder(folder)
    except VideomemError as error:
        raise VideomemError(str(error).replace(str(folder), str(model))) from error


def read_folder(folder: Path) -> Parts:
    """Read a folder, also from an untrusted source. Runs no code from it.

    Raises:
        VideomemError: If a file is missing, damaged, too large, or does not fit the others.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise VideomemError(f"{folder}: lacks {name}, so it is not a folder of `videomem export`")
    config, preprocessor = (read_object(folder / name) for name in (CONFIG, PREPROCESSOR))
    if (made_for := config.get("model_type")) != "videomem":
        raise VideomemError(f"{folder / CONFIG}: not a model of videomem (model_type {made_for!r:.40})")
    if config.get("format") != FORMAT:
        raise VideomemError(
            f"{folder / CONFIG}: format {config.get('format')!r:.40}, but this videomem reads format {FORMAT}; "
            "export it again"
        )
    if config.get("checksum") != checksum_of_json(config, preprocessor):
        raise VideomemError(f"{folder}: {CONFIG} or {PREPROCESSOR} was changed or damaged; export it again")
    try:
        return _assemble(config, preprocessor, folder / WEIGHTS)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, VideomemError) as error:
        kind = "" if isinstance(error, VideomemError) else f"{type(error).__name__}: "
        raise VideomemError(
            f"{folder}: its files do not fit together ({kind}{one_line(error)}); export it again"
        ) from error


def _assemble(config: dict[str, Any], preprocessor: dict[str, Any], weights: Path) -> Parts:
    names, arguments = class_names(config["id2label"]), arguments_of(config)
    settings = settings_of(config, preprocessor)
    blueprint = architecture_of(config["architecture"], preprocessor, settings)
    exported = {"exported": True, "left out": False}[config["backbone"]["weights"]]
    found = _tensors_in(weights)
    if arguments["num_layers"] > len(found):
        raise ValueError(f"{arguments['num_layers']} layers, but {weights.name} has {len(found)} tensors")
    parts_of = arguments, settings, len(names), blueprint if exported else None
    with torch.device("meta"):  # Shapes without memory: an untrusted config may have any size.
        expected = _tensors_of(*_build(*parts_of))
    _check_fit({name: (tuple(value.shape), _DTYPES.get(value.dtype)) for name, value in expected.items()}, found)
    tensors = load_file(weights)
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} has values that are not finite")
    if config["weights_checksum"] != checksum_of(tensors):
        raise ValueError(f"the checksum of the tensors in {WEIGHTS} is not that in {CONFIG}")
    head, backbone = _build(*parts_of)
    for prefix, module in _modules(head, backbone).items():
        module.load_state_dict({name: tensors[f"{prefix}.{name}"] for name in module.state_dict()})
    check_facts(config["training"], config["evidence"])
    parts = Parts(head, names, settings, backbone, arguments, config["training"], config["evidence"], blueprint)
    compared = {"made_with": str(config["made_with"]),
                **{name: config[name] for name in ("weights_checksum", "checksum")}}  # fmt: skip
    check_same(config, {**config_of(parts), **compared}, CONFIG)
    check_same(preprocessor, preprocessor_of(parts), PREPROCESSOR)
    return parts


def _build(
    arguments: Mapping[str, Any], settings: FeatureSettings, num_classes: int, blueprint: Blueprint | None
) -> tuple[Head, Backbone | None]:
    memory, readout = (
        partial(known[short_name(arguments[part])], **arguments[part]["init_args"]) for part, known in PARTS.items()
    )
    head = Head(memory, num_classes=num_classes, readout=readout, **{name: arguments[name] for name in SIZES})
    return head.eval(), None if blueprint is None else Backbone(settings.backbone, blueprint)


def _tensors_in(weights: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each tensor of a file, from its header."""
    try:
        with safe_open(weights, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise VideomemError(f"{weights.name} is damaged, or not a safetensors file: {one_line(error)}") from error


def _modules(head: Head, backbone: Backbone | None) -> dict[str, nn.Module]:
    """The modules with weights, by the prefix of their tensors."""
    return {"head": head} if backbone is None else {"head": head, "backbone": backbone.encoder}


def _tensors_of(head: Head, backbone: Backbone | None) -> dict[str, Tensor]:
    modules = _modules(head, backbone).items()
    return {f"{prefix}.{name}": value for prefix, module in modules for name, value in module.state_dict().items()}


def checksum_of(tensors: Mapping[str, Tensor], start: int = 0) -> int:
    """CRC-32 of the names and values of tensors, continued from `start`."""
    for name, value in sorted(tensors.items()):
        start = crc32(value.cpu().contiguous().numpy().data, crc32(name.encode(), start))
    return start


def checksum_of_json(config: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> int:
    """CRC-32 of both JSON files, without the entry that has it."""
    return crc32(json.dumps([{**config, "checksum": None}, preprocessor], sort_keys=True).encode())


def _check_fit(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            shown = ["absent" if part is None else f"{part[1]} {part[0]}"
                     for part in (found.get(name), expected.get(name))]  # fmt: skip
            raise ValueError(f"tensor {name!r:.80} is {shown[0]} in {WEIGHTS}, but {shown[1]} according to {CONFIG}")
