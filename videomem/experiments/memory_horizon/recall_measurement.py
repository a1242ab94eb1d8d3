"""The recall measurement, from rendering the frames to the result."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.clips import made_by
from videomem.experiments.memory_horizon.recall_jobs import RecallPlan, RecallTrainingResult, plan_of, run_recall
from videomem.experiments.memory_horizon.recall_result import SCHEMA_VERSION, RecallResult, reaches
from videomem.experiments.memory_horizon.recall_tasks import (
    LEAD,
    TASKS,
    FrameTable,
    features_of,
    recall_frames,
    render_frames,
)
from videomem.experiments.memory_horizon.recall_training import RecallRecipe
from videomem.features.backbone import BackboneSettings
from videomem.utils.progress import interactive_console, training_progress

NUM_DRAWINGS, NUM_TEST_DRAWINGS = 48, 8
LIBRARIES = ("videomem", "torch", "pytorch-lightning", "numpy", "scipy")


def measure_recall(
    plan: RecallPlan,
    backbone: BackboneSettings,
    cache: Path,
    num_drawings: int = NUM_DRAWINGS,
    num_processes: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
    command: str = "",
    finished: Callable[[RecallTrainingResult], None] = lambda result: None,
) -> tuple[RecallResult, FrameTable]:
    """Renders the frames, extracts their features, runs the training jobs that are not cached, and returns the result.

    Args:
        cache: Folder of training results, which different plans can share.
    """
    started, (table, features_ND) = time.perf_counter(), _frames(num_drawings, backbone)
    frames = recall_frames(table, features_ND, NUM_TEST_DRAWINGS, plan.recipe.projection_dim)
    found = reaches(run_recall(plan, frames, cache, num_processes, tell, finished), plan)
    result = RecallResult(
        schema_version=SCHEMA_VERSION,
        plan=plan,
        num_frames=LEAD + plan.recipe.max_delay,
        features=made_by(backbone),
        memories=found,
        command=command,
        versions=versions(),
        seconds=time.perf_counter() - started,
    )
    return result, table


def memory_horizon(
    memories: Sequence[str] = ("none", "leaky", "rnn", "gated", "gru", "lstm"),
    tasks: Sequence[str] = tuple(TASKS),
    num_seeds: int = 3,
    recipe: RecallRecipe = RecallRecipe(),
    backbone: BackboneSettings = BackboneSettings(weights="random"),
    num_drawings: int = NUM_DRAWINGS,
    num_test: int = 256,
    cache: Path | str = "recall_training_results",
    num_processes: int = 1,
    progress: bool = True,
) -> RecallResult:
    """Measure how many frames back memories reach, and how many training steps that takes, as `videomem memory` does.

    Args:
        memories: Names of heads in `configs/head/`, or paths of such YAML files.
        tasks: `latch` (recall the only cue) and `update` (recall the latest of three cues), or one of them.
        num_seeds: Training jobs of each memory on each task.
        recipe: How heads are trained, with the longest training delay; tests go up to twice this delay.
        backbone: Backbone that computes the features of the pictures.
        num_drawings: Drawings of each picture, including those that are for testing only.
        num_test: Test sequences of each delay.
        cache: Folder of training results; jobs with a result in it are not trained again.
        num_processes: Training jobs in parallel.
        progress: Whether to show progress in a notebook or on a terminal.
    Raises:
        VideomemError: If a memory or a task is unknown, or names a readout.
    """
    if unknown := [task for task in tasks if task not in TASKS]:
        raise VideomemError(f"{unknown[0]!r} is not a recall task; choose from {', '.join(TASKS)}")
    plan = plan_of(memories, recipe, tasks, num_seeds, num_test)
    with training_progress(interactive_console() if progress else None) as tell:
        return measure_recall(plan, backbone, Path(cache), num_drawings, num_processes, tell)[0]


@lru_cache(maxsize=1)
def _frames(num_drawings: int, backbone: BackboneSettings) -> tuple[FrameTable, Tensor]:
    """Returns the frames and their features, cached because the backbone takes longer than a short training."""
    table = render_frames(num_drawings)
    return table, features_of(table, backbone)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that determine the numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
