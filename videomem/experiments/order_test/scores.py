"""Training results as arrays: one row per run and test clip, with the same rows for all training jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from videomem.experiments.clips import Clips
from videomem.experiments.order_test.folds import RunSplit
from videomem.experiments.order_test.jobs import TrainingJob
from videomem.experiments.order_test.training_results import TrainingResult
from videomem.statistics.contrasts import estimate_mean
from videomem.statistics.results import Estimate

Values = NDArray[np.float64]
BOOTSTRAP = 999


@dataclass(frozen=True)
class Scores:
    """Predictions of all training jobs.

    Attributes:
        training_results: By (memory, training condition, analysis), one per run.
        labels: True class of each row (N,).
        groups: Group of each row (N,).
        runs: Run of each row (N,).
        overlap: n_test / n_train if training sets of runs overlap, else 0.
    """

    training_results: Mapping[tuple[str, str, str], list[TrainingResult]]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    runs: NDArray[np.int64]
    overlap: float

    def has(self, memory: str, condition: str, analysis: str = "primary") -> bool:
        return (memory, condition, analysis) in self.training_results

    def predicted(self, memory: str, condition: str, frame_order: str, analysis: str = "primary") -> NDArray[np.int64]:
        """Predicted classes (K, N) under a frame order: `ordered`, `common_permutation` or a perturbation's label."""
        parts = [result.predicted[frame_order] for result in self.training_results[memory, condition, analysis]]
        return np.concatenate(parts, axis=1).astype(np.int64)

    def right(self, memory: str, condition: str, frame_order: str, analysis: str = "primary") -> Values:
        """Share of the K frame orders under which each row is classified correctly, (N,)."""
        right: Values = (self.predicted(memory, condition, frame_order, analysis) == self.labels).mean(0)
        return right

    def mean(self, values_N: Values, bootstrap: int = 0, overlap: float | None = None) -> Estimate:
        """Mean over groups and runs with its uncertainty; `overlap` replaces the default for smaller training sets."""
        overlap = self.overlap if overlap is None else overlap
        return estimate_mean(values_N, self.groups, self.runs, overlap, bootstrap)


def within_0_and_1(accuracy: Estimate) -> Estimate:
    """An accuracy with the ends of its intervals clipped to [0, 1]."""
    ends = {name: min(max(getattr(accuracy, name), 0.0), 1.0) for name in ("low", "high", "low90", "high90")}
    return replace(accuracy, **ends)


def scores_of(
    training_results: Mapping[TrainingJob, TrainingResult], clips: Clips, splits: list[RunSplit], overlap: float
) -> Scores:
    """Collect the training results of all runs."""
    by_job: dict[tuple[str, str, str], list[TrainingResult]] = {}
    for job in sorted(training_results, key=lambda job: job.run):
        by_job.setdefault((job.name, job.condition, job.analysis), []).append(training_results[job])
    rows = np.concatenate([split.test for split in splits])
    runs = np.repeat(np.arange(len(splits)), [len(split.test) for split in splits])
    return Scores(by_job, clips.labels[rows], clips.groups[rows], runs, overlap)
