"""All measurements of one head on clips that differ in length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.memory_horizon.gradients import Sensitivity, sensitivity
from videomem.experiments.memory_horizon.probe import ProbeCurve, probe, states_of
from videomem.experiments.memory_horizon.time_constants import Retention, lyapunov, retention
from videomem.heads import Head

MAX_CLIPS = 64  # for gradients, retention and Lyapunov exponents


@dataclass(frozen=True)
class HeadMeasures:
    """Measurements of one head.

    Attributes:
        sensitivity: Sensitivity of the last frame's logits, on `num_clips` clips of `num_frames` frames.
        retention: Time constants of each layer, from input to output, on the same clips.
        lyapunov: Largest Lyapunov exponent of each layer, per frame, on the same clips.
        probe: Probe of earlier frames from the last layer, on all clips; None if all clips are of one group.
        num_clips: Number of clips of the first three measurements.
        num_frames: Number of frames T of these clips.
        seconds_per_frame: Time between frames; None if not known.
    """

    sensitivity: Sensitivity
    retention: tuple[Retention, ...]
    lyapunov: tuple[float, ...]
    probe: ProbeCurve | None
    num_clips: int
    num_frames: int
    seconds_per_frame: float | None


def measure_head(
    head: Head,
    clips: Sequence[Tensor],
    groups: Sequence[str],
    seconds_per_frame: float | None,
    lags: Sequence[int],
    seed: int = 0,
    max_clips: int = MAX_CLIPS,
) -> HeadMeasures:
    """Measures sensitivity, retention, Lyapunov exponents and probes of one head.

    The first three measurements need clips of one length, the median length. Shorter clips are left out, longer clips
    are cut to their last frames, and at most `max_clips` clips are drawn at random. Lags beyond the median length are
    left out. The probe uses all clips at full length and leaves out lag 0.

    Args:
        head: A head, trained or not; it is not changed.
        clips: Features (T, D) of each clip, preferably of clips that the head was not trained on.
        groups: Source of each clip.
        seconds_per_frame: Time between frames, stored with the results.
        lags: Lags in frames.
        seed: Seed of the choice of clips, and of each measurement.
        max_clips: Largest number of clips for the first three measurements.
    Raises:
        VideomemError: If there are fewer than 2 clips, a lag is negative, or the features do not fit the head.
    """
    _check(clips, groups, seconds_per_frame, max_clips)
    x_BTD = clips_of_one_length(clips, max_clips, seed).to(head.norm.mean.device)
    return HeadMeasures(
        sensitivity=sensitivity(head, x_BTD, [lag for lag in lags if lag < x_BTD.shape[1]], seed),
        retention=tuple(retention(head, x_BTD)),
        lyapunov=tuple(lyapunov(head, x_BTD, seed=seed)),
        probe=_probe(head, clips, groups, [lag for lag in lags if lag != 0], seed),
        num_clips=len(x_BTD),
        num_frames=x_BTD.shape[1],
        seconds_per_frame=seconds_per_frame,
    )


def clips_of_one_length(clips: Sequence[Tensor], max_clips: int, seed: int) -> Tensor:
    """Returns the last T frames (B, T, D) of at most `max_clips` clips, with T the lower median of the lengths."""
    lengths, num_frames = np.array([len(x_TD) for x_TD in clips]), median_length(clips)
    long_enough = np.flatnonzero(lengths >= num_frames)
    chosen = np.random.default_rng(seed).permutation(long_enough)[:max_clips]
    return torch.stack([clips[clip][-num_frames:].float() for clip in np.sort(chosen).tolist()])


def median_length(clips: Sequence[Tensor]) -> int:
    """Returns the lower median of the lengths of clips, in frames."""
    return int(np.quantile([len(x_TD) for x_TD in clips], 0.5, method="lower"))


def _probe(
    head: Head, clips: Sequence[Tensor], groups: Sequence[str], lags: Sequence[int], seed: int
) -> ProbeCurve | None:
    if len(set(groups)) < 2:
        return None
    device = head.norm.mean.device
    with torch.no_grad():
        normed = [head.norm(x_TD.to(device)).cpu() for x_TD in clips]
    return probe(states_of(head, clips), normed, groups, lags, states_of(head, clips, alone=True), seed=seed)


def _check(clips: Sequence[Tensor], groups: Sequence[str], seconds_per_frame: float | None, max_clips: int) -> None:
    if len(clips) != len(groups):
        raise VideomemError(f"{len(clips)} clips, but {len(groups)} groups; give one for each clip")
    if len(clips) < 2:
        raise VideomemError(f"{len(clips)} clip(s), but at least 2 are needed to replace frames; give more clips")
    if max_clips < 2:
        raise VideomemError(f"max_clips is {max_clips}, but must be at least 2")
    if seconds_per_frame is not None and not 0 < seconds_per_frame < math.inf:
        raise VideomemError(f"seconds_per_frame is {seconds_per_frame}, but must be above 0 and finite, or None")
