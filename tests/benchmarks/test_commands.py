"""Commands as the scripts of benchmarks/ run them."""

from __future__ import annotations

import sys

from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))

from commands import used

from videomem.cli.order import UNUSED_WITH_PLAN, UNUSED_WITHOUT_PLAN


def test_forecast_and_order_test_get_only_the_options_that_they_take() -> None:
    further = ["--order.heads", "[gru]", "--wandb", "disabled", "--assume.accuracy=0.8", "--order.runs", "3"]
    common = ["--order.heads", "[gru]", "--order.runs", "3"]
    assert used(further, UNUSED_WITH_PLAN) == [*common[:2], "--assume.accuracy=0.8", *common[2:]]
    assert used(further, UNUSED_WITHOUT_PLAN) == [*common[:2], "--wandb", "disabled", *common[2:]]
