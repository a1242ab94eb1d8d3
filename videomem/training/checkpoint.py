"""Read checkpoints safely: plain data only, and only classes of videomem unless the file is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from videomem.errors import VideomemError
from videomem.features.store import FeatureSettings
from videomem.heads import MEMORIES, READOUTS
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.plain_data import class_path, from_plain
from videomem.video.catalog import data_name
from videomem.video.sampling import SAMPLINGS

# Key of the W&B run and the metrics in a checkpoint; written by `videomem.tracking.RunRecord`.
RUN_RECORD = "videomem_run"

_ARGUMENTS = ("hyper_parameters", "datamodule_hyper_parameters")  # keys of the arguments of model and data

# Model arguments that the command line takes from the data; a config must not set them.
LINKED = ("feature_dim", "class_names", "class_counts", "seed")

# The class paths that an untrusted checkpoint may name. A list of exact paths is needed: a path that starts with
# `videomem.` can still refer to a class of another package that a module imports.
ALLOWED = {
    "memory": {name for cls in MEMORIES.values() for name in (class_path(cls), f"videomem.heads.{cls.__name__}")},
    "readout": {name for cls in READOUTS.values() for name in (class_path(cls), f"videomem.heads.{cls.__name__}")},
    "sampling": {class_path(cls) for cls in SAMPLINGS.values()},
}


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint as plain data and tensors. No class that it names has been imported yet."""

    path: Path
    content: dict[str, Any]

    @property
    def model_arguments(self) -> dict[str, Any]:
        return _public(self.content["hyper_parameters"])

    @property
    def data_arguments(self) -> dict[str, Any]:
        return _public(self.content["datamodule_hyper_parameters"])

    @property
    def features(self) -> dict[str, Any]:
        """Identity of the feature store that it was trained on."""
        return dict(self.content[VideoDataModule.__qualname__]["features"])

    @property
    def run_record(self) -> dict[str, Any]:
        """`id`, `project`, `group` and `name` of the W&B run that wrote it, if any, and its `metrics`."""
        record = self.content.get(RUN_RECORD)
        if not isinstance(record, dict):
            return {}
        texts = {key: value for key, value in record.items() if isinstance(key, str) and isinstance(value, str)}
        metrics = record.get("metrics")
        return {**texts, "metrics": metrics} if isinstance(metrics, dict) else texts

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
        known = {"imagenet": "ImageNet", "random": f"random (seed {features['backbone']['seed']})"}
        of_model = ("class_counts", "dropout", "learning_rate", "weight_decay", "class_weighting", "seed")
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
        classifier: LitClassifier = from_plain(LitClassifier, self.model_arguments)
        try:
            classifier.load_state_dict(self.content["state_dict"])
        except RuntimeError as error:
            raise VideomemError(f"{self.path}: its weights do not match its settings: {_first_line(error)}") from error
        return classifier.eval()

    def feature_settings(self) -> FeatureSettings:
        """The settings that its features were made with. Needs neither the catalog nor the feature store."""
        return from_plain(VideoDataModule, self.data_arguments).settings

    def data_module(self, **changes: Any) -> VideoDataModule:
        """The data module that it was trained on; `changes` replace arguments."""
        data: VideoDataModule = from_plain(VideoDataModule, {**self.data_arguments, **changes})
        data.load_state_dict(self.content[VideoDataModule.__qualname__])
        return data


def read_checkpoint(path: Path | str, trust: bool = False) -> Checkpoint:
    """Read a checkpoint of `videomem fit`.

    Args:
        path: The .ckpt file.
        trust: Allow classes of other packages. Loading the checkpoint then runs their code.
    Raises:
        VideomemError: If the file is missing, damaged or not a checkpoint of videomem, or if it contains code or names
            a class that is not trusted.
    """
    path = Path(path)
    if not path.is_file():
        raise VideomemError(f"{path}: no such checkpoint")
    try:
        with ZipFile(path) as records:  # torch writes the checksums of records, but does not compare them.
            if damaged := records.testzip():
                raise ValueError(f"the checksum of {damaged} differs")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types here, among them those of pickle and zipfile.
        kind = type(error).__name__
        raise VideomemError(f"{path}: not a checkpoint of plain data: {kind}: {_first_line(error)}") from error
    if reason := _why_foreign(content):
        raise VideomemError(f"{path}: not a checkpoint of `videomem fit`: {reason}")
    for section in () if trust else _ARGUMENTS:
        _check_names(_public(content[section]), str(path))
    return Checkpoint(path, content)


def _why_foreign(content: Any) -> str | None:
    """Returns the reason why content cannot be that of `videomem fit`, or None."""
    if not isinstance(content, dict):
        return "it lacks a dictionary"
    if missing := {"state_dict", *_ARGUMENTS, VideoDataModule.__qualname__} - content.keys():
        return f"it lacks {', '.join(sorted(missing))}"
    state = content[VideoDataModule.__qualname__]
    if not isinstance(state, dict) or not {"features", "class_names"} <= state.keys():
        return "it does not describe its features"
    wrong = [section for section in _ARGUMENTS if not isinstance(content[section], dict)]
    return f"its {wrong[0]} are not a dictionary" if wrong else None


def _check_names(plain: Any, where: str, part: str | None = None) -> None:
    """Raise if plain data names a class that is not in `ALLOWED`, before anything is imported."""
    if isinstance(plain, dict):
        for key, item in plain.items():
            named = key == "class_path" or (key in ALLOWED and isinstance(item, str))
            owner, reason = key if key in ALLOWED else part, None
            if not isinstance(key, str) or not key.isidentifier():  # The parser would split a dotted key.
                reason = f"the setting {key!r} is not a plain name"
            elif named and item not in ALLOWED.get(owner or "", ()):
                reason = f"names the class {item}, and building it would run that module's code"
            if reason is not None:
                raise VideomemError(f"{where}: {reason}; pass --trust if you know where the file comes from")
            _check_names(item, where, owner)
    elif isinstance(plain, list | tuple):
        for item in plain:
            _check_names(item, where, part)


def _public(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if not key.startswith("_")}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
