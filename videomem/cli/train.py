"""`videomem fit`, `validate` and `test`: train a head, and evaluate a checkpoint."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from videomem.cli.config_options import errors_in_one_line, refuse_without_effect
from videomem.cli.lightning_cli import UNUSED_BY, VideomemCLI, refuse_used
from videomem.cli.processes import first_error_only, has_to_launch, launch
from videomem.cli.terminal import console, say, table
from videomem.errors import VideomemError, one_line, one_line_reason
from videomem.experiments.tables import NOTHING
from videomem.tracking import RunRecord, WandbLogger, finishing, log_confusion, run_of_checkpoints
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.training.checkpoint_io import restore_from
from videomem.training.data_module import VideoDataModule
from videomem.utils.atomic import locked_folder, write_atomic
from videomem.utils.csv_cells import csv_lines
from videomem.utils.parallel_jobs import one_thread
from videomem.utils.plotting import confusion_figure
from videomem.utils.sharing import shared_path
from videomem.video.catalog import data_name

# Warnings of Lightning about situations that are intended here, such as a data set without a validation split.
_ADVICE = (
    ".*does not have many workers.*",
    ".*number of training batches.*smaller than the logging interval.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*The dirpath has changed from.*",
    ".*Total length of `list` across ranks is zero.*",
    ".*LeafSpec.*is deprecated.*",
)

_SHOWN = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")  # metrics of the last epoch


def main(command: str, arguments: Sequence[str]) -> int:
    """Run `fit`, `validate` or `test`."""
    cli = run(command, arguments)
    if cli is None or not cli.trainer.is_global_zero:
        return 0
    if command != "fit":
        _report_evaluation(cli, command)
    else:
        for logger in cli.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()
        metrics = cli.trainer.callback_metrics
        shown = [f"{name} {float(metrics[name]):.3f}" for name in _SHOWN if name in metrics]
        say(f"videomem: {', '.join([*shown, ''])}run in {cli.config.run_dir}")
    return 0


def run(command: str, arguments: Sequence[str]) -> VideomemCLI | None:
    """Runs a command with its command-line arguments; returns None if it only printed its help or its config.

    Raises:
        VideomemError: If an argument, a config, the data or the checkpoint is not usable.
    """
    _silence_lightning()
    path = _option(arguments, "--ckpt-path")
    if not path and (unused := {"--trust", "--new-wandb-run"} & set(arguments)):
        raise VideomemError(f"{min(unused)} has no effect without --ckpt-path; leave it out")
    checkpoint = read_checkpoint(path, trust="--trust" in arguments) if path else None
    if command != "fit" and checkpoint is None and not {"-h", "--help"} & set(arguments):
        raise VideomemError(f"`videomem {command}` needs --ckpt-path, a checkpoint of `videomem fit`")
    refuse_without_effect(command, arguments, UNUSED_BY[command])
    cli = _set_up(command, arguments, checkpoint)
    if cli is None:
        return None
    if cli.config.ckpt_path != path:
        raise VideomemError(
            f"ckpt_path is {cli.config.ckpt_path} in a config; give it as --ckpt-path, so that it is checked first"
        )
    if cli.config.trust and "--trust" not in arguments:
        raise VideomemError("trust has no effect in a config; give it as --trust, with --ckpt-path")
    data: VideoDataModule = cli.datamodule
    if data.num_unusable:
        say(
            f"videomem: {data.num_unusable} of {len(data.catalog.clips)} clips are excluded; "
            f"see {data.feature_store.failure_table.path}",
            to_stderr=True,
        )
    if command == "fit":
        _refuse_finished(cli, checkpoint)
    if checkpoint is not None:
        data.load_state_dict(checkpoint.content[VideoDataModule.__qualname__])
        restore_from(checkpoint, cli.trainer, cli.model, resume=command == "fit")
    if command != "fit":
        _refuse_other_evaluation(cli, command)
    if has_to_launch(cli.trainer):
        launch(cli.trainer, command, [*arguments, "--run-dir", cli.config.run_dir])
        return None
    with first_error_only(), ExitStack() as stack:
        if cli.trainer.is_global_zero:
            stack.enter_context(locked_folder(Path(cli.config.run_dir)))
            _show_scale(cli, command)
        if _one_thread_is_enough(cli):
            stack.enter_context(one_thread())
        if command == "fit":
            refuse_used(Path(cli.config.run_dir))
            _prepare_tracking(cli, checkpoint)
        _call_trainer(cli, command, checkpoint)
        steps_before = checkpoint.content["global_step"] if checkpoint else 0
        if command == "fit" and cli.trainer.global_step <= steps_before:
            raise VideomemError(
                f"nothing was trained: trainer.max_epochs is {cli.trainer.max_epochs}, and the checkpoint is at step "
                f"{steps_before}; raise trainer.max_epochs"
            )
    return cli


def _one_thread_is_enough(cli: VideomemCLI) -> bool:
    """Whether a head is computed on a CPU from stored features, without a number of threads set by the user.

    The matrices of a head are small: several threads are hardly faster on an idle machine, and on a busy one they wait
    for each other.
    """
    on_cpu = cli.trainer.strategy.root_device.type == "cpu"
    return on_cpu and cli.datamodule.source == "features" and "OMP_NUM_THREADS" not in os.environ


def _show_scale(cli: VideomemCLI, command: str) -> None:
    """Shows the batch of all processes, and lets a training on videos show the pass over all of them before it."""
    data, num_processes = cli.datamodule, cli.trainer.world_size
    if command == "fit" and data.source == "video":
        data.console = console(to_stderr=True)
    if num_processes > 1:
        size = data.batch_size
        say(f"videomem: {num_processes} processes with batches of {size} clips: {num_processes * size} in a batch of "
            "all", to_stderr=True)  # fmt: skip


def _evaluated(cli: VideomemCLI, command: str) -> dict[str, Any]:
    """What is evaluated, on what: the facts by which `metrics.json` tells evaluations apart."""
    assert cli.checkpoint is not None
    return {
        "checkpoint": shared_path(cli.checkpoint.run_dir / cli.checkpoint.path.name),
        "epoch": cli.checkpoint.training_facts()["epochs"],
        "catalog": data_name(cli.config.data.catalog),
        "split": "val" if command == "validate" else cli.datamodule.test_split,
    }


def _refuse_other_evaluation(cli: VideomemCLI, command: str) -> None:
    """Raises a VideomemError if the folder has the results of another split, checkpoint or catalog."""
    path, mine = Path(cli.config.run_dir) / "metrics.json", _evaluated(cli, command)
    if not path.is_file():  # A pipe would be read for ever.
        return
    try:
        there = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return
    for name, value in mine.items():
        if isinstance(there, dict) and there.get(name, value) != value:
            raise VideomemError(
                f"{path}: has the results of {name} {one_line(there[name])}, not {value}; choose another --run-dir"
            )


def _set_up(command: str, arguments: Sequence[str], checkpoint: Checkpoint | None) -> VideomemCLI | None:
    """Builds data, model and trainer; returns None if only the help or the config was printed."""
    of_building = (MisconfigurationException, ValueError, TypeError, ArithmeticError)
    with errors_in_one_line(*of_building):
        if checkpoint is not None:  # The settings of the checkpoint come first, so that options override them.
            arguments = ["--config", json.dumps(checkpoint.config()), *arguments]
        try:
            return VideomemCLI(command, arguments, checkpoint)
        except SystemExit as stop:
            if stop.code:
                raise VideomemError(f"`videomem {command}` could not be set up") from stop
            return None


def _call_trainer(cli: VideomemCLI, command: str, checkpoint: Checkpoint | None) -> None:
    path = None if checkpoint is None else str(checkpoint.path.absolute())
    keywords: dict[str, Any] = {"datamodule": cli.datamodule, "weights_only": True}
    if command != "fit":
        keywords["verbose"] = False
    try:
        getattr(cli.trainer, command)(cli.model, ckpt_path=path, **keywords)
    except SystemExit as stop:  # raised by Lightning after Ctrl-C
        raise KeyboardInterrupt from stop
    except MisconfigurationException as error:
        raise VideomemError(one_line_reason(error)) from error


def _refuse_finished(cli: VideomemCLI, checkpoint: Checkpoint | None) -> None:
    """Refuses to resume a training run that has all of its epochs, before anything is written or tracked."""
    max_epochs, done = cli.trainer.max_epochs, checkpoint.training_facts()["epochs"] if checkpoint else 0
    if max_epochs is not None and done >= max_epochs >= 0 and done:
        raise VideomemError(
            f"nothing was trained: trainer.max_epochs is {max_epochs}, and the checkpoint has {done} epochs; "
            "raise trainer.max_epochs"
        )


def _prepare_tracking(cli: VideomemCLI, checkpoint: Checkpoint | None) -> None:
    """Fills in the details of the W&B run, which `config.yaml` must not contain, since it may serve other runs."""
    cli.trainer.callbacks.insert(0, RunRecord())  # type: ignore[attr-defined]
    run_dir = Path(cli.config.run_dir)
    for logger in cli.trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.fill(run_dir.name, data_name(cli.config.data.catalog), "train")
            if checkpoint is not None and not cli.config.new_wandb_run:
                logger.resume(checkpoint.run_record)


def _option(arguments: Sequence[str], name: str) -> str | None:
    """Returns the last value of an option. No parser is used, because a checkpoint is checked before any import."""
    value = None
    for place, argument in enumerate(arguments):
        if argument == name and place + 1 < len(arguments):
            value = arguments[place + 1]
        elif argument.startswith(f"{name}="):
            value = argument.split("=", 1)[1]
    return value


def _report_evaluation(cli: VideomemCLI, command: str) -> None:
    """Prints the metrics of an evaluation, writes them to the run's directory, and logs them to W&B."""
    evaluated = _evaluated(cli, command)
    split = evaluated["split"]
    logged = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    metrics = {name.split("/")[1]: value for name, value in logged.items()}
    counts, names = cli.model.confusion_counts().cpu(), cli.model.class_names
    num_clips, per_class = int(counts.sum()), dict(zip(names, per_class_accuracy(counts), strict=True))
    known = [value for value in per_class.values() if value is not None]
    metrics |= {"accuracy": int(counts.diag().sum()) / num_clips, "accuracy_macro": sum(known) / len(known)}  # float64
    folder = Path(cli.config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    summary = {**evaluated, "num_clips": num_clips, **metrics, "accuracy_per_class": per_class}
    write_atomic(folder / "metrics.json", (json.dumps(summary, indent=1) + "\n").encode())
    rows = [[name, *row] for name, row in zip(names, counts.tolist(), strict=True)]
    write_atomic(folder / "confusion.csv", csv_lines([["true class", *names], *rows]).encode())
    title = (f"{cli.model.head.label}, {evaluated['checkpoint']}, epoch {evaluated['epoch']}: {num_clips} "
             f"clips of split {split}")  # fmt: skip
    shown = {**metrics, **{f"accuracy of {name}": value for name, value in per_class.items()}}
    lines = [(name, NOTHING if value is None else f"{value:.4f}") for name, value in shown.items()]
    console().print(table(title, ["metric", "value"], lines))
    say(f"metrics.json and confusion.csv in {folder}")
    assert cli.checkpoint is not None
    name = f"{command}-{cli.checkpoint.run_dir.name}"
    with finishing(run_of_checkpoints(name, folder, cli.tracking, [cli.checkpoint], job_type=command)) as run:
        if not run.disabled:
            log_confusion(run, split, counts.tolist(), names, confusion_figure(counts.numpy(), names, split))
            run.summary.update(logged)


def per_class_accuracy(counts_CC: torch.Tensor) -> list[float | None]:
    """Returns the accuracy on the clips of each class (C,); None for a class without clips."""
    pairs = zip(counts_CC.diag().tolist(), counts_CC.sum(1).tolist(), strict=True)
    return [right / num_clips if num_clips else None for right, num_clips in pairs]


def _silence_lightning() -> None:
    """Hides messages and warnings of Lightning that do not concern the user's data."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _ADVICE:
        warnings.filterwarnings("ignore", message=message)
