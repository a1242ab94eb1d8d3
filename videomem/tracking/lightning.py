"""Loggers and callbacks for Lightning: W&B, and the table of metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.core.saving import save_hparams_to_yaml
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers import TensorBoardLogger as _LightningTensorBoardLogger
from pytorch_lightning.loggers import WandbLogger as _LightningWandbLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities import rank_zero_only

from videomem.errors import VideomemError
from videomem.tracking.artifacts import Policy, checkpoint_artifact, data_artifact, log_artifact, use_artifact
from videomem.tracking.logged_results import log_confusion
from videomem.tracking.runs import Mode, Tracking, environment, files_beside, run_settings, start_run, without_paths
from videomem.training.checkpoint import RUN_RECORD
from videomem.training.data_module import VideoDataModule
from videomem.utils.atomic import atomic_path, write_atomic
from videomem.utils.csv_cells import csv_lines
from videomem.utils.plotting import confusion_figure


class WandbLogger(_LightningWandbLogger):
    """Lightning's W&B logger with videomem's defaults.

    Args:
        project: W&B project; default: WANDB_PROJECT, or `videomem`.
        mode: `offline` (upload later with `wandb sync`), `online`, or `disabled`; default: `offline`, unless WANDB_MODE
            is `disabled`.
        save_dir: Folder for the files of the run; default: the run directory.
        name: Name of the run; default for `fit`: the name of the run directory.
        group: Group of the run; default: WANDB_RUN_GROUP, or for `fit` the sweep or the name of the data set.
        job_type: Kind of run within the group; default for `fit`: `train`.
        tags: Tags of the run; default: WANDB_TAGS.
        log_model: Log the last and the best checkpoint as artifacts after training; `all` logs each one when saved.
        machine_details: Also record host, program, git state, packages and system metrics.
        entity: User or team that owns the run; default: WANDB_ENTITY, or the user who is logged in.
        id: Id of a run to continue or create; default: a new id, or that of a resumed checkpoint.
        code: Folder whose Python files and YAML configs are logged as an artifact; default: none.
    """

    def __init__(
        self,
        project: str | None = None,
        mode: Mode | None = None,
        save_dir: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        log_model: Literal["all"] | bool = True,
        machine_details: bool = False,
        entity: str | None = None,
        id: str | None = None,
        code: str | None = None,
    ) -> None:
        known = project or environment().project or "videomem"
        super().__init__(name=name, save_dir=save_dir or ".", project=known, log_model=log_model, id=id)
        self._tracking = Tracking(mode, project, entity, group, tags)
        self._default_group: str | None = None
        self._details = {"name": name, "job_type": job_type}
        self._machine_details = machine_details
        self._code = code

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            resume = "allow" if self._id else None  # Also lets `wandb sync` append to an existing run.
            details = {**self._details, "id": self._id, "resume": resume}
            settings = run_settings(self._machine_details)
            defaults = Tracking(group=self._default_group)
            run = start_run(self._tracking, Path(self._save_dir or "."), defaults, **details, settings=settings)
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            self._experiment = run
            if self._code is not None:
                with files_beside(run):
                    run.log_code(self._code, name="code", include_fn=_is_code)
        return self._experiment

    def fill(self, name: str, group: str, job_type: str) -> None:
        """Set defaults for options that the config does not set. Call it before the run starts."""
        self._default_group = group
        for key, value in {"name": name, "job_type": job_type}.items():
            self._details[key] = self._details[key] or value

    def resume(self, record: Mapping[str, Any]) -> None:
        """Continue the run of a checkpoint, unless the config sets an id. Call it before the run starts.

        Raises:
            VideomemError: If the config sets another project.
        """
        if "id" in record and self._id is None:
            project = record.get("project", self._tracking.project)
            if self._tracking.project not in (None, project):
                raise VideomemError(
                    f"the W&B project is {self._tracking.project}, but the run of the checkpoint is in {project}; "
                    "leave the project out, or add --new-wandb-run"
                )
            self._id = record["id"]
            self._tracking = replace(self._tracking, project=project)

    def record(self) -> dict[str, Any]:
        """Facts to store in a checkpoint so that the run can be continued; empty if tracking is disabled."""
        if self.experiment.disabled or not isinstance(self.experiment.id, str):
            return {}
        return {name: getattr(self.experiment, name) for name in ("id", "project", "group", "name")}

    def log_hyperparams(self, params: Any) -> None:
        super().log_hyperparams(without_paths(params if isinstance(params, dict) else vars(params)))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        with files_beside(self.experiment):  # Media and tables are logged here, too.
            super().log_metrics(metrics, step)

    def _scan_and_log_checkpoints(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Log new checkpoints of a callback as `model-<run id>`; called by Lightning according to `log_model`."""
        policy: Policy = "mutable" if self._log_model == "all" else "immutable"
        for path in _saved(checkpoint_callback):
            saved_at = path.stat().st_mtime
            if self._logged_model_time.get(str(path), 0.0) < saved_at:
                with files_beside(self.experiment):
                    artifact = checkpoint_artifact(path, policy)
                log_artifact(self.experiment, artifact, _aliases(checkpoint_callback, path))
                self._logged_model_time[str(path)] = saved_at


class TensorBoardLogger(_LightningTensorBoardLogger):
    """Lightning's TensorBoard logger, without the host name in the names of its files."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        with patch("socket.gethostname", lambda: "undisclosed"):  # TensorBoard has no option for it.
            return super().experiment


class AtomicCSVLogger(CSVLogger):
    """Lightning's CSV logger, with files that are replaced atomically: `metrics.csv` and `hparams.yaml`."""

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = _MetricsTable(self.log_dir)
        return self._experiment  # type: ignore[return-value]


class _MetricsTable(ExperimentWriter):
    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._rows: list[dict[str, float]] = []

    def save(self) -> None:
        if self.metrics:
            self._rows += self.metrics
            self.metrics = []
            names = sorted(set().union(*self._rows))
            lines = csv_lines([names, *([row.get(name) for name in names] for row in self._rows)])
            write_atomic(Path(self.metrics_file_path), lines.encode())

    def log_hparams(self, params: dict[str, Any]) -> None:
        self.hparams.update(params)
        with atomic_path(Path(self.log_dir) / self.NAME_HPARAMS_FILE) as temporary:
            save_hparams_to_yaml(str(temporary), self.hparams)


class RunRecord(Callback):
    """Store the metrics and the W&B run in each checkpoint. `fit` adds this callback automatically."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        for logger in _wandb_loggers(trainer):
            if isinstance(data, VideoDataModule) and logger.record():
                logger.log_hyperparams({"data": dict(data.hparams), "max_epochs": trainer.max_epochs})
                use_artifact(logger.experiment, data_artifact(logger.experiment, data))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        records = [logger.record() for logger in _wandb_loggers(trainer)]
        checkpoint[RUN_RECORD] = {**(records[0] if records else {}), "metrics": metrics}


class LogConfusionMatrix(Callback):
    """Log the confusion matrix of the last validation and of a test: table and figure to W&B, figure to TensorBoard."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        counts_CC, names = pl_module.confusion_counts(), pl_module.class_names  # type: ignore[operator]
        if counts_CC is None or not trainer.is_global_zero:
            return
        counts = counts_CC.cpu().numpy()
        figure = confusion_figure(counts, names, split)  # type: ignore[arg-type]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_confusion(logger.experiment, split, counts.tolist(), names, figure)  # type: ignore[arg-type]
            elif isinstance(logger, _LightningTensorBoardLogger):
                logger.experiment.add_figure(f"{split}/confusion_matrix", figure, trainer.global_step, close=False)


def _wandb_loggers(trainer: Trainer) -> Iterator[WandbLogger]:
    """The W&B loggers of the trainer, in the first process only."""
    yield from (logger for logger in trainer.loggers if isinstance(logger, WandbLogger) and trainer.is_global_zero)


def _saved(callback: ModelCheckpoint) -> list[Path]:
    """Existing checkpoint files of a callback, oldest first."""
    names = {callback.last_model_path, callback.best_model_path, *callback.best_k_models} - {""}
    return sorted((path for path in map(Path, names) if path.is_file()), key=lambda path: path.stat().st_mtime)


def _aliases(callback: ModelCheckpoint, path: Path) -> list[str]:
    """Aliases of a checkpoint: `best` by the monitored metric, `last` for the last epoch."""
    is_best = str(path) == callback.best_model_path
    last = ["last"] if str(path) == callback.last_model_path or (is_best and callback.monitor is None) else []
    return ["latest", *last, *(["best"] if is_best and callback.monitor is not None else [])]


def _is_code(path: str, root: str) -> bool:
    inside = Path(path).relative_to(os.path.realpath(root) if not Path(path).is_relative_to(root) else root)
    return inside.suffix in (".py", ".yaml", ".yml") and not any(part.startswith(".") for part in inside.parts)
