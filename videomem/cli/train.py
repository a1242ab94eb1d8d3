"""`videomem fit`, `validate` and `test`: Lightning's command line, with one directory per run."""

from __future__ import annotations

import json
import logging
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from pytorch_lightning import seed_everything
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

from videomem.cli.config_options import parser_error, refuse_without_effect
from videomem.cli.evaluation_report import report_evaluation, track_evaluation
from videomem.cli.options import add_shared
from videomem.errors import VideomemError, one_line_reason
from videomem.tracking import (
    Mode,
    RunRecord,
    WandbLogger,
    group_of,
)
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import LitClassifier
from videomem.video.catalog import data_name

DESCRIPTIONS = {
    "fit": "Train a head on the features of a catalog. Later config files override earlier ones.",
    "validate": "Evaluate a checkpoint on the validation split. Its settings come from the checkpoint.",
    "test": "Evaluate a checkpoint on the test split. Its settings come from the checkpoint.",
}

_NOT_TRAINED = "an evaluation trains nothing"
UNUSED_BY_EVALUATION = {
    "trainer.logger": "evaluations are tracked with --wandb",
    **{f"trainer.{name}": _NOT_TRAINED for name in (
        "callbacks", "enable_checkpointing", "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time",
        "limit_train_batches", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches",
        "check_val_every_n_epoch", "val_check_interval", "overfit_batches")},
    **{f"model.{name}": _NOT_TRAINED for name in ("learning_rate", "weight_decay", "dropout")},
    "new-wandb-run": "evaluations always start a new W&B run",
}  # fmt: skip

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


class VideomemCLI(LightningCLI):
    """LightningCLI for one command, without subcommands."""

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
                auto_configure_optimizers=False,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={
                    "prog": f"videomem {command}",
                    "description": DESCRIPTIONS[command],
                    "exit_on_error": False,
                    "allow_abbrev": False,
                    "print_config": "--print-config",
                },
            )
        except BaseException:
            if self._claimed is not None:
                self._claimed.rmdir()
            raise

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds --seed, which replaces --seed_everything of Lightning."""
        add_shared(parser, "--seed")

    def _set_seed(self) -> None:
        seed_everything(self.config.seed, workers=True, verbose=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--run-dir", type=str | None, default=None,
                            help="Directory of the run (default: a new one below runs/)")  # fmt: skip
        parser.add_argument("--ckpt-path", type=str | None, default=None, help="Checkpoint to resume or to evaluate")
        parser.add_argument("--wandb", type=Mode | None, default=None,
                            help="Mode of W&B (default: the logger's mode; evaluations are not tracked)")  # fmt: skip
        parser.add_argument("--new-wandb-run", action="store_true", help="Start a new W&B run instead of resuming the "
                            "one of the checkpoint")  # fmt: skip
        add_shared(parser, "--trust")
        parser.link_arguments("seed", "model.seed")
        parser.link_arguments("seed", "data.seed")
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
            raise VideomemError(f"{config.run_dir}: already contains a run; choose another --run-dir")
        config.trainer.default_root_dir = config.run_dir
        if self._command != "fit":
            config.trainer.logger = False
            config.trainer.callbacks = None
            config.trainer.enable_checkpointing = False
        loggers = config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]
        self._prepare_loggers([logger for logger in loggers if isinstance(logger, Namespace)])

    def _prepare_loggers(self, loggers: Sequence[Namespace]) -> None:
        """Sets the directory of the loggers, and the mode of the W&B logger."""
        config, wandb_loggers = self.config, []
        for logger in loggers:
            if logger.init_args.get("save_dir") in (None, "{run_dir}"):
                logger.init_args.save_dir = config.run_dir
            if logger.class_path.startswith("videomem.tracking") and logger.class_path.endswith(".WandbLogger"):
                wandb_loggers.append(logger)
                logger.init_args.mode = config.wandb or logger.init_args.mode
            if logger.class_path.endswith(".TensorBoardLogger") and find_spec("tensorboard") is None:
                raise VideomemError(
                    f"trainer.logger has {logger.class_path}, but the package tensorboard is not installed; "
                    'run `pip install "videomem[tensorboard]"`, or remove the logger'
                )
        if self._command == "fit" and config.wandb in ("offline", "online") and not wandb_loggers:
            raise VideomemError(
                f"--wandb is {config.wandb}, but trainer.logger has no videomem.tracking.WandbLogger; "
                "add one, as configs/base.yaml does, or remove --wandb"
            )

    def _default_run_dir(self) -> Path:
        if self._command == "fit":
            memory = self.config.model.memory
            name = (memory if isinstance(memory, str) else memory.class_path).rsplit(".", 1)[-1].lower()
            stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-seed{self.config.seed}"
            self._claimed = claim_folder(Path("runs").absolute(), stem)
            return self._claimed
        assert self.checkpoint is not None
        return self.checkpoint.run_dir / self._command


def claim_folder(above: Path, stem: str) -> Path:
    """Creates a folder, with a number if the name is taken: several runs may start in the same second."""
    for number in count(1):
        folder = above / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def main(command: str, arguments: Sequence[str]) -> int:
    """Run `fit`, `validate` or `test`."""
    cli = run(command, arguments)
    if cli is None:
        return 0
    if command != "fit":
        assert cli.checkpoint is not None
        report_evaluation(cli, command)
        track_evaluation(cli, cli.checkpoint, command)
        return 0
    for logger in cli.trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
    metrics = cli.trainer.callback_metrics
    shown = [f"{name} {float(metrics[name]):.3f}" for name in _SHOWN if name in metrics]
    print(f"videomem: {', '.join([*shown, ''])}run in {cli.config.run_dir}")
    return 0


def run(command: str, arguments: Sequence[str]) -> VideomemCLI | None:
    """Runs a command with its command-line arguments; returns None if it only printed its help or its config.

    Raises:
        VideomemError: If an argument, a config, the data or the checkpoint is not usable.
    """
    _silence_lightning()
    path = _option(arguments, "--ckpt-path")
    checkpoint = read_checkpoint(path, trust="--trust" in arguments) if path else None
    if command != "fit":
        if checkpoint is None and not {"-h", "--help"} & set(arguments):
            raise VideomemError(f"`videomem {command}` needs --ckpt-path, a checkpoint of `videomem fit`")
        refuse_without_effect(command, arguments, UNUSED_BY_EVALUATION)
    cli = _set_up(command, arguments, checkpoint)
    if cli is None:
        return None
    if cli.config.ckpt_path != path:
        raise VideomemError(
            f"ckpt_path is {cli.config.ckpt_path} in a config; give it as --ckpt-path, so that it is checked first"
        )
    _print_excluded(cli.datamodule)
    if command == "fit":
        _refuse_finished(cli, checkpoint)
        _prepare_tracking(cli, checkpoint)
    if checkpoint is not None:
        cli.datamodule.load_state_dict(checkpoint.content[VideoDataModule.__qualname__])
    _call_trainer(cli, command, path)
    steps_before = checkpoint.content["global_step"] if checkpoint else 0
    if command == "fit" and cli.trainer.global_step <= steps_before:
        raise VideomemError(
            f"nothing was trained: trainer.max_epochs is {cli.trainer.max_epochs}, and the checkpoint is at step "
            f"{steps_before}; raise trainer.max_epochs"
        )
    return cli


def _set_up(command: str, arguments: Sequence[str], checkpoint: Checkpoint | None) -> VideomemCLI | None:
    """Builds data, model and trainer; returns None if only the help or the config was printed."""
    with tempfile.TemporaryDirectory() as folder:
        if checkpoint is not None:  # The settings of the checkpoint come first, so that options override them.
            settings = Path(folder) / "checkpoint.json"
            settings.write_text(json.dumps(checkpoint.config()))
            arguments = ["--config", str(settings), *arguments]
        try:
            return VideomemCLI(command, arguments, checkpoint)
        except (ArgumentError, MisconfigurationException, ValueError, TypeError, ArithmeticError) as error:
            raise VideomemError(parser_error(error)) from error
        except SystemExit as stop:
            if stop.code:
                raise VideomemError(f"`videomem {command}` could not be set up") from stop
            return None


def _call_trainer(cli: VideomemCLI, command: str, path: str | None) -> None:
    keywords: dict[str, Any] = {"datamodule": cli.datamodule, "weights_only": True}
    if command != "fit":
        keywords["verbose"] = False
    try:
        getattr(cli.trainer, command)(cli.model, ckpt_path=path, **keywords)
    except SystemExit as stop:  # raised by Lightning after Ctrl-C
        raise KeyboardInterrupt from stop
    except MisconfigurationException as error:
        raise VideomemError(one_line_reason(error)) from error
    except RuntimeError as error:
        if "size mismatch" in str(error) or "Missing key(s)" in str(error):
            raise VideomemError(
                f"{path}: its weights are of another model; do not change the `model` settings"
            ) from error
        raise


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
            logger.fill(run_dir.name, group_of(data_name(cli.config.data.catalog)), "train")
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


def _print_excluded(data: VideoDataModule) -> None:
    if data.num_unusable:
        Console(stderr=True, soft_wrap=True).print(
            f"videomem: {data.num_unusable} of {len(data.catalog.clips)} clips are excluded; "
            f"see {data.feature_store.failure_table.path}"
        )


def _silence_lightning() -> None:
    """Hides messages and warnings of Lightning that do not concern the user's data."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _ADVICE:
        warnings.filterwarnings("ignore", message=message)
