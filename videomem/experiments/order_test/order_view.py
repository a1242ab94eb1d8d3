"""What a notebook shows of an order test."""

from __future__ import annotations

from videomem.experiments.notebook import Overview
from videomem.experiments.order_test.figures import value_figure
from videomem.experiments.order_test.order_tables import answers, table
from videomem.experiments.order_test.result import OrderTestResult


def overview(result: OrderTestResult) -> Overview:
    """The verdict, the answers on one learner, what was found in the data, and the table of heads."""
    verdict, checks = result.verdict, [check.sentence for check in result.checks]
    learner = [answer for _, answer in answers(result)[:-1]]
    found = [
        f"{sentence.rstrip('.')}." for sentence in (verdict.sentence, verdict.remedy, *learner, *checks) if sentence
    ]
    return Overview(found, table(result, "heads"))


figure = value_figure
