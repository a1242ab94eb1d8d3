"""Weights & Biases, on the user's terms: offline unless asked otherwise, and quiet about the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import wandb
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger as _LightningWandbLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment

from videomem.errors import VideomemError

Mode = Literal["offline", "online", "disabled"]


def run_settings(machine_details: bool = False) -> wandb.Settings:
    """Settings of a run: no system metrics, host, git state or source code unless asked for."""
    return wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        host=None if machine_details else "undisclosed",
        x_save_requirements=machine_details,
        disable_git=not machine_details,
        x_disable_meta=not machine_details,
        x_disable_stats=not machine_details,
        x_disable_machine_info=not machine_details,
    )


def start_run(project: str, folder: Path, mode: Mode = "offline", **details: Any) -> wandb.Run:
    """Start a run whose files go below `folder`.

    Args:
        project: W&B project.
        folder: Where the run's files are written.
        mode: `offline` needs no account and sends nothing; `online` is never a default, not even with a key at hand.
        details: Further arguments of `wandb.init`, such as `name`, `group`, `config`.
    Raises:
        VideomemError: If `online` has no key or no network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    details = {"settings": run_settings(), "reinit": "create_new", **details}
    try:
        return wandb.init(project=project, dir=str(folder), mode=mode, **details)
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise VideomemError(
            f"W&B mode is {mode}, but no run could be started ({reason}); run `wandb login`, or set the mode to offline"
        ) from error


class WandbLogger(_LightningWandbLogger):
    """Lightning's W&B logger with videomem's defaults.

    Args:
        project: W&B project.
        mode: `offline` (default; sync later with `wandb sync`), `online`, or `disabled`.
        save_dir: Where the run's files are written; by default the run's own directory.
        name: Name of the run.
        group: Name under which runs are grouped.
        job_type: Kind of run within the group.
        tags: Tags of the run.
        log_model: Keep the last checkpoint as an artifact when training ends; `all` keeps each.
        machine_details: Also record host, git state and system metrics.
    """

    def __init__(
        self,
        project: str = "videomem",
        mode: Mode = "offline",
        save_dir: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        log_model: Literal["all"] | bool = True,
        machine_details: bool = False,
    ) -> None:
        super().__init__(name=name, save_dir=save_dir or ".", project=project, log_model=log_model)
        self._details = {"name": name, "group": group, "job_type": job_type, "tags": tags}
        self._mode: Mode = mode
        self._machine_details = machine_details

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            assert self._project is not None
            self._experiment = start_run(
                self._project,
                Path(self._save_dir or "."),
                self._mode,
                **self._details,
                settings=run_settings(self._machine_details),
            )
            self._experiment.define_metric("trainer/global_step")
            self._experiment.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return self._experiment


class LogConfusionMatrix(Callback):
    """Log the confusion matrix of the last validation, and of a test, as a table to W&B."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, pl_module: LightningModule, split: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and int(pl_module.confusion.update_count):  # type: ignore[union-attr, arg-type]
                table = confusion_table(pl_module.confusion_counts().tolist(), pl_module.class_names)  # type: ignore[operator, arg-type]
                logger.experiment.log({f"{split}/confusion_matrix": table})


def confusion_table(counts: list[list[int]], class_names: list[str]) -> wandb.Table:
    """Rows are true classes, columns predicted ones."""
    rows = [[name, *row] for name, row in zip(class_names, counts, strict=True)]
    return wandb.Table(columns=["true class", *class_names], data=rows)


def log_order_results(
    run: wandb.Run, columns: list[str | int], rows: list[list[Any]], summary: dict[str, float], figures: dict[str, Path]
) -> None:
    """Log an evaluation of order: every measurement as a table, one number per head and condition, figures."""
    run.log({"shuffle": wandb.Table(columns=columns, data=rows)})
    run.log({name: wandb.Image(str(path)) for name, path in figures.items()})
    run.summary.update(summary)


def log_card(
    run: wandb.Run,
    name: str,
    card_tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]],
    figures: Mapping[str, Path],
    summary: Mapping[str, float | str],
) -> None:
    """Log a card below its name: its tables as tables, its figures as images, its numbers as the summary.

    Args:
        name: `order` or `memory`.
        card_tables: Name, columns and rows of each, as `videomem.report.tables.card_tables` gives them.
        figures: A PNG by the name of each figure, as `videomem.report.page.write_report` gives them.
        summary: Numbers and words by name, as `videomem.report.tables.card_summary` gives them.
    """
    for table_name, columns, rows in card_tables:
        table = wandb.Table(columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True)
        run.log({f"{name}/{table_name}": table})
    if figures:
        run.log({f"{name}/figures/{figure}": wandb.Image(str(path)) for figure, path in figures.items()})
    run.summary.update({f"{name}/{key}": value for key, value in summary.items()})
