"""What the commands' parsers have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from videomem.errors import VideomemError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise VideomemError(f"{message}; see `{self.prog} --help`")


def parser(command: str, description: str | None) -> Parser:
    return Parser(
        f"videomem {command}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )


def at_least(least: int) -> Callable[[str], int]:
    """An integer with a lower limit, for argparse's `type`."""

    def integer(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        return value

    return integer


def above_zero(text: str) -> float:
    """A finite number above zero, for argparse's `type`."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def printable(text: str) -> str:
    """A name as a terminal may be given it: what would move the cursor or colour the screen is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def usable_device(name: str) -> str:
    """A device that torch can compute on; `auto` is the GPU where there is one."""
    import torch  # Help of the commands that need no torch must not wait for it.

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:  # torch's answers to a name, a kind or a number that is not there
        raise VideomemError(f"--device {name}: {str(error).splitlines()[0]}; try auto or cpu") from error
    return name


def add_fields(to: argparse.ArgumentParser, defaults: Any, helps: dict[str, str]) -> None:
    """An option for every field of a settings dataclass, a number or a word, with its default."""
    for name, value in vars(defaults).items():
        to.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=helps[name])
