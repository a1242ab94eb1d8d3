"""What an order test answers, in a few sentences and numbers."""

from __future__ import annotations

from videomem.experiments.notebook import Overview
from videomem.experiments.order_test.order_tables import table
from videomem.experiments.order_test.result import HeadResult, OrderTestResult
from videomem.experiments.tables import points
from videomem.statistics.results import VerdictKind
from videomem.statistics.verdict import interval as in_words
from videomem.statistics.verdict import points as in_points
from videomem.statistics.verdict import reliance_sentence

# What the headline says of each verdict on the data, before the count of learners.
_HEADLINES: dict[VerdictKind, str] = {
    "matters": "Order carries information",
    "order or position": "Order or position carries information",
    "negligible": "Order carries negligible information",
    "does not matter": "Order carries no information",
    "hurts": "Order carries no information",
    "undetermined": "Undetermined whether order carries information",
    "not learned": "Not learned, so nothing is known of order",
    "nothing to order": "Nothing to order",
    "no verdict": "No verdict on order",
}


def headline(result: OrderTestResult) -> str:
    """The verdict on the data in few words, the number of learners whose information has an interval above 0, and the
    range of the information over all learners.
    """
    gains = [one.practical_gain for one in result.heads if one.practical_gain is not None]
    words = _HEADLINES[result.verdict.kind]
    if not gains:
        return words
    least, most = (f(gain.value for gain in gains) for f in (min, max))
    range_ = points(least) if len(gains) == 1 else f"{points(least)} to {points(most)}"
    above = sum(gain.low > 0 for gain in gains)
    return f"{words}: {above} of {len(gains)} learner{'s' if len(gains) != 1 else ''}, {range_} points"


def answers(result: OrderTestResult) -> list[tuple[str, str]]:
    """The three questions, each with one sentence: on one trained head, on one learner, and on the data.

    The first two are answered for the learner with the largest value of order.
    """
    data = ("Does frame order carry information that the set of frames does not?", result.verdict.sentence)
    if (lead := lead_head(result)) is None:
        return [data]
    assert lead.verdict is not None and lead.reliance is not None
    return [
        ("Does this trained model rely on frame order?", reliance_sentence(lead.label, lead.reliance)),
        ("Is frame order worth anything to this learner?", f"{lead.verdict.sentence}{_rotated(lead)}"),
        data,
    ]


def _rotated(lead: HeadResult) -> str:
    if lead.rotated is None:
        return ""
    remains = f"{in_points(lead.rotated.value)} ({in_words(lead.rotated)})"
    return f"; {remains} remain with clips rotated by random offsets, which keeps neighbors but not positions"


def lead_head(result: OrderTestResult) -> HeadResult | None:
    """The head with the largest value of order, controls excluded."""
    learners = [one for one in result.heads if not one.is_order_blind]
    return max(learners, key=lambda one: one.value_of_order.value, default=None)


def result_summary(result: OrderTestResult) -> dict[str, float | str]:
    """The verdict, and the main numbers of each head by name, for the summary of a W&B run."""
    numbers: dict[str, float | str] = {
        "verdict": result.verdict.kind,
        "headline": headline(result),
        "sentence": result.verdict.sentence,
    }
    for one in result.heads:
        numbers |= {f"{one.name}/{pair}": accuracy.value for pair, accuracy in one.accuracies.items()}
        numbers[f"{one.name}/value_of_order"] = one.value_of_order.value
        numbers[f"{one.name}/reliance"] = one.reliance.value if one.reliance else 0.0
        if one.practical_gain is not None:
            numbers[f"{one.name}/practical_gain"] = one.practical_gain.value
    return numbers


def overview(result: OrderTestResult) -> Overview:
    """What a notebook shows: the verdict, the answers on one learner, what was found in the data, the heads."""
    verdict, checks = result.verdict, [check.sentence for check in result.checks]
    learner = [answer for _, answer in answers(result)[:-1]]
    found = [
        f"{sentence.rstrip('.')}." for sentence in (verdict.sentence, verdict.remedy, *learner, *checks) if sentence
    ]
    return Overview(found, table(result, "heads"))
