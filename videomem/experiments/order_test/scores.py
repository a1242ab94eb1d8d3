"""Outcomes of cells as columns of numbers: one row per run and clip tested in it, the rows of all cells the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from videomem.experiments.clips import Clips
from videomem.experiments.order_test.folds import RunSplit
from videomem.experiments.order_test.jobs import Cell, Outcome
from videomem.statistics.contrasts import estimate_mean
from videomem.statistics.results import Estimate

Values = NDArray[np.float64]
BOOTSTRAP = 999


@dataclass(frozen=True)
class Scores:
    """What every cell was right about.

    Attributes:
        outcomes: By (memory, arm, analysis), one of each run.
        labels: True class of each row (N,).
        groups: Group of each row (N,).
        runs: Run of each row (N,).
        overlap: n_test / n_train where training sets of runs overlap.
    """

    outcomes: Mapping[tuple[str, str, str], list[Outcome]]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    runs: NDArray[np.int64]
    overlap: float

    def has(self, memory: str, arm: str, analysis: str = "primary") -> bool:
        return (memory, arm, analysis) in self.outcomes

    def predicted(self, memory: str, arm: str, condition: str, analysis: str = "primary") -> NDArray[np.int64]:
        """Classes named, (K, N)."""
        parts = [outcome.predicted[condition] for outcome in self.outcomes[memory, arm, analysis]]
        return np.concatenate(parts, axis=1).astype(np.int64)

    def right(self, memory: str, arm: str, condition: str, analysis: str = "primary") -> Values:
        """Share of frame orders in which a clip's class is named, (N,)."""
        right: Values = (self.predicted(memory, arm, condition, analysis) == self.labels).mean(0)
        return right

    def mean(self, values_N: Values, bootstrap: int = 0, overlap: float | None = None) -> Estimate:
        """Mean over groups and runs with its uncertainty; `overlap` where training sets were smaller than the runs'."""
        overlap = self.overlap if overlap is None else overlap
        return estimate_mean(values_N, self.groups, self.runs, overlap, bootstrap)


def within_0_and_1(accuracy: Estimate) -> Estimate:
    """An accuracy whose intervals are cut to what an accuracy can be."""
    ends = {name: min(max(getattr(accuracy, name), 0.0), 1.0) for name in ("low", "high", "low90", "high90")}
    return replace(accuracy, **ends)


def scores_of(outcomes: Mapping[Cell, Outcome], clips: Clips, splits: list[RunSplit], overlap: float) -> Scores:
    """Outcomes in parallel."""
    by_cell: dict[tuple[str, str, str], list[Outcome]] = {}
    for cell in sorted(outcomes, key=lambda cell: cell.run):
        by_cell.setdefault((cell.name, cell.arm, cell.analysis), []).append(outcomes[cell])
    rows = np.concatenate([split.test for split in splits])
    runs = np.repeat(np.arange(len(splits)), [len(split.test) for split in splits])
    return Scores(by_cell, clips.labels[rows], clips.groups[rows], runs, overlap)
