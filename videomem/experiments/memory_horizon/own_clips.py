"""How far back trained heads reach on the videos that they were trained for: checkpoints, grouped by memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from videomem.errors import VideomemError
from videomem.experiments.head_labels import distinct_labels
from videomem.experiments.memory_horizon.gradients import untrained
from videomem.experiments.memory_horizon.head_measures import HeadMeasures, measure_head, median_length
from videomem.experiments.memory_horizon.probe import ProbeCurve
from videomem.statistics.horizons import Curve, curve_over_seeds
from videomem.training.checkpoint import Checkpoint
from videomem.training.data_module import VideoDataModule

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class OwnReach:
    """How far back one memory reaches on clips of a catalog, over its checkpoints.

    Attributes:
        label: The memory with its parameters; see `labels_of`.
        num_heads: Checkpoints.
        gradient: RMS of d logits / d x at each lag, relative to the last frame; geometric mean over checkpoints.
        direct: Of it the part along the retention alone.
        gradient_untrained: Of heads with fresh weights.
        swap: Change of the logits when the frame at a lag is exchanged for one of another clip, relative to the last.
        probe: Partial R^2 of the frame at a lag from the state, beyond the last frame; the interval is over groups for
            one checkpoint, over checkpoints for several.
        taus: Time constants of each layer's neurons, in frames, rising, at most the clips' length.
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
        """Of the top layer, which the readout sees."""
        return self.taus[-1]

    @property
    def lyapunov(self) -> float:
        """Of the top layer."""
        return self.lyapunovs[-1]


@dataclass(frozen=True)
class OwnResult:
    """Measurements on clips of a catalog.

    Attributes:
        schema_version: Of this result.
        data: The catalog and its split.
        num_clips: Clips measured.
        num_groups: Groups that they are from.
        num_frames: Frames of each clip that gradients and retention are measured on, its last ones.
        seconds_per_frame: Median time between frames that are neighbours in a clip; None where it is not known.
        memories: By memory, in the order of the checkpoints.
        command: Command line.
        versions: Of the libraries.
    """

    schema_version: int
    data: str
    num_clips: int
    num_groups: int
    num_frames: int
    seconds_per_frame: float | None
    memories: tuple[OwnReach, ...]
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)


def measure_checkpoints(checkpoints: Sequence[Checkpoint], changes: dict[str, Any], seed: int = 0) -> OwnResult:
    """Measure trained heads, and heads of the same kind with fresh weights, on the test split of their data.

    Args:
        checkpoints: Checkpoints of `videomem fit` on the same catalog.
        changes: Arguments of the data that replace those of training, such as `catalog`.
        seed: Of fresh weights and of all draws.
    Raises:
        VideomemError: If the checkpoints were trained on different clips, the split has too few of them, or they see
            one frame of a clip or not the same number of frames.
    """
    by_label: dict[str, list[tuple[HeadMeasures, HeadMeasures]]] = {}
    first: tuple[int, float | None] | None = None
    for checkpoint, label in zip(checkpoints, labels_of(checkpoints), strict=True):
        data = checkpoint.data_module(**changes)
        if data.source != "features":
            raise VideomemError(f"{checkpoint.path}: was trained on live video; measuring needs stored features")
        data.setup("test")
        rows = data.rows(data.test_split)
        clips, groups = [data.features(row) for row in rows], [data.clips[row].group for row in rows]
        if len(clips) < 2:
            raise VideomemError(
                f"{data.catalog_path}: the split {data.test_split} has {len(clips)} clip(s), 2 are needed"
            )
        classifier, num_frames, per_frame = checkpoint.classifier(), median_length(clips), seconds_per_frame(data, rows)
        if num_frames < 2:
            raise VideomemError(f"{checkpoint.path}: sees one frame of most clips, and one frame has no past")
        first = first or (num_frames, per_frame)
        if first != (num_frames, per_frame):
            raise VideomemError(
                f"{checkpoints[0].path} and {checkpoint.path} see {first[0]} and {num_frames} frames of a clip, or at "
                "another rate; run it for each"
            )
        of_label = by_label.setdefault(label, [])
        fresh = untrained(classifier, seed + len(of_label))  # Each its own, or they would seem to agree.
        both = [
            measure_head(head, clips, groups, per_frame, lags_of(num_frames), seed) for head in (classifier.head, fresh)
        ]
        of_label.append((both[0], both[1]))
    return OwnResult(
        schema_version=SCHEMA_VERSION,
        data=f"{data.catalog_path}, {data.test_split}",
        num_clips=len(clips),
        num_groups=len(set(groups)),
        num_frames=num_frames,
        seconds_per_frame=per_frame,
        memories=tuple(_over_heads(label, pairs) for label, pairs in by_label.items()),
    )


def labels_of(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """A name for each checkpoint, the same for heads that differ in their seed alone.

    It is the head's label, and where several kinds of head have the same one, their number in the order given.
    """
    labels, kinds = [], []
    for checkpoint in checkpoints:
        labels.append(checkpoint.classifier().head.label)
        settings = {name: value for name, value in checkpoint.model_arguments.items() if name != "seed"}
        kinds.append(json.dumps([settings, checkpoint.features], sort_keys=True))
    return distinct_labels(labels, kinds)


def lags_of(num_frames: int) -> list[int]:
    """Lags to measure in clips of some length: all up to 8, then ever wider."""
    steps = sorted({round(8 * 2 ** (k / 2)) for k in range(20)} | set(range(1, 9)))
    return [lag for lag in steps if lag < num_frames]


def seconds_per_frame(data: VideoDataModule, rows: Sequence[int]) -> float | None:
    """Median time between sampled frames that are neighbours; None where the rate is not known."""
    steps = [
        (entry.indices[-1] - entry.indices[0]) / (len(entry.indices) - 1) / entry.fps
        for entry in map(data.entry, rows)
        if len(entry.indices) > 1 and entry.fps > 0
    ]
    return float(np.median(steps)) if steps else None


def _over_heads(label: str, pairs: Sequence[tuple[HeadMeasures, HeadMeasures]]) -> OwnReach:
    trained, fresh = zip(*pairs, strict=True)
    lags = trained[0].sensitivity.lags
    return OwnReach(
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
    """Over groups for one head, over heads for several; nothing where all clips are of one group."""
    if not found:
        nothing = (np.nan,) * len(lags)
        return Curve(tuple(lags), nothing, nothing, nothing, (nothing,))
    if len(found) > 1:
        return curve_over_seeds(found[0].lags, [one.partial_r2 for one in found])
    one = found[0]
    return Curve(one.lags, one.partial_r2, one.low, one.high, (one.partial_r2,))
