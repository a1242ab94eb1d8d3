"""From training results to the result of the order test: contrasts, tests and verdicts, exactly as the plan says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from videomem.experiments.frame_order_predictions import order_measures
from videomem.experiments.memories import distinct_labels
from videomem.experiments.order_test.data import label_of, perturbations, test_orders
from videomem.experiments.order_test.information import conditional, hint_of
from videomem.experiments.order_test.plan import BLOCKS, COMMON, FIXED, ORDERED, RESHUFFLED, ROTATED, SHUFFLED, WINDOWS
from videomem.experiments.order_test.result import Controls, HeadResult, PerturbationResult, SizePoint
from videomem.experiments.order_test.run_splits import overlap, training_share
from videomem.experiments.order_test.scores import Scores, Values
from videomem.statistics.chiral import chiral_pairs
from videomem.statistics.classes import class_gains
from videomem.statistics.randomization import mcnemar_p, reliance_test
from videomem.statistics.results import Estimate
from videomem.statistics.verdict import judge

SUITE_CLIPS = 200  # test clips over which displacement, tau and adjacency of a perturbation are averaged


def analyze(scores: Scores) -> tuple[HeadResult, ...]:
    """The result of every head of the plan."""
    names = list(scores.plan.heads)
    num_learners = sum(not scores.trained_in_order(name)[0].order_blind for name in names)
    labels = distinct_labels([scores.trained_in_order(name)[0].label for name in names], names, names)
    return tuple(
        _head_result(name, label, scores, max(num_learners, 1)) for name, label in zip(names, labels, strict=True)
    )


def _head_result(name: str, label: str, scores: Scores, num_learners: int) -> HeadResult:
    trained, class_names = scores.trained_in_order(name), scores.clips.class_names
    is_blind, chance = trained[0].order_blind, 1 / len(class_names)
    right = scores.all_right(name)
    gain = right[ORDERED] - right[FIXED]
    accuracies = {pair: scores.accuracy(values) for pair, values in right.items()}
    value, balanced = scores.mean(gain, comparisons=num_learners), scores.accuracy(right[ORDERED], metric="balanced")
    room = accuracies[ORDERED].value - scores.baseline
    ordered_KN, shuffled_KN, reversed_KN = (
        scores.predicted(name, "ordered", frame_order) for frame_order in ("ordered", "shuffle", "reverse")
    )
    right_KN = np.concatenate([ordered_KN, shuffled_KN]) == scores.labels

    def difference(pair: str, other: str) -> Estimate | None:
        return scores.mean(right[pair] - right[other]) if {pair, other} <= right.keys() else None

    result = HeadResult(
        name=name,
        label=label,
        is_order_blind=is_blind,
        num_parameters=trained[0].num_parameters,
        accuracies=accuracies,
        balanced_accuracy=balanced,
        losses=tuple(np.mean([one.losses for one in trained], axis=0).tolist()),
        value_of_order=value,
        verdict=None,
        augmentation=difference(RESHUFFLED, FIXED),
        reliance=None if is_blind else scores.mean(right[ORDERED] - right[SHUFFLED]),
        reliance_test=None if is_blind else reliance_test(right_KN.T, scores.groups),
        shift=difference(RESHUFFLED, SHUFFLED),
        practical_gain=None if is_blind else scores.mean(right[ORDERED] - scores.best_order_blind[0]),
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
    verdict = judge(value, scores.margin, label, balanced, chance, hint_of(result, scores))
    return replace(result, verdict=conditional(verdict, scores))


def accuracies_by_run(name: str, scores: Scores) -> list[dict[str, float]]:
    """Accuracies of a head in each run, by `<training condition>/<test condition>`."""
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
    clips, settings, is_blind = scores.clips, scores.plan.settings, scores.trained_in_order(name)[0].order_blind
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
                reliance=None if is_blind and perturbation.is_permutation else scores.mean(right[ORDERED] - perturbed),
                retrained=retrained.get(perturbation.label),
            )
        )
    return tuple(suite)


def _confusion(scores: Scores, predicted_KN: NDArray[np.int64]) -> tuple[tuple[float, ...], ...]:
    """Number of clips (C, C) over all runs, mean over frame orders; rows are true classes, columns predicted ones."""
    counts = np.zeros((len(scores.clips.class_names),) * 2)
    np.add.at(counts, (np.broadcast_to(scores.labels, predicted_KN.shape), predicted_KN), 1 / len(predicted_KN))
    return tuple(tuple(round(float(value), 6) for value in row) for row in counts)


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
        majority=scores.majority,
        chance=1 / len(scores.clips.class_names),
        random_frame=float(np.concatenate(random).mean()),
        best_frame=float(np.concatenate(best).mean()),
        best_frame_position=trained[0].best_position,
        oracle_frame=float(np.concatenate(oracle).mean()),
        average=float(scores.right(averaging[0], ORDERED).mean()),
    )
