"""A model of whole clips with all that is needed to evaluate it, its classes, and models in code of the user."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videomem.errors import VideomemError, one_line
from videomem.experiments.model_sensitivity.clip_predictions import Model
from videomem.experiments.model_sensitivity.views import Average, PrepareFrame
from videomem.utils.text import nearest

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class VideoModel:
    """A model of whole clips.

    Attributes:
        name: What the result calls it.
        weights: What the result calls its weights.
        network: Maps clips (B, T, 3, height, width) to logits (B, C).
        prepare: Its preprocessing.
        num_frames: T.
        average: What is averaged over views, as in the publication of the model.
        class_names: Names of the outputs; None if it has none.
        most_crops: Largest number of crops of a frame.
    """

    name: str
    weights: str
    network: Model
    prepare: PrepareFrame
    num_frames: int
    average: Average
    class_names: Sequence[str] | None
    most_crops: int = 3


def match_labels(labels: Sequence[str], categories: Sequence[str]) -> dict[str, int]:
    """Returns the index of the output of each label; case and underscores do not matter.

    Raises:
        VideomemError: If a label is not among them, or two outputs have the name of a label.
    """
    plain = [_plain(category) for category in categories]
    places = {}
    for label in labels:
        if (number := plain.count(_plain(label))) != 1:
            problem = "the name of several" if number else "none"
            raise VideomemError(
                f"label {label!r} is {problem} of the {len(categories)} classes that these weights tell apart; near it "
                f"are: {nearest(_plain(label), list(categories))}; rename it in the catalog, leave its clips out, or "
                "name the outputs with --class-names"
            )
        places[label] = plain.index(_plain(label))
    return places


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())


def is_function(name: str) -> bool:
    """Whether a name has the form `package.module:function`."""
    return _FUNCTION.fullmatch(name) is not None


def raw_frame(frame_HWC: NDArray[np.uint8], num_crops: int) -> Tensor:
    """A frame (1, 3, height, width) uint8, as it was decoded."""
    return torch.from_numpy(frame_HWC).permute(2, 0, 1)[None]


def load_function(name: str, num_frames: int) -> VideoModel:
    """Import a module, also one in the current folder, and call a function of it, which returns the model.

    The model maps clips (B, T, 3, height, width) uint8 RGB, of the size of the video, to logits (B, C). It may have an
    attribute `class_names`, and may be a `torch.nn.Module`.

    Raises:
        VideomemError: If the module or the function raises an error, or does not return a function of clips.
    """
    module, function = name.split(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        network = getattr(import_module(module), function)()
    except Exception as error:
        raise VideomemError(f"--model {name}: raises {type(error).__name__}: {one_line(error)}") from error
    if not callable(network):
        raise VideomemError(
            f"--model {name}: returns a {type(network).__name__}, but must return a function of clips "
            "(B, T, 3, height, width)"
        )
    names = getattr(network, "class_names", None)
    return VideoModel(
        name=name,
        weights="",
        network=network.eval() if isinstance(network, nn.Module) else network,
        prepare=raw_frame,
        num_frames=num_frames,
        average="probabilities",
        class_names=None if names is None else [str(one) for one in names],
        most_crops=1,
    )
