"""From training results to the result of the order test: contrasts, tests and verdicts, exactly as the plan says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from videomem.experiments.clips import Clips
from videomem.experiments.frame_order_predictions import order_measures
from videomem.experiments.memories import distinct_labels
from videomem.experiments.order_test.data import (
    label_of,
    overlap,
    perturbations,
    run_splits,
    test_orders,
    training_share,
)
from videomem.experiments.order_test.jobs import TrainingJob, TrainingResult
from videomem.experiments.order_test.plan import (
    BLOCKS,
    COMMON,
    FIXED,
    ORDERED,
    PAIRS,
    RESHUFFLED,
    SHUFFLED,
    TRAINING_CONDITIONS,
    WINDOWS,
    OrderPlan,
    OrderSettings,
)
from videomem.experiments.order_test.result import Controls, MemoryResult, PerturbationResult, SizePoint
from videomem.statistics.chiral import chiral_pairs
from videomem.statistics.classes import class_gains
from videomem.statistics.contrasts import estimate_mean
from videomem.statistics.randomization import holm, mcnemar_p, reliance_test
from videomem.statistics.results import Estimate, Verdict
from videomem.statistics.verdict import judge, judge_data_set

Values = NDArray[np.float64]
BOOTSTRAP = 999
SUITE_CLIPS = 200  # test clips over which displacement, tau and adjacency of a perturbation are averaged


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
    """

    def __init__(self, plan: OrderPlan, clips: Clips, training_results: Mapping[TrainingJob, TrainingResult]) -> None:
        self.plan, self.clips, self.splits = plan, clips, run_splits(clips, plan.settings)
        rows = np.concatenate([split.test for split in self.splits])
        self.labels, self.groups = clips.labels[rows], clips.groups[rows]
        self.runs = np.repeat(np.arange(len(self.splits)), [len(split.test) for split in self.splits])
        self.overlap = overlap(self.splits, plan.settings.split == "fixed")
        self._results: dict[tuple[str, str, str], list[TrainingResult]] = {}
        for job in sorted(training_results, key=lambda job: job.run):
            self._results.setdefault((job.name, job.condition, job.analysis), []).append(training_results[job])

    def trained_in_order(self, memory: str) -> list[TrainingResult]:
        """Training results of a memory trained in order, one per run."""
        return self._results[memory, "ordered", "primary"]

    def predicted(self, memory: str, condition: str, frame_order: str, analysis: str = "primary") -> NDArray[np.int64]:
        """Predicted classes (K, N) under a frame order: `ordered`, `common_permutation` or a perturbation's label."""
        parts = [result.predicted[frame_order] for result in self._results[memory, condition, analysis]]
        return np.concatenate(parts, axis=1).astype(np.int64)

    def right(self, memory: str, pair: str, analysis: str = "primary") -> Values:
        """Share of the frame orders of a `<training condition>/<test condition>` that each row is right under, (N,)."""
        condition, test = pair.split("/")
        predicted_KN = self.predicted(memory, condition, label_of(test, self.plan.settings), analysis)
        right: Values = (predicted_KN == self.labels).mean(0)
        return right

    def all_right(self, memory: str) -> dict[str, Values]:
        """The same for every pair of training condition and test condition that was measured."""
        trained = [condition for condition in TRAINING_CONDITIONS if (memory, condition, "primary") in self._results]
        pairs = [pair for condition in trained for pair in PAIRS if pair.startswith(f"{condition}/")]
        return {pair: self.right(memory, pair) for pair in pairs}

    def mean(self, values_N: Values, bootstrap: int = 0, overlap: float | None = None) -> Estimate:
        """Mean over groups and runs with its uncertainty; `overlap` replaces the default for smaller training sets."""
        overlap = self.overlap if overlap is None else overlap
        return estimate_mean(values_N, self.groups, self.runs, overlap, bootstrap)

    def accuracy(self, right_N: Values, overlap: float | None = None) -> Estimate:
        """The same for an accuracy, with the ends of its intervals clipped to [0, 1]."""
        mean = self.mean(right_N, overlap=overlap)
        ends = {name: min(max(getattr(mean, name), 0.0), 1.0) for name in ("low", "high", "low90", "high90")}
        return replace(mean, **ends)


def analyse(scores: Scores) -> tuple[MemoryResult, ...]:
    """The result of every memory of the plan."""
    names, settings = list(scores.plan.memories), scores.plan.settings
    results = [_memory(name, scores) for name in names]
    labels = distinct_labels([one.label for one in results], names, names)
    results = [replace(one, label=label) for one, label in zip(results, labels, strict=True)]
    tested = [n for n, result in enumerate(results) if not result.is_control]
    adjusted = holm([results[n].value_of_order.p for n in tested]) if tested else []
    for n, p in zip(tested, adjusted, strict=True):
        verdict = _conditional(judge(results[n].value_of_order, settings.margin, results[n].name), settings)
        results[n] = replace(results[n], p_holm=p, verdict=verdict)
    return tuple(results)


def _conditional(verdict: Verdict, settings: OrderSettings) -> Verdict:
    """With a fixed split, all runs share one training set, and the verdict says so."""
    if settings.split == "random":
        return verdict
    return replace(verdict, sentence=f"{verdict.sentence}; conditional on this training set")


def overall(results: Sequence[MemoryResult], settings: OrderSettings) -> Verdict:
    """The verdict for all tested learners."""
    tested = [result for result in results if result.verdict is not None]
    if not tested:
        return Verdict(
            "no verdict", "No verdict: only controls were tested", "add a memory to order.memories, such as gru"
        )
    verdicts = {result.name: result.verdict for result in tested if result.verdict is not None}
    adjusted = {result.name: result.p_holm for result in tested if result.p_holm is not None}
    values = {result.name: result.value_of_order for result in tested}
    return _conditional(judge_data_set(verdicts, adjusted, values, settings.margin), settings)


def _memory(name: str, scores: Scores) -> MemoryResult:
    trained, class_names = scores.trained_in_order(name), scores.clips.class_names
    is_control = trained[0].memoryless
    right = scores.all_right(name)
    gain = right[ORDERED] - right[FIXED]
    best, best_name = _best_order_blind(name, scores, right)
    accuracies = {pair: scores.accuracy(values) for pair, values in right.items()}
    value, accuracy, majority = scores.mean(gain, BOOTSTRAP), accuracies[ORDERED], _majority(scores)
    ordered_KN, shuffled_KN, reversed_KN = (
        scores.predicted(name, "ordered", frame_order) for frame_order in ("ordered", "shuffle", "reverse")
    )
    right_KN = np.concatenate([ordered_KN, shuffled_KN]) == scores.labels

    def difference(pair: str, other: str) -> Estimate | None:
        return scores.mean(right[pair] - right[other]) if {pair, other} <= right.keys() else None

    return MemoryResult(
        name=name,
        label=trained[0].label,
        is_control=is_control,
        num_parameters=trained[0].num_parameters,
        accuracies=accuracies,
        value_of_order=value,
        p_holm=None,
        verdict=None,
        augmentation=difference(RESHUFFLED, FIXED),
        reliance=scores.mean(right[ORDERED] - right[SHUFFLED]),
        reliance_test=None if is_control else reliance_test(right_KN.T, scores.groups),
        shift=difference(RESHUFFLED, SHUFFLED),
        practical_gain=None if is_control else scores.mean(right[ORDERED] - best),
        best_order_blind=best_name,
        common=difference(ORDERED, COMMON),
        normalized=value.value / (accuracy.value - majority) if accuracy.low > majority else None,
        suite=_suite(name, scores, right),
        classes=class_gains(gain, scores.groups, scores.runs, scores.labels, class_names),
        chiral=None if is_control else chiral_pairs(scores.labels, ordered_KN[0], reversed_KN[0], scores.groups,
                                                    class_names),
        confusion_ordered=_confusion(scores, ordered_KN),
        confusion_shuffled=_confusion(scores, shuffled_KN),
        mcnemar_p=None if is_control else _mcnemar(scores, *right_KN[:2]),
        sizes=() if is_control else _sizes(name, scores),
        sensitivity={} if is_control else {
            analysis: scores.mean(scores.right(name, ORDERED, analysis) - scores.right(name, FIXED, analysis))
            for analysis in scores.plan.settings.sensitivity
        },
        max_logit_change=max(one.max_logit_change for one in trained),
        max_logit_change_forward=max(one.max_logit_change_forward for one in trained),
    )  # fmt: skip


def accuracies_by_run(name: str, scores: Scores) -> list[dict[str, float]]:
    """Accuracies of a memory in each run, by `<training condition>/<test condition>`."""
    right = scores.all_right(name)
    return [
        {pair: float(values[scores.runs == run].mean()) for pair, values in right.items()}
        for run in range(len(scores.splits))
    ]


def _best_order_blind(name: str, scores: Scores, right: Mapping[str, Values]) -> tuple[Values, str]:
    """The best learner without frame order: trained and tested on shuffled frames, or a control."""
    candidates = {pair: right[pair] for pair in (FIXED, RESHUFFLED) if pair in right}
    for other in scores.plan.memories:
        if other != name and scores.trained_in_order(other)[0].memoryless:
            candidates[f"{other} {ORDERED}"] = scores.right(other, ORDERED)
    best = max(candidates, key=lambda candidate: candidates[candidate].mean())
    return candidates[best], best


def _mcnemar(scores: Scores, ordered_N: NDArray[np.bool_], shuffled_N: NDArray[np.bool_]) -> float | None:
    """McNemar's test on the first run, ordered against one shuffle; None if a group has more than one clip."""
    first = scores.runs == 0
    if len(np.unique(scores.groups[first])) < first.sum():
        return None
    return mcnemar_p(ordered_N[first], shuffled_N[first], scores.groups[first])


def _suite(name: str, scores: Scores, right: Mapping[str, Values]) -> tuple[PerturbationResult, ...]:
    clips, settings = scores.clips, scores.plan.settings
    retrained = {
        label_of(pair.split("/")[1], settings): scores.mean(right[ORDERED] - right[pair])
        for pair in (FIXED, WINDOWS, BLOCKS)
        if pair in right
    }
    suite = []
    for perturbation in perturbations(clips.max_frames, settings):
        perturbed = scores.right(name, f"ordered/{perturbation.label}")
        orders = [(order, int(clips.lengths[row])) for row in scores.splits[0].test[:SUITE_CLIPS].tolist()
                  for order in test_orders(clips, row, perturbation, settings.num_permutations)]  # fmt: skip
        suite.append(
            PerturbationResult(
                perturbation.name,
                perturbation.label,
                *order_measures(orders),
                accuracy=scores.accuracy(perturbed),
                reliance=scores.mean(right[ORDERED] - perturbed),
                retrained=retrained.get(perturbation.label),
            )
        )
    return tuple(suite)


def _confusion(scores: Scores, predicted_KN: NDArray[np.int64]) -> tuple[tuple[float, ...], ...]:
    """Number of clips (C, C) over all runs, mean over frame orders; rows are true classes, columns predicted ones."""
    counts = np.zeros((len(scores.clips.class_names),) * 2)
    np.add.at(counts, (np.broadcast_to(scores.labels, predicted_KN.shape), predicted_KN), 1 / len(predicted_KN))
    return tuple(tuple(round(float(value), 6) for value in row) for row in counts)


def _majority(scores: Scores) -> float:
    """Accuracy of always predicting the most frequent class of the training clips, over all runs."""
    labels = scores.clips.labels
    right = [labels[split.test] == np.bincount(labels[split.train]).argmax() for split in scores.splits]
    return float(np.concatenate(right).mean())


def _sizes(name: str, scores: Scores) -> tuple[SizePoint, ...]:
    settings, points = scores.plan.settings, []
    for size in sorted((*settings.sizes, 1.0)) if settings.sizes else ():
        analysis = "primary" if size == 1.0 else str(size)
        ordered, blind = (scores.right(name, pair, analysis) for pair in (ORDERED, FIXED))
        trained = [replace(split, train=training_share(scores.clips, split.train, size, settings.seed + run))
                   for run, split in enumerate(scores.splits)]  # fmt: skip
        shared = overlap(trained, settings.split == "fixed")
        num_clips = round(float(np.mean([len(split.train) for split in trained])))
        accuracy, gain = scores.accuracy(ordered, shared), scores.mean(ordered - blind, overlap=shared)
        points.append(SizePoint(size, num_clips, accuracy, gain))
    return tuple(points)


def controls_of(scores: Scores) -> Controls | None:
    """Accuracies of single frames, from the first frame-averaging head of the plan; None without such a head."""
    averaging = [name for name in scores.plan.memories if scores.trained_in_order(name)[0].frame_right is not None]
    if not averaging:
        return None
    trained = scores.trained_in_order(averaging[0])
    random, best, oracle = [], [], []
    for one, split in zip(trained, scores.splits, strict=True):
        right_NT, lengths = one.frame_right, scores.clips.lengths[split.test]
        assert right_NT is not None
        random.append(right_NT.sum(1) / lengths)
        best.append(right_NT[np.arange(len(lengths)), np.minimum(one.best_position, lengths - 1)])
        oracle.append(right_NT.any(1))
    return Controls(
        majority=_majority(scores),
        random_frame=float(np.concatenate(random).mean()),
        best_frame=float(np.concatenate(best).mean()),
        best_frame_position=trained[0].best_position,
        oracle_frame=float(np.concatenate(oracle).mean()),
        average=float(scores.right(averaging[0], ORDERED).mean()),
    )
