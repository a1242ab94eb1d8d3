"""The `videomem` command: a table of verbs, each a module of `videomem.cli` that is imported when it is called.

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


class Verb(NamedTuple):
    """A verb of the command line: the module of `videomem.cli` with its `main(verb, arguments)`, and its help."""

    module: str
    help: str


VERBS = {
    "demo": Verb("demo", "make videos, train every memory on them, and report what order was worth"),
    "configs": Verb("configs", "put the configs that come with videomem into a folder of yours"),
    "catalog": Verb("catalog", "build or check the table of your videos"),
    "synthesize": Verb("synthesize", "make synthetic videos whose class order alone tells, or looks alone"),
    "extract": Verb("extract", "run the frozen backbone over a catalog, once, into the feature store"),
    "import-features": Verb("import_features", "bring features that were made elsewhere into the feature store"),
    "fit": Verb("train", "train a head on the features of a catalog"),
    "validate": Verb("train", "evaluate a checkpoint on the validation split"),
    "test": Verb("train", "evaluate a checkpoint on the test split"),
    "order": Verb("order", "train with and without order, and judge what order is worth: the verdict, with its report"),
    "shuffle": Verb("shuffle", "take the order of the frames away from trained heads and measure what is lost"),
    "sensitivity": Verb(
        "sensitivity", "measure how much a network that sees whole clips relies on the order of frames"
    ),
    "memory": Verb("memory", "measure how far back memories reach: recall, gradients, time constants"),
    "tour": Verb("tour", "play the idea through: from the amnesic classifier to gates, a figure for each step"),
    "inspect": Verb(
        "inspect", "show the inside of a trained head on one video: what it keeps, what it answers, and when"
    ),
    "predict": Verb("predict", "say what videos show, by a trained model"),
    "stream": Verb("stream", "run a trained model over a video frame by frame, as it comes"),
    "export": Verb("export", "turn a checkpoint into a folder that others can load"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit status: 0 done, 1 done but something failed, 2 not done."""
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
    verb = VERBS.get(arguments[0])
    if verb is None:
        return _fail(f"{arguments[0]!r} is no verb of videomem; it has {', '.join(VERBS)}")
    return int(import_module(f"videomem.cli.{verb.module}").main(arguments[0], arguments[1:]) or 0)


def _help() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items()]
    return "\n".join(
        ["usage: videomem VERB [...]", "", "Does the order of the frames matter, in your videos and to your model?", "",
         *lines, "", "videomem VERB --help says more of one."]
    )  # fmt: skip


def _fail(message: str) -> int:
    print(f"videomem: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
