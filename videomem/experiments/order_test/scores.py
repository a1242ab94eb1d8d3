"""Predictions of all training jobs of an order test, as correctness of learners on the tested clips."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from videomem.experiments.clips import Clips
from videomem.experiments.order_test.data import label_of
from videomem.experiments.order_test.jobs import TrainingJob
from videomem.experiments.order_test.plan import (
    FIXED,
    IMBALANCE,
    ORDERED,
    PAIRS,
    RESHUFFLED,
    TRAINING_CONDITIONS,
    OrderPlan,
)
from videomem.experiments.order_test.run_splits import overlap, run_splits
from videomem.experiments.order_test.training_results import TrainingResult
from videomem.statistics.contrasts import class_weights, estimate_mean
from videomem.statistics.results import Estimate

Values = NDArray[np.float64]
Learner = tuple[str, str]  # name of a head, and the accuracy that is meant
PARTS = 5  # of the groups of a fixed split, for which the best learners are chosen separately


class Scores:
    """Predictions of all training jobs as arrays: one row per run and test clip, the same rows for all jobs.

    Attributes:
        plan: The plan.
        clips: The clips of the plan.
        splits: The split of each run.
        labels: True class of each row (N,).
        groups: Group of each row (N,).
        runs: Run of each row (N,).
        overlap: n_test / n_train if training sets of runs overlap, else 0.
        metric: `accuracy` or `balanced`.
        class_weights: Weights of the rows for a balanced accuracy (N,).
    """

    def __init__(self, plan: OrderPlan, clips: Clips, training_results: Mapping[TrainingJob, TrainingResult]) -> None:
        self.plan, self.clips, self.splits = plan, clips, run_splits(clips, plan.settings)
        rows = np.concatenate([split.test for split in self.splits])
        self.labels, self.groups = clips.labels[rows], clips.groups[rows]
        self.runs = np.repeat(np.arange(len(self.splits)), [len(split.test) for split in self.splits])
        self.overlap = overlap(self.splits, plan.settings.split == "fixed")
        self.metric = metric_of(clips, plan.settings.metric)
        self.class_weights = class_weights(self.labels)
        self._right: dict[tuple[str, str, str], Values] = {}
        self._results: dict[tuple[str, str, str], list[TrainingResult]] = {}
        for job in sorted(training_results, key=lambda job: job.run):
            self._results.setdefault((job.name, job.condition, job.analysis), []).append(training_results[job])

    def trained_in_order(self, head: str) -> list[TrainingResult]:
        """Training results of a head trained in order, one per run."""
        return self._results[head, "ordered", "primary"]

    def has(self, head: str, condition: str) -> bool:
        """Whether a head was trained in a condition."""
        return (head, condition, "primary") in self._results

    def predicted(self, head: str, condition: str, frame_order: str, analysis: str = "primary") -> NDArray[np.int64]:
        """Predicted classes (K, N) under a frame order: `ordered`, `common_permutation` or a perturbation's label."""
        parts = [result.predicted[frame_order] for result in self._results[head, condition, analysis]]
        return np.concatenate(parts, axis=1).astype(np.int64)

    def right(self, head: str, pair: str, analysis: str = "primary") -> Values:
        """Share of the frame orders of a `<training condition>/<test condition>` that each row is right under, (N,)."""
        if (key := (head, pair, analysis)) not in self._right:
            condition, test = pair.split("/")
            predicted_KN = self.predicted(head, condition, label_of(test, self.plan.settings), analysis)
            self._right[key] = (predicted_KN == self.labels).mean(0)
        return self._right[key]

    def all_right(self, head: str) -> dict[str, Values]:
        """The same for every pair of training condition and test condition that was measured."""
        trained = [condition for condition in TRAINING_CONDITIONS if self.has(head, condition)]
        pairs = [pair for condition in trained for pair in PAIRS if pair.startswith(f"{condition}/")]
        return {pair: self.right(head, pair) for pair in pairs}

    def mean(
        self, values_N: Values, overlap: float | None = None, metric: str = "", comparisons: int = 1,
        limits: tuple[float, float] = (-1.0, 1.0),
    ) -> Estimate:  # fmt: skip
        """Mean over groups and runs with its uncertainty.

        Args:
            overlap: Replaces that of the plan, for smaller training sets.
            metric: Replaces that of the plan.
        """
        weights = self.class_weights if (metric or self.metric) == "balanced" else None
        overlap = self.overlap if overlap is None else overlap
        return estimate_mean(values_N, self.groups, self.runs, overlap, limits, comparisons, weights)

    def accuracy(self, right_N: Values, overlap: float | None = None, metric: str = "") -> Estimate:
        """The same for an accuracy, with intervals within [0, 1]."""
        return self.mean(right_N, overlap, metric, limits=(0.0, 1.0))

    @property
    def majority(self) -> float:
        """Accuracy of always predicting the most frequent class of the training clips, over all runs."""
        labels = self.clips.labels
        right = [labels[split.test] == np.bincount(labels[split.train]).argmax() for split in self.splits]
        return float(np.concatenate(right).mean())

    @property
    def baseline(self) -> float:
        """Accuracy without features: that of chance or, unless balanced, of the most frequent class."""
        chance = 1 / len(self.clips.class_names)
        return chance if self.metric == "balanced" else max(chance, self.majority)

    @cached_property
    def margin(self) -> float:
        """Largest negligible difference, a share of 1."""
        learners = {**self.ordered_learners(), **self.order_blind_learners()}
        best = max(self.accuracy(right_N).value for right_N in learners.values())
        return self.plan.settings.negligible(best - self.baseline)

    def ordered_learners(self, pair: str = ORDERED) -> dict[Learner, Values]:
        """Heads that see frame order, trained and tested in one pair of conditions."""
        names = [name for name in self.plan.heads if not self.trained_in_order(name)[0].order_blind]
        return {(name, pair): self.right(name, pair) for name in names if self.has(name, pair.split("/")[0])}

    def order_blind_learners(self) -> dict[Learner, Values]:
        """Order-blind heads, and other heads trained on permuted frames and tested on shuffled frames."""
        blind = [name for name in self.plan.heads if self.trained_in_order(name)[0].order_blind]
        learners = {(name, ORDERED): self.right(name, ORDERED) for name in blind}
        return learners | self.ordered_learners(FIXED) | self.ordered_learners(RESHUFFLED)

    @cached_property
    def best_order_blind(self) -> tuple[Values, list[Learner]]:
        """`best` of the order-blind learners."""
        return self.best(self.order_blind_learners())

    def best(self, learners: Mapping[Learner, Values]) -> tuple[Values, list[Learner]]:
        """The values of the best learner for each part of the rows, and these learners.

        The best one is chosen for a part by its mean on the rows of all groups that the part does not contain. Parts
        are the test clips of the runs, or with a fixed split `PARTS` random parts of the groups.
        """
        weights = self.class_weights if self.metric == "balanced" else np.ones(len(self.labels))
        parts_N = self.runs
        if self.plan.settings.split == "fixed":
            codes_N = np.unique(self.groups, return_inverse=True)[1]
            parts_N = np.random.default_rng(0).permutation(codes_N.max() + 1)[codes_N] % PARTS
        values_N, chosen = np.zeros(len(self.labels)), []
        for part in np.unique(parts_N):
            here = parts_N == part
            others = ~np.isin(self.groups, self.groups[here])
            others = others if others.any() else here  # One run: no verdict is given.
            best = max(
                learners, key=lambda learner: float(np.average(learners[learner][others], weights=weights[others]))
            )
            values_N[here] = learners[best][here]
            chosen.append(best)
        return values_N, chosen


def metric_of(clips: Clips, metric: str) -> str:
    """`accuracy` or `balanced`; `auto` is `balanced` if classes are imbalanced."""
    counts = np.bincount(clips.labels)
    auto = "balanced" if counts.max() > IMBALANCE * counts[counts > 0].min() else "accuracy"
    return auto if metric == "auto" else metric
