"""Parsers of the commands that read the sections of a config: `data`, `model`, `trainer`, `order`."""

from __future__ import annotations

import argparse
import inspect
import json
import pydoc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

from jsonargparse import (
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    get_loader,
    set_parsing_settings,
)
from jsonargparse._loaders_dumpers import get_yaml_default_loader
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger

from videomem.cli.options import help_text, tidy
from videomem.errors import VideomemError, one_line_reason
from videomem.heads import Memory, Readout
from videomem.training.data_module import VideoDataModule
from videomem.utils.folders import config_folder
from videomem.utils.yaml_numbers import decimal_digits_only
from videomem.video.sampling import Sampling

# Do not instantiate a class for a parameter of type Any, even if the value has the form of a class with arguments.
set_parsing_settings(instantiate_subclass_spec_in_any=False)
# Options and settings that are numbers refuse `1_0`, as `--seed` does.
decimal_digits_only(get_yaml_default_loader())

# What a config file may have at its top level besides the settings of the command that reads it.
OTHER_SETTINGS = {"data", "model", "trainer", "order", "seed", "run_dir", "ckpt_path", "wandb", "wandb_project",
                  "new_wandb_run", "trust"}  # fmt: skip

# Settings whose values are classes, which may be written by name alone.
CLASSES: dict[str, type] = {"model.memory": Memory, "model.readout": Readout, "data.features.sampling": Sampling,
                            "trainer.logger": Logger, "trainer.callbacks": Callback}  # fmt: skip

# Where a parser's error names the class that was given.
_GIVEN = re.compile(r"import path string: (\S+)|class_path[='\": ]+([\w.]+)|Expected a path but (\S+) either")

# Where it names an argument that the class lacks.
_EXTRA = re.compile(r"Option ('\w+') is not accepted.*?class_path='([\w.]+)'")

# Where it names a value of the wrong type, and what it expects; the setting may be an argument of a class.
_WRONG = re.compile(
    r'[Pp]arser key "([\w.]+)": (?:Expected|Does not validate)(.+?)(?:Got|Given) value: (.+?)(?:\. Got value|$)'
)
_EXPECTED = re.compile(r"(?:<class '(\w+)'>|Literal\[(.+?)\])")
_KINDS_OF_VALUES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
}

EPILOG = "Options whose value is CLASS take a name and further options: --{0} NAME --{0}.ARGUMENT VALUE. " \
         "--{0}.help NAME shows the arguments of a class."  # fmt: skip

# The help of options that jsonargparse adds.
_KINDS = {"_ActionConfigLoad": "YAML file of this section", "_ActionPrintConfig": "print the settings and exit; flags, "
          "separated by commas, are skip_default and skip_unset"}  # fmt: skip


class ConfigHelpFormatter(DefaultHelpFormatter):
    """Shows an option with its text and default only: without types and linked options."""

    def __init__(self, prog: str, **keywords: Any) -> None:
        super().__init__(prog, max_help_position=34, **keywords)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = _KINDS.get(type(action).__name__) or help_text(action)
        text = re.sub(r"^[A-Z](?=[a-z ])", lambda letter: letter[0].lower(), text)
        text = re.sub(r"\.(?= \(default|$)", "", text)
        if isinstance(action.default, bool):
            text = text.replace("%(default)s", str(action.default).lower())
        if action.dest in ("model.memory", "model.readout", "data.features.sampling"):
            text += f": {', '.join(class_names(CLASSES[action.dest]))}"
        return f"{text} (required)" if action.required else text

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return "CLASS" if action.dest in CLASSES else super()._get_default_metavar_for_optional(action)

    def _format_action(self, action: argparse.Action) -> str:
        is_hidden = action in _HIDDEN or action.dest.endswith(".help") or type(action).__name__ == "ActionLink"
        return "" if is_hidden else super()._format_action(action)


_HIDDEN: WeakSet[argparse.Action] = WeakSet()


def hide(action: argparse.Action) -> None:
    """Leaves an option out of the help. argparse.SUPPRESS would leave it out of printed configs, too."""
    _HIDDEN.add(action)


def parser_settings(command: str, description: str | None, example: str = "data.features.sampling") -> dict[str, Any]:
    """Returns the arguments of jsonargparse's parser for a command."""
    return {
        "prog": f"videomem {command}",
        "usage": f"videomem {command} [--config FILE ...] [OPTION ...]",
        "description": description,
        "epilog": EPILOG.format(example),
        "formatter_class": ConfigHelpFormatter,
        "exit_on_error": False,
        "allow_abbrev": False,
        "print_config": "--print-config",
    }


def config_parser(command: str = "", description: str | None = None, unused: Mapping[str, str] = {}) -> ArgumentParser:
    """Returns a parser of options and of the part of a config file that a command uses.

    Args:
        unused: Settings (`data.seed`) and sections (`trainer`) that have no effect on the command, each with the
            reason. A config file, which may serve other commands too, may have them; they are ignored.
    """
    options = ArgumentParser(**parser_settings(command, description))
    options.add_argument("-c", "--config", action=UsedSettings, unused=unused, metavar="FILE", help="YAML file of "
                         "settings; later files override earlier ones, and what this command does not use is "
                         "ignored")  # fmt: skip
    return options


@contextmanager
def errors_in_one_line(*others: type[Exception]) -> Iterator[None]:
    """Raises the errors of a parser, and of other types if named, as a VideomemError with the reason."""
    kinds: tuple[type[Exception], ...] = (ArgumentError, *others)
    try:
        yield
    except kinds as error:
        raise VideomemError(parser_error(error)) from error


def parse(options: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parses arguments.

    Raises:
        VideomemError: If an argument or a config file is not valid.
    """
    with errors_in_one_line():
        return options.parse_args(list(arguments))


def build_data_module(options: ArgumentParser, config: Namespace) -> VideoDataModule:
    """Returns the data module of the `data` section.

    Raises:
        VideomemError: If one of its settings is not valid.
    """
    with errors_in_one_line():
        return options.instantiate(config).data


class ConfigFile(ActionConfigFile):
    """Reads a config file; if there is none, the error names those that exist."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if "{" not in values and (Path(values).is_dir() or not Path(values).exists()):
            raise VideomemError(f"--config {values}: {_no_config(Path(values))}")
        super().__call__(parser, cfg, values, option_string)


class UsedSettings(ActionConfigFile):
    """Reads the settings of a config file that its parser uses."""

    def __init__(self, unused: Mapping[str, str], **rest: Any) -> None:
        self.unused = unused
        super().__init__(**rest)

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        try:
            content = get_loader("yaml")(Path(values).read_text(encoding="utf-8"))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise VideomemError(f"--config {values}: {_no_config(Path(values))}") from error
        except OSError as error:
            raise VideomemError(f"--config {values}: {error.strerror}; name a YAML file") from error
        if not isinstance(content, dict):
            raise VideomemError(f"--config {values}: not a mapping of settings; see configs/base.yaml for an example")
        known = {action.dest.split(".")[0] for action in parser._actions}
        used = {name: value for name, value in content.items() if name in known or name not in OTHER_SETTINGS}
        self.apply_config(parser, cfg, self.dest, json.dumps(without(used, self.unused)))


def _no_config(path: Path) -> str:
    """Returns what to say of a config file that does not exist, with the configs that do."""
    kind = "not a file" if path.exists() else "no such file"
    if there := sorted(file.name for file in (path if path.is_dir() else path.parent).glob("*.yaml")):
        return f"{kind}; the folder has {', '.join(there)}"
    names = [file.relative_to(config_folder()).as_posix() for file in sorted(config_folder().rglob("*.yaml"))]
    return f"{kind}; `videomem configs` copies {', '.join(names)}"


def without(settings: Mapping[str, Any], unused: Mapping[str, str], section: str = "") -> dict[str, Any]:
    """Returns settings without those named in `unused` by their dotted names."""
    return {
        name: without(value, unused, f"{section}{name}.") if isinstance(value, dict) else value
        for name, value in settings.items()
        if f"{section}{name}" not in unused and f"{section}{name}".replace("_", "-") not in unused
    }


def refuse_without_effect(command: str, arguments: Sequence[str], unused: Mapping[str, str]) -> None:
    """Raises a VideomemError for the first option that has no effect on a command."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, has_value, value = argument.partition("=")
        if option.startswith("--") and (found := unused_name(option[2:], unused)):
            value = value if has_value or following.startswith("--") else following
            what = f"{option} is {value}, but it" if value else option
            raise VideomemError(f"{what} has no effect on `videomem {command}`: {unused[found]}; leave it out")


def unused_name(name: str, unused: Mapping[str, str]) -> str | None:
    """Returns the setting or section in `unused` that an option belongs to."""
    names = name, name.replace("_", "-")
    return next((key for key in unused if key in names or name.startswith(f"{key}.")), None)


def parser_error(error: BaseException) -> str:
    """Returns the reason of a parser's error in one line; for a wrong class or file, with those that exist."""
    text = " ".join(str(error).split())
    key = re.search(r'[Pp]arser key "([\w.]+?)(?:\.class_path)?"', text)
    if key is not None and (extra := _EXTRA.search(text)):
        cls_name = extra[2].rsplit(".", 1)[-1]
        return f"{key[1]}: {extra[1]} is not accepted by {cls_name}; --{key[1]}.help {cls_name} shows its arguments"
    if key is not None and (wrong := _WRONG.search(text)) and (kinds := _kinds_of_values(wrong[2])):
        name = key[1] if wrong[1].startswith(key[1]) else f"{key[1]}.{wrong[1]}"
        return f"{name} is {wrong[3]}, but must be {kinds}"
    if key is not None and key[1] in CLASSES and (found := _GIVEN.search(text)):
        base, given = CLASSES[key[1]], found[found.lastindex or 0]
        with suppress(pydoc.ErrorDuringImport):
            named = {cls.__name__: cls for cls in subclasses(base)}
            cls = pydoc.locate(given) if "." in given else named.get(given)
            if isinstance(cls, type) and issubclass(cls, base):
                return tidy(one_line_reason(error))
            kind = "a known class" if cls is None else f"a subclass of {base.__name__}"
            choices = f"{', '.join(class_names(base))}, or the import path of another"
            return f"{key[1]} is {given!r}, which is not {kind}; choose one of {choices}"
    if key is not None and (file := re.search(r"Unable to load config ['\"]([^'\"]+)", text)):
        return f"--{key[1]} {file[1]}: {_no_config(Path(file[1]))}"
    return tidy(one_line_reason(error))


def _kinds_of_values(expected: str) -> str:
    """Returns the values that a parser expects in words; empty if one of their types has no name here."""
    found = dict.fromkeys(_EXPECTED.findall(expected.partition("Given value type")[0]))
    kinds = [choices.replace("'", "") or _KINDS_OF_VALUES.get(kind, "") for kind, choices in found]
    if "a number" in kinds:
        kinds = [kind for kind in kinds if kind != "an integer"]
    return " or ".join(kinds) if all(kinds) else ""


def class_names(base: type) -> list[str]:
    return sorted({cls.__name__ for cls in subclasses(base)})


def subclasses(base: Any) -> list[type]:
    """Returns the public subclasses of an abstract class that can be instantiated, at any depth."""
    found: list[type] = []
    for cls in base.__subclasses__():
        public = not cls.__name__.startswith("_") and not inspect.isabstract(cls)
        found += [cls] * public + subclasses(cls)
    return found
