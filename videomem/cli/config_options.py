"""Parsers of the commands that read the sections of a config: `data`, `model`, `trainer`, `order`."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace, get_loader

from videomem.cli.options import tidy
from videomem.errors import VideomemError, one_line_reason
from videomem.heads import Memory, Readout
from videomem.training.data_module import VideoDataModule
from videomem.video.sampling import Sampling

# What a config file may have at its top level besides the settings of the command that reads it.
OTHER_SETTINGS = {
    "data",
    "model",
    "trainer",
    "order",
    "seed",
    "run_dir",
    "ckpt_path",
    "wandb",
    "new_wandb_run",
    "trust",
}

# Settings whose values are classes, which may be written by name alone.
CLASSES: dict[str, type] = {"model.memory": Memory, "model.readout": Readout, "data.features.sampling": Sampling}


def config_parser(command: str = "", description: str | None = None, unused: Mapping[str, str] = {}) -> ArgumentParser:
    """Returns a parser of options and of the part of a config file that a command uses.

    Args:
        command: Name of the command.
        description: First lines of its help.
        unused: Settings (`data.seed`) and sections (`trainer`) that have no effect on the command, each with the
            reason. A config file, which may serve other commands too, may have them; they are ignored.
    """
    options = ArgumentParser(prog=f"videomem {command}", description=description, exit_on_error=False,
                             allow_abbrev=False, print_config="--print-config")  # fmt: skip
    options.add_argument("-c", "--config", action=UsedSettings, unused=unused, help="YAML file of settings; later "
                         "files override earlier ones, and what this command does not use is ignored")  # fmt: skip
    return options


def parse(options: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parses arguments.

    Raises:
        VideomemError: If an argument or a config file is not valid.
    """
    try:
        return options.parse_args(list(arguments))
    except ArgumentError as error:
        raise VideomemError(parser_error(error)) from error


def build_data_module(options: ArgumentParser, config: Namespace) -> VideoDataModule:
    """Returns the data module of the `data` section.

    Raises:
        VideomemError: If one of its settings is not valid.
    """
    try:
        return options.instantiate(config).data
    except ArgumentError as error:
        raise VideomemError(parser_error(error)) from error


class UsedSettings(ActionConfigFile):
    """Reads the settings of a config file that its parser uses."""

    def __init__(self, unused: Mapping[str, str] = {}, **rest: Any) -> None:
        self.unused = unused
        super().__init__(**rest)

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        try:
            content = get_loader("yaml")(Path(values).read_text(encoding="utf-8"))
        except OSError as error:
            raise VideomemError(f"--config {values}: {error.strerror}; name a YAML file") from error
        if not isinstance(content, dict):
            raise VideomemError(f"--config {values}: not a mapping of settings; see configs/base.yaml for an example")
        known = {action.dest.split(".")[0] for action in parser._actions}
        used = {name: value for name, value in content.items() if name in known or name not in OTHER_SETTINGS}
        self.apply_config(parser, cfg, self.dest, json.dumps(without(used, self.unused)))


def without(settings: Mapping[str, Any], unused: Mapping[str, str], section: str = "") -> dict[str, Any]:
    """Returns settings without those named in `unused` by their dotted names."""
    left = {name: value for name, value in settings.items() if f"{section}{name}".replace("_", "-") not in unused}
    left = {name: value for name, value in left.items() if f"{section}{name}" not in unused}
    return {
        name: without(value, unused, f"{section}{name}.") if isinstance(value, dict) else value
        for name, value in left.items()
    }


def refuse_without_effect(command: str, arguments: Sequence[str], unused: Mapping[str, str], known: Any = ()) -> None:
    """Raises a VideomemError for the first option that has no effect on a command."""
    for place, argument in enumerate(arguments):
        option, has_value, value = argument.partition("=")
        name = option.removeprefix("--")
        found = next((key for key in unused if name == key or name.startswith(f"{key}.")), None)
        if found is None or option in known or not option.startswith("--"):
            continue
        if not has_value:
            value = next((text for text in arguments[place + 1 : place + 2] if not text.startswith("--")), "")
        what = f"{option} is {value}, but it" if value else option
        raise VideomemError(f"{what} has no effect on `videomem {command}`: {unused[found]}; leave it out")


def parser_error(error: BaseException) -> str:
    """Returns the reason of a parser's error in one line; for the name of a class, with the classes that exist."""
    reason = one_line_reason(error)
    key = re.search(r'[Pp]arser key "([\w.]+?)(?:\.class_path)?"', reason)
    if key is None or key[1] not in CLASSES or not (name := re.search(_NO_CLASS, reason)):
        return tidy(reason)
    names = ", ".join(sorted(cls.__name__ for cls in concrete_subclasses(CLASSES[key[1]])))
    given = next(group for group in name.groups() if group)
    return f"{key[1]} is {given!r}, which is not a known class; choose one of {names}, or the import path of another"


_NO_CLASS = r"import path string: (\S+)"


def concrete_subclasses(base: Any) -> list[type]:
    """Returns the public subclasses of an abstract class that can be instantiated, at any depth."""
    found: list[type] = []
    for cls in base.__subclasses__():
        public = not cls.__name__.startswith("_") and not inspect.isabstract(cls)
        found += [cls] * public + concrete_subclasses(cls)
    return found


def read_data_module(arguments: Sequence[str]) -> VideoDataModule:
    """Returns the data module that `--config` and `--data.*` options describe; other sections are ignored."""
    options = config_parser()
    options.add_class_arguments(VideoDataModule, "data")
    return build_data_module(options, parse(options, arguments))
