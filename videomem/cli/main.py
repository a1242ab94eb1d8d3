"""The `videomem` command: a table of commands, each a module of `videomem.cli` that is imported when it runs.

No large library is imported here, so that `videomem --help` is fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from videomem import __version__
from videomem.cli.terminal import encode_anything, say
from videomem.errors import VideomemError


class Command(NamedTuple):
    """A command: the module of `videomem.cli` that has its `main(command, arguments)`, and one line of help."""

    module: str
    help: str


GROUPS = {
    "getting started": {
        "demo": Command("demo", "make videos, train all memories on them, and report what frame order is worth"),
        "configs": Command("configs", "copy the config files of videomem to a folder"),
    },
    "data": {
        "catalog": Command("catalog", "build or check a catalog of videos"),
        "synthesize": Command(
            "synthesize", "make videos whose class depends on frame order only, or on appearance only"
        ),
        "extract": Command("extract", "compute the features of a catalog with the frozen backbone"),
        "store": Command("store", "merge, verify, clean or describe feature stores"),
        "import-features": Command("import_features", "import features that were computed by another tool"),
    },
    "training": {
        "fit": Command("train", "train a head on the features of a catalog"),
        "validate": Command("train", "evaluate a checkpoint on the validation split"),
        "test": Command("train", "evaluate a checkpoint on the test split"),
    },
    "experiments": {
        "order": Command("order", "measure what frame order is worth to heads trained on a data set"),
        "order subset": Command("order_subset", "write the catalog of the clips or classes that need frame order"),
        "shuffle": Command("shuffle", "evaluate trained heads on shuffled and reversed clips"),
        "sensitivity": Command("sensitivity", "measure how much a video network relies on frame order"),
        "memory": Command("memory", "measure how far back memories reach: recall, gradients, time constants"),
        "tour": Command("tour", "explain memories step by step, with one figure for each step"),
    },
    "use a trained model": {
        "inspect": Command("inspect", "show the state and the predictions of a trained head on one video"),
        "predict": Command("predict", "classify videos"),
        "stream": Command("stream", "classify a video stream frame by frame"),
        "export": Command("export", "write a checkpoint as a folder that others can load"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}

EPILOG = """\
Options that belong to a section of the config files have dotted names, as in YAML: --data.batch_size,
--model.memory, --trainer.max_epochs, --order.runs. All other options are kebab-case: --run-dir, --seed.

`videomem COMMAND --help` shows the options of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 for success, 1 for partial failure, 2 for an error."""
    encode_anything()
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except VideomemError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        say("videomem: interrupted", to_stderr=True)
        return 130
    except BrokenPipeError:  # The reader of the output has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except UnicodeError as error:
        return _fail(f"not valid UTF-8: {error}")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's own class, without importing torch
            raise
        reason = str(error).split(". GPU")[0]
        return _fail(f"{reason}; lower data.batch_size or --processes, set data.storage to ram, or run on the CPU")


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        say(*_help().split("\n"))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        say(f"videomem {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        return _fail(f"{arguments[0]!r} is not a command of videomem; it has {', '.join(COMMANDS)}")
    return run_command(arguments)


def run_command(arguments: Sequence[str]) -> int:
    """Runs the command that the first argument names, or the first two, and returns its exit status."""
    length = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    command, rest = " ".join(arguments[:length]), arguments[length:]
    return int(import_module(f"videomem.cli.{COMMANDS[command].module}").main(command, rest) or 0)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: videomem COMMAND [...]", "", "Measure whether frame order matters, in videos and to models.", ""]
    for title, commands in GROUPS.items():
        lines += [f"{title}:", *(f"  {name:<{width}}  {command.help}" for name, command in commands.items()), ""]
    return "\n".join([*lines, EPILOG])


def _fail(message: str) -> int:
    say(f"videomem: error: {' '.join(message.split())}", to_stderr=True)
    return 2
