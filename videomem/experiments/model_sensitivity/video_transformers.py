"""Video classifiers of Hugging Face's `transformers`, from a folder of `save_pretrained` or from the Hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videomem.errors import VideomemError, one_line
from videomem.experiments.model_sensitivity.video_model import VideoModel
from videomem.experiments.model_sensitivity.views import Average, three_crops
from videomem.features.hf_models import (
    PROCESSOR,
    VIDEO_PROCESSOR,
    HFSource,
    hf_config,
    hf_model,
    transformers_library,
)
from videomem.features.hub import PREFIX
from videomem.utils.checked_json import read_object

_MOST_PX = 4096
# The only settings of a processor that are used.
_SETTINGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "size", "crop_size", "resample",
             "rescale_factor", "offset", "image_mean", "image_std")  # fmt: skip


@dataclass(frozen=True)
class _Family:
    """A model type: its classes, its arguments, and what its publication averages over views."""

    network: str
    processor: str
    num_frames: str  # field of the config
    average: Average
    argument: str = "pixel_values"


FAMILIES = {
    "videomae": _Family("VideoMAEForVideoClassification", "VideoMAEImageProcessor", "num_frames", "probabilities"),
    "timesformer": _Family("TimesformerForVideoClassification", "VideoMAEImageProcessor", "num_frames", "logits"),
    "vivit": _Family("VivitForVideoClassification", "VivitImageProcessor", "num_frames", "logits"),
    "vjepa2": _Family("VJEPA2ForVideoClassification", "VJEPA2VideoProcessor", "frames_per_clip", "probabilities",
                      "pixel_values_videos"),
}  # fmt: skip


class TransformersNetwork(nn.Module):
    """A video classifier of transformers.

    Shape:
        clips (B, T, 3, height, width) float32 -> logits (B, C)
    """

    def __init__(self, network: nn.Module, argument: str) -> None:
        super().__init__()
        self.network, self._argument = network, argument

    def forward(self, clips: Tensor) -> Tensor:
        logits: Tensor = self.network(**{self._argument: clips}).logits
        return logits


@dataclass(frozen=True)
class ProcessedFrame:
    """The preprocessing of an image or video processor of transformers."""

    processor: Any
    family: _Family

    def __call__(self, frame_HWC: NDArray[np.uint8], num_crops: int) -> Tensor:
        """The crops (K, 3, height, width) float32 of a frame."""
        center = self._processed(frame_HWC)
        if num_crops == 1:
            return center[None]
        return three_crops(self._processed(frame_HWC, do_center_crop=False), center)

    def _processed(self, frame_HWC: NDArray[np.uint8], **settings: Any) -> Tensor:
        content: Any = [frame_HWC]
        if self.family.argument == "pixel_values_videos":
            content = torch.from_numpy(frame_HWC).permute(2, 0, 1)[None]
        found = self.processor(content, return_tensors="pt", **settings)
        image: Tensor = found[self.family.argument].float().flatten(0, -4)[0]
        return image


def load_video_transformer(name: str, weights: str | None, num_frames: int | None = None, seed: int = 0) -> VideoModel:
    """Load a video classifier with the preprocessing of its own processor. No code of a repository runs.

    Args:
        name: A folder of `save_pretrained`, or a repository on the Hub as `hf://owner/name[@revision]`.
        weights: None for those of the model, in safetensors; or `random`.
        num_frames: T, which must be that of the config.
        seed: Seed of random weights.
    Raises:
        VideomemError: If the model cannot be downloaded or read, is no video classifier, or takes other clips.
    """
    if weights not in (None, "random"):
        raise VideomemError(f"--weights {weights}: a model of transformers has its own; leave it out, or pass random")
    if (folder := HFSource(name, weights == "random").folder(weights=True)) is None:
        raise VideomemError(f"--model {name}: no folder of `save_pretrained`; name one, or {PREFIX}owner/name")
    if not Path(name).is_dir():
        name = f"{name.split('@')[0]}@{folder.name}"  # The commit, so that the result names what was measured.
    try:
        return _load(folder, name, weights, num_frames, seed)
    except VideomemError as error:
        raise VideomemError(str(error).replace(str(folder), name)) from error


def _load(folder: Path, name: str, weights: str | None, num_frames: int | None, seed: int) -> VideoModel:
    source = HFSource(str(folder), random=weights == "random", seed=seed, option="--model")
    config = hf_config(source, FAMILIES)
    family = FAMILIES[config.model_type]
    needed = int(getattr(config, family.num_frames))
    if num_frames not in (None, needed):
        raise VideomemError(f"--frames {num_frames}: {name} takes clips of {needed} frames; leave it out")
    prepare = ProcessedFrame(_processor(folder, family), family)
    try:
        shape = prepare(np.zeros((64, 80, 3), np.uint8), 1).shape
    except Exception as error:
        raise VideomemError(
            f"--model {name}: its processor fails: {type(error).__name__}: {one_line(error)}"
        ) from error
    if len(shape) != 4 or shape[1] != 3:
        raise VideomemError(f"--model {name}: its processor gives frames {tuple(shape[1:])}, but must give (3, h, w)")
    network = TransformersNetwork(hf_model(source, family.network, config), family.argument)
    return VideoModel(
        name=name,
        weights=weights or "its own",
        network=network.eval(),
        prepare=prepare,
        num_frames=needed,
        average=family.average,
        class_names=[config.id2label[number] for number in range(len(config.id2label))],
        most_crops=3 if prepare.processor.do_center_crop else 1,
    )


def _processor(folder: Path, family: _Family) -> Any:
    """The processor of a model type, with the settings in the folder."""
    names = [name for name in (VIDEO_PROCESSOR, PROCESSOR) if (folder / name).is_file()]
    if not names:
        raise VideomemError(f"{folder}: lacks {PROCESSOR}; save it with the processor's save_pretrained")
    path = folder / names[0]
    plain = read_object(path)
    kinds = [plain[key] for key in ("video_processor_type", "image_processor_type", "feature_extractor_type")
             if key in plain]  # fmt: skip
    if kinds and _stem(kinds[0]) not in (_stem(family.processor), _stem(family.network)):
        raise VideomemError(f"{path}: a processor {one_line(kinds[0])[:80]}, but {family.processor} is supported")
    given = {key: plain[key] for key in _SETTINGS if key in plain}
    for key in ("size", "crop_size"):
        sides = given[key].values() if isinstance(given.get(key), dict) else [given.get(key, 1)]
        if not all(type(side) is int and 1 <= side <= _MOST_PX for side in sides):
            raise VideomemError(
                f"{path}: {key} is {one_line(given[key])[:80]}, but must be within 1..{_MOST_PX} pixels"
            )
    try:
        return getattr(transformers_library(), family.processor)(**given)
    except Exception as error:
        raise VideomemError(f"{path}: not valid settings of {family.processor}: {one_line(error)}") from error


def _stem(name: object) -> str:
    """The part of the name of a class that names its model, such as VideoMAE."""
    return re.split("FeatureExtractor|ImageProcessor|VideoProcessor|ForVideo", str(name))[0].lower()
