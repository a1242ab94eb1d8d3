"""The result of a recall measurement: curves over seeds, horizons, and a comparison with theory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from videomem.experiments.memories import distinct_labels
from videomem.experiments.memory_horizon.recall_jobs import RecallPlan, RecallTrainingResult
from videomem.experiments.memory_horizon.recall_tasks import CHANCE
from videomem.statistics.horizons import Curve, Horizon, curve_over_seeds, horizon

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TaskResult:
    """One memory on one task.

    Attributes:
        accuracy: Accuracy at each delay up to the longest training delay.
        extrapolated: Accuracy at longer delays.
        followed: How far the prediction follows the cue alone, at all delays.
        horizon: Horizon of the mean over seeds.
        horizons: Horizon of each seed.
    """

    accuracy: Curve
    extrapolated: Curve
    followed: Curve
    horizon: Horizon
    horizons: tuple[Horizon, ...]


@dataclass(frozen=True)
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
        tau: Time constants of the neurons of all seeds in frames, sorted; 0 where nothing is kept.
        lyapunov: Largest Lyapunov exponent per frame, mean over seeds; -inf where no state is carried.
        gates: Retention (T, H) along one sequence, with neurons sorted by their mean.
        cues: Positions of the cues in this sequence.
        rows: Rows of its frames in the frame table.
        seconds: Training time of all seeds and tasks.
    """

    name: str
    label: str
    tasks: dict[str, TaskResult]
    measured_on: str
    gradient: Curve
    direct: Curve
    gradient_untrained: Curve
    tau: list[float]
    lyapunov: float
    gates: list[list[float]]
    cues: list[int]
    rows: list[int]
    seconds: float


@dataclass(frozen=True)
class Expectation:
    """A theoretical expectation and what was found; `open` if longer delays would be needed to decide."""

    claim: str
    found: Literal["confirmed", "refuted", "open"]
    evidence: str


@dataclass(frozen=True)
class RecallResult:
    """The complete result of a recall measurement.

    Attributes:
        schema_version: Version of the schema of this result.
        plan: The plan as plain data.
        features: Description of the backbone.
        memories: Result of each memory, in the order of the plan.
        expectations: Theoretical expectations and what was found.
        command: Command line.
        versions: Versions of the libraries.
        seconds: Run time, without cached trainings.
    """

    schema_version: int
    plan: dict[str, Any]
    features: str
    memories: tuple[MemoryReach, ...]
    expectations: tuple[Expectation, ...] = ()
    command: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def as_plain(self) -> dict[str, Any]:
        return asdict(self)


def reaches(results: Sequence[RecallTrainingResult], plan: RecallPlan) -> tuple[MemoryReach, ...]:
    """Returns one result per memory over its seeds."""
    found = [_reach([one for one in results if one.memory == name], plan) for name in plan.memories]
    # A label does not show every setting of a config, so two memories may have the same one.
    labels = distinct_labels([one.label for one in found], list(plan.memories), list(plan.memories))
    return tuple(replace(one, label=label) for one, label in zip(found, labels, strict=True))


def _reach(results: Sequence[RecallTrainingResult], plan: RecallPlan) -> MemoryReach:
    tasks = {task: _task([one for one in results if one.task == task], plan) for task in plan.tasks}
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


def _task(results: Sequence[RecallTrainingResult], plan: RecallPlan) -> TaskResult:
    delays, accuracy = np.array(plan.delays), np.array([one.accuracy for one in results])
    trained = delays <= plan.recipe.max_delay
    tested = delays[trained]
    return TaskResult(
        accuracy=curve_over_seeds(tested, accuracy[:, trained]),
        extrapolated=curve_over_seeds(delays[~trained], accuracy[:, ~trained]),
        followed=curve_over_seeds(delays, [one.followed for one in results]),
        horizon=horizon(tested, accuracy[:, trained].mean(0), CHANCE),
        horizons=tuple(horizon(tested, one[trained], CHANCE) for one in accuracy),
    )


def expectations(memories: Sequence[MemoryReach], plan: RecallPlan) -> tuple[Expectation, ...]:
    """Compares theoretical expectations for the measured memories with their horizons."""
    by_name = {one.name: one for one in memories}
    found = [_memoryless(by_name[name]) for name in ("none", "leaky_zero") if name in by_name]
    if "leaky" in by_name:
        found.append(_fades(by_name["leaky"]))
    if "leaky_sum" in by_name and {"latch", "update"} <= set(plan.tasks):
        found.append(_keeps_all(by_name["leaky_sum"]))
    if "rnn" in by_name:
        found.append(_within(by_name["rnn"], "rnn reaches some tens of frames", 10, 100))
    for name in ("gated", "gru", "lstm", "mingru", "minlstm"):
        if name in by_name:
            found.append(_within(by_name[name], f"{name} reaches hundreds of frames", 100, np.inf))
    return tuple(found)


def _expectation(claim: str, holds: bool | None, one: MemoryReach) -> Expectation:
    horizons = "; ".join(f"{task} {of_task.horizon}" for task, of_task in one.tasks.items())
    found: Literal["confirmed", "refuted", "open"] = "open" if holds is None else "confirmed" if holds else "refuted"
    return Expectation(claim, found, f"horizon in frames: {horizons}")


def _memoryless(one: MemoryReach) -> Expectation:
    holds = all(of_task.horizon.kind == "not learned" for of_task in one.tasks.values())
    return _expectation(f"{one.label} keeps nothing", holds, one)


def _fades(one: MemoryReach) -> Expectation:
    """After some time constants, alpha^k times the cue is small compared with the terms of the frames since."""
    tau = one.tau[-1]
    return _within(one, f"{one.label} reaches one to five time constants of {tau:.3g} frames", tau, 5 * tau)


def _keeps_all(one: MemoryReach) -> Expectation:
    latch, update = one.tasks["latch"].horizon, one.tasks["update"].horizon
    holds = latch.kind != "not learned" and update.kind == "not learned"
    return _expectation(f"{one.label} keeps everything but not its order: it learns latch, not update", holds, one)


def _within(one: MemoryReach, claim: str, low: float, high: float) -> Expectation:
    """Returns whether every horizon is in a range; `open` if a horizon beyond the longest delay might be."""
    found = [of_task.horizon for of_task in one.tasks.values()]
    if any(
        here.frames is None or here.frames > high or (here.kind == "crossed" and here.frames < low) for here in found
    ):
        return _expectation(claim, False, one)
    decided = all(here.frames is not None and low <= here.frames for here in found)
    ended = all(here.kind == "crossed" for here in found) or high == np.inf
    return _expectation(claim, True if decided and ended else None, one)
