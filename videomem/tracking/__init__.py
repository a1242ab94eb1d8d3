"""Tracking with Weights & Biases (offline by default), and figures for TensorBoard."""

from videomem.tracking.artifacts import data_artifact, log_report, run_of_checkpoints, track_export, use_artifact
from videomem.tracking.lightning import AtomicCSVLogger, LogConfusionMatrix, RunRecord, TensorBoardLogger, WandbLogger
from videomem.tracking.logged_results import (
    MemoryRun,
    log_confusion,
    log_order_results,
    log_result,
    log_strips,
    log_trainings,
    log_videos,
    track_memories,
)
from videomem.tracking.runs import Mode, Run, Tracking, finishing, start_run, without_paths

__all__ = [
    "AtomicCSVLogger", "LogConfusionMatrix", "MemoryRun", "Mode", "Run", "RunRecord", "TensorBoardLogger",
    "Tracking", "WandbLogger", "data_artifact", "finishing", "log_confusion", "log_order_results", "log_report",
    "log_result", "log_strips", "log_trainings", "log_videos", "run_of_checkpoints", "start_run", "track_export",
    "track_memories", "use_artifact", "without_paths",
]  # fmt: skip
