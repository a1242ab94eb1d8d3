"""`Classifier`: a trained head with its backbone, for predictions on videos, features and streams."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videomem.batch import length_mask
from videomem.errors import VideomemError
from videomem.features.backbone import (
    Backbone,
    Blueprint,
    backbone_identity,
    blueprint_of,
    extract_features,
    load_backbone,
)
from videomem.features.clip_decoding import decode_frames
from videomem.features.hub import PREFIX, named_model
from videomem.features.settings import FeatureSettings
from videomem.heads import Head
from videomem.inference.exported_folder import Parts, read_folder, read_repository, write_folder
from videomem.inference.streaming import Stream, probabilities
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.video.catalog import Clip
from videomem.video.decoding import DecodedClip
from videomem.video.sampling import Sampling


class Prediction(NamedTuple):
    """Predicted probabilities of a video.

    Attributes:
        path: The video.
        class_names: Names of the C classes.
        probabilities_C: Probability of each class.
        probabilities_TC: Probabilities after each of the T frames; the last row is `probabilities_C`.
        indices_T: Index of each frame in the video, from 0; of a video network, that of the last frame of each segment.
        times_s_T: Seconds of these frames from the video's first; None for images without a frame rate.
    """

    path: str
    class_names: list[str]
    probabilities_C: Tensor
    probabilities_TC: Tensor
    indices_T: list[int]
    times_s_T: list[float] | None

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.class_names[int(self.probabilities_C.argmax())]

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {probability:.3f}" for name, probability in self.top())
        return f"Prediction for {self.path or 'features'}: {best}"

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """The k most probable classes with their probabilities, the most probable first."""
        return top_classes(self.class_names, self.probabilities_C, k)


def top_classes(class_names: Sequence[str], probabilities_C: Tensor, k: int) -> list[tuple[str, float]]:
    """The k most probable classes with their probabilities, the most probable first."""
    best = probabilities_C.topk(min(k, len(class_names)))
    return [(class_names[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


class Classifier(nn.Module):
    """A trained head with its backbone; created by `videomem.load`.

    Args:
        head: The head.
        class_names: Names of its classes.
        settings: How features are computed from videos.
        backbone: The frozen network; None for a model without it.
        arguments: Arguments of the head, as in a checkpoint. Without them the model cannot be saved.
        training: Facts about the training, for the model card.
        evidence: Results for the model card: `evaluation` and `order_test`.
        blueprint: Architecture and preprocessing of the network that computes the features; by default those of the
            settings.
    """

    def __init__(
        self,
        head: Head,
        class_names: Sequence[str],
        settings: FeatureSettings,
        backbone: Backbone | None,
        arguments: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        evidence: dict[str, Any] | None = None,
        blueprint: Blueprint | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.class_names = list(class_names)
        self.settings = settings
        self.backbone = backbone
        self.arguments = arguments
        self.training_facts = training or {}
        self.evidence = evidence or {}
        self.blueprint = blueprint or blueprint_of(settings.backbone)
        self.eval()

    @classmethod
    def from_pretrained(cls, folder: Path | str, revision: str | None = None) -> Classifier:
        """Load a model from an exported folder or a repository on the Hugging Face Hub; see `videomem.load`."""
        repository = named_model(folder, revision)
        return cls(*(read_folder(Path(folder)) if repository is None else read_repository(repository)))

    def save_pretrained(self, folder: Path | str, with_backbone: bool = True) -> None:
        """Write the model to a folder in the layout of model hubs, for `videomem.load` and `from_pretrained`.

        Args:
            folder: A new or empty folder.
            with_backbone: Include the weights of the backbone, if the model has one.
        Raises:
            VideomemError: If the folder is not empty, or the model has classes of other packages.
        """
        if self.arguments is None:
            raise VideomemError("this model was created without the arguments of its head; pass `arguments` to save it")
        backbone = self.backbone if with_backbone else None
        about = self.arguments, self.training_facts, self.evidence, self.blueprint
        write_folder(Parts(self.head, self.class_names, self.settings, backbone, *about), Path(folder))

    @torch.inference_mode()
    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, C) of frames (B, T, 3, crop, crop) uint8, or segments of frames, as `read` returns."""
        lengths = torch.full((len(frames),), frames.shape[1], device=frames.device) if lengths is None else lengths
        real_BT = length_mask(lengths.to(frames.device), frames.shape[1])
        x_ND = self.features(frames[real_BT])
        x_BTD = x_ND.new_zeros(*real_BT.shape, x_ND.shape[1])
        x_BTD[real_BT.to(x_ND.device)] = x_ND
        return self.classify(x_BTD, lengths.to(x_BTD.device))

    @torch.inference_mode()
    def features(self, frames: Tensor) -> Tensor:
        """Features (N, D) of frames (N, 3, crop, crop) uint8, rounded as in training, on the backbone's device.

        A video network takes segments of frames (N, F, 3, crop, crop).

        Raises:
            VideomemError: If the model has no backbone.
        """
        return extract_features(self.frame_network, frames).to(getattr(torch, self.settings.dtype))

    @property
    def frame_network(self) -> Backbone:
        """The backbone.

        Raises:
            VideomemError: If the model has none.
        """
        if self.backbone is None:
            self._refuse_imported()
            raise VideomemError(
                "this model was exported without its backbone; export it again with it, or call `classify` on features"
            )
        return self.backbone

    @torch.inference_mode()
    def classify(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, C) of features (B, T, D)."""
        return self.head(x_BTD, lengths_B)

    @torch.inference_mode()
    def predict(self, video: Path | str | Clip) -> Prediction:
        """Predict the class of a video, with frames sampled as in training.

        Args:
            video: A video file, a folder of numbered images, or a clip of a catalog.
        Raises:
            VideomemError: If the video cannot be decoded exactly, or the model has no backbone.
        """
        clip = video if isinstance(video, Clip) else Clip(str(video), "", "", "")
        frames, decoded = self.decode(clip)
        times_s_T = None if decoded.times_s_T is None else decoded.times_s_T.tolist()
        return self.predict_decoded(self.features(frames), str(clip), decoded.indices_T.tolist(), times_s_T)

    def predict_decoded(
        self, x_TD: Tensor, path: str, indices: Sequence[int], times_s: Sequence[float] | None
    ) -> Prediction:
        """The prediction of features, given the index and time of each decoded frame."""
        length = self.settings.backbone.segment_frames
        ends = slice(length - 1, None, length)  # The last frames of the segments.
        return self.predict_features(x_TD, path, indices[ends], None if times_s is None else times_s[ends])

    @torch.inference_mode()
    def predict_features(
        self,
        x_TD: Tensor,
        path: str = "",
        indices_T: Sequence[int] | None = None,
        times_s_T: Sequence[float] | None = None,
    ) -> Prediction:
        """Predict the class of a clip from its features (T, D), which may be computed by other tools.

        Args:
            x_TD: Features, as returned by `features`.
            path: Name of the clip, for the prediction.
            indices_T: Index of each frame in the video.
            times_s_T: Time of each frame, in seconds from the video's first.
        """
        x_1TD, lengths_B = x_TD[None], torch.tensor([len(x_TD)], device=x_TD.device)
        logits_1TC = self.head.frame_outputs(x_1TD, lengths_B)
        answers_TC = self.head.readout.after_each(logits_1TC)[0]
        answers_TC[-1] = self.head.readout(logits_1TC, lengths_B)[0]  # Bit-identical to `forward`.
        probabilities_TC = probabilities(answers_TC).cpu()
        indices = list(range(len(x_TD)) if indices_T is None else indices_T)
        times_s = None if times_s_T is None else list(times_s_T)
        return Prediction(path, self.class_names, probabilities_TC[-1], probabilities_TC, indices, times_s)

    def stream(self, scene_change: float | None = None) -> Stream:
        """A stream that processes one frame at a time and carries the state of the memory.

        Args:
            scene_change: Reset the state at a frame whose mean difference from the previous frame is more than this
                number of levels of 255. None: never.
        Raises:
            VideomemError: If the model has no backbone, or its backbone takes segments of frames.
        """
        self.settings.backbone.refuse_segments("a stream, which has one frame at a time,")
        dtype = getattr(torch, self.settings.dtype)
        return Stream(self.head, self.frame_network, dtype, self.class_names, scene_change)

    def read(self, path: Path | str) -> Tensor:
        """Frames (T, 3, crop, crop) uint8 of a video, or segments of frames, sampled and cropped as in training."""
        return self.decode(Clip(str(path), "", "", ""))[0]

    def decode(self, clip: Clip, sampling: Sampling | None = None) -> tuple[Tensor, DecodedClip]:
        """Frames of a clip as `read` returns, and the decoded clip; `sampling` replaces that of training."""
        self._refuse_imported()
        settings = self.settings if sampling is None else replace(self.settings, sampling=sampling)
        return decode_frames(clip, settings, self.blueprint.preprocessing)

    def _refuse_imported(self) -> None:
        if (imported := self.settings.imported) is not None:
            raise VideomemError(
                f"the features of this model ({imported.name}) are imported, so it has no backbone; compute features "
                f"(B, T, {imported.feature_dim}) with the same tool, and call `classify` on them"
            )


def load(path: Path | str, trust: bool = False, revision: str | None = None) -> Classifier:
    """Load a trained model from an exported folder, a repository on the Hugging Face Hub, or a checkpoint.

    Loading a folder unpickles nothing and imports no class that a file names; nothing is downloaded unless `path` names
    a repository, whose files are checked as those of a folder. An untrusted checkpoint may name classes of videomem
    only; the weights of its backbone are loaded from the same source as in training.

    Args:
        path: A folder of `videomem export`; a checkpoint of `videomem fit`; or, as text, a repository with the files of
            such a folder: `hf://owner/name`, or `owner/name` if there is no folder `owner`.
            `@revision` at the end is the same as `revision`.
        trust: Allow a checkpoint to name classes of other packages. Loading it then runs their code.
        revision: A branch, a tag or a commit of the repository; the branch `main` by default.
    Raises:
        VideomemError: If the path is none of these, cannot be downloaded, is damaged, names a class that is not
            trusted, or was trained with other weights of the backbone; if `trust` is given for no checkpoint.
    """
    if named_model(path, revision) is not None or Path(path).is_dir():
        if trust:
            raise VideomemError(
                f"trust has no effect on {path}, which runs no code as it is no checkpoint; leave it out"
            )
        return Classifier.from_pretrained(path, revision)
    if not Path(path).exists():
        raise VideomemError(
            f"{path}: no such model; give a folder of `videomem export`, a checkpoint of `videomem fit`, or a "
            f"repository on the Hugging Face Hub as {PREFIX}owner/name"
        )
    return model_of(read_checkpoint(Path(path), trust))


def model_of(checkpoint: Checkpoint) -> Classifier:
    """The model of a checkpoint, with the backbone that computed its features."""
    classifier, settings, backbone = checkpoint.classifier(), checkpoint.feature_settings(), None
    if settings.imported is None:
        identity = json.loads(json.dumps(backbone_identity(settings.backbone)))
        if checkpoint.features.get("backbone") != identity:
            raise VideomemError(
                f"{checkpoint.path}: was trained on other weights than {settings.backbone.weights} has now"
            )
        backbone = copy.deepcopy(load_backbone(settings.backbone))  # A copy, which the user may move or change.
    about = checkpoint.model_arguments, checkpoint.training_facts()
    return Classifier(classifier.head, classifier.class_names, settings, backbone, *about)
