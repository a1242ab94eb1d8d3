"""All trainings of a recall measurement: memories x tasks x seeds, each kept as it is done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videomem.errors import VideomemError
from videomem.experiments.memory_horizon.gradients import sensitivity, untrained
from videomem.experiments.memory_horizon.recall_frames import RecallFrames
from videomem.experiments.memory_horizon.recall_training import Recipe, as_batch, recall, train_recall, unseen_sequences
from videomem.experiments.memory_horizon.time_constants import lyapunov, retention
from videomem.experiments.trace import trace
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.atomic import write_atomic
from videomem.utils.parallel_jobs import run_parallel

SCHEMA = 2  # Raise it when a change of code changes what an outcome is.
GATE_DELAY = 32  # of the sequence whose retention is kept as a picture


@dataclass(frozen=True)
class RecallPlan:
    """What is trained and what is asked.

    Attributes:
        memories: Plain descriptions by name.
        tasks: Of `tasks.TASKS`.
        num_seeds: Trainings of each memory on each task.
        recipe: How heads are trained.
        delays: Delays that are tested, in frames; those above `recipe.max_delay` are extrapolation.
        num_test: Test sequences of each delay.
        num_measured: Test sequences of the longest training delay on which gradients and retention are measured.
        num_probes: Backward passes per gradient.
    """

    memories: dict[str, dict[str, Any]]
    tasks: tuple[str, ...] = ("latch", "update")
    num_seeds: int = 3
    recipe: Recipe = field(default_factory=Recipe)
    delays: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    num_test: int = 256
    num_measured: int = 8
    num_probes: int = 4


@dataclass(frozen=True)
class Inside:
    """What was measured inside a head, on sequences of the longest training delay.

    Attributes:
        lags: Lags of the gradients, in frames.
        gradient: Of the answer at the query, relative to lag 0, trained.
        direct: Of it the part along the retention alone.
        gradient_untrained: Of a head with fresh weights.
        tau: Time constant of each neuron, in frames, rising.
        lyapunov: Largest Lyapunov exponent, per frame; -inf where no state is carried.
        keep_TH: Retention of each neuron at each frame of one shorter sequence.
        cues: Places of the cues in that sequence.
        rows: Rows of its frames in the frame table.
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
class RecallOutcome:
    """One training and what was measured on it.

    Attributes:
        memory: The memory's name.
        label: The memory with its parameters.
        task: The task.
        seed: The seed.
        accuracy: At each delay of the plan.
        followed: How far the answer follows the cue alone, at each delay: see `recall.recall`.
        seconds: Time to train.
        inside: What was measured inside the head; None but for the last task of the plan.
    """

    memory: str
    label: str
    task: str
    seed: int
    accuracy: list[float]
    followed: list[float]
    seconds: float
    inside: Inside | None


def run_recall(
    plan: RecallPlan,
    frames: RecallFrames,
    cache: Path,
    num_processes: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[RecallOutcome]:
    """Train what the cache lacks and return every outcome.

    Args:
        plan: What to train.
        frames: The frames.
        cache: Folder of outcomes, named by their causes; each is written when it is done.
        num_processes: Trainings in parallel.
        tell: Called with the number of trainings done and of all.
    Raises:
        VideomemError: If training diverges, or the file of an outcome is damaged.
    """
    calls = [
        (task, name, seed, cache / f"{_key(plan, frames, name, task, seed)}.json")
        for seed in range(plan.num_seeds)
        for task in plan.tasks
        for name in plan.memories
    ]
    todo = [call for call in calls if not call[3].is_file()]
    done = len(calls) - len(todo)
    tell(done, len(calls))
    cache.mkdir(parents=True, exist_ok=True)
    for finished in run_parallel(_train_and_keep, todo, (plan, frames), min(num_processes, len(todo))):
        done += finished
        tell(done, len(calls))
    return [_read_outcome(call[3]) for call in calls]


def _read_outcome(path: Path) -> RecallOutcome:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        inside = plain["inside"]
        return RecallOutcome(**{**plain, "inside": None if inside is None else Inside(**inside)})
    except (ValueError, KeyError, TypeError) as error:
        raise VideomemError(f"{path}: a damaged outcome ({type(error).__name__}); delete it and run again") from error


def _key(plan: RecallPlan, frames: RecallFrames, name: str, task: str, seed: int) -> str:
    """Hash of every cause of an outcome."""
    protocol = {
        field: value for field, value in asdict(plan).items() if field not in ("memories", "tasks", "num_seeds")
    }
    digest = sha256(frames.x_ND.contiguous().numpy().tobytes())
    digest.update(frames.test_variants.tobytes())
    causes = [SCHEMA, torch.__version__, name, plan.memories[name], task, task == plan.tasks[-1], seed, protocol,
              digest.hexdigest()]  # fmt: skip
    return sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()[:32]


def _train_and_keep(task: str, name: str, seed: int, path: Path, shared: tuple[RecallPlan, RecallFrames]) -> None:
    outcome = train_and_measure(*shared, task, name, seed)
    write_atomic(path, (json.dumps(asdict(outcome)) + "\n").encode())


def train_and_measure(plan: RecallPlan, frames: RecallFrames, task: str, name: str, seed: int) -> RecallOutcome:
    """Train one head and ask it to recall; on the plan's last task, look inside it too."""
    started = time.perf_counter()
    classifier = train_recall(task, plan.memories[name], frames, plan.recipe, seed)
    seconds, head = time.perf_counter() - started, classifier.head
    accuracy, followed = recall(head, task, frames, plan.delays, plan.num_test)
    return RecallOutcome(
        memory=name,
        label=head.label.removesuffix(" last"),
        task=task,
        seed=seed,
        accuracy=accuracy,
        followed=followed,
        seconds=seconds,
        inside=_look_inside(plan, frames, classifier, task, seed) if task == plan.tasks[-1] else None,
    )


def _look_inside(plan: RecallPlan, frames: RecallFrames, classifier: LitClassifier, task: str, seed: int) -> Inside:
    head = classifier.head
    longest = as_batch(unseen_sequences(task, frames, plan.recipe.max_delay, plan.num_measured), frames).x
    lags = [0, *(delay for delay in plan.delays if delay <= plan.recipe.max_delay)]
    trained = sensitivity(head, longest, lags, seed, plan.num_probes)
    fresh = sensitivity(untrained(classifier, seed), longest, lags, seed, plan.num_probes)
    shown = unseen_sequences(task, frames, GATE_DELAY, 1)
    with torch.inference_mode():
        keep_TH = trace(head, as_batch(shown, frames).x).layers[-1].keep_BTH[0]
    return Inside(
        lags=lags,
        gradient=list(trained.gradient),
        direct=list(trained.direct),
        gradient_untrained=list(fresh.gradient),
        tau=np.sort(retention(head, longest)[-1].tau_H).tolist(),
        lyapunov=lyapunov(head, longest)[-1],
        keep_TH=keep_TH.double().numpy().round(3).tolist(),
        cues=np.sort(shown.cues_BN[0]).tolist(),
        rows=shown.rows_BT[0].tolist(),
    )
