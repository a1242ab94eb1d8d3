"""From the outcomes of all cells to the order card: contrasts, tests and verdicts, by the plan and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from videomem.experiments import permutations
from videomem.experiments.clips import Clips
from videomem.experiments.order_test.conditions import condition_of, perturbations, test_orders
from videomem.experiments.order_test.folds import RunSplit, overlap, training_share
from videomem.experiments.order_test.plan import OrderPlan, OrderSettings
from videomem.experiments.order_test.result import Controls, MemoryResult, PerturbationResult, SizePoint
from videomem.experiments.order_test.scores import BOOTSTRAP, Scores, within_0_and_1
from videomem.statistics.chiral import chiral_pairs
from videomem.statistics.classes import class_gains
from videomem.statistics.randomization import holm, mcnemar_p, reliance_test
from videomem.statistics.results import ChiralPairs, Estimate, Randomization, Verdict
from videomem.statistics.verdict import judge, judge_data_set

SUITE_CLIPS = 200  # whose frame orders a perturbation's displacement, tau and adjacency are means of


def analyse(plan: OrderPlan, clips: Clips, splits: Sequence[RunSplit], scores: Scores) -> tuple[MemoryResult, ...]:
    """The result of every memory of the plan."""
    names = list(plan.memories)
    results = [_memory(name, plan, clips, splits, scores) for name in names]
    labels = [result.label for result in results]
    results = [replace(one, label=one.name) if labels.count(one.label) > 1 else one for one in results]
    tested = [n for n, result in enumerate(results) if not result.is_control]
    adjusted = holm([results[n].value_of_order.p for n in tested]) if tested else []
    for n, p in zip(tested, adjusted, strict=True):
        verdict = _conditional(judge(results[n].value_of_order, plan.settings.margin, results[n].name), plan.settings)
        results[n] = replace(results[n], p_holm=p, verdict=verdict)
    return tuple(results)


def _conditional(verdict: Verdict, settings: OrderSettings) -> Verdict:
    """With one training set for all runs, nothing is known of others."""
    if settings.split == "random":
        return verdict
    return replace(verdict, sentence=f"{verdict.sentence}; conditional on this training set")


def overall(results: Sequence[MemoryResult], settings: OrderSettings) -> Verdict:
    """The verdict on the data set, for the tested learners."""
    tested = {result.name: result for result in results if result.verdict is not None}
    if not tested:
        return Verdict("no verdict", "No verdict: no memory was tested, only controls", "name a memory, such as gru")
    verdict = judge_data_set(
        {name: result.verdict for name, result in tested.items() if result.verdict is not None},
        {name: result.p_holm for name, result in tested.items() if result.p_holm is not None},
        {name: result.value_of_order for name, result in tested.items()},
        settings.margin,
    )
    return _conditional(verdict, settings)


def _memory(name: str, plan: OrderPlan, clips: Clips, splits: Sequence[RunSplit], scores: Scores) -> MemoryResult:
    outcomes = scores.outcomes[name, "O", "primary"]
    is_control = outcomes[0].memoryless
    cells = cells_of(name, scores, clips, plan.settings)
    gain = cells["OO"] - cells["FS"]
    difference = _Differences(scores, cells)
    blind, blind_name = _best_order_blind(name, plan, scores, cells)
    accuracy = {cell: within_0_and_1(scores.mean(values)) for cell, values in cells.items()}
    value = scores.mean(gain, BOOTSTRAP)
    majority = _majority(clips, splits)
    ordered, shuffled = scores.predicted(name, "O", "ordered")[0], scores.predicted(name, "O", "shuffle")
    forward = [outcome.max_logit_change_forward for outcome in outcomes]
    return MemoryResult(
        name=name,
        label=outcomes[0].label,
        is_control=is_control,
        num_parameters=outcomes[0].num_parameters,
        cells=accuracy,
        value_of_order=value,
        p_holm=None,
        verdict=None,
        augmentation=difference("SS", "FS"),
        reliance=scores.mean(cells["OO"] - cells["OS"]),
        reliance_test=None if is_control else _reliance_test(scores, ordered, shuffled),
        shift=difference("SS", "OS"),
        practical_gain=None if is_control else scores.mean(cells["OO"] - blind),
        best_order_blind=blind_name,
        common=difference("OO", "CC"),
        normalized=value.value / (accuracy["OO"].value - majority) if accuracy["OO"].low > majority else None,
        suite=_suite(name, clips, splits, scores, cells, plan.settings),
        classes=class_gains(gain, scores.groups, scores.runs, scores.labels, clips.class_names),
        chiral=None if is_control else _chiral(name, clips, scores),
        confusion_ordered=_confusion(scores, ordered[None], len(clips.class_names)),
        confusion_shuffled=_confusion(scores, shuffled, len(clips.class_names)),
        mcnemar_p=None if is_control else _mcnemar(scores, ordered, shuffled[0]),
        sizes=() if is_control else _sizes(name, plan, clips, splits, scores),
        sensitivity={} if is_control else _sensitivity(name, plan, scores),
        max_logit_change=max(outcome.max_logit_change for outcome in outcomes),
        max_logit_change_forward=max(forward),
    )


def cells_of(name: str, scores: Scores, clips: Clips, settings: OrderSettings) -> dict[str, np.ndarray]:
    """Right or not, (N,), of every cell XY that was measured."""
    cells = {
        "OO": scores.right(name, "O", "ordered"),
        "OS": scores.right(name, "O", "shuffle"),
        "OR": scores.right(name, "O", "reverse"),
        "FS": scores.right(name, "F", "shuffle"),
        "FO": scores.right(name, "F", "ordered"),
    }
    if scores.has(name, "S"):
        cells |= {"SS": scores.right(name, "S", "shuffle"), "SO": scores.right(name, "S", "ordered")}
    if scores.has(name, "C"):
        cells["CC"] = scores.right(name, "C", "common")
    for arm in "WB":
        if scores.has(name, arm):
            cells[arm + arm] = scores.right(name, arm, condition_of(arm, clips.max_frames, settings).label)
    return cells


def cells_by_run(name: str, plan: OrderPlan, clips: Clips, scores: Scores) -> list[dict[str, float]]:
    """Accuracy of every cell of a memory in each run."""
    cells = cells_of(name, scores, clips, plan.settings)
    return [
        {cell: float(right[scores.runs == run].mean()) for cell, right in cells.items()}
        for run in np.unique(scores.runs)
    ]


class _Differences:
    """Differences of cells, None where one was not trained."""

    def __init__(self, scores: Scores, cells: Mapping[str, np.ndarray]) -> None:
        self._scores, self._cells = scores, cells

    def __call__(self, one: str, other: str) -> Estimate | None:
        if one not in self._cells or other not in self._cells:
            return None
        return self._scores.mean(self._cells[one] - self._cells[other])


def _best_order_blind(
    name: str, plan: OrderPlan, scores: Scores, cells: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, str]:
    """The best arm that knows nothing of order: the memory's own FS and SS, and every control's OO."""
    arms = {arm: cells[arm] for arm in ("FS", "SS") if arm in cells}
    controls = [
        other for other in plan.memories if other != name and scores.outcomes[other, "O", "primary"][0].memoryless
    ]
    arms |= {f"{other} OO": scores.right(other, "O", "ordered") for other in controls}
    best = max(arms, key=lambda arm: arms[arm].mean())
    return arms[best], best


def _reliance_test(scores: Scores, ordered_N: np.ndarray, shuffled_KN: np.ndarray) -> Randomization:
    right_NA = (np.concatenate([ordered_N[None], shuffled_KN]) == scores.labels).T
    return reliance_test(right_NA, scores.groups)


def _mcnemar(scores: Scores, ordered_N: np.ndarray, shuffled_N: np.ndarray) -> float | None:
    """First run, in order against shuffled once; only where no two clips are of one group."""
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
    cells: Mapping[str, np.ndarray],
    settings: OrderSettings,
) -> tuple[PerturbationResult, ...]:
    retrained = {condition_of(arm, clips.max_frames, settings).label: cells["OO"] - cells[arm + arm]
                 for arm in "WB" if arm + arm in cells}  # fmt: skip
    retrained["shuffle"] = cells["OO"] - cells["FS"]
    suite = []
    for perturbation in perturbations(clips.max_frames, settings):
        right = scores.right(name, "O", perturbation.label)
        measures = _measures(perturbation, clips, splits[0].test[:SUITE_CLIPS], settings)
        suite.append(
            PerturbationResult(perturbation.name, perturbation.label, *measures, within_0_and_1(scores.mean(right)), 
                 scores.mean(cells["OO"] - right),
                 scores.mean(retrained[perturbation.label]) if perturbation.label in retrained else None)
        )  # fmt: skip
    return tuple(suite)


def _measures(
    perturbation: permutations.Perturbation, clips: Clips, rows: np.ndarray, settings: OrderSettings
) -> tuple[float, float | None, float]:
    """Mean displacement, Kendall's tau and adjacency of a perturbation's frame orders of some test clips."""
    orders = [(order, int(clips.lengths[row])) for row in rows.tolist()
              for order in test_orders(clips, row, perturbation, settings.num_permutations)]  # fmt: skip
    taus = [tau for order, length in orders if (tau := permutations.kendall_tau(order, length)) is not None]
    displacement = float(np.mean([permutations.displacement(order, length) for order, length in orders]))
    adjacency = float(np.mean([permutations.adjacency(order, length) for order, length in orders]))
    return displacement, float(np.mean(taus)) if taus else None, adjacency


def _chiral(name: str, clips: Clips, scores: Scores) -> ChiralPairs:
    ordered, backwards = (scores.predicted(name, "O", condition)[0] for condition in ("ordered", "reverse"))
    return chiral_pairs(scores.labels, ordered, backwards, scores.groups, clips.class_names)


def _confusion(scores: Scores, predicted_KN: np.ndarray, num_classes: int) -> tuple[tuple[float, ...], ...]:
    """Clips (C, C) of all runs, mean over frame orders: rows true, columns named."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (np.broadcast_to(scores.labels, predicted_KN.shape), predicted_KN), 1 / len(predicted_KN))
    return tuple(tuple(round(float(value), 6) for value in row) for row in counts)


def _majority(clips: Clips, splits: Sequence[RunSplit]) -> float:
    """Accuracy of naming the most frequent training class, over all runs."""
    right = [clips.labels[split.test] == np.bincount(clips.labels[split.train]).argmax() for split in splits]
    return float(np.concatenate(right).mean())


def _sizes(
    name: str, plan: OrderPlan, clips: Clips, splits: Sequence[RunSplit], scores: Scores
) -> tuple[SizePoint, ...]:
    points = []
    for size in (*plan.settings.sizes, 1.0) if plan.settings.sizes else ():
        analysis = "primary" if size == 1.0 else str(size)
        ordered, blind = scores.right(name, "O", "ordered", analysis), scores.right(name, "F", "shuffle", analysis)
        trained = [replace(split, train=training_share(clips, split.train, size, plan.settings.seed + run))
                   for run, split in enumerate(splits)]  # fmt: skip
        shared = overlap(trained, plan.settings.split == "fixed")
        num_clips = round(float(np.mean([len(split.train) for split in trained])))
        accuracy, gain = (scores.mean(values, overlap=shared) for values in (ordered, ordered - blind))
        points.append(SizePoint(size, num_clips, within_0_and_1(accuracy), gain))
    return tuple(sorted(points, key=lambda point: point.fraction))


def _sensitivity(name: str, plan: OrderPlan, scores: Scores) -> dict[str, Estimate]:
    gain = {analysis: scores.right(name, "O", "ordered", analysis) - scores.right(name, "F", "shuffle", analysis)
            for analysis in plan.settings.sensitivity}  # fmt: skip
    return {analysis: scores.mean(values) for analysis, values in gain.items()}


def controls_of(plan: OrderPlan, clips: Clips, splits: Sequence[RunSplit], scores: Scores) -> Controls | None:
    """What single frames say, by the first frame-averaging head of the plan; None where it has none."""
    averaging = [name for name in plan.memories if scores.outcomes[name, "O", "primary"][0].frame_right is not None]
    if not averaging:
        return None
    outcomes = scores.outcomes[averaging[0], "O", "primary"]
    random, best, oracle = [], [], []
    for outcome, split in zip(outcomes, splits, strict=True):
        right_NT, lengths = outcome.frame_right, clips.lengths[split.test]
        assert right_NT is not None
        random.append(right_NT.sum(1) / lengths)
        best.append(right_NT[np.arange(len(lengths)), np.minimum(outcome.best_position, lengths - 1)])
        oracle.append(right_NT.any(1))
    return Controls(
        majority=_majority(clips, splits),
        random_frame=float(np.concatenate(random).mean()),
        best_frame=float(np.concatenate(best).mean()),
        best_frame_position=outcomes[0].best_position,
        oracle_frame=float(np.concatenate(oracle).mean()),
        average=float(scores.right(averaging[0], "O", "ordered").mean()),
    )
