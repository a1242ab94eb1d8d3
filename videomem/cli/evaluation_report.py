"""The results of `videomem validate` and `test`: on the terminal, in the run's directory, and in W&B."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import cast

import torch
from pytorch_lightning.cli import LightningCLI
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from videomem.tracking import Mode, log_confusion, run_of_checkpoints
from videomem.training.checkpoint import Checkpoint
from videomem.utils.atomic import write_atomic
from videomem.utils.plotting import confusion_figure


def report_evaluation(cli: LightningCLI, command: str) -> None:
    """Prints the metrics of an evaluation and writes them to the run's directory."""
    split = "val" if command == "validate" else cli.datamodule.test_split
    metrics = {name.split("/")[1]: float(value) for name, value in cli.trainer.callback_metrics.items()}
    counts, names = cli.model.confusion_counts(), cli.model.class_names
    per_class = dict(zip(names, per_class_accuracy(counts), strict=True))
    folder = Path(cli.config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    summary = {"split": split, "num_clips": int(counts.sum()), **metrics, "accuracy_per_class": per_class}
    write_atomic(folder / "metrics.json", (json.dumps(summary, indent=1) + "\n").encode())
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [["true class", *names], *([name, *row] for name, row in zip(names, counts.tolist(), strict=True))]
    )
    write_atomic(folder / "confusion.csv", text.getvalue().encode())
    table = Table(title=f"{cli.model.head.label}: {int(counts.sum())} clips of split {split}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in {**metrics, **{f"accuracy of {name}": value for name, value in per_class.items()}}.items():
        table.add_row(escape(name), f"{value:.4f}")
    Console().print(table)
    print(f"metrics and confusion matrix in {folder}")


def track_evaluation(cli: LightningCLI, checkpoint: Checkpoint, command: str) -> None:
    """Logs an evaluation to a W&B run, if --wandb has a mode other than disabled."""
    mode = cast(Mode, cli.config.wandb or "disabled")
    if mode == "disabled":
        return
    name = f"{command}-{checkpoint.run_dir.name}"
    run = run_of_checkpoints(name, Path(cli.config.run_dir), mode, [checkpoint], job_type=command)
    split = "val" if command == "validate" else cli.datamodule.test_split
    counts, names = cli.model.confusion_counts().cpu().numpy(), cli.model.class_names
    log_confusion(run, split, counts.tolist(), names, confusion_figure(counts, names, split))
    run.summary.update({name: float(value) for name, value in cli.trainer.callback_metrics.items()})
    run.finish()


def per_class_accuracy(counts_CC: torch.Tensor) -> list[float]:
    """Returns the recall of each class (C,); 0 for a class without clips."""
    return (counts_CC.diag() / counts_CC.sum(1).clamp(min=1)).tolist()
