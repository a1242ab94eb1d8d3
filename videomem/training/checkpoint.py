"""Read checkpoints, also from untrusted sources.

A checkpoint is data. Before a model is built, `read_checkpoint` checks all settings against the type hints of the
classes that they configure, and the shapes of the weights against these settings. Paths in it are used to read the
catalog, the features and the weights that they name, and for nothing else.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videomem.errors import VideomemError, one_line
from videomem.features.settings import FeatureSettings
from videomem.heads import MEMORIES, READOUTS
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import TRAINING_OPTIONS, LitClassifier
from videomem.utils.plain_data import Known, as_plain, check_plain, checked_arguments, class_path, from_plain
from videomem.utils.torch_file import misfit, read_torch_file
from videomem.video.catalog import data_name
from videomem.video.sampling import SAMPLINGS

# Key of the W&B run and the metrics in a checkpoint; written by `videomem.tracking.RunRecord`.
RUN_RECORD = "videomem_run"

# Keys of the arguments of model and data, and of the state of the data.
_MODEL, _DATA, _DATA_STATE = "hyper_parameters", "datamodule_hyper_parameters", VideoDataModule.__qualname__

# Model arguments that the command line takes from the data; a config must not set them.
LINKED = ("feature_dim", "class_names", "class_counts", "seed")

# The classes that an untrusted checkpoint may name. A list of exact paths is needed: a path that starts with
# `videomem.` can still refer to a class of another package that a module imports.
KNOWN = {class_path(cls): cls for table in (MEMORIES, READOUTS, SAMPLINGS) for cls in table.values()}

MAX_CLASSES = 10_000  # The confusion matrix has the square of them.
_RUN_ID = re.compile(r"[\w-]{1,128}")


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint as plain data and tensors.

    Attributes:
        path: The file.
        content: Its content.
        known: The classes that it may name; None if it is trusted.
    """

    path: Path
    content: dict[str, Any]
    known: Known

    @property
    def model_arguments(self) -> dict[str, Any]:
        return dict(self.content[_MODEL])

    @property
    def data_arguments(self) -> dict[str, Any]:
        return dict(self.content[_DATA])

    @property
    def features(self) -> dict[str, Any]:
        """Identity of the feature store that it was trained on."""
        return dict(self.content[_DATA_STATE]["features"])

    @property
    def run_record(self) -> dict[str, Any]:
        """`id`, `project`, `group` and `name` of the W&B run that wrote it, if any, and its `metrics`."""
        return dict(self.content.get(RUN_RECORD, {}))

    @property
    def run_dir(self) -> Path:
        """Directory of the run that wrote it, or else the folder of the file."""
        above = self.path.absolute().parent.parent
        return above if (above / "config.yaml").is_file() else self.path.absolute().parent

    def config(self) -> dict[str, Any]:
        """The config that trains it: the sections `data` and `model`, and the seed."""
        model = {key: value for key, value in self.model_arguments.items() if key not in LINKED}
        data = {key: value for key, value in self.data_arguments.items() if key != "seed"}
        return {"seed": self.model_arguments["seed"], "data": data, "model": model}

    def training_facts(self) -> dict[str, Any]:
        """Facts about the training, for a model card. Paths are reduced to file names, to keep folder names private."""
        model, data = self.model_arguments, self.data_arguments
        features = data["features"]
        weights = features["backbone"]["weights"]
        known = {"imagenet": "ImageNet", "kinetics400": "Kinetics-400", "pretrained": "pretrained",
                 "random": f"random (seed {features['backbone']['seed']})"}  # fmt: skip
        of_model = ("class_counts", "dropout", "learning_rate", "weight_decay", *TRAINING_OPTIONS, "class_weighting",
                    "seed")  # fmt: skip
        of_data = ("batch_size", "balanced_sampling", "source", "reversed_pairs", "test_split")
        return {
            "data": data_name(data["catalog"]),
            "epochs": self.content["epoch"] + 1,
            "steps": self.content["global_step"],
            **{name: model.get(name) for name in of_model},
            **{name: data.get(name) for name in of_data},
            "backbone_weights": None if features["imported"] else known.get(weights, f"from {Path(weights).name}"),
            "features": self.features,
        }

    def classifier(self) -> LitClassifier:
        """The trained classifier in evaluation mode, on the CPU."""
        classifier: LitClassifier = from_plain(LitClassifier, self.model_arguments, self.known)
        try:
            classifier.load_state_dict(self.content["state_dict"])
        except RuntimeError as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise VideomemError(f"{self.path}: its weights do not match its settings: {reason}") from error
        return classifier.eval()

    def feature_settings(self) -> FeatureSettings:
        """The settings that its features were made with. Needs neither the catalog nor the feature store."""
        settings: FeatureSettings = checked_arguments(VideoDataModule, self.data_arguments, self.known)["features"]
        return settings

    def data_module(self, **changes: Any) -> VideoDataModule:
        """The data module that it was trained on; `changes` replace arguments."""
        data: VideoDataModule = from_plain(VideoDataModule, {**self.data_arguments, **changes}, self.known)
        data.load_state_dict(self.content[_DATA_STATE])
        return data


def read_checkpoint(path: Path | str, trust: bool = False) -> Checkpoint:
    """Read a checkpoint of `videomem fit`.

    Args:
        path: The .ckpt file.
        trust: Allow classes of other packages. Reading the checkpoint then runs their code.
    Raises:
        VideomemError: If the file is missing, damaged or not a checkpoint of videomem, if it contains code, names a
            class that is not trusted or has a setting of a wrong type, or if its weights do not match its settings.
    """
    path = Path(path)
    if not path.is_file():
        raise VideomemError(f"{path}: no such checkpoint")
    try:
        content = read_torch_file(path)
    except VideomemError as error:
        raise VideomemError(f"{path}: not a checkpoint of plain data: {error}") from error
    if reason := _why_foreign(content):
        raise VideomemError(f"{path}: not a checkpoint of `videomem fit`: {reason}")
    checkpoint = Checkpoint(path, content, None if trust else KNOWN)
    try:
        _check_settings(checkpoint)
    except VideomemError as error:
        raise VideomemError(f"{path}: {error}") from error
    return checkpoint


def _why_foreign(content: Any) -> str | None:
    """Returns the reason why content cannot be that of `videomem fit`, or None."""
    if not isinstance(content, dict):
        return "it lacks a dictionary"
    if missing := {"state_dict", "epoch", "global_step", _MODEL, _DATA, _DATA_STATE} - content.keys():
        return f"it lacks {', '.join(sorted(missing))}"
    state, weights = content[_DATA_STATE], content["state_dict"]
    has_state = isinstance(state, dict) and state.keys() == {"features", "class_names"}
    if not has_state or not isinstance(state["features"], dict):
        return "it does not describe its features"
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        return "its state_dict is not a dictionary of tensors"
    wrong = [section for section in (_MODEL, _DATA) if not isinstance(content[section], dict)]
    return f"its {wrong[0]} are not a dictionary" if wrong else None


def _check_settings(checkpoint: Checkpoint) -> None:
    """Check the types of all settings, and the shapes of the weights. Nothing is built that is larger than the file."""
    content = checkpoint.content
    for section in (_MODEL, _DATA, _DATA_STATE, RUN_RECORD):
        check_plain(content.get(section, {}), section)
    for name in ("epoch", "global_step"):
        if type(content[name]) is not int or not 0 <= content[name] < 2**62:
            raise VideomemError(f"{name} is {one_line(repr(content[name]))[:80]}, but must be a number of steps")
    _check_record(content.get(RUN_RECORD, {}))
    arguments = checked_arguments(LitClassifier, content[_MODEL], checkpoint.known)
    data = checked_arguments(VideoDataModule, content[_DATA], checkpoint.known)
    imported = data["features"].imported
    if imported is not None and imported.feature_dim != arguments["feature_dim"]:
        raise VideomemError(
            f"its features have {imported.feature_dim} values, but its model {arguments['feature_dim']}"
        )
    names, counts = arguments["class_names"], arguments["class_counts"]
    if names != content[_DATA_STATE]["class_names"] or not len(set(names)) == len(counts) <= MAX_CLASSES:
        raise VideomemError(f"its lists of classes differ, or have more than {MAX_CLASSES} classes")
    if checkpoint.known is not None:
        _check_complete(LitClassifier, content[_MODEL], arguments)
        _check_complete(VideoDataModule, content[_DATA], data)
        _check_weights(arguments, content["state_dict"], checkpoint.path.stat().st_size)


def _check_complete(cls: type, plain: dict[str, Any], built: dict[str, Any]) -> None:
    """Check that plain arguments are those that videomem writes for the built ones, which leave out no default."""
    written = as_plain(built)
    for name in inspect.signature(cls).parameters:
        if name not in plain or plain[name] != written[name]:
            raise VideomemError(f"invalid settings of {cls.__name__}: {name} is incomplete")


def _check_weights(arguments: dict[str, Any], weights: dict[str, Tensor], num_bytes: int) -> None:
    """Compare the weights with those of a model of these arguments that has shapes only."""
    if arguments.get("num_layers", 1) > len(weights):
        raise VideomemError(f"num_layers is {arguments['num_layers']}, but it has {len(weights)} tensors")
    try:
        with torch.device("meta"):
            expected = LitClassifier(**arguments).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError, ArithmeticError) as error:
        raise VideomemError(f"its model cannot be built: {one_line(error)}") from error
    if reason := misfit(expected, weights):
        raise VideomemError(f"its weights do not match its settings: {reason}")
    if (needed := sum(value.nbytes for value in weights.values())) > num_bytes:  # Tensors can share their values.
        raise VideomemError(f"its weights have {needed} bytes, but the file has {num_bytes}")


def _check_record(record: Any) -> None:
    """Check the facts about the W&B run, of which the id is part of file names."""
    if not isinstance(record, dict):
        raise VideomemError(f"{RUN_RECORD} is not a dictionary")
    texts = {key: value for key, value in record.items() if key != "metrics"}
    metrics = record.get("metrics", {})
    if not texts.keys() <= {"id", "project", "group", "name"} or not isinstance(metrics, dict):
        raise VideomemError(f"{RUN_RECORD} has other facts than those of a W&B run")
    for key, value in texts.items():
        is_text = isinstance(value, str) and value.isprintable() and len(value) <= 128
        if value is not None and not (is_text and (key != "id" or _RUN_ID.fullmatch(value))):
            raise VideomemError(f"{RUN_RECORD}.{key} is {one_line(repr(value))[:80]}, which W&B does not allow")
    if wrong := [value for value in metrics.values() if type(value) is not float]:
        raise VideomemError(f"{RUN_RECORD}.metrics has {one_line(repr(wrong[0]))[:80]}, but must have numbers")
