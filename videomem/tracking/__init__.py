"""Tracking with Weights & Biases (offline by default), and figures for TensorBoard."""

from videomem.tracking.artifacts import data_artifact, run_of_checkpoints, track_export, use_artifact
from videomem.tracking.lightning import (
    AtomicCSVLogger,
    LogConfusionMatrix,
    RunRecord,
    TensorBoardLogger,
    WandbLogger,
)
from videomem.tracking.logged_results import (
    MemoryRun,
    log_confusion,
    log_order_results,
    log_result,
    log_strips,
    track_memories,
)
from videomem.tracking.runs import Mode, group_of, start_run, without_paths

__all__ = [
    "AtomicCSVLogger", "LogConfusionMatrix", "MemoryRun", "Mode", "RunRecord", "TensorBoardLogger", "WandbLogger",
    "data_artifact", "group_of", "log_confusion", "log_order_results", "log_result", "log_strips",
    "run_of_checkpoints", "start_run",
    "track_export", "track_memories", "use_artifact", "without_paths",
]  # fmt: skip
