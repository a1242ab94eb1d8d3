"""Tracking with Weights & Biases (offline by default), and figures for TensorBoard."""

from videomem.tracking.artifacts import (
    checkpoint_artifact,
    data_artifact,
    group_of_checkpoint,
    project_of,
    run_of_checkpoints,
    track_export,
    use_artifact,
)
from videomem.tracking.lightning import LogConfusionMatrix, RunRecord, WandbLogger
from videomem.tracking.logged_results import (
    Memory,
    log_confusion,
    log_order_results,
    log_result,
    log_strips,
    track_memories,
)
from videomem.tracking.runs import Mode, group_of, run_settings, start_run, without_paths

__all__ = [
    "LogConfusionMatrix",
    "Memory",
    "Mode",
    "RunRecord",
    "WandbLogger",
    "checkpoint_artifact",
    "data_artifact",
    "group_of",
    "group_of_checkpoint",
    "log_confusion",
    "log_order_results",
    "log_result",
    "log_strips",
    "project_of",
    "run_of_checkpoints",
    "run_settings",
    "start_run",
    "track_export",
    "track_memories",
    "use_artifact",
    "without_paths",
]
