"""Views of a video: clips at several times and crops at several places, whose predictions are averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.video.catalog import Clip
from videomem.video.decoding import DecodedClip, decode_clip
from videomem.video.sampling import TOLERANCE_S, Sampling, uniform_indices

Average = Literal["probabilities", "logits"]


class PrepareFrame(Protocol):
    """The preprocessing of a model, which transforms each frame alone."""

    def __call__(self, frame_HWC: NDArray[np.uint8], num_crops: int) -> Tensor:
        """The crops (K, 3, height, width) of a frame, as the model takes them."""
        ...


@dataclass(frozen=True)
class Views:
    """The views of a video.

    Args:
        num_frames: T, frames of each view.
        num_clips: Clips at different times.
        num_crops: Crops of each clip: 1, the center; or 3, both ends of the longer side too.
        fps: Frames per second of each clip; the clips are spread evenly from the start of the video to its end, and a
            single clip is in the middle. None: each clip has frames from the whole video.
    """

    num_frames: int
    num_clips: int = 1
    num_crops: int = 1
    fps: float | None = None

    @property
    def num_views(self) -> int:
        return self.num_clips * self.num_crops

    def indices(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Indices (num_clips, T) of the frames of each clip, given the time of each frame (N,) in seconds.

        Without `fps`, the frames of a single clip are those of `Uniform`. Those of several clips are the centers of
        num_clips * T equal parts of the video, which the clips take in turn. With `fps`, frames after the end of the
        video repeat its last frame.
        """
        num_available = len(times_s)
        if self.fps is not None:
            latest_s = max(times_s[-1] - (self.num_frames - 1) / self.fps, 0.0)
            starts_s = np.linspace(0.0, latest_s, self.num_clips) if self.num_clips > 1 else np.array([latest_s / 2])
            wanted_s = starts_s[:, None] + np.arange(self.num_frames) / self.fps
            return np.searchsorted(times_s, wanted_s + TOLERANCE_S, side="right").astype(np.int64) - 1
        if self.num_clips == 1:
            return uniform_indices(num_available, self.num_frames)[None]
        num_parts = self.num_frames * self.num_clips
        centers = (2 * np.arange(num_parts, dtype=np.int64) + 1) * num_available // (2 * num_parts)
        return centers.reshape(self.num_frames, self.num_clips).T


class _Recorded(Sampling):
    """The distinct frames of all clips. Records the frames of each clip when it is asked for the last time."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self.needs_times = views.fps is not None  # type: ignore[misc]
        self.clips_VT = np.empty((0, 0), np.int64)

    def indices(self, times_s: NDArray[np.float64]) -> NDArray[np.int64]:
        self.clips_VT = self._views.indices(times_s)
        return np.unique(self.clips_VT)


@dataclass(frozen=True)
class ViewReader:
    """Decodes the views of a clip and prepares them for a model. Each frame is decoded and prepared once."""

    prepare: PrepareFrame
    views: Views

    def read(self, clip: Clip) -> tuple[Tensor, DecodedClip]:
        """Returns the views (V, T, 3, height, width) of a clip, or (T, ...) of a single one, and the decoded frames."""
        sampling = _Recorded(self.views)
        decoded = decode_clip(clip.path, sampling, clip.interval, "auto", clip.fps)
        # A frame at a time: resized at once, a long clip would be held as floating point numbers of full size.
        frames_UK = torch.stack([self.prepare(frame, self.views.num_crops) for frame in decoded.frames_THWC])
        places_VT = torch.from_numpy(np.searchsorted(decoded.indices_T, sampling.clips_VT))
        views = frames_UK[places_VT].movedim(2, 1).flatten(0, 1)
        return views[0] if len(views) == 1 else views, decoded


def three_crops(whole: Tensor, center: Tensor) -> Tensor:
    """The crops (3, 3, height, width) at the start, the center and the end of the longer side of an image.

    Args:
        whole: The image (3, Height, Width).
        center: Its crop (3, height, width) at the center.
    """
    (height, width), (rows, columns) = center.shape[1:], whole.shape[1:]
    if columns - width >= rows - height:
        top = (rows - height) // 2
        ends = [whole[:, top : top + height, left : left + width] for left in (0, columns - width)]
    else:
        left = (columns - width) // 2
        ends = [whole[:, top : top + height, left : left + width] for top in (0, rows - height)]
    return torch.stack([ends[0], center, ends[1]])


def average_views(logits_VAC: Tensor, average: Average) -> Tensor:
    """The mean (A, C) of logits over views; of `probabilities`, the logarithm of the mean softmax."""
    if average == "logits":
        return logits_VAC.mean(0)
    return logits_VAC.log_softmax(2).logsumexp(0) - float(np.log(len(logits_VAC)))
