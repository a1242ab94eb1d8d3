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
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

import videomem
from videomem.errors import VideomemError, one_line
from videomem.features.backbone import Backbone, BackboneSettings, Blueprint, blueprint_of
from videomem.features.hub import CONFIG_BYTES, WEIGHTS_BYTES, HubModel, download
from videomem.features.preprocessing import Preprocessing
from videomem.features.settings import FeatureSettings, ImportedFeatures
from videomem.heads import MEMORIES, READOUTS, Head, MeanReadout
from videomem.inference.model_card import model_card
from videomem.utils.atomic import atomic_folder, write_atomic
from videomem.utils.checked_json import read_object
from videomem.utils.folders import is_empty_or_absent
from videomem.utils.plain_data import checked_arguments, class_path, from_plain
from videomem.utils.sharing import shared_path
from videomem.video.sampling import SAMPLINGS, Sampling

FORMAT = 6
CONFIG, PREPROCESSOR, WEIGHTS, MODEL_CARD = "config.json", "preprocessor_config.json", "model.safetensors", "README.md"
FILES = (CONFIG, PREPROCESSOR, WEIGHTS)
SIZES = ("num_layers", "projection_dim", "feature_dim")  # Arguments of the head that are numbers.
# The classes that a config may name, by the part of the head that they build.
_PARTS: dict[str, Mapping[str, Any]] = {"memory": MEMORIES, "readout": READOUTS}
_MOST_BYTES = {CONFIG: CONFIG_BYTES, PREPROCESSOR: CONFIG_BYTES, WEIGHTS: WEIGHTS_BYTES}  # of a file on the Hub
_DTYPES = {torch.float32: "F32", torch.int64: "I64"}


class Parts(NamedTuple):
    """The parts of a `Classifier`; see its arguments."""

    head: Head
    class_names: list[str]
    settings: FeatureSettings
    backbone: Backbone | None
    arguments: dict[str, Any]
    training: dict[str, Any]
    evidence: dict[str, Any]
    blueprint: Blueprint


@dataclass(frozen=True)
class TrainingFacts:
    """The types of the facts about the training in the model card; see `Checkpoint.training_facts`."""

    data: str = ""
    epochs: int = 0
    steps: int = 0
    class_counts: list[int] = field(default_factory=list)
    dropout: float | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    optimizer: str | None = None
    momentum: float | None = None
    lr_schedule: str | None = None
    warmup_epochs: int | None = None
    label_smoothing: float | None = None
    class_weighting: str | None = None
    seed: int | None = None
    batch_size: int | None = None
    balanced_sampling: bool | None = None
    source: str | None = None
    reversed_pairs: bool | None = None
    test_split: str | None = None
    backbone_weights: str | None = None
    features: dict[str, Any] | None = None


@dataclass(frozen=True)
class Evaluation:
    """The types of the accuracies in the model card."""

    split: str
    num_clips: int
    num_groups: int
    accuracy: float
    shuffled: float
    reversed: float
    chance: float
    flip_rate: float
    max_logit_change: float
    num_permutations: int


@dataclass(frozen=True)
class NotEvaluated:
    """The reason why the model card has no accuracies."""

    reason: str


@dataclass(frozen=True)
class OrderEvidence:
    """The types of the result of an order test in the model card."""

    label: str
    value: float
    low: float
    high: float
    verdict: str
    plan_sha256: str


def write_folder(parts: Parts, folder: Path) -> None:
    """Write the four files of a model. The folder appears when they are complete.

    Raises:
        VideomemError: If the folder is not empty or cannot be written, or the model has classes of other packages.
    """
    if not is_empty_or_absent(folder):
        raise VideomemError(f"{folder}: is not empty; choose a new folder")
    config, preprocessor = _config(parts), _preprocessor(parts)
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


def _config(parts: Parts) -> dict[str, Any]:
    names, arguments, settings = parts.class_names, parts.arguments, parts.settings
    readout = arguments["readout"] or {"class_path": class_path(MeanReadout)}
    weights = "left out" if parts.backbone is None else "exported"
    return {
        "model_type": "videomem",
        "format": FORMAT,
        "made_with": f"videomem {videomem.__version__}",
        "label": parts.head.label,
        "memory": _named(arguments["memory"], MEMORIES),
        "readout": _named(readout, READOUTS),
        "order_blind": parts.head.order_blind,
        "num_layers": arguments["num_layers"],
        "projection_dim": arguments.get("projection_dim"),
        "feature_dim": arguments["feature_dim"],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "backbone": {**asdict(settings.backbone), "weights": weights, "name": shared_path(settings.backbone.name)},
        "architecture": {"name": parts.blueprint.name, "config": parts.blueprint.config},
        "imported": None if settings.imported is None else asdict(settings.imported),
        "training": parts.training,
        "evidence": parts.evidence,
    }


def _preprocessor(parts: Parts) -> dict[str, Any]:
    settings = parts.settings
    return {
        **asdict(parts.blueprint.preprocessing),
        "sampling": {"name": type(settings.sampling).__name__, **asdict(settings.sampling)},  # type: ignore[call-overload]
        "decoder": settings.decoder,
        "feature_dtype": settings.dtype,
        "on_damage": settings.on_damage,
    }


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
    names, arguments = class_names(config["id2label"]), _arguments(config)
    settings = _settings(config, preprocessor)
    blueprint = _blueprint(config["architecture"], preprocessor, settings)
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
    _check_facts(config["training"], config["evidence"])
    parts = Parts(head, names, settings, backbone, arguments, config["training"], config["evidence"], blueprint)
    compared = {"made_with": str(config["made_with"]),
                **{name: config[name] for name in ("weights_checksum", "checksum")}}  # fmt: skip
    _check_same(config, {**_config(parts), **compared}, CONFIG)
    _check_same(preprocessor, _preprocessor(parts), PREPROCESSOR)
    return parts


def _check_facts(training: dict[str, Any], evidence: dict[str, Any]) -> None:
    """Check the types of what the model card says about the training and the results."""
    checked_arguments(TrainingFacts, training, {})
    if not isinstance(evidence, dict):
        raise TypeError("`evidence` is not an object")
    kinds: dict[str, type] = {"evaluation": Evaluation, "order_test": OrderEvidence}
    for name, plain in evidence.items():
        checked_arguments(NotEvaluated if name == "evaluation" and "reason" in plain else kinds[name], plain, {})


def _check_same(found: dict[str, Any], ours: dict[str, Any], file: str) -> None:
    """Compare a config with the one that videomem writes for the same model."""
    for key in found.keys() | ours.keys():
        if key not in ours:
            raise ValueError(f"{file} has an unknown entry {key!r:.80}")
        if json.dumps(found.get(key), sort_keys=True) != json.dumps(ours[key], sort_keys=True):
            raise ValueError(f"{file} has another {key} than videomem writes for this model")


def _build(
    arguments: Mapping[str, Any], settings: FeatureSettings, num_classes: int, blueprint: Blueprint | None
) -> tuple[Head, Backbone | None]:
    memory, readout = (
        partial(known[_short(arguments[part])], **arguments[part]["init_args"]) for part, known in _PARTS.items()
    )
    head = Head(memory, num_classes=num_classes, readout=readout, **{name: arguments[name] for name in SIZES})
    return head.eval(), None if blueprint is None else Backbone(settings.backbone, blueprint)


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the head, as in a checkpoint. Class names are looked up in tables, never imported."""
    sizes = {name: config[name] for name in SIZES}
    for key, value in sizes.items():
        if type(value) is not int and not (key == "projection_dim" and value is None):
            raise TypeError(f"{key} is {value!r:.40}, but must be an integer")
    named = {}
    for part, known in _PARTS.items():
        cls = known[config[part]["name"]]
        init_args = config[part]["arguments"]
        checked_arguments(cls, init_args, {}, without=("input_dim", "num_classes"))
        named[part] = {"class_path": class_path(cls), "init_args": init_args}
    return {**named, **sizes}


def _settings(config: dict[str, Any], preprocessor: dict[str, Any]) -> FeatureSettings:
    """The settings of the features. Their `weights` are a placeholder, since the folder has the weights."""
    backbone = from_plain(BackboneSettings, {**config["backbone"], "weights": "random"}, {})
    sampling = dict(preprocessor["sampling"])
    chosen: Sampling = from_plain(SAMPLINGS[sampling.pop("name")], sampling, {})
    imported = None if config["imported"] is None else from_plain(ImportedFeatures, config["imported"], {})
    rest = {"dtype": preprocessor["feature_dtype"], **{name: preprocessor[name] for name in ("decoder", "on_damage")}}
    checked = checked_arguments(FeatureSettings, rest, {}, without=("backbone", "sampling", "imported"))
    if imported is not None and imported.feature_dim != config["feature_dim"]:
        raise ValueError(f"imported features have {imported.feature_dim} values, not {config['feature_dim']}")
    return FeatureSettings(backbone, chosen, imported=imported, **checked)


def _blueprint(architecture: dict[str, Any], preprocessor: dict[str, Any], settings: FeatureSettings) -> Blueprint:
    """The architecture and the preprocessing, which of a network of torchvision and timm are the installed ones."""
    given = {field.name: preprocessor[field.name] for field in fields(Preprocessing)}
    checked = checked_arguments(Preprocessing, given, {})
    lists = {name: tuple(value) for name, value in checked.items() if isinstance(value, list)}
    found = Blueprint(architecture["name"], Preprocessing(**checked | lists), architecture["config"])
    library = settings.backbone.library
    if library != "transformers" and found != (ours := blueprint_of(settings.backbone)):
        differing = [name for name in given if getattr(found.preprocessing, name) != getattr(ours.preprocessing, name)]
        what = f"preprocessing: {differing[0]} differs" if differing else "architecture of its name"
        raise ValueError(f"the installed {library} has another {what}")
    return found


def class_names(id2label: dict[str, str]) -> list[str]:
    """The names of the classes of a config. Raises a ValueError for names that a catalog could not have."""
    names = [id2label[str(number)] for number in range(len(id2label))]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"{len(names)} classes, of which {len(set(names))} differ")
    for name in names:
        if not isinstance(name, str) or not name.isprintable():  # It could have terminal escape sequences.
            raise ValueError(f"a class is called {name!r:.40}, which cannot be printed")
    return names


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


def _named(part: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Name and arguments of a memory or readout, as written to the config."""
    name = _short(part)
    if name not in known or not part["class_path"].startswith("videomem."):
        raise VideomemError(
            f"{part['class_path']} is not a class of videomem; an exported folder can have {', '.join(known)}"
        )
    return {"name": name, "arguments": part.get("init_args", {})}


def _short(part: Mapping[str, Any]) -> str:
    return str(part["class_path"]).rsplit(".", 1)[-1]
