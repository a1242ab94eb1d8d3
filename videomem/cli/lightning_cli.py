"""Lightning's command line as `fit`, `validate` and `test` use it: its parser, its help, and one directory per run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytorch_lightning
from jsonargparse import Namespace
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.plugins.io import TorchCheckpointIO

from videomem.cli.config_options import ConfigFile, hide, parser_settings, unused_name
from videomem.cli.options import add_shared, tracking_of, wandb_loggers
from videomem.cli.processes import check_processes
from videomem.errors import VideomemError
from videomem.features.encoders.encoder import PUBLISHED
from videomem.features.folder import store_folder
from videomem.tracking import Mode
from videomem.training.checkpoint import Checkpoint
from videomem.training.checkpoint_io import AtomicCheckpointIO
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import TRAINING_OPTIONS, LitClassifier
from videomem.utils.atomic import remove_orphans, write_atomic

DESCRIPTIONS = {
    "fit": "Train a head on the features of a catalog. Later config files override earlier ones.",
    "validate": "Evaluate a checkpoint on the validation split. Its settings come from the checkpoint.",
    "test": "Evaluate a checkpoint on the test split. Its settings come from the checkpoint.",
}

# Options of Lightning's trainer with what they do here; the others that have an effect are listed by name.
TRAINER = {
    "accelerator": "kind of device: auto (a GPU if there is one), cpu, gpu, or another one of Lightning",
    "devices": "number of devices, or a list of their indices; there is one process for each device",
    "num_nodes": "number of nodes, on each of which torchrun or srun starts the processes",
    "precision": "32-true, 16-mixed, bf16-mixed, or another one of Lightning (default: 32-true)",
    "logger": "loggers, as in configs/base.yaml; false for none",
    "callbacks": "callbacks, as in configs/base.yaml",
    "max_epochs": "passes over the training clips",
    "max_steps": "largest number of optimizer steps; -1 for no limit",
    "max_time": "longest training, as days:hours:minutes:seconds",
    "limit_train_batches": "number of training batches per epoch, or share of them (default: all)",
    "limit_val_batches": "number of validation batches, or share of them (default: all)",
    "limit_test_batches": "number of test batches, or share of them (default: all)",
    "check_val_every_n_epoch": "epochs from one validation to the next",
    "log_every_n_steps": "steps from one record of metrics to the next (default: 50)",
    "accumulate_grad_batches": "batches whose gradients are added up for a step",
    "gradient_clip_val": "largest norm of the gradient (default: no limit)",
    "deterministic": "use deterministic algorithms only (default: false)",
    "enable_progress_bar": "show a progress bar (default: true)",
    "enable_model_summary": "print the layers of the head (default: true)",
}

UNUSED = {
    "trainer.default_root_dir": "set --run-dir",
    "trainer.limit_predict_batches": "it evaluates the clips of a split; see `videomem predict`",
    "trainer.model_registry": "no logger of videomem reads it",
    "trainer.sync_batchnorm": "heads have no batch normalization",
    "trainer.use_distributed_sampler": "clips are always divided among processes without repetition",
    "trainer.reload_dataloaders_every_n_epochs": "the clips are the same in every epoch",
}
_NOT_TRAINED = "an evaluation trains nothing"
UNUSED_BY_EVALUATION = {
    **UNUSED,
    "trainer.logger": "evaluations are tracked with --wandb",
    **{f"trainer.{name}": _NOT_TRAINED for name in (
        "callbacks", "enable_checkpointing", "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time",
        "limit_train_batches", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches",
        "check_val_every_n_epoch", "val_check_interval", "overfit_batches", "num_sanity_val_steps",
        "log_every_n_steps", "enable_autolog_hparams")},
    **{f"model.{name}": _NOT_TRAINED for name in ("learning_rate", "weight_decay", "dropout", *TRAINING_OPTIONS)},
    **{f"data.{name}": _NOT_TRAINED for name in ("augmentation", "balanced_sampling", "shuffle")},
    "new-wandb-run": "evaluations always start a new W&B run",
}  # fmt: skip
UNUSED_BY = {
    "fit": {**UNUSED, "trainer.limit_test_batches": "use `videomem test`"},
    "validate": {**UNUSED_BY_EVALUATION, "trainer.limit_test_batches": "use `videomem test`"},
    "test": {**UNUSED_BY_EVALUATION, "trainer.limit_val_batches": "use `videomem validate`"},
}


class _SaveConfig(SaveConfigCallback):
    """Writes the config of a run to its directory, atomically."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = Path(self.config.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / self.config_filename, self.parser.dump(self.config, skip_none=False).encode())


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
                save_config_callback=_SaveConfig,
                save_config_kwargs={"save_to_log_dir": False},
                parser_kwargs=parser_settings(command, DESCRIPTIONS[command], "model.memory"),
            )
        except BaseException:
            if self._claimed is not None:
                self._claimed.rmdir()
            raise

    def init_parser(self, **keywords: Any) -> LightningArgumentParser:
        parser = LightningArgumentParser(
            dump_header=[f"pytorch_lightning=={pytorch_lightning.__version__}"], **keywords
        )
        parser.add_argument("-c", "--config", action=ConfigFile, metavar="FILE", help="YAML file of settings; later "
                            "files override earlier ones")  # fmt: skip
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds --seed, which replaces --seed_everything of Lightning."""
        add_shared(parser, "--seed")

    def instantiate_trainer(self, **keywords: Any) -> Trainer:
        trainer = super().instantiate_trainer(use_distributed_sampler=False, **keywords)
        check_processes(trainer, self.config.trainer.strategy, run_dir_is_new=self._claimed is not None)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()
        return trainer

    def _set_seed(self) -> None:
        seed_everything(self.config.seed, workers=True, verbose=False)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        default_dir, default_mode = "in the directory of the checkpoint", "offline"
        if self._command == "fit":
            default_dir, default_mode = "below runs/", "the mode of the logger, which is offline unless set"
        parser.add_argument("--run-dir", type=str | None, default=None, help="directory of the run (default: a new "
                            f"one {default_dir})")  # fmt: skip
        parser.add_argument("--ckpt-path", type=str | None, default=None, help="checkpoint to resume or to evaluate")
        parser.add_argument("--wandb", type=Mode | None, default=None, metavar="{offline,online,disabled}",
                            help=f"mode of the W&B run (default: {default_mode})")  # fmt: skip
        add_shared(parser, "--wandb-project")
        parser.add_argument("--new-wandb-run", action="store_true", help="start a new W&B run instead of resuming "
                            "the one of the checkpoint")  # fmt: skip
        add_shared(parser, "--trust")
        parser.link_arguments("seed", "model.seed")
        parser.link_arguments("seed", "data.seed")
        for name in ("feature_dim", "class_names", "class_counts"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        self._shorten_help(parser)

    def _shorten_help(self, parser: LightningArgumentParser) -> None:
        """Hides options that have no effect, and lists the less common ones of the trainer by name."""
        others = []
        for action in parser._actions:
            section, _, name = action.dest.partition(".")
            if unused_name(action.dest, UNUSED_BY[self._command]) is not None:
                hide(action)
            elif section == "trainer" and name in TRAINER:
                action.help = TRAINER[name]
            elif section == "trainer" and name and not name.endswith(".help"):
                hide(action)
                others.append(f"--{action.dest}")
        group: Any = parser.groups["trainer"]  # type: ignore[index]
        group.title = "Lightning's trainer"
        group.description = f"Also, as in Lightning's documentation: {', '.join(others)}."

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        config = self.config
        config.data.catalog = str(Path(config.data.catalog).absolute())
        config.data.store = str(store_folder(config.data.store).place)
        backbone = config.data.features.backbone
        if backbone.weights not in PUBLISHED:
            backbone.weights = str(Path(backbone.weights).absolute())
        if backbone.library == "transformers" and Path(backbone.name).is_dir():
            backbone.name = str(Path(backbone.name).absolute())
        config.run_dir = str(Path(config.run_dir or self._default_run_dir()).absolute())
        if self._command == "fit":
            refuse_used(Path(config.run_dir))
        config.trainer.default_root_dir = config.run_dir
        self.tracking = tracking_of(config, config.trainer.logger)
        if self._command != "fit":
            config.trainer.logger = False
            config.trainer.callbacks = None
            config.trainer.enable_checkpointing = False
        loggers = config.trainer.logger if isinstance(config.trainer.logger, list) else [config.trainer.logger]
        self._prepare_loggers([logger for logger in loggers if isinstance(logger, Namespace)])

    def _prepare_loggers(self, loggers: Sequence[Namespace]) -> None:
        """Sets the directory of the loggers, and the mode and the project of the W&B logger."""
        config = self.config
        for logger in loggers:
            if logger.init_args.get("save_dir") in (None, "{run_dir}"):
                logger.init_args.save_dir = config.run_dir
            if logger.class_path.endswith(".TensorBoardLogger") and find_spec("tensorboard") is None:
                raise VideomemError(
                    f"trainer.logger has {logger.class_path}, but the package tensorboard is not installed; "
                    "run `pip install 'videomem[tensorboard]'`, or remove the logger"
                )
        found = wandb_loggers(loggers)
        for logger in found:
            for name in ("mode", "project", "entity"):
                logger.init_args[name] = getattr(self.tracking, name)
        given = {"--wandb": config.wandb, "--wandb-project": config.wandb_project}
        without_effect = [option for option, value in given.items() if value not in (None, "disabled")]
        if self._command == "fit" and not found and without_effect:
            option = without_effect[0]
            raise VideomemError(
                f"{option} is {given[option]}, but trainer.logger has no videomem.tracking.WandbLogger; "
                f"add one, as configs/base.yaml does, or remove {option}"
            )

    def _default_run_dir(self) -> Path:
        if self._command == "fit":
            memory = self.config.model.memory
            name = (memory if isinstance(memory, str) else memory.class_path).rsplit(".", 1)[-1].lower()
            stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-seed{self.config.seed}"
            self._claimed = claim_folder(Path("runs").absolute(), stem)
            return self._claimed
        assert self.checkpoint is not None
        split = "val" if self._command == "validate" else str(self.config.data.test_split)
        return self.checkpoint.run_dir / f"{split.replace('/', '_')}-{self.checkpoint.path.stem}"


def refuse_used(run_dir: Path) -> None:
    """Raises a VideomemError if a directory has the checkpoints of a run."""
    remove_orphans(run_dir / "checkpoints")
    if any((run_dir / "checkpoints").glob("*")):
        raise VideomemError(f"{run_dir}: already contains a run; choose another --run-dir")


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
