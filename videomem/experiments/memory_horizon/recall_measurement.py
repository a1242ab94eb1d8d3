"""The recall measurement, from rendering the frames to the result: horizons over seeds, and a comparison with theory.

`memory.json` is a `RecallResult` as JSON.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from videomem.experiments.clips import made_by
from videomem.experiments.memories import distinct_labels
from videomem.experiments.memory_horizon.recall_jobs import RecallPlan, RecallTrainingResult, run_recall
from videomem.experiments.memory_horizon.recall_tasks import (
    CHANCE,
    LEAD,
    FrameTable,
    features_of,
    recall_frames,
    render_frames,
)
from videomem.features.backbone import BackboneSettings
from videomem.statistics.horizons import Curve, Horizon, curve_over_seeds, horizon
from videomem.utils.result_models import Number, Text, result_model

SCHEMA_VERSION = 1
NUM_DRAWINGS, NUM_TEST_DRAWINGS = 48, 8
LIBRARIES = ("videomem", "torch", "pytorch-lightning", "numpy", "scipy")


@result_model
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
        tau: Time constants of the neurons of all seeds in frames, sorted; 0 where nothing is kept.
        lyapunov: Largest Lyapunov exponent per frame, mean over seeds; -inf where no state is carried.
        gates: Retention (T, H) along one sequence, with neurons sorted by their mean.
        cues: Positions of the cues in this sequence.
        rows: Rows of its frames in the frame table.
        seconds: Training time of all seeds and tasks.
    """

    name: Text
    label: Text
    tasks: dict[Text, TaskResult]
    measured_on: Text
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
class Expectation:
    """A theoretical expectation and what was found.

    Attributes:
        claim: The expectation.
        found: Whether the horizons agree with it; `open` if longer delays would be needed to decide.
        evidence: The horizons.
    """

    claim: Text
    found: Literal["confirmed", "refuted", "open"]
    evidence: Text


@result_model
class RecallResult:
    """The complete result of a recall measurement.

    Attributes:
        schema_version: Version of this schema; other versions are refused.
        plan: What was trained and tested.
        num_frames: Number of frames of the sequences that gradients and time constants are measured on.
        features: Description of the backbone.
        memories: Result of each memory, in the order of the plan.
        expectations: Theoretical expectations and what was found.
        command: Command line.
        versions: Versions of the libraries.
        seconds: Run time, without cached trainings.
    """

    schema_version: int
    plan: RecallPlan
    num_frames: int
    features: Text
    memories: tuple[MemoryReach, ...]
    expectations: tuple[Expectation, ...]
    command: Text
    versions: dict[Text, Text]
    seconds: Number


def measure_recall(
    plan: RecallPlan,
    backbone: BackboneSettings,
    cache: Path,
    num_drawings: int = NUM_DRAWINGS,
    num_processes: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
    command: str = "",
) -> tuple[RecallResult, FrameTable]:
    """Renders the frames, extracts their features, runs the training jobs that are not cached, and returns the result.

    Args:
        plan: What is trained and tested.
        backbone: Backbone that extracts the features.
        cache: Folder of training results, which different plans can share.
        num_drawings: Number of drawings of each frame, including `NUM_TEST_DRAWINGS` for testing.
        num_processes: Number of trainings in parallel.
        tell: Called with the number of finished jobs and the number of all jobs.
        command: Command line, for the result.
    """
    started, (table, features_ND) = time.perf_counter(), _frames(num_drawings, backbone)
    frames = recall_frames(table, features_ND, NUM_TEST_DRAWINGS, plan.recipe.projection_dim)
    found = reaches(run_recall(plan, frames, cache, num_processes, tell), plan)
    result = RecallResult(
        schema_version=SCHEMA_VERSION,
        plan=plan,
        num_frames=LEAD + plan.recipe.max_delay,
        features=made_by(backbone),
        memories=found,
        expectations=expectations(found),
        command=command,
        versions=versions(),
        seconds=time.perf_counter() - started,
    )
    return result, table


@lru_cache(maxsize=1)
def _frames(num_drawings: int, backbone: BackboneSettings) -> tuple[FrameTable, Tensor]:
    """Returns the frames and their features, cached because the backbone takes longer than a short training."""
    table = render_frames(num_drawings)
    return table, features_of(table, backbone)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that determine the numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


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


def expectations(memories: Sequence[MemoryReach]) -> tuple[Expectation, ...]:
    """Compares theoretical expectations for the measured memories with their horizons."""
    found: list[Expectation] = []
    for one in memories:
        horizons = {task: of_task.horizon for task, of_task in one.tasks.items()}
        holds: bool | None
        learned = {task for task, horizon in horizons.items() if horizon.kind != "not learned"}
        if one.name in ("none", "leaky_zero"):
            claim, holds = f"{one.label} keeps nothing", not learned
        elif one.name == "leaky_sum" and {"latch", "update"} <= horizons.keys():
            claim = f"{one.label} keeps everything but not its order: it learns latch, not update"
            holds = "latch" in learned and "update" not in learned
        elif one.name == "leaky":
            # After some time constants, alpha^k times the cue is small compared with the terms of the frames since.
            claim = f"{one.label} reaches one to five time constants of {one.tau[-1]:.3g} frames"
            holds = _within(horizons.values(), one.tau[-1], 5 * one.tau[-1])
        elif one.name == "rnn":
            claim, holds = "rnn reaches some tens of frames", _within(horizons.values(), 10, 100)
        elif one.name in ("gated", "gru", "lstm", "mingru", "minlstm"):
            claim, holds = f"{one.name} reaches hundreds of frames", _within(horizons.values(), 100, np.inf)
        else:
            continue
        evidence = "; ".join(f"{task} {horizon}" for task, horizon in horizons.items())
        found.append(Expectation(claim, _FOUND[holds], f"horizon in frames: {evidence}"))
    return tuple(found)


_FOUND: dict[bool | None, Literal["confirmed", "refuted", "open"]] = {
    True: "confirmed", False: "refuted", None: "open"
}  # fmt: skip


def _within(horizons: Iterable[Horizon], low: float, high: float) -> bool | None:
    """Returns whether every horizon is in a range; None if a horizon beyond the longest delay might be."""
    found = [(one.frames, one.kind) for one in horizons]
    if any(frames is None or frames > high or (kind == "crossed" and frames < low) for frames, kind in found):
        return False
    decided = all(frames is not None and frames >= low for frames, _ in found)
    ended = high == np.inf or all(kind == "crossed" for _, kind in found)
    return True if decided and ended else None
