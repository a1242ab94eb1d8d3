"""What the JSON files of an exported folder say: the parts of a model as plain data, and back, from untrusted data.

Classes are looked up in fixed tables, never imported, and the types of all values are checked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import videomem
from videomem.errors import VideomemError
from videomem.features.backbone import Backbone, BackboneSettings, Blueprint, blueprint_of
from videomem.features.preprocessing import Preprocessing
from videomem.features.settings import FeatureSettings, ImportedFeatures
from videomem.heads import MEMORIES, READOUTS, Head, MeanReadout
from videomem.utils.plain_data import checked_arguments, class_path, from_plain
from videomem.utils.sharing import shared_path
from videomem.video.sampling import SAMPLINGS, Sampling

FORMAT = 6
SIZES = ("num_layers", "projection_dim", "feature_dim")  # Arguments of the head that are numbers.
# The classes that a config may name, by the part of the head that they build.
PARTS: dict[str, Mapping[str, Any]] = {"memory": MEMORIES, "readout": READOUTS}


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
    data_verdict: str
    plan_sha256: str


def config_of(parts: Parts) -> dict[str, Any]:
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


def preprocessor_of(parts: Parts) -> dict[str, Any]:
    settings = parts.settings
    return {
        **asdict(parts.blueprint.preprocessing),
        "sampling": {"name": type(settings.sampling).__name__, **asdict(settings.sampling)},  # type: ignore[call-overload]
        "decoder": settings.decoder,
        "feature_dtype": settings.dtype,
        "on_damage": settings.on_damage,
    }


def arguments_of(config: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the head, as in a checkpoint. Class names are looked up in tables, never imported."""
    sizes = {name: config[name] for name in SIZES}
    for key, value in sizes.items():
        if type(value) is not int and not (key == "projection_dim" and value is None):
            raise TypeError(f"{key} is {value!r:.40}, but must be an integer")
    named = {}
    for part, known in PARTS.items():
        cls = known[config[part]["name"]]
        init_args = config[part]["arguments"]
        checked_arguments(cls, init_args, {}, without=("input_dim", "num_classes"))
        named[part] = {"class_path": class_path(cls), "init_args": init_args}
    return {**named, **sizes}


def settings_of(config: dict[str, Any], preprocessor: dict[str, Any]) -> FeatureSettings:
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


def architecture_of(architecture: dict[str, Any], preprocessor: dict[str, Any], settings: FeatureSettings) -> Blueprint:
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


def check_facts(training: dict[str, Any], evidence: dict[str, Any]) -> None:
    """Check the types of what the model card says about the training and the results."""
    checked_arguments(TrainingFacts, training, {})
    if not isinstance(evidence, dict):
        raise TypeError("`evidence` is not an object")
    kinds: dict[str, type] = {"evaluation": Evaluation, "order_test": OrderEvidence}
    for name, plain in evidence.items():
        checked_arguments(NotEvaluated if name == "evaluation" and "reason" in plain else kinds[name], plain, {})


def check_same(found: dict[str, Any], ours: dict[str, Any], file: str) -> None:
    """Compare a config with the one that videomem writes for the same model."""
    for key in found.keys() | ours.keys():
        if key not in ours:
            raise ValueError(f"{file} has an unknown entry {key!r:.80}")
        if json.dumps(found.get(key), sort_keys=True) != json.dumps(ours[key], sort_keys=True):
            raise ValueError(f"{file} has another {key} than videomem writes for this model")


def _named(part: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Name and arguments of a memory or readout, as written to the config."""
    name = short_name(part)
    if name not in known or not part["class_path"].startswith("videomem."):
        raise VideomemError(
            f"{part['class_path']} is not a class of videomem; an exported folder can have {', '.join(known)}"
        )
    return {"name": name, "arguments": part.get("init_args", {})}


def short_name(part: Mapping[str, Any]) -> str:
    return str(part["class_path"]).rsplit(".", 1)[-1]
