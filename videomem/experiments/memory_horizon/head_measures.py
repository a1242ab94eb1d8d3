"""All measurements of one head on real clips, which differ in length."""

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

MAX_CLIPS = 64  # whose gradients, retention and exponents are measured


@dataclass(frozen=True)
class HeadMeasures:
    """What was measured of one head.

    Attributes:
        sensitivity: What the last frame's logits owe to earlier ones, on `num_clips` clips of `num_frames` frames.
        retention: Time constants of each layer, from the frames upwards, on the same clips.
        lyapunov: Largest Lyapunov exponent of each layer, per frame, on the same clips.
        probe: What the top layer knows of earlier frames, on all clips; None where they are of one group.
        num_clips: Clips of the first three.
        num_frames: Their frames T.
        seconds_per_frame: For lags and times in seconds; None where it is not known.
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
    """Sensitivity, retention, Lyapunov exponents and probes of one head.

    The first three need clips of one length: it is the median length, so that at least half of the clips are as long.
    Shorter ones are left out, longer ones cut to their last frames, which then follow on nothing; at most `max_clips`
    are drawn at random. Lags that such clips have not are left out there, as is lag 0 of the probe, which takes all
    clips whole.

    Args:
        head: A head, trained or not; it is left as it was.
        clips: Features (T, D) of each clip, best of ones that the head was not trained on.
        groups: What each clip was cut from.
        seconds_per_frame: Kept with the results.
        lags: Lags in frames.
        seed: Of the choice of clips, and of each measurement.
        max_clips: Most clips of the first three.
    Raises:
        VideomemError: If there are fewer than 2 clips, a lag is negative, or clips are not what the head takes.
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
    """The last T frames (B, T, D) of at most `max_clips` clips, T the (lower) median of their lengths."""
    lengths, num_frames = np.array([len(x_TD) for x_TD in clips]), median_length(clips)
    long_enough = np.flatnonzero(lengths >= num_frames)
    chosen = np.random.default_rng(seed).permutation(long_enough)[:max_clips]
    return torch.stack([clips[clip][-num_frames:].float() for clip in np.sort(chosen).tolist()])


def median_length(clips: Sequence[Tensor]) -> int:
    """The (lower) median of the clips' lengths, in frames."""
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
        raise VideomemError(f"{len(clips)} clip(s), but at least 2 are needed to exchange frames between")
    if max_clips < 2:
        raise VideomemError(f"max_clips is {max_clips}, but must be at least 2")
    if seconds_per_frame is not None and not 0 < seconds_per_frame < math.inf:
        raise VideomemError(f"seconds_per_frame is {seconds_per_frame}, but must be above 0 and finite, or None")
