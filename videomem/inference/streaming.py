"""Run a head on a stream, one frame at a time. The state has a constant size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from videomem.errors import VideomemError, one_line
from videomem.features.backbone import Backbone
from videomem.heads import Head, HeadState
from videomem.inference.exported_folder import checksum_of
from videomem.utils.atomic import write_atomic
from videomem.utils.checked_json import dump_checked, parse_checked

# Mean difference, in levels of 255, above which a frame starts a new scene; measured by `benchmarks/scenes.py`.
SCENE_CHANGE = 27.0
_CELLS, _POINTS = 8, 8  # Frames are compared by the means of 8x8 cells, each sampled at 8x8 points.


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the last axis.

    Raises:
        VideomemError: If a logit is not finite.
    """
    if not torch.isfinite(logits).all():
        raise VideomemError("the logits of the model are not finite; its training diverged, or its weights are damaged")
    return logits.float().softmax(dim=-1)


class Answer(NamedTuple):
    """The prediction after one more frame.

    Attributes:
        probabilities_C: Probability of each class, given the frames since the last reset.
        logits_C: Logits of the classes.
        num_frames: Number of frames since the last reset, including this one.
        is_new_scene: Whether the state was reset before this frame because of a scene change.
    """

    probabilities_C: Tensor
    logits_C: Tensor
    num_frames: int
    is_new_scene: bool


class Stream:
    """Processes a video one frame at a time, with constant memory and time per frame.

    After frames x_1 .. x_t the logits equal those of `Classifier.forward` for a clip of these frames, up to rounding:
    the backbone runs on single frames, whose features can differ in their last bits from those of a batch.

    Args:
        head: A trained head.
        backbone: The network that computes the features.
        feature_dtype: Data type to which features are rounded in training.
        class_names: Names of the classes.
        scene_change: Reset the state before a frame whose mean difference from the previous frame, over the means of
            8x8 cells, is more than this number of levels of 255. None: never.
    Raises:
        VideomemError: If `scene_change` is out of range.
    """

    def __init__(
        self,
        head: Head,
        backbone: Backbone,
        feature_dtype: torch.dtype,
        class_names: Sequence[str],
        scene_change: float | None = None,
    ) -> None:
        if scene_change is not None and not 0 < scene_change <= 255:
            raise VideomemError(f"scene_change is {scene_change}, but must be above 0 and at most 255 levels")
        self._head, self._backbone, self._feature_dtype = head, backbone, feature_dtype
        self.class_names = list(class_names)
        self._scene_change = scene_change
        self.state: HeadState | None = None
        self.num_frames = 0
        self._last_cells: NDArray[np.float64] | None = None

    def reset(self) -> None:
        """Reset the state, as before the first frame."""
        self.state, self.num_frames = None, 0

    def is_new_scene(self, frame_HWC: NDArray[np.uint8]) -> bool:
        """Whether a frame (height, width, 3) starts a new scene, compared with the frame of the previous call."""
        before, self._last_cells = self._last_cells, cell_means(frame_HWC)
        return before is not None and difference(before, self._last_cells) > (self._scene_change or np.inf)

    @torch.inference_mode()
    def step(self, frame_HWC: NDArray[np.uint8]) -> Answer:
        """Process one frame (height, width, 3), uint8 RGB of any size.

        Raises:
            VideomemError: If the frame has another shape or data type, or the logits are not finite.
        """
        if frame_HWC.ndim != 3 or frame_HWC.shape[2] != 3 or frame_HWC.dtype != np.uint8 or not frame_HWC.size:
            raise VideomemError(
                f"a frame of shape {frame_HWC.shape} and type {frame_HWC.dtype}, but a stream takes (height, width, 3) "
                "uint8"
            )
        is_new_scene = self._scene_change is not None and self.is_new_scene(frame_HWC)
        if is_new_scene:
            self.reset()
        shaped = self._backbone.preprocessing.shape_frames(frame_HWC[None])
        return self.step_shaped(shaped)._replace(is_new_scene=is_new_scene)

    @torch.inference_mode()
    def step_shaped(self, frame_1CHW: Tensor) -> Answer:
        """Process a frame (1, 3, crop, crop) that is already resized and cropped. Does not detect scene changes."""
        x_1D = self._backbone(frame_1CHW.to(self._head.norm.mean.device)).to(self._feature_dtype)
        logits_1C, self.state = self._head.step(x_1D, self.state)
        self.num_frames += 1
        return Answer(probabilities(logits_1C[0]), logits_1C[0], self.num_frames, False)

    @property
    def _identity(self) -> dict[str, Any]:
        """The identity of a file with the state of this model's stream."""
        classes = crc32(json.dumps(self.class_names).encode())
        return {"kind": "state of a stream", "model": checksum_of(self._head.state_dict(), classes)}

    def save_state(self, path: Path) -> None:
        """Write the state to a file, so that another process can continue the stream.

        Raises:
            VideomemError: If there was no frame yet, or the file cannot be written.
        """
        if self.state is None:
            raise VideomemError("a stream has no state before its first frame")
        tensors = {name: part.cpu().contiguous() for name, part in _named(self.state).items()}
        about = dump_checked(self._identity, {"num_frames": self.num_frames, "checksum": checksum_of(tensors)})
        write_atomic(path, save(tensors, metadata={"stream": about}))

    def load_state(self, path: Path) -> None:
        """Continue from a state written by `save_state`.

        Raises:
            VideomemError: If the file is damaged, or belongs to another model.
        """
        remedy = "name another file, or delete it to start again"
        if not path.is_file():  # A pipe would be read for ever.
            raise VideomemError(f"{path}: not a regular file; {remedy}")
        try:
            with safe_open(path, "pt") as file:
                about = parse_checked(file.metadata()["stream"], path, self._identity, remedy)
                num_frames = about["num_frames"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            if about["checksum"] != checksum_of(tensors):
                raise ValueError("its checksum differs from that of its tensors")
            if type(num_frames) is not int or num_frames < 1:
                raise ValueError(f"{num_frames!r:.40} frames")
        except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
            raise VideomemError(
                f"{path}: not the state of a stream, or damaged ({one_line(error)}); {remedy}"
            ) from error
        device = self._head.norm.mean.device
        with torch.inference_mode():
            _, fresh = self._head.step(torch.zeros(1, self._head.feature_dim, device=device))
        expected, found = ({name: (part.shape, part.dtype) for name, part in parts.items()}
                           for parts in (_named(fresh), tensors))  # fmt: skip
        if expected != found or not all(torch.isfinite(part).all() for part in tensors.values()):
            raise VideomemError(f"{path}: has other tensors than the state of this model; {remedy}")
        parts = {name: part.to(device) for name, part in tensors.items()}
        layers = tuple(
            tuple(parts[f"layer{number}.{place}"] for place in range(len(layer)))
            for number, layer in enumerate(fresh.layers)
        )
        self.state, self.num_frames = HeadState(layers, parts["readout"]), num_frames


def cell_means(frame_HWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean colors (8, 8, 3) of the cells of a frame; insensitive to texture, noise and small motion."""
    side = _CELLS * _POINTS
    rows, columns = (np.arange(side) * size // side for size in frame_HWC.shape[:2])
    points = frame_HWC[rows[:, None], columns].reshape(_CELLS, _POINTS, _CELLS, _POINTS, 3)
    return np.asarray(points.mean(axis=(1, 3)), dtype=np.float64)


def difference(cells: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Mean absolute difference of the cells of two frames, in levels of 255."""
    return float(np.abs(cells - others).mean())


def _named(state: HeadState) -> dict[str, Tensor]:
    layers = {
        f"layer{number}.{place}": part for number, layer in enumerate(state.layers) for place, part in enumerate(layer)
    }
    return {**layers, "readout": state.readout}
