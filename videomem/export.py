"""From a checkpoint to a folder that others can load, and back: safetensors and JSON, no pickle, no download.

A `VideoModel` is a trained head with the network below it; a folder gives one, and so does a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import videomem
from videomem.batch import length_mask
from videomem.checkpoint import Checkpoint, read_checkpoint
from videomem.errors import VideomemError, is_empty_or_absent
from videomem.features.backbone import Backbone, BackboneSettings, Preprocessing, extract_features, load_backbone
from videomem.features.extraction import decode_frames
from videomem.features.imported import ImportedFeatures
from videomem.features.store import FRAME_BATCH, FeatureSettings
from videomem.heads import MEMORIES, READOUTS, Head
from videomem.video.catalog import Clip
from videomem.video.decoding import DecodedClip, Decoder, OnDamage
from videomem.video.sampling import SAMPLINGS, Sampling

FORMAT = 1
FILES = ("config.json", "model.safetensors", "labels.json", "preprocessor.json")


class VideoModel(nn.Module):
    """A trained head with the backbone below it, as `load` and `load_model` give it.

    Args:
        head: The head.
        class_names: Names of its classes.
        settings: How videos become features.
        backbone: The frozen network; None where it was left out.
    """

    def __init__(
        self, head: Head, class_names: Sequence[str], settings: FeatureSettings, backbone: Backbone | None
    ) -> None:
        super().__init__()
        self.head = head
        self.class_names = list(class_names)
        self.settings = settings
        self.backbone = backbone
        self.eval()

    @torch.inference_mode()
    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, C) of frames (B, T, 3, crop, crop) uint8, preprocessed as `read` does."""
        lengths = torch.full((len(frames),), frames.shape[1], device=frames.device) if lengths is None else lengths
        real_BT = length_mask(lengths, frames.shape[1])
        x_ND = self.features(frames[real_BT])
        x_BTD = x_ND.new_zeros(*real_BT.shape, x_ND.shape[1])
        x_BTD[real_BT.to(x_ND.device)] = x_ND
        return self.classify(x_BTD, lengths.to(x_BTD.device))

    @torch.inference_mode()
    def features(self, frames: Tensor) -> Tensor:
        """Features (N, D) of frames (N, 3, crop, crop) uint8, rounded as in training, where the backbone is.

        Raises:
            VideomemError: If the model has no backbone.
        """
        if self.backbone is None:
            self._refuse_imported()
            raise VideomemError(
                "this model was exported without its backbone; export it again with it, or call `classify` on features"
            )
        return extract_features(self.backbone, frames, FRAME_BATCH).to(getattr(torch, self.settings.dtype))

    @torch.inference_mode()
    def classify(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, C) of features (B, T, D)."""
        return self.head(x_BTD, lengths_B)

    def read(self, path: Path | str) -> Tensor:
        """Frames (T, 3, crop, crop) uint8 of a video, sampled and cropped as in training."""
        return self.decode(Clip(str(path), "", "", ""))[0]

    def decode(self, clip: Clip, sampling: Sampling | None = None) -> tuple[Tensor, DecodedClip]:
        """The same of a clip, with how it was decoded; `sampling` takes the place of the one in training."""
        self._refuse_imported()
        settings = self.settings if sampling is None else replace(self.settings, sampling=sampling)
        return decode_frames(clip, settings)

    def _refuse_imported(self) -> None:
        if (imported := self.settings.imported) is not None:
            raise VideomemError(
                f"the features of this model ({imported.name}) were made elsewhere, not from videos by videomem; make "
                f"them as there, (B, T, {imported.feature_dim}), and call `classify` on them"
            )


def export(checkpoint: Checkpoint, folder: Path | str, with_backbone: bool = True) -> None:
    """Write a folder that `load` gives a `VideoModel` of.

    Args:
        checkpoint: A checkpoint of `videomem fit`.
        folder: A new or empty folder.
        with_backbone: Put the network's weights in, up to the layer used; imported features have no network.
    Raises:
        VideomemError: If the folder is not empty, or the checkpoint uses classes that are not videomem's.
    """
    folder = Path(folder)
    if not is_empty_or_absent(folder):
        raise VideomemError(f"{folder}: is not empty; choose a new folder for --out")
    classifier, settings = checkpoint.classifier(), checkpoint.feature_settings()
    tensors = {f"head.{name}": value for name, value in classifier.head.state_dict().items()}
    with_backbone = with_backbone and settings.imported is None
    if with_backbone:
        network = _backbone_in_training(checkpoint, settings).network
        tensors |= {f"backbone.{name}": value for name, value in network.state_dict().items()}
    arguments = checkpoint.model_arguments
    config = {
        "format": FORMAT,
        "made_with": f"videomem {videomem.__version__}",
        "memory": _named(arguments["memory"], MEMORIES),
        "readout": _named(arguments["readout"], READOUTS)["name"] if arguments["readout"] else "MeanReadout",
        "num_layers": arguments["num_layers"],
        "projection_dim": arguments.get("projection_dim"),
        "feature_dim": arguments["feature_dim"],
        "backbone": {**asdict(settings.backbone), "weights": "exported" if with_backbone else "left out"},
        "imported": None if settings.imported is None else asdict(settings.imported),
        "features": checkpoint.features,
    }
    preprocessor = {
        **asdict(Preprocessing.of(settings.backbone.name)),
        "sampling": {"name": type(settings.sampling).__name__, **asdict(settings.sampling)},  # type: ignore[call-overload]
        "decoder": settings.decoder,
        "feature_dtype": settings.dtype,
        "on_damage": settings.on_damage,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    for name, content in (("config", config), ("labels", classifier.class_names), ("preprocessor", preprocessor)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_readme(classifier.head, classifier.class_names, config), encoding="utf-8")


def load_model(path: Path | str, trust: bool = False) -> VideoModel:
    """A trained model, wherever it is: in an exported folder or in a checkpoint.

    Args:
        path: A folder of `videomem export`, or a checkpoint of `videomem fit`.
        trust: Allow a checkpoint to name classes of other packages, whose code then runs.
    Raises:
        VideomemError: If it is neither, is damaged, names a class that is not trusted, or was trained on other weights
            of the backbone than are there now.
    """
    path = Path(path)
    if path.is_dir():
        return load(path)
    if not path.exists():
        raise VideomemError(
            f"{path}: no such model; name a folder of `videomem export` or a checkpoint of `videomem fit`"
        )
    return model_of(read_checkpoint(path, trust))


def model_of(checkpoint: Checkpoint) -> VideoModel:
    """The model of a checkpoint, with the backbone that its features were made with."""
    classifier, settings = checkpoint.classifier(), checkpoint.feature_settings()
    backbone = _backbone_in_training(checkpoint, settings) if settings.imported is None else None
    return VideoModel(classifier.head, classifier.class_names, settings, backbone)


def _backbone_in_training(checkpoint: Checkpoint, settings: FeatureSettings) -> Backbone:
    backbone, identity = load_backbone(settings.backbone)
    if checkpoint.features["backbone"] != json.loads(json.dumps(identity)):
        raise VideomemError(f"{checkpoint.path}: was trained on other weights than {settings.backbone.weights} has now")
    return backbone


def load(folder: Path | str) -> VideoModel:
    """Load an exported folder. Nothing is unpickled, downloaded, or imported because a file names it.

    Raises:
        VideomemError: If a file is missing, damaged, or does not fit the others.
    """
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise VideomemError(f"{folder}: lacks {name}, so it is no folder of `videomem export`")
    config, labels, preprocessor = (
        _read_json(folder / f"{name}.json") for name in ("config", "labels", "preprocessor")
    )
    try:
        tensors = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise VideomemError(f"{folder / 'model.safetensors'}: damaged or no safetensors file ({error})") from error
    try:
        return _assemble(config, labels, preprocessor, tensors)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise VideomemError(
            f"{folder}: its files do not fit together ({type(error).__name__}: {reason}); export it again"
        ) from error


def _assemble(
    config: dict[str, Any], labels: list[str], preprocessor: dict[str, Any], tensors: dict[str, Tensor]
) -> VideoModel:
    if config["format"] != FORMAT:
        raise ValueError(f"format {config['format']}, but this videomem reads format {FORMAT}")
    memory = partial(MEMORIES[config["memory"]["name"]], **config["memory"]["arguments"])
    readout = READOUTS[config["readout"]]()
    sizes = {"num_layers": config["num_layers"], "projection_dim": config.get("projection_dim")}
    head = Head(memory, config["feature_dim"], len(labels), readout=readout, **sizes)
    head.load_state_dict(_below("head.", tensors))
    exported = config["backbone"]["weights"] == "exported"
    backbone_settings = BackboneSettings(**{**config["backbone"], "weights": "random"})
    backbone = Backbone(backbone_settings, load_weights=False) if exported else None
    if backbone is not None:
        backbone.network.load_state_dict(_below("backbone.", tensors))
    ours = json.loads(json.dumps(asdict(Preprocessing.of(backbone_settings.name))))
    if differing := [name for name, value in ours.items() if preprocessor[name] != value]:
        raise ValueError(f"this torchvision preprocesses in another way: {differing[0]}")
    sampling = dict(preprocessor["sampling"])
    chosen: Sampling = SAMPLINGS[sampling.pop("name")](**sampling)
    decoder: Decoder = preprocessor["decoder"]
    on_damage: OnDamage = preprocessor["on_damage"]
    imported = None if config.get("imported") is None else ImportedFeatures(**config["imported"])
    settings = FeatureSettings(backbone_settings, chosen, decoder, preprocessor["feature_dtype"], on_damage, imported)
    return VideoModel(head, [str(label) for label in labels], settings, backbone)


def _named(part: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """A part of a checkpoint by its short name, which `load` looks up in a fixed table."""
    name = part["class_path"].rsplit(".", 1)[-1]
    if name not in known or not part["class_path"].startswith("videomem."):
        raise VideomemError(f"{part['class_path']} is not videomem's; an exported folder can hold {', '.join(known)}")
    return {"name": name, "arguments": part.get("init_args", {})}


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VideomemError(f"{path}: not readable as JSON ({error})") from error


def _readme(head: Head, class_names: Sequence[str], config: dict[str, Any]) -> str:
    backbone, imported = config["backbone"], config["imported"]
    call = "model(model.read(\"video.mp4\").unsqueeze(0))" if backbone["weights"] == "exported" else (
        "model.classify(features, lengths)  # features (B, T, D) of your own, lengths (B,)"
    )  # fmt: skip
    below = f"{backbone['name']} {backbone['layer']}" if imported is None else imported["name"]
    weights = f"The backbone's weights are {backbone['weights']}." if imported is None else (
        f"Its features, {imported['feature_dim']} per frame, were made elsewhere."
    )  # fmt: skip
    return f"""# {head.label} on {below}

A video classifier of {len(class_names)} classes, made with {config["made_with"]}.
{weights}

    import videomem
    model = videomem.load("this folder")
    logits = {call}
    print(model.class_names[logits.argmax()])

Classes: {", ".join(class_names)}.
"""
