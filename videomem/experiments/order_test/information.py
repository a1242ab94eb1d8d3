"""What frame order adds to the set of frames, over the best learners: the verdict on the data, and clip scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from videomem.experiments.order_test.data_checks import DataCheck
from videomem.experiments.order_test.plan import ORDERED, PAIRS, ROTATED, described
from videomem.experiments.order_test.result import HeadResult, Information
from videomem.experiments.order_test.scores import Scores
from videomem.statistics.clip_scores import ClipScores, clip_scores
from videomem.statistics.results import Verdict
from videomem.statistics.verdict import judge_data

FALLING = 0.05  # share of the loss in the last quarter of the epochs above which it counts as falling


def information_of(scores: Scores) -> Information | None:
    """What frame order adds to the set of frames; None without both an ordered and an order-blind head."""
    ordered, blind = scores.ordered_learners(), scores.order_blind_learners()
    if not ordered or all(pair != ORDERED for _, pair in blind):
        return None
    (with_order, chosen), (without, chosen_blind) = scores.best(ordered), scores.best_order_blind
    rotated = scores.ordered_learners(ROTATED)
    accuracies = [scores.accuracy(values, metric="balanced") for values in (with_order, without)]
    counts = Counter(_learner(*learner) for learner in [*chosen, *chosen_blind])
    most = [Counter(learners).most_common(1)[0][0] for learners in (chosen, chosen_blind)]
    return Information(
        gain=scores.mean(with_order - without),
        ordered=most[0][0],
        order_blind=_learner(*most[1]),
        chosen=dict(counts),
        accuracy=max(accuracies, key=lambda accuracy: accuracy.low),
        rotated=scores.mean(scores.best(rotated)[0] - without) if rotated else None,
    )


def learner_label(results: Sequence[HeadResult], learner: str) -> str:
    """The label of a learner of `Information`, with its training condition if that is not in order."""
    named = {_learner(one.name, pair): (one.label, pair) for one in results for pair in PAIRS}
    label, pair = named.get(learner, (learner, ORDERED))
    return label if pair == ORDERED else f"{label} trained on {described(pair)[0]}"


def _learner(name: str, pair: str) -> str:
    return name if pair == ORDERED else f"{name} {pair}"


def verdict_of(
    information: Information | None, results: Sequence[HeadResult], scores: Scores, checks: Sequence[DataCheck]
) -> Verdict:
    """The verdict on the data."""
    tested = len(np.unique(np.concatenate([split.test for split in scores.splits])))
    for check in checks:
        if check.name == "static clips" and check.num_clips == tested:
            return Verdict("nothing to order", f"Nothing to order: {check.sentence}")
    if information is None:
        return Verdict(
            "no verdict", "No verdict: an ordered and an order-blind head are needed",
            "add to order.heads, for example, gru and attention",
        )  # fmt: skip
    ordered, blind = (learner_label(results, one) for one in (information.ordered, information.order_blind))
    chance = 1 / len(scores.clips.class_names)
    hint = next((hint_of(one, scores) for one in results if one.name == information.ordered), "")
    verdict = judge_data(
        information.gain, scores.margin, (ordered, blind), information.accuracy, chance, hint, information.rotated
    )
    return conditional(verdict, scores)


def clip_scores_of(scores: Scores) -> ClipScores:
    """How much each tested clip needs frame order: correct with the best ordered learner, minus the order-blind one."""
    gain_N = scores.best(scores.ordered_learners())[0] - scores.best_order_blind[0]
    return clip_scores(gain_N, np.concatenate([split.test for split in scores.splits]), scores.groups)


def hint_of(result: HeadResult, scores: Scores) -> str:
    """Why a head may not have learned, from its training loss and its predictions."""
    plan, words = scores.plan, []
    quarter = max(len(result.losses) // 4, 1)
    if len(result.losses) > 1 and result.losses[-1] < (1 - FALLING) * result.losses[-1 - quarter]:
        words.append("its training loss was still falling: raise trainer.max_epochs")
    never = [name for name, column in zip(scores.clips.class_names, zip(*result.confusion_ordered, strict=True),
                                          strict=True) if sum(column) == 0]  # fmt: skip
    if never:
        words.append(f"it never predicts {', '.join(never[:3])}: set model.class_weighting to balanced")
    steps = plan.recipe.num_steps(len(scores.splits[0].train))
    hint = "; ".join(words) or f"it was trained for {steps} steps: raise trainer.max_epochs, or use other features"
    return hint[0].upper() + hint[1:]


def conditional(verdict: Verdict, scores: Scores) -> Verdict:
    """With a fixed split, all runs share one training set, and the verdict says so."""
    if scores.plan.settings.split == "random":
        return verdict
    return replace(verdict, sentence=f"{verdict.sentence}; conditional on this training set")
