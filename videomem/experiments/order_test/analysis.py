"""From training results to the result of the order test: contrasts, tests and verdicts, exactly as the plan says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from videomem.experiments import permutations
from videomem.experiments.clips import Clips
from videomem.experiments.frame_order_predictions import OrderMeasures, order_measures
from videomem.experiments.memories import distinct_labels
from videomem.experiments.order_test.conditions import (
    BLOCKS,
    COMMON,
    FIXED,
    FIXED_ORDERED,
    ORDERED,
    RESHUFFLED,
    RESHUFFLED_ORDERED,
    REVERSED,
    SHUFFLED,
    WINDOWS,
)
from videomem.experiments.order_test.folds import RunSplit, overlap, training_share
from videomem.experiments.order_test.frame_orders import perturbations, test_orders, test_perturbation
from videomem.experiments.order_test.plan import OrderPlan, OrderSettings
from videomem.experiments.order_test.result import Controls, MemoryResult, PerturbationResult, SizePoint
from videomem.experiments.order_test.scores import BOOTSTRAP, Scores, within_0_and_1
from videomem.statistics.chiral import chiral_pairs
from videomem.statistics.classes import class_gains
from videomem.statistics.randomization import holm, mcnemar_p, reliance_test
from videomem.statistics.results import ChiralPairs, Estimate, Randomization, Verdict
from videomem.statistics.verdict import judge, judge_data_set

SUITE_CLIPS = 200  # test clips over which displacement, tau and adjacency of a perturbation are averaged


def analyse(plan: OrderPlan, clips: Clips, splits: Sequence[RunSplit], scores: Scores) -> tuple[MemoryResult, ...]:
    """The result of every memory of the plan."""
    names = list(plan.memories)
    results = [_memory(name, plan, clips, splits, scores) for name in names]
    labels = distinct_labels([one.label for one in results], names, names)
    results = [replace(one, label=label) for one, label in zip(results, labels, strict=True)]
    tested = [n for n, result in enumerate(results) if not result.is_control]
    adjusted = holm([results[n].value_of_order.p for n in tested]) if tested else []
    for n, p in zip(tested, adjusted, strict=True):
        verdict = _conditional(judge(results[n].value_of_order, plan.settings.margin, results[n].name), plan.settings)
        results[n] = replace(results[n], p_holm=p, verdict=verdict)
    return tuple(results)


def _conditional(verdict: Verdict, settings: OrderSettings) -> Verdict:
    """With a fixed split, all runs share one training set, and the verdict says so."""
    if settings.split == "random":
        return verdict
    return replace(verdict, sentence=f"{verdict.sentence}; conditional on this training set")


def overall(results: Sequence[MemoryResult], settings: OrderSettings) -> Verdict:
    """The verdict for all tested learners."""
    tested = {result.name: result for result in results if result.verdict is not None}
    if not tested:
        return Verdict(
            "no verdict", "No verdict: only controls were tested", "add a memory to order.memories, such as gru"
        )
    verdict = judge_data_set(
        {name: result.verdict for name, result in tested.items() if result.verdict is not None},
        {name: result.p_holm for name, result in tested.items() if result.p_holm is not None},
        {name: result.value_of_order for name, result in tested.items()},
        settings.margin,
    )
    return _conditional(verdict, settings)


def _memory(name: str, plan: OrderPlan, clips: Clips, splits: Sequence[RunSplit], scores: Scores) -> MemoryResult:
    trained = scores.training_results[name, "ordered", "primary"]
    is_control = trained[0].memoryless
    correct = correct_of(name, scores, clips, plan.settings)
    gain = correct[ORDERED] - correct[FIXED]
    best, best_name = _best_order_blind(name, plan, scores, correct)
    accuracies = {pair: within_0_and_1(scores.mean(values)) for pair, values in correct.items()}
    value = scores.mean(gain, BOOTSTRAP)
    majority, accuracy = _majority(clips, splits), accuracies[ORDERED]
    ordered, shuffled = scores.predicted(name, "ordered", "ordered")[0], scores.predicted(name, "ordered", "shuffle")

    def difference(pair: str, other: str) -> Estimate | None:
        return scores.mean(correct[pair] - correct[other]) if {pair, other} <= correct.keys() else None

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
        reliance=scores.mean(correct[ORDERED] - correct[SHUFFLED]),
        reliance_test=None if is_control else _reliance_test(scores, ordered, shuffled),
        shift=difference(RESHUFFLED, SHUFFLED),
        practical_gain=None if is_control else scores.mean(correct[ORDERED] - best),
        best_order_blind=best_name,
        common=difference(ORDERED, COMMON),
        normalized=value.value / (accuracy.value - majority) if accuracy.low > majority else None,
        suite=_suite(name, clips, splits, scores, correct, plan.settings),
        classes=class_gains(gain, scores.groups, scores.runs, scores.labels, clips.class_names),
        chiral=None if is_control else _chiral(name, clips, scores),
        confusion_ordered=_confusion(scores, ordered[None], len(clips.class_names)),
        confusion_shuffled=_confusion(scores, shuffled, len(clips.class_names)),
        mcnemar_p=None if is_control else _mcnemar(scores, ordered, shuffled[0]),
        sizes=() if is_control else _sizes(name, plan, clips, splits, scores),
        sensitivity={} if is_control else _sensitivity(name, plan, scores),
        max_logit_change=max(one.max_logit_change for one in trained),
        max_logit_change_forward=max(one.max_logit_change_forward for one in trained),
    )


def correct_of(name: str, scores: Scores, clips: Clips, settings: OrderSettings) -> dict[str, np.ndarray]:
    """Share of frame orders classified correctly, (N,), for every measured pair of training and test condition."""
    correct = {
        ORDERED: scores.right(name, "ordered", "ordered"),
        SHUFFLED: scores.right(name, "ordered", "shuffle"),
        REVERSED: scores.right(name, "ordered", "reverse"),
        FIXED: scores.right(name, "fixed_permutation", "shuffle"),
        FIXED_ORDERED: scores.right(name, "fixed_permutation", "ordered"),
    }
    if scores.has(name, "reshuffled"):
        correct[RESHUFFLED] = scores.right(name, "reshuffled", "shuffle")
        correct[RESHUFFLED_ORDERED] = scores.right(name, "reshuffled", "ordered")
    if scores.has(name, "common_permutation"):
        correct[COMMON] = scores.right(name, "common_permutation", "common_permutation")
    for condition, pair in (("windows", WINDOWS), ("blocks", BLOCKS)):
        if scores.has(name, condition):
            label = test_perturbation(condition, clips.max_frames, settings).label
            correct[pair] = scores.right(name, condition, label)
    return correct


def accuracies_by_run(name: str, plan: OrderPlan, clips: Clips, scores: Scores) -> list[dict[str, float]]:
    """Accuracies of a memory in each run, by `<training condition>/<test condition>`."""
    correct = correct_of(name, scores, clips, plan.settings)
    return [
        {pair: float(values[scores.runs == run].mean()) for pair, values in correct.items()}
        for run in np.unique(scores.runs)
    ]


def _best_order_blind(
    name: str, plan: OrderPlan, scores: Scores, correct: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, str]:
    """The best learner without frame order: trained and tested on shuffled frames, or a control."""
    candidates = {pair: correct[pair] for pair in (FIXED, RESHUFFLED) if pair in correct}
    controls = [
        other
        for other in plan.memories
        if other != name and scores.training_results[other, "ordered", "primary"][0].memoryless
    ]
    candidates |= {f"{other} {ORDERED}": scores.right(other, "ordered", "ordered") for other in controls}
    best = max(candidates, key=lambda candidate: candidates[candidate].mean())
    return candidates[best], best


def _reliance_test(scores: Scores, ordered_N: np.ndarray, shuffled_KN: np.ndarray) -> Randomization:
    right_NA = (np.concatenate([ordered_N[None], shuffled_KN]) == scores.labels).T
    return reliance_test(right_NA, scores.groups)


def _mcnemar(scores: Scores, ordered_N: np.ndarray, shuffled_N: np.ndarray) -> float | None:
    """McNemar's test on the first run, ordered against one shuffle; None if a group has more than one clip."""
    first = scores.runs == 0
    if len(np.unique(scores.groups[first])) < first.sum():
        return None
    labels = scores.labels[first]
    return mcnemar_p(ordered_N[first] == labels, shuffled_N[first] == labels, scores.groups[first])


def _suite(
    name: str,
    clips: Clips,
    splits: Sequence[RunSplit],
    scores: Scores,
    correct: Mapping[str, np.ndarray],
    settings: OrderSettings,
) -> tuple[PerturbationResult, ...]:
    retrained = {"shuffle": correct[ORDERED] - correct[FIXED]}
    for condition, pair in (("windows", WINDOWS), ("blocks", BLOCKS)):
        if pair in correct:
            label = test_perturbation(condition, clips.max_frames, settings).label
            retrained[label] = correct[ORDERED] - correct[pair]
    suite = []
    for perturbation in perturbations(clips.max_frames, settings):
        right = scores.right(name, "ordered", perturbation.label)
        measures = _measures(perturbation, clips, splits[0].test[:SUITE_CLIPS], settings)
        suite.append(
            PerturbationResult(
                perturbation.name,
                perturbation.label,
                *measures,
                accuracy=within_0_and_1(scores.mean(right)),
                reliance=scores.mean(correct[ORDERED] - right),
                retrained=scores.mean(retrained[perturbation.label]) if perturbation.label in retrained else None,
            )
        )
    return tuple(suite)


def _measures(
    perturbation: permutations.Perturbation, clips: Clips, rows: np.ndarray, settings: OrderSettings
) -> OrderMeasures:
    """Mean displacement, Kendall's tau and adjacency of a perturbation over the frame orders of some test clips."""
    orders = [(order, int(clips.lengths[row])) for row in rows.tolist()
              for order in test_orders(clips, row, perturbation, settings.num_permutations)]  # fmt: skip
    return order_measures(orders)


def _chiral(name: str, clips: Clips, scores: Scores) -> ChiralPairs:
    ordered, backwards = (scores.predicted(name, "ordered", frame_order)[0] for frame_order in ("ordered", "reverse"))
    return chiral_pairs(scores.labels, ordered, backwards, scores.groups, clips.class_names)


def _confusion(scores: Scores, predicted_KN: np.ndarray, num_classes: int) -> tuple[tuple[float, ...], ...]:
    """Number of clips (C, C) over all runs, mean over frame orders; rows are true classes, columns predicted ones."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (np.broadcast_to(scores.labels, predicted_KN.shape), predicted_KN), 1 / len(predicted_KN))
    return tuple(tuple(round(float(value), 6) for value in row) for row in counts)


def _majority(clips: Clips, splits: Sequence[RunSplit]) -> float:
    """Accuracy of always predicting the most frequent class of the training clips, over all runs."""
    right = [clips.labels[split.test] == np.bincount(clips.labels[split.train]).argmax() for split in splits]
    return float(np.concatenate(right).mean())


def _sizes(
    name: str, plan: OrderPlan, clips: Clips, splits: Sequence[RunSplit], scores: Scores
) -> tuple[SizePoint, ...]:
    points = []
    for size in (*plan.settings.sizes, 1.0) if plan.settings.sizes else ():
        analysis = "primary" if size == 1.0 else str(size)
        ordered, blind = (
            scores.right(name, "ordered", "ordered", analysis),
            scores.right(name, "fixed_permutation", "shuffle", analysis),
        )
        trained = [replace(split, train=training_share(clips, split.train, size, plan.settings.seed + run))
                   for run, split in enumerate(splits)]  # fmt: skip
        shared = overlap(trained, plan.settings.split == "fixed")
        num_clips = round(float(np.mean([len(split.train) for split in trained])))
        accuracy, gain = (scores.mean(values, overlap=shared) for values in (ordered, ordered - blind))
        points.append(SizePoint(size, num_clips, within_0_and_1(accuracy), gain))
    return tuple(sorted(points, key=lambda point: point.fraction))


def _sensitivity(name: str, plan: OrderPlan, scores: Scores) -> dict[str, Estimate]:
    def gain(analysis: str) -> np.ndarray:
        ordered = scores.right(name, "ordered", "ordered", analysis)
        return ordered - scores.right(name, "fixed_permutation", "shuffle", analysis)

    return {analysis: scores.mean(gain(analysis)) for analysis in plan.settings.sensitivity}


def controls_of(plan: OrderPlan, clips: Clips, splits: Sequence[RunSplit], scores: Scores) -> Controls | None:
    """Accuracies of single frames, from the first frame-averaging head of the plan; None without such a head."""
    averaging = [
        name for name in plan.memories if scores.training_results[name, "ordered", "primary"][0].frame_right is not None
    ]
    if not averaging:
        return None
    trained = scores.training_results[averaging[0], "ordered", "primary"]
    random, best, oracle = [], [], []
    for one, split in zip(trained, splits, strict=True):
        right_NT, lengths = one.frame_right, clips.lengths[split.test]
        assert right_NT is not None
        random.append(right_NT.sum(1) / lengths)
        best.append(right_NT[np.arange(len(lengths)), np.minimum(one.best_position, lengths - 1)])
        oracle.append(right_NT.any(1))
    return Controls(
        majority=_majority(clips, splits),
        random_frame=float(np.concatenate(random).mean()),
        best_frame=float(np.concatenate(best).mean()),
        best_frame_position=trained[0].best_position,
        oracle_frame=float(np.concatenate(oracle).mean()),
        average=float(scores.right(averaging[0], "ordered", "ordered").mean()),
    )
