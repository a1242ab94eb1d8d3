"""The `videomem` command: a table of commands, each a module of `videomem.cli` that is imported when it is called.

Nothing heavy is imported here, so that `videomem --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

from videomem import __version__
from videomem.errors import VideomemError


class Command(NamedTuple):
    """A command of the command line: the module of `videomem.cli` with its `main(command, arguments)`, and its help."""

    module: str
    help: str


COMMANDS = {
    "demo": Command("demo", "make videos, train every memory on them, and report what order was worth"),
    "configs": Command("configs", "put the configs that come with videomem into a folder of yours"),
    "catalog": Command("catalog", "build or check the table of your videos"),
    "synthesize": Command("synthesize", "make synthetic videos whose class order alone tells, or looks alone"),
    "extract": Command("extract", "run the frozen backbone over a catalog, once, into the feature store"),
    "import-features": Command("import_features", "bring features that were made elsewhere into the feature store"),
    "fit": Command("train", "train a head on the features of a catalog"),
    "validate": Command("train", "evaluate a checkpoint on the validation split"),
    "test": Command("train", "evaluate a checkpoint on the test split"),
    "order": Command(
        "order", "train with and without order, and judge what order is worth: the verdict, with its report"
    ),
    "shuffle": Command("shuffle", "take the order of the frames away from trained heads and measure what is lost"),
    "sensitivity": Command(
        "sensitivity", "measure how much a network that sees whole clips relies on the order of frames"
    ),
    "memory": Command("memory", "measure how far back memories reach: recall, gradients, time constants"),
    "tour": Command("tour", "play the idea through: from the memoryless classifier to gates, a figure for each step"),
    "inspect": Command(
        "inspect", "show the inside of a trained head on one video: what it keeps, what it answers, and when"
    ),
    "predict": Command("predict", "say what videos show, by a trained model"),
    "stream": Command("stream", "run a trained model over a video frame by frame, as it comes"),
    "export": Command("export", "turn a checkpoint into a folder that others can load"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 done but something failed, 2 not done."""
    try:
        return _main(list(sys.argv[1:] if arguments is None else arguments))
    except VideomemError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("videomem: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # Who reads our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}")
    except UnicodeError as error:
        return _fail(f"text that is not UTF-8: {error}")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's own class, without importing torch
            raise
        reason = str(error).split(". GPU")[0]
        return _fail(f"{reason}; lower data.batch_size or --processes, set data.storage to ram, or run on the CPU")


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(), flush=True)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"videomem {__version__}")
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        return _fail(f"{arguments[0]!r} is no command of videomem; it has {', '.join(COMMANDS)}")
    return int(import_module(f"videomem.cli.{command.module}").main(arguments[0], arguments[1:]) or 0)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: videomem COMMAND [...]", "",
         "Does the order of the frames matter, in your videos and to your model?", "",
         *lines, "", "videomem COMMAND --help says more of one."]
    )  # fmt: skip


def _fail(message: str) -> int:
    print(f"videomem: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
