"""Models in code of the user, named by `package.module:function`."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from videomem.errors import VideomemError, one_line
from videomem.experiments.model_sensitivity.video_model import VideoModel

_NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def is_function(name: str) -> bool:
    """Whether a name has the form `package.module:function`."""
    return _NAME.fullmatch(name) is not None


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
