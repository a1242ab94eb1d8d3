"""Memory horizon of trained heads on clips of their own data set: checkpoints, grouped by memory.

`memory.json` is a `HeadsResult` as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.memories import distinct_labels
from videomem.experiments.memory_horizon.gradients import Sensitivity, sensitivity, untrained
from videomem.experiments.memory_horizon.probe import ProbeCurve, probe, states_of
from videomem.experiments.memory_horizon.recall_measurement import versions
from videomem.experiments.memory_horizon.time_constants import Floats, lyapunov, retention
from videomem.heads import Head
from videomem.statistics.horizons import Curve, curve_over_seeds
from videomem.training.checkpoint import Checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.utils.result_models import Number, SharedText, Text, result_model
from videomem.utils.sharing import shared_path

SCHEMA_VERSION = 1
MAX_CLIPS = 64  # for gradients, time constants and Lyapunov exponents


@result_model
class HeadsReach:
    """Measurements of one memory on clips of a catalog, over its checkpoints.

    Attributes:
        label: The memory with its parameters; see `labels_of`.
        num_heads: Number of checkpoints.
        gradient: RMS of d logits / d x at each lag, relative to the last frame; geometric mean over checkpoints.
        direct: The part of the gradient that flows along the retention alone.
        gradient_untrained: Gradient of heads with fresh weights.
        swap: Change of the logits if the frame at a lag is replaced by that of another clip, relative to lag 0.
        probe: Partial R^2 of the frame at a lag from the state, beyond the last frame. The interval is over groups for
            one checkpoint, and over checkpoints for several.
        taus: Time constants of the hidden units of each layer in frames, sorted, at most the length of the clips.
        lyapunovs: Largest Lyapunov exponent of each layer, per frame; -inf where no state is carried.
    """

    label: Text
    num_heads: int
    gradient: Curve
    direct: Curve
    gradient_untrained: Curve
    swap: Curve
    probe: Curve
    taus: list[list[Number]]
    lyapunovs: list[Number]

    @property
    def tau(self) -> list[float]:
        """Time constants of the last layer, the input of the readout."""
        return self.taus[-1]

    @property
    def lyapunov(self) -> float:
        """Largest Lyapunov exponent of the last layer."""
        return self.lyapunovs[-1]


@result_model
class HeadsResult:
    """The result of a measurement on clips of a catalog.

    Attributes:
        schema_version: Version of this schema; other versions are refused.
        data: The catalog and its split.
        num_clips: Number of measured clips.
        num_groups: Number of groups that the clips are from.
        num_frames: Number of last frames of each clip that gradients and retention are measured on.
        seconds_per_frame: Median time between consecutive frames of a clip; None if not known.
        memories: Result of each memory, in the order of the checkpoints.
        command: Command line.
        versions: Versions of the libraries.
    """

    schema_version: int
    data: SharedText
    num_clips: int
    num_groups: int
    num_frames: int
    seconds_per_frame: Number | None
    memories: tuple[HeadsReach, ...]
    command: SharedText
    versions: dict[Text, Text]


def measure_checkpoints(checkpoints: Sequence[Checkpoint], changes: dict[str, Any], command: str = "") -> HeadsResult:
    """Measures trained heads, and heads of the same kind with fresh weights, on the test split of their data.

    Args:
        changes: Arguments of the data module that replace those of training, such as `catalog`.
    Raises:
        VideomemError: If a checkpoint was trained without stored features, the split has fewer than 2 clips, most clips
            have one frame, or the checkpoints use clips of different lengths or frame rates.
    """
    by_label: dict[str, list[tuple[HeadMeasures, Sensitivity]]] = {}
    first: _TestClips | None = None
    for checkpoint, label in zip(checkpoints, labels_of(checkpoints), strict=True):
        test = _test_clips(checkpoint, changes)
        first = first or test
        if (first.num_frames, first.seconds_per_frame) != (test.num_frames, test.seconds_per_frame):
            raise VideomemError(
                f"{checkpoints[0].path} and {checkpoint.path} see {first.num_frames} and {test.num_frames} frames of a "
                "clip, or at another rate; run the command for each"
            )
        of_label, classifier, lags = by_label.setdefault(label, []), checkpoint.classifier(), lags_of(test.num_frames)
        trained = measure_head(classifier.head, test.clips, test.groups, lags)
        # One fresh head per trained head, so that their interval over seeds is valid.
        fresh, x_BTD = untrained(classifier, seed=len(of_label)), clips_of_one_length(test.clips)
        of_label.append((trained, sensitivity(fresh, x_BTD.to(fresh.norm.mean.device), lags)))
    assert first is not None
    return HeadsResult(
        schema_version=SCHEMA_VERSION,
        data=first.data,
        num_clips=len(first.clips),
        num_groups=len(set(first.groups)),
        num_frames=first.num_frames,
        seconds_per_frame=first.seconds_per_frame,
        memories=tuple(_over_heads(label, pairs) for label, pairs in by_label.items()),
        command=command,
        versions=versions(),
    )


class _TestClips(NamedTuple):
    data: str
    clips: list[Tensor]
    groups: list[str]
    num_frames: int
    seconds_per_frame: float | None


def _test_clips(checkpoint: Checkpoint, changes: dict[str, Any]) -> _TestClips:
    """Returns the features of the test split of a checkpoint, and the median length and rate of its clips."""
    data = checkpoint.data_module(**changes)
    if data.source != "features":
        raise VideomemError(
            f"{checkpoint.path}: data.source is {data.source}, but stored features are needed; train on features"
        )
    data.setup("test")
    rows, split = data.rows(data.test_split), f"{shared_path(data.catalog_path)}, {data.test_split}"
    clips, groups = [data.features(row) for row in rows], [data.clips[row].group for row in rows]
    if len(clips) < 2:
        raise VideomemError(f"{split}: the split has {len(clips)} clip(s), but at least 2 are needed; add clips")
    if (num_frames := median_length(clips)) < 2:
        raise VideomemError(f"{checkpoint.path}: sees one frame of most clips, but needs at least 2; use longer clips")
    return _TestClips(split, clips, groups, num_frames, seconds_per_frame(data, rows))


def labels_of(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Returns a label for each checkpoint, the same for heads that differ in their seed alone.

    Kinds of heads with the same label are numbered in the given order; see `distinct_labels`.
    """
    labels, kinds = [], []
    for checkpoint in checkpoints:
        labels.append(checkpoint.classifier().head.label)
        settings = {name: value for name, value in checkpoint.model_arguments.items() if name != "seed"}
        kinds.append(json.dumps([settings, checkpoint.features], sort_keys=True))
    return distinct_labels(labels, kinds)


def lags_of(num_frames: int) -> list[int]:
    """Returns the lags for clips of `num_frames` frames: all up to 8, then at increasing distances."""
    steps = sorted({round(8 * 2 ** (k / 2)) for k in range(20)} | set(range(1, 9)))
    return [lag for lag in steps if lag < num_frames]


def seconds_per_frame(data: VideoDataModule, rows: Sequence[int]) -> float | None:
    """Returns the median time between consecutive sampled frames; None if the frame rate is not known."""
    in_order_of_shards = sorted(map(data.entry, rows), key=lambda entry: entry.shard)
    fields = map(data.feature_store.shards.fields, in_order_of_shards)
    sampled = [(clip["indices"], clip["fps"]) for clip in fields]
    steps = [(i[-1] - i[0]) / (len(i) - 1) / fps for i, fps in sampled if len(i) > 1 and fps > 0]
    return float(np.median(steps)) if steps else None


class HeadMeasures(NamedTuple):
    """Measurements of one head.

    Attributes:
        sensitivity: Sensitivity of the last frame's logits, on clips of one length.
        taus: Time constants (H,) of each layer in frames, from input to output, on the same clips.
        lyapunovs: Largest Lyapunov exponent of each layer, per frame, on the same clips.
        probe: Probe of earlier frames from the last layer, on all clips; None if all clips are of one group.
    """

    sensitivity: Sensitivity
    taus: list[Floats]
    lyapunovs: list[float]
    probe: ProbeCurve | None


def measure_head(
    head: Head, clips: Sequence[Tensor], groups: Sequence[str], lags: Sequence[int], seed: int = 0
) -> HeadMeasures:
    """Measures sensitivity, time constants, Lyapunov exponents and probes of one head.

    The first three measurements need clips of one length, the median length. Shorter clips are left out, longer clips
    are cut to their last frames, and at most `MAX_CLIPS` clips are drawn at random. Lags beyond the median length are
    left out. The probe uses all clips at full length and leaves out lag 0.

    Args:
        clips: Features (T, D) of each clip, preferably of clips that the head was not trained on.
    Raises:
        VideomemError: If there are fewer than 2 clips, a lag is negative, or the features do not fit the head.
    """
    if len(clips) != len(groups):
        raise VideomemError(f"{len(clips)} clips, but {len(groups)} groups; give one for each clip")
    if len(clips) < 2:
        raise VideomemError(f"{len(clips)} clip(s), but at least 2 are needed to replace frames; give more clips")
    device, found = head.norm.mean.device, None
    x_BTD = clips_of_one_length(clips, seed).to(device)
    if len(set(groups)) > 1:
        with torch.no_grad():
            normed = [head.norm(x_TD.to(device)).cpu() for x_TD in clips]
        states, alone = states_of(head, clips), states_of(head, clips, alone=True)
        found = probe(states, normed, groups, [lag for lag in lags if lag != 0], alone, seed=seed)
    return HeadMeasures(
        sensitivity=sensitivity(head, x_BTD, [lag for lag in lags if lag < x_BTD.shape[1]], seed),
        taus=retention(head, x_BTD),
        lyapunovs=lyapunov(head, x_BTD, seed=seed),
        probe=found,
    )


def clips_of_one_length(clips: Sequence[Tensor], seed: int = 0) -> Tensor:
    """Returns the last T frames (B, T, D) of at most `MAX_CLIPS` clips, with T the lower median of the lengths."""
    num_frames = median_length(clips)
    long_enough = [clip for clip, x_TD in enumerate(clips) if len(x_TD) >= num_frames]
    chosen = np.random.default_rng(seed).permutation(long_enough)[:MAX_CLIPS]
    return torch.stack([clips[clip][-num_frames:].float() for clip in np.sort(chosen).tolist()])


def median_length(clips: Sequence[Tensor]) -> int:
    """Returns the lower median of the lengths of clips, in frames."""
    return int(np.quantile([len(x_TD) for x_TD in clips], 0.5, method="lower"))


def _over_heads(label: str, pairs: Sequence[tuple[HeadMeasures, Sensitivity]]) -> HeadsReach:
    trained, fresh = zip(*pairs, strict=True)
    lags = trained[0].sensitivity.lags
    return HeadsReach(
        label=label,
        num_heads=len(trained),
        gradient=curve_over_seeds(lags, [one.sensitivity.gradient for one in trained], log=True),
        direct=curve_over_seeds(lags, [one.sensitivity.direct for one in trained], log=True),
        gradient_untrained=curve_over_seeds(lags, [one.gradient for one in fresh], log=True),
        swap=curve_over_seeds(lags, [one.sensitivity.swap for one in trained]),
        probe=_probe(lags, [one.probe for one in trained if one.probe is not None]),
        taus=[
            np.sort(np.concatenate(of_layer)).tolist() for of_layer in zip(*(one.taus for one in trained), strict=True)
        ],
        lyapunovs=np.mean([one.lyapunovs for one in trained], axis=0).tolist(),
    )


def _probe(lags: Sequence[int], found: Sequence[ProbeCurve]) -> Curve:
    """Returns the curve over groups for one head, over heads for several; NaN if all clips are of one group."""
    if not found:
        nothing = (np.nan,) * len(lags)
        return Curve(tuple(lags), nothing, nothing, nothing, (nothing,))
    if len(found) > 1:
        return curve_over_seeds(found[0].lags, [one.partial_r2 for one in found], limits=(-np.inf, 1))
    one = found[0]
    return Curve(one.lags, one.partial_r2, one.low, one.high, (one.partial_r2,))
