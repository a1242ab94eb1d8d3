"""Read checkpoints safely: plain data only, and only classes of videomem unless the file is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        weights = data["backbone"]["weights"]
        known = {"imagenet": "ImageNet", "random": f"random (seed {data['backbone']['seed']})"}
        of_model = ("class_counts", "dropout", "learning_rate", "weight_decay", "class_weighting", "seed")
        of_data = ("batch_size", "balanced_sampling", "source", "reversed_pairs", "test_split")
        return {
            "data": data_name(data["catalog"]),
            "epochs": self.content["epoch"] + 1,
            "steps": self.content["global_step"],
            **{name: model.get(name) for name in of_model},
            **{name: data.get(name) for name in of_data},
            "backbone_weights": None if data.get("imported") else known.get(weights, f"from {Path(weights).name}"),
            "features": self.features,
        }

    def classifier(self) -> LitClassifier:
        """The trained classifier in evaluation mode, on the CPU."""
        classifier = from_plain(LitClassifier, self.model_arguments)
        assert isinstance(classifier, LitClassifier)
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
        data = from_plain(VideoDataModule, {**self.data_arguments, **changes})
        assert isinstance(data, VideoDataModule)
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
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types here, among them those of pickle and zipfile.
        raise VideomemError(
            f"{path}: not a checkpoint of plain data: {type(error).__name__}: {_first_line(error)}"
        ) from error
    needed = {"state_dict", "hyper_parameters", "datamodule_hyper_parameters", VideoDataModule.__qualname__}
    if not isinstance(content, dict) or (missing := needed - content.keys()):
        lacking = ", ".join(sorted(missing)) if isinstance(content, dict) else "a dictionary"
        raise VideomemError(f"{path}: not a checkpoint of `videomem fit`: it lacks {lacking}")
    if (
        not isinstance(content[VideoDataModule.__qualname__], dict)
        or not {"features", "class_names"} <= content[VideoDataModule.__qualname__].keys()
    ):
        raise VideomemError(f"{path}: not a checkpoint of `videomem fit`: it does not describe its features")
    for section in ("hyper_parameters", "datamodule_hyper_parameters"):
        if not isinstance(content[section], dict):
            raise VideomemError(f"{path}: not a checkpoint of `videomem fit`: its {section} are not a dictionary")
        if not trust:
            _check_names(_public(content[section]), str(path))
    return Checkpoint(path, content)


def _check_names(plain: Any, where: str, part: str | None = None) -> None:
    """Raise if plain data names a class that is not in `ALLOWED`, before anything is imported."""
    if isinstance(plain, dict):
        for key, item in plain.items():
            if not isinstance(key, str) or not key.isidentifier():  # The parser would split a dotted key.
                raise VideomemError(
                    f"{where}: the setting {key!r} is not a plain name; "
                    "pass --trust if you know where the file comes from"
                )
            named = key == "class_path" or (key in ALLOWED and isinstance(item, str))
            owner = key if key in ALLOWED else part
            if named and item not in ALLOWED.get(owner or "", ()):
                raise VideomemError(
                    f"{where}: names the class {item}, and building it would run that module's code; "
                    "pass --trust if you know where the file comes from"
                )
            _check_names(item, where, owner)
    elif isinstance(plain, list | tuple):
        for item in plain:
            _check_names(item, where, part)


def _public(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if not key.startswith("_")}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
