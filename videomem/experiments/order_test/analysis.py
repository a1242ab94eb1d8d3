"""From training results to the result of the order test: contrasts, tests and verdicts, exactly as the plan says."""

from __future__ import annotations

from collections import Counter
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
from videomem.experiments.order_test.data_checks import DataCheck
from videomem.experiments.order_test.jobs import TrainingJob, TrainingResult
from videomem.experiments.order_test.plan import (
    BLOCKS,
    COMMON,
    FIXED,
    IMBALANCE,
    ORDERED,
    PAIRS,
    RESHUFFLED,
    ROTATED,
    SHUFFLED,
    TRAINING_CONDITIONS,
    WINDOWS,
    OrderPlan,
)
from videomem.experiments.order_test.result import (
    Controls,
    Information,
    MemoryResult,
    PerturbationResult,
    SizePoint,
)
from videomem.statistics.chiral import chiral_pairs
from videomem.statistics.classes import class_gains
from videomem.statistics.clip_scores import ClipScores, clip_scores
from videomem.statistics.contrasts import class_weights, estimate_mean
from videomem.statistics.randomization import mcnemar_p, reliance_test
from videomem.statistics.results import Estimate, Verdict
from videomem.statistics.verdict import judge, judge_data

Values = NDArray[np.float64]
Learner = tuple[str, str]  # name of a head, and the accuracy that is meant
FALLING = 0.05  # share of the loss in the last quarter of the epochs above which it counts as falling
PARTS = 5  # of the groups of a fixed split, for which the best learners are chosen separately
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
        self._results: dict[tuple[str, str, str], list[TrainingResult]] = {}
        for job in sorted(training_results, key=lambda job: job.run):
            self._results.setdefault((job.name, job.condition, job.analysis), []).append(training_results[job])

    def trained_in_order(self, memory: str) -> list[TrainingResult]:
        """Training results of a memory trained in order, one per run."""
        return self._results[memory, "ordered", "primary"]

    def has(self, memory: str, condition: str) -> bool:
        """Whether a head was trained in a condition."""
        return (memory, condition, "primary") in self._results

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
        trained = [condition for condition in TRAINING_CONDITIONS if self.has(memory, condition)]
        pairs = [pair for condition in trained for pair in PAIRS if pair.startswith(f"{condition}/")]
        return {pair: self.right(memory, pair) for pair in pairs}

    def mean(
        self, values_N: Values, overlap: float | None = None, metric: str = "", comparisons: int = 1,
        limits: tuple[float, float] = (-1.0, 1.0),
    ) -> Estimate:  # fmt: skip
        """Mean over groups and runs with its uncertainty.

        Args:
            values_N: One value per row.
            overlap: Replaces that of the plan, for smaller training sets.
            metric: Replaces that of the plan.
            comparisons: See `estimate_mean`.
            limits: See `estimate_mean`.
        """
        weights = self.class_weights if (metric or self.metric) == "balanced" else None
        overlap = self.overlap if overlap is None else overlap
        return estimate_mean(values_N, self.groups, self.runs, overlap, limits, comparisons, weights)

    def accuracy(self, right_N: Values, overlap: float | None = None, metric: str = "") -> Estimate:
        """The same for an accuracy, with intervals within [0, 1]."""
        return self.mean(right_N, overlap, metric, limits=(0.0, 1.0))

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


def analyse(scores: Scores) -> tuple[MemoryResult, ...]:
    """The result of every head of the plan."""
    names = list(scores.plan.heads)
    num_learners = sum(not scores.trained_in_order(name)[0].order_blind for name in names)
    blind = order_blind_learners(scores)
    results = [_memory(name, scores, max(num_learners, 1), blind) for name in names]
    labels = distinct_labels([one.label for one in results], names, names)
    return tuple(replace(one, label=label) for one, label in zip(results, labels, strict=True))


def _conditional(verdict: Verdict, scores: Scores) -> Verdict:
    """With a fixed split, all runs share one training set, and the verdict says so."""
    if scores.plan.settings.split == "random":
        return verdict
    return replace(verdict, sentence=f"{verdict.sentence}; conditional on this training set")


def ordered_learners(scores: Scores, pair: str = ORDERED) -> dict[Learner, Values]:
    """Heads that see frame order, trained and tested in one pair of conditions."""
    names = [name for name in scores.plan.heads if not scores.trained_in_order(name)[0].order_blind]
    return {(name, pair): scores.right(name, pair) for name in names if scores.has(name, pair.split("/")[0])}


def order_blind_learners(scores: Scores) -> dict[Learner, Values]:
    """Order-blind heads, and other heads trained on permuted frames and tested on shuffled frames."""
    blind = [name for name in scores.plan.heads if scores.trained_in_order(name)[0].order_blind]
    learners = {(name, ORDERED): scores.right(name, ORDERED) for name in blind}
    return learners | ordered_learners(scores, FIXED) | ordered_learners(scores, RESHUFFLED)


def information_of(scores: Scores) -> Information | None:
    """What frame order adds to the set of frames; None without both an ordered and an order-blind head."""
    ordered, blind = ordered_learners(scores), order_blind_learners(scores)
    if not ordered or all(pair != ORDERED for _, pair in blind):
        return None
    (with_order, chosen), (without, chosen_blind) = scores.best(ordered), scores.best(blind)
    rotated = ordered_learners(scores, ROTATED)
    accuracies = [scores.accuracy(values, metric="balanced") for values in (with_order, without)]
    counts = Counter(" ".join((name, pair)).removesuffix(f" {ORDERED}") for name, pair in [*chosen, *chosen_blind])
    most = [Counter(learners).most_common(1)[0][0] for learners in (chosen, chosen_blind)]
    return Information(
        gain=scores.mean(with_order - without),
        ordered=most[0][0],
        order_blind=" ".join(most[1]).removesuffix(f" {ORDERED}"),
        chosen=dict(counts),
        accuracy=max(accuracies, key=lambda accuracy: accuracy.low),
        rotated=scores.mean(scores.best(rotated)[0] - without) if rotated else None,
    )


def verdict_of(
    information: Information | None, results: Sequence[MemoryResult], scores: Scores, checks: Sequence[DataCheck]
) -> Verdict:
    """The verdict on the data."""
    tested = len(np.unique(np.concatenate([split.test for split in scores.splits])))
    for check in checks:
        if check.name == "static clips" and check.num_clips == tested:
            return Verdict("nothing to order", f"Nothing to order: {check.sentence}")
    if information is None:
        return Verdict(
            "no verdict", "No verdict: an ordered and an order-blind head are needed",
            "add to order.memories, for example, gru and attention",
        )  # fmt: skip
    learners, chance = (information.ordered, information.order_blind), 1 / len(scores.clips.class_names)
    hint = next((hint_of(one, scores) for one in results if one.name == information.ordered), "")
    margin = scores.plan.settings.margin
    verdict = judge_data(information.gain, margin, learners, information.accuracy, chance, hint, information.rotated)
    return _conditional(verdict, scores)


def clip_scores_of(scores: Scores) -> ClipScores:
    """How much each tested clip needs frame order: correct with the best ordered learner, minus the order-blind one."""
    ordered, blind = ordered_learners(scores), order_blind_learners(scores)
    gain_N = scores.best(ordered)[0] - scores.best(blind)[0]
    return clip_scores(gain_N, np.concatenate([split.test for split in scores.splits]), scores.groups)


def hint_of(result: MemoryResult, scores: Scores) -> str:
    """Why a head may not have learned, from its training loss and its predictions."""
    plan, words = scores.plan, []
    quarter = max(len(result.losses) // 4, 1)
    if len(result.losses) > 1 and result.losses[-1] < (1 - FALLING) * result.losses[-1 - quarter]:
        words.append("its training loss was still falling: raise trainer.max_epochs")
    never = [name for name, column in zip(scores.clips.class_names, zip(*result.confusion_ordered, strict=True),
                                          strict=True) if sum(column) == 0]  # fmt: skip
    if never:
        words.append(f"it never predicts {', '.join(never[:3])}: set model.class_weighting to balanced")
    steps = plan.recipe.epochs * -(-len(scores.splits[0].train) // plan.recipe.batch_size)
    return "; ".join(words) or f"it was trained for {steps} steps: raise trainer.max_epochs, or use other features"


def _memory(name: str, scores: Scores, num_learners: int, blind: Mapping[Learner, Values]) -> MemoryResult:
    trained, class_names = scores.trained_in_order(name), scores.clips.class_names
    is_blind, chance = trained[0].order_blind, 1 / len(class_names)
    right = scores.all_right(name)
    gain = right[ORDERED] - right[FIXED]
    accuracies = {pair: scores.accuracy(values) for pair, values in right.items()}
    value, balanced = scores.mean(gain, comparisons=num_learners), scores.accuracy(right[ORDERED], metric="balanced")
    room = accuracies[ORDERED].value - (chance if scores.metric == "balanced" else max(chance, _majority(scores)))
    ordered_KN, shuffled_KN, reversed_KN = (
        scores.predicted(name, "ordered", frame_order) for frame_order in ("ordered", "shuffle", "reverse")
    )
    right_KN = np.concatenate([ordered_KN, shuffled_KN]) == scores.labels

    def difference(pair: str, other: str) -> Estimate | None:
        return scores.mean(right[pair] - right[other]) if {pair, other} <= right.keys() else None

    result = MemoryResult(
        name=name,
        label=trained[0].label,
        is_order_blind=is_blind,
        num_parameters=trained[0].num_parameters,
        accuracies=accuracies,
        balanced_accuracy=balanced,
        losses=tuple(np.mean([one.losses for one in trained], axis=0).tolist()),
        value_of_order=value,
        verdict=None,
        augmentation=difference(RESHUFFLED, FIXED),
        reliance=scores.mean(right[ORDERED] - right[SHUFFLED]),
        reliance_test=None if is_blind else reliance_test(right_KN.T, scores.groups),
        shift=difference(RESHUFFLED, SHUFFLED),
        practical_gain=None if is_blind else scores.mean(right[ORDERED] - scores.best(blind)[0]),
        rotated=difference(ROTATED, FIXED),
        common=difference(ORDERED, COMMON),
        normalized=min(max(value.value / room, 0.0), 1.0) if balanced.low > chance and room > 0 else None,
        suite=_suite(name, scores, right),
        classes=class_gains(gain, scores.groups, scores.runs, scores.labels, class_names),
        chiral=None if is_blind else chiral_pairs(scores.labels, ordered_KN[0], reversed_KN[0], scores.groups,
                                                    class_names),
        confusion_ordered=_confusion(scores, ordered_KN),
        confusion_shuffled=_confusion(scores, shuffled_KN),
        mcnemar_p=None if is_blind else _mcnemar(scores, *right_KN[:2]),
        sizes=() if is_blind else _sizes(name, scores),
        sensitivity={} if is_blind else {
            analysis: scores.mean(scores.right(name, ORDERED, analysis) - scores.right(name, FIXED, analysis))
            for analysis in scores.plan.settings.sensitivity
        },
        max_logit_change=max(one.max_logit_change for one in trained),
        max_logit_change_forward=max(one.max_logit_change_forward for one in trained),
    )  # fmt: skip
    if is_blind:
        return result
    verdict = judge(value, scores.plan.settings.margin, name, balanced, chance, hint_of(result, scores))
    return replace(result, verdict=_conditional(verdict, scores))


def accuracies_by_run(name: str, scores: Scores) -> list[dict[str, float]]:
    """Accuracies of a memory in each run, by `<training condition>/<test condition>`."""
    right = scores.all_right(name)
    return [
        {pair: float(values[scores.runs == run].mean()) for pair, values in right.items()}
        for run in range(len(scores.splits))
    ]


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
        accuracy, gain = scores.accuracy(ordered, shared), scores.mean(ordered - blind, shared)
        points.append(SizePoint(size, num_clips, accuracy, gain))
    return tuple(points)


def controls_of(scores: Scores) -> Controls | None:
    """Accuracies of single frames, from the first frame-averaging head of the plan; None without such a head."""
    averaging = [name for name in scores.plan.heads if scores.trained_in_order(name)[0].frame_right is not None]
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
        chance=1 / len(scores.clips.class_names),
        random_frame=float(np.concatenate(random).mean()),
        best_frame=float(np.concatenate(best).mean()),
        best_frame_position=trained[0].best_position,
        oracle_frame=float(np.concatenate(oracle).mean()),
        average=float(scores.right(averaging[0], ORDERED).mean()),
    )
