"""The training jobs of a recall measurement: memories x tasks x seeds, each result cached in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videomem.experiments.memories import read_memories
from videomem.experiments.memory_horizon.gradients import sensitivity, untrained
from videomem.experiments.memory_horizon.learning_curves import LearningCurve
from videomem.experiments.memory_horizon.recall_tasks import TASKS, RecallFrames
from videomem.experiments.memory_horizon.recall_training import (
    RecallRecipe,
    as_batch,
    recall,
    train_recall,
    unseen_sequences,
)
from videomem.experiments.memory_horizon.time_constants import lyapunov, retention
from videomem.experiments.trace import trace
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.atomic import write_atomic
from videomem.utils.checked_json import dump_checked, read_checked
from videomem.utils.parallel_jobs import run_cached
from videomem.utils.result_models import result_model, validated

SCHEMA = 4  # Increase it when a change of the code changes the content of a training result.
GATE_DELAY = 32  # delay in frames of the sequence whose retention is kept for the figure


@result_model
class RecallPlan:
    """What is trained and tested.

    Attributes:
        memories: Memories as plain data, by name.
        tasks: Names of tasks in `recall_tasks.TASKS`.
        num_seeds: Number of trainings of each memory on each task.
        recipe: Training hyperparameters.
        delays: Test delays in frames. Delays above `recipe.max_delay` test extrapolation.
        num_test: Number of test sequences per delay.
        num_measured: Number of test sequences, with the longest training delay, for gradients and retention.
        num_probes: Number of backward passes per gradient.
    """

    memories: dict[str, dict[str, Any]]
    tasks: tuple[str, ...] = ("latch", "update")
    num_seeds: int = 3
    recipe: RecallRecipe = RecallRecipe()
    delays: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    num_test: int = 256
    num_measured: int = 8
    num_probes: int = 4

    @property
    def trained_delays(self) -> list[int]:
        """Test delays up to the longest training delay."""
        return [delay for delay in self.delays if delay <= self.recipe.max_delay]


def delays_to_test(max_delay: int) -> tuple[int, ...]:
    """Returns the powers of two below the longest training delay, this delay, and twice this delay."""
    below = (2**power for power in range(max_delay.bit_length()) if 2**power < max_delay)
    return (*below, max_delay, 2 * max_delay)


def plan_of(
    names: Sequence[str],
    recipe: RecallRecipe,
    tasks: Sequence[str] = tuple(TASKS),
    num_seeds: int = 3,
    num_test: int = 256,
) -> RecallPlan:
    """Returns the plan for heads of `configs/head/`, with delays up to twice the longest one in training."""
    memories, in_order = read_memories(names, recipe.hidden_dim), tuple(task for task in TASKS if task in tasks)
    return RecallPlan(memories, in_order, num_seeds, recipe, delays_to_test(recipe.max_delay), num_test)


@dataclass(frozen=True)
class RecallMeasures:
    """Gradients, time constants and retention of a head, as in `recall_measurement.MemoryReach`, at each of `lags`.

    They are measured on sequences with the longest training delay; `keep_TH`, `cues` and `rows` are those of one
    sequence with delay `GATE_DELAY`.
    """

    lags: list[int]
    gradient: list[float]
    direct: list[float]
    gradient_untrained: list[float]
    tau: list[float]
    lyapunov: float
    keep_TH: list[list[float]]
    cues: list[int]
    rows: list[int]


@dataclass(frozen=True)
class RecallTrainingResult:
    """One training and its test results.

    Attributes:
        memory: Name of the memory.
        label: The memory with its parameters.
        task: Name of the task.
        seed: Seed of the training.
        curve: Checkpoints of the training, at the delays up to the longest training delay.
        accuracy: Accuracy of the kept weights on the test sequences, at each delay of the plan.
        followed: How far the answer follows the cue alone at each delay; see `recall_training.recall`.
        seconds: Training time.
        measures: Measurements on the head; None except for the last task of the plan.
    """

    memory: str
    label: str
    task: str
    seed: int
    curve: LearningCurve
    accuracy: list[float]
    followed: list[float]
    seconds: float
    measures: RecallMeasures | None


def run_recall(
    plan: RecallPlan,
    frames: RecallFrames,
    cache: Path,
    num_processes: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
    finished: Callable[[RecallTrainingResult], None] = lambda result: None,
) -> list[RecallTrainingResult]:
    """Runs the training jobs that are not cached, and returns the results of all.

    Args:
        cache: Folder of training results. Each file is named by a hash of everything that determines the result.
    Raises:
        VideomemError: If a training diverges, or the file of a result is damaged.
    """
    calls: dict[tuple[Path, ...], tuple[str, str, int]] = {
        (cache / f"{_key(plan, frames, name, task, seed)}.json",): (task, name, seed)
        for seed in range(plan.num_seeds)
        for task in plan.tasks
        for name in plan.memories
    }
    cache.mkdir(parents=True, exist_ok=True)
    run_cached(
        _train_and_write, calls, (plan, frames), num_processes, tell, finished=lambda paths: finished(_read(paths[0]))
    )
    return [_read(path) for (path,) in calls]


def _read(path: Path) -> RecallTrainingResult:
    remedy = "delete the file and run the command again"
    return validated(RecallTrainingResult, read_checked(path, _identity(path), remedy), str(path), remedy)


def _identity(path: Path) -> dict[str, str]:
    return {"kind": "recall training", "key": path.stem}


def _key(plan: RecallPlan, frames: RecallFrames, name: str, task: str, seed: int) -> str:
    """Returns a hash of everything that determines a training result."""
    jobs = ("memories", "tasks", "num_seeds")  # A plan with more jobs shares results with others.
    protocol = {key: value for key, value in asdict(plan).items() if key not in jobs}
    digest = sha256(frames.x_ND.contiguous().numpy().tobytes())
    digest.update(frames.test_variants.tobytes())
    causes = [SCHEMA, torch.__version__, name, plan.memories[name], task, task == plan.tasks[-1], seed, protocol,
              digest.hexdigest()]  # fmt: skip
    return sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()[:32]


def _train_and_write(
    task: str, name: str, seed: int, paths: tuple[Path, ...], shared: tuple[RecallPlan, RecallFrames]
) -> None:
    result = train_and_measure(*shared, task, name, seed)
    write_atomic(paths[0], dump_checked(_identity(paths[0]), asdict(result)).encode())


def train_and_measure(plan: RecallPlan, frames: RecallFrames, task: str, name: str, seed: int) -> RecallTrainingResult:
    """Trains one head and tests its recall. On the last task of the plan, also measures the head."""
    started = time.perf_counter()
    classifier, curve = train_recall(task, plan.memories[name], frames, plan.recipe, plan.trained_delays, seed)
    seconds, head = time.perf_counter() - started, classifier.head
    accuracy, followed = recall(head, task, frames, plan.delays, plan.num_test)
    return RecallTrainingResult(
        memory=name,
        label=head.label.removesuffix(" last"),
        task=task,
        seed=seed,
        curve=curve,
        accuracy=accuracy,
        followed=followed,
        seconds=seconds,
        measures=_measure(plan, frames, classifier, task, seed) if task == plan.tasks[-1] else None,
    )


def _measure(plan: RecallPlan, frames: RecallFrames, classifier: LitClassifier, task: str, seed: int) -> RecallMeasures:
    head = classifier.head
    longest = as_batch(unseen_sequences(task, frames, plan.recipe.max_delay, plan.num_measured), frames).x
    lags = [0, *plan.trained_delays]
    trained = sensitivity(head, longest, lags, seed, plan.num_probes)
    fresh = sensitivity(untrained(classifier, seed), longest, lags, seed, plan.num_probes)
    shown = unseen_sequences(task, frames, GATE_DELAY, 1)
    with torch.inference_mode():
        keep_TH = trace(head, as_batch(shown, frames).x).layers[-1].keep_BTH[0]
    return RecallMeasures(
        lags=lags,
        gradient=list(trained.gradient),
        direct=list(trained.direct),
        gradient_untrained=list(fresh.gradient),
        tau=np.sort(retention(head, longest)[-1]).tolist(),
        lyapunov=lyapunov(head, longest)[-1],
        keep_TH=keep_TH.double().numpy().round(3).tolist(),
        cues=np.sort(shown.cues_BN[0]).tolist(),
        rows=shown.rows_BT[0].tolist(),
    )
