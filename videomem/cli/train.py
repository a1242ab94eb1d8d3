"""`videomem fit`, `validate` and `test`: Lightning's command line, with runs in directories of their own."""

from __future__ import annotations

import csv
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from videomem.errors import VideomemError, one_line_reason
from videomem.tracking import (
    Mode,
    RunRecord,
    WandbLogger,
    group_of,
    log_confusion,
    run_of_checkpoints,
)
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.atomic import write_atomic
from videomem.utils.plotting import confusion_figure
from videomem.video.catalog import data_name

DESCRIPTIONS = {
    "fit": "Train a head on the features of a catalog. Configs compose: later ones override earlier ones.",
    "validate": "Evaluate a checkpoint on the validation split; it says itself where its data is.",
    "test": "Evaluate a checkpoint on the test split; it says itself where its data is.",
}


# Lightning's warnings about what is meant here, such as a data set without a validation split.
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


_SHOWN = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")  # of the last epoch, when training ends


class VideomemCLI(LightningCLI):
    """LightningCLI without subcommands: one command, one parser."""

    def __init__(self, command: str, arguments: Sequence[str], checkpoint: Checkpoint | None) -> None:
        self._command = command
        self.checkpoint = checkpoint
        self._claimed: Path | None = None
        try:
            super().__init__(
                LitClassifier,
                VideoDataModule,
                run=False,
                args=list(arguments),
                seed_everything_default=0,
                auto_configure_optimizers=False,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={
                    "prog": f"videomem {command}",
                    "description": DESCRIPTIONS[command],
                    "exit_on_error": False,
                    "allow_abbrev": False,
                },
            )
        except BaseException:
            if self._claimed is not None:
                self._claimed.rmdir()
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run_dir", type=str, default=None, help="Directory of this run (default: one of its own)")
        parser.add_argument("--ckpt_path", type=str, default=None, help="Checkpoint to resume from, or to evaluate")
        parser.add_argument("--wandb", type=Mode | None, default=None,
                            help="Mode of W&B (default: what the logger says; evaluations have none)")  # fmt: skip
        parser.add_argument("--new_wandb_run", action="store_true", help="Do not go on with the checkpoint's W&B run")
        parser.add_argument("--trust", action="store_true", help="Let the checkpoint name classes of other packages")
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.seed")
        for name in ("feature_dim", "class_names", "class_counts"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        config = self.config
        for name in ("catalog", "store"):
            config.data[name] = str(Path(config.data[name]).absolute())
        weights = config.data.backbone.weights
        if weights not in ("imagenet", "random"):
            config.data.backbone.weights = str(Path(weights).absolute())
        config.run_dir = str(Path(config.run_dir or self._default_run_dir()).absolute())
        if self._command == "fit" and any((Path(config.run_dir) / "checkpoints").glob("*")):
            raise VideomemError(f"{config.run_dir}: holds a run already; choose another --run_dir")
        config.trainer.default_root_dir = config.run_dir
        if self._command != "fit":
            config.trainer.logger = False
            config.trainer.callbacks = None
            config.trainer.enable_checkpointing = False
        loggers = config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]
        self._prepare_loggers([logger for logger in loggers if isinstance(logger, Namespace)])

    def _prepare_loggers(self, loggers: Sequence[Namespace]) -> None:
        """Give loggers the run's directory, and W&B's the mode that was asked for."""
        config, of_wandb = self.config, []
        for logger in loggers:
            if logger.init_args.get("save_dir") in (None, "{run_dir}"):
                logger.init_args.save_dir = config.run_dir
            if logger.class_path.startswith("videomem.tracking") and logger.class_path.endswith(".WandbLogger"):
                of_wandb.append(logger)
                logger.init_args.mode = config.wandb or logger.init_args.mode
            if logger.class_path.endswith(".TensorBoardLogger") and find_spec("tensorboard") is None:
                raise VideomemError(
                    f"trainer.logger has {logger.class_path}, but the package tensorboard is not installed; "
                    'run `pip install "videomem[tensorboard]"`, or leave the logger out'
                )
        if self._command == "fit" and config.wandb in ("offline", "online") and not of_wandb:
            raise VideomemError(
                f"--wandb is {config.wandb}, but trainer.logger has no videomem.tracking.WandbLogger; "
                "add it, as configs/base.yaml does, or leave --wandb out"
            )

    def _default_run_dir(self) -> Path:
        if self._command == "fit":
            memory = self.config.model.memory
            name = (memory if isinstance(memory, str) else memory.class_path).rsplit(".", 1)[-1].lower()
            stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-seed{self.config.seed_everything}"
            self._claimed = claim_folder(Path("runs").absolute(), stem)
            return self._claimed
        assert self.checkpoint is not None
        return self.checkpoint.run_dir / self._command


def claim_folder(above: Path, stem: str) -> Path:
    """Make a new folder, numbered where others of that name are: runs may start in the same second."""
    for number in count(1):
        folder = above / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("numbers do not end")


def main(command: str, arguments: Sequence[str]) -> int:
    """Run `fit`, `validate` or `test`."""
    cli = run(command, arguments)
    if cli is not None:
        if command == "fit":
            for logger in cli.trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.experiment.finish()
            figures = cli.trainer.callback_metrics
            shown = [f"{name} {float(figures[name]):.3f}" for name in _SHOWN if name in figures]
            print(f"videomem: {', '.join([*shown, ''])}run in {cli.config.run_dir}")
        else:
            _report(cli, command)
            _track_evaluation(cli, command)
    return 0


def run(command: str, arguments: Sequence[str]) -> VideomemCLI | None:
    """Run a command with its command-line arguments; None where it only printed its help or a config.

    Raises:
        VideomemError: If an argument, a config, the data or the checkpoint is not usable.
    """
    _quieten()
    path = _option(arguments, "--ckpt_path")
    checkpoint = read_checkpoint(path, trust="--trust" in arguments) if path else None
    if command != "fit" and checkpoint is None and not {"-h", "--help"} & set(arguments):
        raise VideomemError(f"`videomem {command}` needs --ckpt_path, a checkpoint of `videomem fit`")
    with tempfile.TemporaryDirectory() as folder:
        if checkpoint is not None:  # Its own settings come first, so that what is typed overrides them.
            settings = Path(folder) / "checkpoint.json"
            settings.write_text(json.dumps(checkpoint.config()))
            arguments = ["--config", str(settings), *arguments]
        try:
            cli = VideomemCLI(command, arguments, checkpoint)
        except (ArgumentError, MisconfigurationException, ValueError, TypeError, ArithmeticError) as error:
            raise VideomemError(one_line_reason(error)) from error
        except SystemExit as stop:
            if stop.code:
                raise VideomemError(f"`videomem {command}` could not be set up") from stop
            return None
    if cli.config.ckpt_path != path:
        raise VideomemError(
            f"ckpt_path {cli.config.ckpt_path} stands in a config; give it as --ckpt_path, to be checked first"
        )
    _say_what_is_left_out(cli.datamodule)
    if command == "fit":
        _refuse_what_is_done(cli, checkpoint)
        _prepare_tracking(cli, checkpoint)
    if checkpoint is not None:
        cli.datamodule.load_state_dict(checkpoint.content[VideoDataModule.__qualname__])
    keywords: dict[str, Any] = {"datamodule": cli.datamodule, "weights_only": True}
    if command != "fit":
        keywords["verbose"] = False
    try:
        getattr(cli.trainer, command)(cli.model, ckpt_path=path, **keywords)
    except SystemExit as stop:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from stop
    except MisconfigurationException as error:
        raise VideomemError(one_line_reason(error)) from error
    except RuntimeError as error:
        if "size mismatch" in str(error) or "Missing key(s)" in str(error):
            raise VideomemError(f"{path}: its weights are of another model; leave `model` as it was") from error
        raise
    steps_before = checkpoint.content["global_step"] if checkpoint else 0
    if command == "fit" and cli.trainer.global_step <= steps_before:
        raise VideomemError(
            f"nothing was trained: trainer.max_epochs is {cli.trainer.max_epochs}, the checkpoint is at step "
            f"{steps_before}; raise trainer.max_epochs"
        )
    return cli


def _refuse_what_is_done(cli: VideomemCLI, checkpoint: Checkpoint | None) -> None:
    """Refuse to go on with a training that has all of its epochs, before anything is written or tracked."""
    most, done = cli.trainer.max_epochs, checkpoint.training_facts()["epochs"] if checkpoint else 0
    if most is not None and done >= most >= 0 and done:
        raise VideomemError(
            f"nothing was trained: trainer.max_epochs is {most}, and the checkpoint has {done} epochs; "
            "raise trainer.max_epochs"
        )


def _prepare_tracking(cli: VideomemCLI, checkpoint: Checkpoint | None) -> None:
    """What the config leaves open of a W&B run; `config.yaml` must not hold it, since it may serve another run."""
    cli.trainer.callbacks.insert(0, RunRecord())  # type: ignore[attr-defined]
    run_dir = Path(cli.config.run_dir)
    for logger in cli.trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.fill(run_dir.name, group_of(data_name(cli.config.data.catalog)), "train")
            if checkpoint is not None and not cli.config.new_wandb_run:
                logger.go_on(checkpoint.run_record)


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The last value of an option, before any parser exists: a checkpoint is checked before anything is imported."""
    value = None
    for place, argument in enumerate(arguments):
        if argument == name and place + 1 < len(arguments):
            value = arguments[place + 1]
        elif argument.startswith(f"{name}="):
            value = argument.split("=", 1)[1]
    return value


def _say_what_is_left_out(data: VideoDataModule) -> None:
    if data.num_unusable:
        Console(stderr=True, soft_wrap=True).print(
            f"videomem: {data.num_unusable} of {len(data.catalog.clips)} clips are in no batch; "
            f"see {data.feature_store.folder / 'failure_table.csv'}"
        )


def _quieten() -> None:
    """Keep Lightning's advice, which is not about the user's data, off the terminal."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _ADVICE:
        warnings.filterwarnings("ignore", message=message)


def _report(cli: VideomemCLI, command: str) -> None:
    """Print the figures of an evaluation and write them beside the run."""
    split = "val" if command == "validate" else cli.datamodule.test_split
    figures = {name.split("/")[1]: float(value) for name, value in cli.trainer.callback_metrics.items()}
    counts = cli.model.confusion_counts()
    per_class = per_class_accuracy(counts)
    folder = Path(cli.config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    names = cli.model.class_names
    summary = {"split": split, "num_clips": int(counts.sum()), **figures,
               "accuracy_per_class": dict(zip(names, per_class, strict=True))}  # fmt: skip
    write_atomic(folder / "metrics.json", (json.dumps(summary, indent=1) + "\n").encode())
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [["true class", *names], *([name, *row] for name, row in zip(names, counts.tolist(), strict=True))]
    )
    write_atomic(folder / "confusion.csv", text.getvalue().encode())
    console = Console()
    table = Table(title=f"{cli.model.head.label}: {int(counts.sum())} clips of split {split}")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in zip(names, per_class, strict=True):
        table.add_row(escape(f"accuracy of {name}"), f"{value:.4f}")
    console.print(table)
    print(f"confusion matrix and figures in {folder}")


def _track_evaluation(cli: VideomemCLI, command: str) -> None:
    """A W&B run of an evaluation, where one is asked for."""
    checkpoint, mode = cli.checkpoint, cast(Mode, cli.config.wandb or "disabled")
    if checkpoint is None or mode == "disabled":
        return
    name = f"{command}-{checkpoint.run_dir.name}"
    run = run_of_checkpoints(name, Path(cli.config.run_dir), mode, [checkpoint], job_type=command)
    split = "val" if command == "validate" else cli.datamodule.test_split
    counts, names = cli.model.confusion_counts().cpu().numpy(), cli.model.class_names
    log_confusion(run, split, counts.tolist(), names, confusion_figure(counts, names, split))
    run.summary.update({name: float(value) for name, value in cli.trainer.callback_metrics.items()})
    run.finish()


def per_class_accuracy(counts_CC: torch.Tensor) -> list[float]:
    """Share of each class's clips that were given it; a class without clips has 0."""
    return (counts_CC.diag() / counts_CC.sum(1).clamp(min=1)).tolist()
