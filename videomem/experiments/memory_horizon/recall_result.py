"""The result of a recall measurement: horizons, and the training steps that they take.

`memory.json` is a `RecallResult` as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from videomem.experiments.memories import distinct_labels
from videomem.experiments.memory_horizon.learning_curves import steps_to_learn
from videomem.experiments.memory_horizon.recall_jobs import RecallPlan, RecallTrainingResult
from videomem.experiments.memory_horizon.recall_tasks import CHANCE
from videomem.experiments.notebook import NotebookResult
from videomem.statistics.horizons import Curve, Horizon, curve_over_seeds, horizon
from videomem.utils.result_models import Number, SharedText, Text, result_model

SCHEMA_VERSION = 1


@result_model
class StepsToLearn:
    """Number of training steps from which a memory recalls a cue at one delay.

    Attributes:
        delay: The delay, in frames.
        seeds: First step of each training from which the chance-corrected accuracy on held-out sequences stays at one
            half or above; None if the training ended below it.
        median: Median over trainings, where None is larger than every number; None if it is not a number.
    """

    delay: int
    seeds: tuple[int | None, ...]
    median: Number | None


@result_model
class TaskResult:
    """One memory on one task. The trained heads are those with the lowest held-out loss of their training.

    Attributes:
        accuracy: Accuracy at each delay up to the longest training delay.
        extrapolated: Accuracy at longer delays.
        followed: How far the prediction follows the cue alone, at all delays.
        horizon: Horizon of the mean over seeds.
        horizons: Horizon of each seed.
        trained_steps: Number of training steps of each seed.
        converged: Whether each training converged. If not, its budget was spent, and its horizon is a lower bound.
        steps_to_learn: Steps to learn each delay.
        budgets: Numbers of training steps.
        horizons_by_budget: Horizon of the mean over seeds that each budget gives, on the held-out sequences.
    """

    accuracy: Curve
    extrapolated: Curve
    followed: Curve
    horizon: Horizon
    horizons: tuple[Horizon, ...]
    trained_steps: tuple[int, ...]
    converged: tuple[bool, ...]
    steps_to_learn: tuple[StepsToLearn, ...]
    budgets: tuple[int, ...]
    horizons_by_budget: tuple[Horizon, ...]

    def horizon_after(self, num_steps: int) -> Horizon:
        """Returns the horizon that a budget of at most `num_steps` gives."""
        return self.horizons_by_budget[max(0, int(np.searchsorted(self.budgets, num_steps, side="right")) - 1)]


@result_model
class MemoryReach:
    """All measurements of one memory. Gradients and time constants are those of heads trained on `measured_on`.

    Attributes:
        name: Name of the head config.
        label: The memory with its parameters, or its name if several memories have the same label.
        tasks: Result on each task, by name.
        measured_on: Task of the heads that the following attributes are measured on.
        gradient: RMS of d logits / d x at each lag, relative to lag 0; geometric means over seeds.
        direct: The part of the gradient that flows along the retention alone.
        gradient_untrained: Gradient of heads with fresh weights.
        tau: Time constants of the hidden units of all seeds in frames, sorted; 0 where nothing is kept.
        lyapunov: Largest Lyapunov exponent per frame, mean over seeds; -inf where no state is carried.
        gates: Retention (T, H) along one sequence, with hidden units sorted by their mean.
        cues: Positions of the cues in this sequence.
        rows: Rows of its frames in the frame table.
        seconds: Training time of all seeds and tasks.
    """

    name: Text
    label: Text
    tasks: dict[Text, TaskResult]
    measured_on: SharedText
    gradient: Curve
    direct: Curve
    gradient_untrained: Curve
    tau: list[Number]
    lyapunov: Number
    gates: list[list[Number]]
    cues: list[int]
    rows: list[int]
    seconds: Number


@result_model
class RecallResult(
    NotebookResult,
    overview="videomem.experiments.memory_horizon.horizon_tables:overview",
    figure="videomem.experiments.memory_horizon.horizon_figures:recall_figure",
):
    """The complete result of a recall measurement.

    Attributes:
        schema_version: Version of this schema; other versions are refused.
        plan: What was trained and tested.
        num_frames: Number of frames of the sequences that gradients and time constants are measured on.
        features: Description of the backbone.
        memories: Result of each memory, in the order of the plan.
        command: Command line.
        versions: Versions of the libraries.
        seconds: Run time, without cached trainings.
    """

    schema_version: int
    plan: RecallPlan
    num_frames: int
    features: SharedText
    memories: tuple[MemoryReach, ...]
    command: SharedText
    versions: dict[Text, Text]
    seconds: Number


def reaches(results: Sequence[RecallTrainingResult], plan: RecallPlan) -> tuple[MemoryReach, ...]:
    """Returns one result per memory over its seeds."""
    found = [_reach([one for one in results if one.memory == name], plan) for name in plan.memories]
    # A label does not show every setting of a config, so two memories may have the same one.
    labels = distinct_labels([one.label for one in found], list(plan.memories), list(plan.memories))
    return tuple(replace(one, label=label) for one, label in zip(found, labels, strict=True))


def _reach(results: Sequence[RecallTrainingResult], plan: RecallPlan) -> MemoryReach:
    tasks = {task: task_result([one for one in results if one.task == task], plan) for task in plan.tasks}
    main = plan.tasks[-1]
    measured = [one.measures for one in results if one.measures is not None]
    lags = measured[0].lags
    gates = np.array(measured[0].keep_TH)
    return MemoryReach(
        name=results[0].memory,
        label=results[0].label,
        tasks=tasks,
        measured_on=main,
        gradient=curve_over_seeds(lags, [one.gradient for one in measured], log=True),
        direct=curve_over_seeds(lags, [one.direct for one in measured], log=True),
        gradient_untrained=curve_over_seeds(lags, [one.gradient_untrained for one in measured], log=True),
        tau=sorted(value for one in measured for value in one.tau),
        lyapunov=float(np.mean([one.lyapunov for one in measured])),
        gates=gates[:, np.argsort(-gates.mean(0))].tolist(),
        cues=measured[0].cues,
        rows=measured[0].rows,
        seconds=sum(one.seconds for one in results),
    )


def task_result(results: Sequence[RecallTrainingResult], plan: RecallPlan) -> TaskResult:
    """Returns the result of one memory on one task over its seeds."""
    delays, accuracy = np.array(plan.delays), np.array([one.accuracy for one in results])
    trained = delays <= plan.recipe.max_delay
    tested = delays[trained]
    budgets = max((one.curve.steps for one in results), key=len)
    learned_KSX = np.stack([one.curve.accuracy_of_kept(budgets) for one in results])
    return TaskResult(
        accuracy=curve_over_seeds(tested, accuracy[:, trained], limits=(0, 1)),
        extrapolated=curve_over_seeds(delays[~trained], accuracy[:, ~trained], limits=(0, 1)),
        followed=curve_over_seeds(delays, [one.followed for one in results], limits=(0, 1)),
        horizon=horizon(tested, accuracy[:, trained].mean(0), CHANCE),
        horizons=tuple(horizon(tested, one[trained], CHANCE) for one in accuracy),
        trained_steps=tuple(one.curve.steps[-1] for one in results),
        converged=tuple(one.curve.converged for one in results),
        steps_to_learn=tuple(
            _steps_to_learn(delay, [steps_to_learn(budgets, one_SX[:, place]) for one_SX in learned_KSX])
            for place, delay in enumerate(tested.tolist())
        ),
        budgets=tuple(budgets),
        horizons_by_budget=tuple(horizon(tested, mean_X, CHANCE) for mean_X in learned_KSX.mean(0)),
    )


def _steps_to_learn(delay: int, seeds: Sequence[int | None]) -> StepsToLearn:
    median = float(np.median([np.inf if steps is None else steps for steps in seeds]))
    return StepsToLearn(delay, tuple(seeds), median if np.isfinite(median) else None)
