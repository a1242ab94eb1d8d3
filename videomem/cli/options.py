"""What commands share: their parser, the options that several of them have, and what several of them print.

Each shared option is declared once, with one default.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from videomem.cli.terminal import say
from videomem.errors import VideomemError
from videomem.features.failures import Failure
from videomem.utils.workers import TIME_LIMIT_S
from videomem.video.synthetic import SyntheticSettings

if TYPE_CHECKING:
    from videomem.tracking import Tracking


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise VideomemError(f"{tidy(message)}; see `{self.prog} --help`")


class HelpFormatter(argparse.HelpFormatter):
    """Shows defaults, except those of flags, None, and those that the help text describes itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return help_text(action)


def help_text(action: argparse.Action) -> str:
    """Returns the help of an option with its default, unless that says nothing or is described already."""
    text = action.help or ""
    says_nothing = action.default in ([], None, argparse.SUPPRESS) or action.nargs == 0 or not action.option_strings
    return text if says_nothing or "(default" in text else f"{text} (default: %(default)s)"


def parser(command: str, description: str | None) -> Parser:
    return Parser(f"videomem {command}", description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def tidy(message: str) -> str:
    """A parser's message that starts with the name of the option, as all other errors do."""
    message = re.sub(r"^argument (--[\w-]+): is ", r"\1 is ", message)
    return re.sub(r'^Parser key "(\w+)": is ', lambda match: f"--{match[1].replace('_', '-')} is ", message)


def whole_number(text: str) -> int:
    """Converts digits to an integer, for argparse's `type`; `int` would also take `1_0` for 10."""
    if not re.fullmatch(r"[+-]?[0-9]+", str(text)):  # jsonargparse also converts defaults.
        raise argparse.ArgumentTypeError(f"is {text!r}, but must be an integer")
    return int(text)


def at_least(least: int) -> Callable[[str], int]:
    """Returns a converter of text to an integer with a lower limit, for argparse's `type`."""

    def integer(text: str) -> int:
        value = whole_number(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"is {value}, but must be at least {least}")
        return value

    return integer


def number(text: str) -> float:
    """Converts text to a number; `float` would also take `1_0` for 10."""
    return float(text if "_" not in str(text) else "")


def above_zero(text: str) -> float:
    """Converts text to a finite number above zero, for argparse's `type`."""
    value = number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {value}, but must be above 0 and finite")
    return value


def _model(text: str) -> Path | str:
    """Converts the name of a model. Only a repository with its prefix is one: a mistyped path is not downloaded."""
    return text if text.startswith("hf://") else Path(text)


SHARED: dict[str, dict[str, Any]] = {
    "--model": {"type": _model, "required": True, "help": "folder of `videomem export`, checkpoint of `videomem fit`, "
                "or hf://OWNER/NAME[@REVISION] on the Hugging Face Hub"},
    "--device": {"default": "auto", "help": "device that computes: auto (a GPU if there is one), cpu, cuda or cuda:N"},
    "--devices": {"default": "auto", "help": "devices that compute: auto (all GPUs, or the CPU), cpu, or a list such "
                  "as cuda:0,cuda:1"},
    "--trust": {"action": "store_true", "help": "allow checkpoints to name classes of other packages"},
    "--seed": {"type": at_least(0), "default": 0, "help": "seed of all random numbers"},
    "--split": {"default": None, "help": "split to evaluate (default: data.test_split of the checkpoint)"},
    "--catalog": {"default": None, "help": "path of the catalog, if it has moved since training"},
    "--store": {"default": None, "help": "folder of feature stores, if it has moved since training"},
    "--wandb": {"choices": ("offline", "online", "disabled"), "default": None, "help": "mode of the W&B run (default: "
                "offline)"},
    "--wandb-project": {"default": None, "metavar": "PROJECT", "help": "W&B project of the run, or ENTITY/PROJECT"},
    "--workers": {"type": at_least(0), "default": 1, "help": "processes that decode videos; 0 decodes in the main "
                  "process, without isolation and time limit"},
    "--time-limit": {"type": above_zero, "default": TIME_LIMIT_S, "help": "seconds that a worker may spend on one "
                     "clip"},
    "--processes": {"type": at_least(1), "default": None, "help": "training processes that run in parallel (default: "
                    "one per CPU core, or two per GPU)"},
    "--source-fps": {"type": above_zero, "default": None, "help": "frame rate of a folder of images, in frames per "
                     "second"},
    "--engine": {"choices": ("local", "ray"), "default": "local", "help": "where the work is done: on this machine, or "
                 "on a Ray cluster"},
    "--address": {"default": "", "help": "address of the Ray cluster (default: RAY_ADDRESS, or a new one on this "
                  "machine)"},
    "--allow-failures": {"action": "store_true", "help": "exit with status 0 even if clips failed"},
}  # fmt: skip


def add_shared(to: Any, *names: str) -> None:
    """Adds options of `SHARED` to a parser of argparse or jsonargparse."""
    for name in names:
        to.add_argument(name, **SHARED[name])


def add_out(to: Any, command: str, content: str = "results") -> None:
    to.add_argument("--out", type=Path, default=Path("runs") / command, help=f"output folder for {content}")


def moved_data(given: argparse.Namespace) -> dict[str, str]:
    """Returns the settings of a checkpoint's data module that `--catalog`, `--store` and `--split` replace."""
    named = {"test_split": "split", "catalog": "catalog", "store": "store"}
    return {setting: value for setting, name in named.items() if (value := getattr(given, name, None))}


def tracking_of(given: Any, logger: Any = None) -> Tracking:
    """Returns where the W&B run of a command belongs.

    Args:
        given: The options, of which `--wandb` and `--wandb-project` count first.
        logger: Setting `trainer.logger` of a config, whose `WandbLogger` counts next. Loggers without one disable runs.
    Raises:
        VideomemError: If `--wandb-project` is not a name.
    """
    from videomem.tracking import Tracking  # Imported here because commands must show their help quickly.

    entity, slash, project = str(given.wandb_project or "").rpartition("/")
    if given.wandb_project is not None and (not project or (slash and not entity) or "/" in entity):
        raise VideomemError(f"--wandb-project is {given.wandb_project!r}, but must be PROJECT or ENTITY/PROJECT")
    chosen = Tracking(given.wandb, project or None, entity or None)
    if logger is None:
        return chosen
    found = wandb_loggers(logger)
    arguments: dict[str, Any] = found[0].init_args.as_dict() if found else {"mode": "disabled"}
    configured: dict[str, Any] = {field.name: arguments.get(field.name) for field in fields(Tracking)}
    return chosen.over(Tracking(**configured))


def wandb_loggers(logger: Any) -> list[Any]:
    """Returns the settings of each `WandbLogger` in the setting `trainer.logger` of a config."""
    loggers = logger if isinstance(logger, list) else [logger]
    of_class = [(one, str(getattr(one, "class_path", ""))) for one in loggers]
    return [one for one, name in of_class if name.startswith("videomem.tracking") and name.endswith(".WandbLogger")]


def refuse_unused(options: Any, given: Any, names: Iterable[str], why: str) -> None:
    """Raises a VideomemError if one of the options was changed from its default, because it would have no effect."""
    for name in names:
        if getattr(given, name) != options.get_default(name):
            raise VideomemError(f"--{name.replace('_', '-')} has no effect {why}")


def refuse_time_limit(options: Any, given: Any) -> None:
    """Raises a VideomemError if --time-limit was changed although no worker decodes."""
    if given.workers == 0:
        refuse_unused(options, given, ["time_limit"], "with --workers 0; leave it out, or decode in workers")


def usable_device(name: str) -> str:
    """Returns the name of a device that torch can compute on; `auto` is the GPU if there is one."""
    import torch  # Imported here because commands without torch must show their help quickly.

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:  # torch's errors for unknown names, types and indices of devices
        raise VideomemError(f"--device {name}: {str(error).splitlines()[0]}; try auto or cpu") from error
    return name


SYNTHETIC = {
    "train_pairs": "training pairs (a clip and its reversal) of each action",
    "val_pairs": "validation pairs of each action",
    "test_pairs": "test pairs of each action",
    "num_frames": "frames per clip, even",
    "frame_size": "height and width in pixels, even",
    "fps": "frame rate of the videos",
    "seed": "seed of all random numbers",
    "label_by": "what the class is: direction (depends on frame order only) or shape (does not depend on frame order)",
}


def add_synthetic_settings(to: argparse.ArgumentParser) -> None:
    """Adds an option for every field of `SyntheticSettings`."""
    for name, value in vars(SyntheticSettings()).items():
        flag = "video-fps" if name == "fps" else name.replace("_", "-")
        kind = whole_number if type(value) is int else type(value)
        to.add_argument(f"--{flag}", dest=name, type=kind, default=value, help=SYNTHETIC[name])


def print_failures(failures: Sequence[Failure], table: Path | str) -> None:
    """Prints the first failures and the path of the failure table to stderr."""
    for failure in failures[:10]:
        say(f"failed: {failure.message}", to_stderr=True)
    if failures:
        say(f"{len(failures)} clip(s) failed; all are listed in {table}", to_stderr=True)
