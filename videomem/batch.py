"""The shape legend, and the batch that everything from the data to the readout passes on.

Axis letters, used as suffixes of tensor names throughout:

    B videos    T frames    D features    H hidden units    K projected terms    C classes

`lengths` says how many frames of each video are real; padding stands at the end and is zero. Masks are derived from
`lengths`, never stored, and are True where a frame is real.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class VideoBatch(NamedTuple):
    """Videos of one batch, padded at the end to the longest.

    Shape:
        x: features (B, T, D), or frames (B, T, 3, height, width) as uint8 when decoding live
        lengths: (B,) int64, 1 <= length <= T
        labels: (B,) int64
        clip: (B,) int64, the row of the video among the data module's clips
    """

    x: Tensor
    lengths: Tensor
    labels: Tensor
    clip: Tensor


def length_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """Mask (B, T), True where a frame is real: t < length."""
    return torch.arange(num_frames, device=lengths.device) < lengths.unsqueeze(1)


def pad_videos(videos: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack videos of (T_i, ...) into (B, max T_i, ...) with zeros behind, and their lengths (B,)."""
    lengths = torch.tensor([len(video) for video in videos])
    padded = torch.nn.utils.rnn.pad_sequence(list(videos), batch_first=True)
    return padded, lengths


def collate(samples: Sequence[tuple[Tensor, int, int]]) -> VideoBatch:
    """Batch samples of (video (T_i, ...), label, clip)."""
    videos, labels, clips = zip(*samples, strict=True)
    x, lengths = pad_videos(videos)
    return VideoBatch(x, lengths, torch.tensor(labels), torch.tensor(clips))
