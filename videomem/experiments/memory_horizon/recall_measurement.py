"""The recall measurement, from rendering the frames to the result."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from videomem.experiments.clips import made_by
from videomem.experiments.memory_horizon.horizon_result import SCHEMA_VERSION, RecallResult, expectations, reaches
from videomem.experiments.memory_horizon.recall_frames import FrameTable, features_of, recall_frames, render_frames
from videomem.experiments.memory_horizon.recall_jobs import RecallPlan, run_recall
from videomem.experiments.memory_horizon.recall_tasks import LEAD
from videomem.features.backbone import BackboneSettings

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
        plan={**asdict(plan), "measured_frames": LEAD + plan.recipe.max_delay},
        features=made_by(backbone),
        memories=found,
        expectations=expectations(found, plan),
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
