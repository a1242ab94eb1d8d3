"""Memory horizon of trained heads on clips of their own data set: checkpoints, grouped by memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.memories import distinct_labels
from videomem.experiments.memory_horizon.gradients import untrained
from videomem.experiments.memory_horizon.head_measures import HeadMeasures, measure_head, median_length
from videomem.experiments.memory_horizon.probe import ProbeCurve
from videomem.statistics.horizons import Curve, curve_over_seeds
from videomem.training.checkpoint import Checkpoint
from videomem.training.data_module import VideoDataModule

SCHEMA_VERSION = 1


@dataclass(frozen=True)
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
        taus: Time constants of the neurons of each layer in frames, sorted, at most the length of the clips.
        lyapunovs: Largest Lyapunov exponent of each layer, per frame; -inf where no state is carried.
    """

    label: str
    num_heads: int
    gradient: Curve
    direct: Curve
    gradient_untrained: Curve
    swap: Curve
    probe: Curve
    taus: list[list[float]]
    lyapunovs: list[float]

    @property
    def tau(self) -> list[float]:
        """Time constants of the last layer, the input of the readout."""
        return self.taus[-1]

    @property
    def lyapunov(self) -> float:
        """Largest Lyapunov exponent of the last layer."""
        return self.lyapunovs[-1]


@dataclass(frozen=True)
class HeadsResult:
    """The result of a measurement on clips of a catalog.

    Attributes:
        schema_version: Version of the schema of this result.
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
    data: str
    num_clips: int
    num_groups: int
    num_frames: int
    seconds_per_frame: float | None
    memories: tuple[HeadsReach, ...]
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)


def measure_checkpoints(checkpoints: Sequence[Checkpoint], changes: dict[str, Any], seed: int = 0) -> HeadsResult:
    """Measures trained heads, and heads of the same kind with fresh weights, on the test split of their data.

    Args:
        checkpoints: Checkpoints of `videomem fit` on the same catalog.
        changes: Arguments of the data module that replace those of training, such as `catalog`.
        seed: Seed of the fresh weights and of all random draws.
    Raises:
        VideomemError: If a checkpoint was trained without stored features, the split has fewer than 2 clips, most clips
            have one frame, or the checkpoints use clips of different lengths or frame rates.
    """
    by_label: dict[str, list[tuple[HeadMeasures, HeadMeasures]]] = {}
    first: _TestClips | None = None
    for checkpoint, label in zip(checkpoints, labels_of(checkpoints), strict=True):
        test = _test_clips(checkpoint, changes)
        first = first or test
        if (first.num_frames, first.seconds_per_frame) != (test.num_frames, test.seconds_per_frame):
            raise VideomemError(
                f"{checkpoints[0].path} and {checkpoint.path} see {first.num_frames} and {test.num_frames} frames of a "
                "clip, or at another rate; run the command for each"
            )
        of_label, classifier = by_label.setdefault(label, []), checkpoint.classifier()
        # One fresh head per trained head, so that their interval over seeds is valid.
        heads = (classifier.head, untrained(classifier, seed + len(of_label)))
        lags = lags_of(test.num_frames)
        trained, fresh = (
            measure_head(head, test.clips, test.groups, test.seconds_per_frame, lags, seed) for head in heads
        )
        of_label.append((trained, fresh))
    return HeadsResult(
        schema_version=SCHEMA_VERSION,
        data=test.data,
        num_clips=len(test.clips),
        num_groups=len(set(test.groups)),
        num_frames=test.num_frames,
        seconds_per_frame=test.seconds_per_frame,
        memories=tuple(_over_heads(label, pairs) for label, pairs in by_label.items()),
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
    rows, split = data.rows(data.test_split), f"{data.catalog_path}, {data.test_split}"
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
    steps = [
        (entry.indices[-1] - entry.indices[0]) / (len(entry.indices) - 1) / entry.fps
        for entry in map(data.entry, rows)
        if len(entry.indices) > 1 and entry.fps > 0
    ]
    return float(np.median(steps)) if steps else None


def _over_heads(label: str, pairs: Sequence[tuple[HeadMeasures, HeadMeasures]]) -> HeadsReach:
    trained, fresh = zip(*pairs, strict=True)
    lags = trained[0].sensitivity.lags
    return HeadsReach(
        label=label,
        num_heads=len(trained),
        gradient=curve_over_seeds(lags, [one.sensitivity.gradient for one in trained], log=True),
        direct=curve_over_seeds(lags, [one.sensitivity.direct for one in trained], log=True),
        gradient_untrained=curve_over_seeds(lags, [one.sensitivity.gradient for one in fresh], log=True),
        swap=curve_over_seeds(lags, [one.sensitivity.swap for one in trained]),
        probe=_probe(lags, [one.probe for one in trained if one.probe is not None]),
        taus=[
            sorted(float(value) for one in trained for value in one.retention[layer].tau_H)
            for layer in range(len(trained[0].retention))
        ],
        lyapunovs=np.mean([one.lyapunov for one in trained], axis=0).tolist(),
    )


def _probe(lags: Sequence[int], found: Sequence[ProbeCurve]) -> Curve:
    """Returns the curve over groups for one head, over heads for several; NaN if all clips are of one group."""
    if not found:
        nothing = (np.nan,) * len(lags)
        return Curve(tuple(lags), nothing, nothing, nothing, (nothing,))
    if len(found) > 1:
        return curve_over_seeds(found[0].lags, [one.partial_r2 for one in found])
    one = found[0]
    return Curve(one.lags, one.partial_r2, one.low, one.high, (one.partial_r2,))
