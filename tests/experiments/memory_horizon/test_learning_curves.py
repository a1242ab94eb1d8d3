"""Recall against the training budget: convergence, kept weights, and steps to learn a delay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videomem.experiments.memory_horizon.horizon_tables import bounded, horizon_text, steps_text
from videomem.experiments.memory_horizon.learning_curves import (
    LOSS_AT_CHANCE,
    LearningCurve,
    has_converged,
    kept,
    steps_to_learn,
)
from videomem.experiments.memory_horizon.recall_jobs import RecallPlan, RecallTrainingResult
from videomem.experiments.memory_horizon.recall_result import TaskResult, task_result
from videomem.experiments.memory_horizon.recall_tasks import CHANCE
from videomem.experiments.memory_horizon.recall_training import RecallRecipe
from videomem.statistics.horizons import Horizon

LOSSES = st.lists(st.floats(0, 3), min_size=1, max_size=30)
ACCURACIES = st.lists(st.floats(0, 1), min_size=2, max_size=30)
MIDDLE = (1 + CHANCE) / 2


def every(count: int, by: int = 50) -> list[int]:
    return [by * number for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("accuracy", "steps"),
    [
        ([0.1, 0.3, 0.6, 0.9], 150),
        ([0.1, 0.9, 0.3, 0.9], 200),  # A delay that was forgotten again is learned when it stays.
        ([0.9, 0.9, 0.9, 0.9], 50),
        ([0.1, 0.9, 0.9, 0.5], None),
        ([0.1, 0.1, 0.1, MIDDLE], 200),
        ([CHANCE] * 4, None),
    ],
)
def test_a_delay_is_learned_at_the_step_from_which_accuracy_stays_above_the_level_of_the_horizon(
    accuracy: list[float], steps: int | None
) -> None:
    assert steps_to_learn(every(4), accuracy) == steps


@given(ACCURACIES, st.data())
@settings(max_examples=200, deadline=None)
def test_with_more_budget_a_delay_is_never_learned_in_fewer_steps(accuracy: list[float], data: st.DataObject) -> None:
    end = data.draw(st.integers(1, len(accuracy)))
    less, more = (steps_to_learn(every(len(part)), part) for part in (accuracy[:end], accuracy))
    # A censored number of steps is more than the budget, and stays so with a larger budget.
    assert more is None or more >= (every(end)[-1] + 1 if less is None else less)


@given(LOSSES, st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_a_training_that_has_converged_ends_at_the_same_step_with_every_larger_budget(
    loss: list[float], budget: int
) -> None:
    def end(num_checkpoints: int) -> tuple[int, bool]:
        for last in range(1, num_checkpoints + 1):
            if has_converged(every(last), loss[:last], 200, 0.01):
                return last, True
        return num_checkpoints, False

    less, more = end(min(budget, len(loss))), end(len(loss))
    assert more == less if less[1] else more[0] >= less[0]


def test_a_loss_converges_when_doubling_the_steps_brings_no_improvement() -> None:
    falling = np.linspace(2.0, 1.0, 12).tolist()
    assert not has_converged(every(12), falling, 200, 0.01)
    flat = [*falling, *[1.0] * 11]
    assert not has_converged(every(23), flat, 200, 0.01)  # Half of 1150 steps are before the end of the fall.
    assert has_converged(every(24), [*flat, 1.0], 200, 0.01)
    assert not has_converged(every(24), [*flat, 1.0], 2000, 0.01)
    assert not has_converged(every(24), [*flat, 1 - 0.02 * LOSS_AT_CHANCE], 200, 0.01)
    assert has_converged([50], [0.009 * LOSS_AT_CHANCE], 200, 0.01)  # Nothing is left to learn.


def test_a_single_bad_checkpoint_changes_nothing() -> None:
    loss = [2.0, 1.0, 3.0, 1.5, 0.5]
    assert kept(loss).tolist() == [0, 1, 1, 1, 4]
    curve = LearningCurve(every(5), loss, [[0.1], [0.9], [0.2], [0.3], [1.0]], True)
    assert curve.accuracy_of_kept([50, 149, 150, 250, 9999])[:, 0].tolist() == [0.1, 0.9, 0.9, 1.0, 1.0]


def of_seeds(*curves: LearningCurve) -> TaskResult:
    """Returns the result of trainings whose test accuracy is that of the kept weights."""
    plan = RecallPlan({}, recipe=RecallRecipe(max_steps=200, max_delay=4), delays=(1, 2, 4))
    results = [
        RecallTrainingResult(
            memory="rnn",
            label="rnn",
            task="latch",
            seed=seed,
            curve=curve,
            accuracy=curve.accuracy_of_kept([9999])[0].tolist(),
            followed=[0] * 3,
            seconds=1,
            measures=None,
        )
        for seed, curve in enumerate(curves)
    ]
    return task_result(results, plan)


NOT, ALL = [CHANCE] * 3, [1.0] * 3
LEARNS = LearningCurve(every(3), [2, 1, 0], [NOT, [1.0, 1.0, CHANCE], ALL], True)
PARTLY = LearningCurve(every(4), [2, 1, 0.9, 0.8], [NOT, NOT, [1.0, CHANCE, CHANCE], [1.0, CHANCE, CHANCE]], False)
NOTHING_LEARNED = LearningCurve(every(4), [2, 2, 2, 2], [NOT] * 4, True)


def test_a_memory_that_cannot_learn_is_reported_as_not_learned() -> None:
    result = of_seeds(NOTHING_LEARNED, NOTHING_LEARNED)
    assert horizon_text(result) == "not learned"
    assert {steps_text(steps, result) for steps in result.steps_to_learn} == {"\N{EN DASH}"}
    assert all(steps.seeds == (None, None) and steps.median is None for steps in result.steps_to_learn)


def test_horizons_and_steps_are_bounds_where_the_budget_ended_before_convergence() -> None:
    result = of_seeds(LEARNS, PARTLY, PARTLY)
    assert result.converged == (True, False, False) and result.trained_steps == (150, 200, 200)
    assert [steps.seeds for steps in result.steps_to_learn] == [(100, 150, 150), (100, None, None), (150, None, None)]
    assert [steps_text(steps, result) for steps in result.steps_to_learn] == ["150", "> 200", "> 200"]
    assert horizon_text(result).startswith(">= 1.") and horizon_text(result).endswith("to >= 4)")
    assert bounded(Horizon(None, "not learned"), converged=False) == "not learned yet"
    assert bounded(Horizon(7.0, "crossed"), converged=True) == "7"


def test_a_budget_gives_the_horizon_of_the_weights_kept_until_then() -> None:
    result = of_seeds(LEARNS)
    assert [str(one) for one in result.horizons_by_budget] == ["not learned", "2.83", ">= 4"]
    assert [str(result.horizon_after(steps)) for steps in (60, 100, 9999)] == ["not learned", "2.83", ">= 4"]
