"""Change every value of a checkpoint or of an exported folder, and load what results, under an audit hook.

    python mutations.py FOLDER NUM_VALUES

Runs in a process of its own, since an audit hook cannot be removed, and prints a JSON object: the number of changes,
how many were refused and how many loaded, and what was wrong with the others.
"""

from __future__ import annotations

import copy
import json
import resource
import shutil
import socket
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from helpers.audit import watched
from helpers.signed_folder import sign
from pytorch_lightning import Trainer
from torch import Tensor

from videomem.errors import VideomemError
from videomem.heads import GRU, AttentionReadout
from videomem.inference.exported_folder import CONFIG, PREPROCESSOR, WEIGHTS
from videomem.inference.model import Classifier, load, model_of
from videomem.training.checkpoint import RUN_RECORD, Checkpoint, read_checkpoint
from videomem.training.checkpoint_io import restore_from
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import LitClassifier

Place = tuple[Any, ...]
TRAP = "trap_module"  # A module that exists and must not be imported.
MAX_GIB = 4  # Memory that loading may take in addition.
NUM_FEATURES, NUM_CLASSES = 6, 3


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


def strange_values(folder: Path) -> list[Any]:
    """Values that no model of videomem has, of wrong types, sizes or meanings."""
    spec = {"class_path": f"{TRAP}.Trap", "init_args": {}}
    return [
        *(None, True, -1, 10**9, 2**62, 10**30, 1.5, 1e300, float("nan"), float("inf")),
        *("", f"{TRAP}.Trap", json.dumps(spec), f"class_path: {TRAP}.Trap", "http://127.0.0.1:9/trap.yaml"),
        *(str(folder / "trap.yaml"), f"local://{folder}/precious", "../../../etc/passwd", "\x1b[2J\n", "a" * 100_000),
        *(spec, {"class_path": f"{TRAP}.Trap"}, {"__class__": "Trap"}, {"a.b": 1}, {}),
        *([], [spec], nested(15), nested(60), [0] * 10_000),
    ]


STRANGE_OBJECTS = [{5: 5}, {("a",): 5}, {None: 1}, b"bytes", torch.zeros(3), torch.zeros(0), {1, 2}]


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """The place of every value at any depth."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*at, key)
        yield from places(item, (*at, key))


def changed(value: Any, at: Place, to: Any) -> Any:
    """A copy with another value at a place."""
    result = copy.copy(value)
    result[at[0]] = to if len(at) == 1 else changed(value[at[0]], at[1:], to)
    return result


def small_checkpoint() -> dict[str, Any]:
    """The content of a checkpoint of a small head on imported features, as Lightning writes it."""
    names = ["left", "right", "up"]
    model = LitClassifier(partial(GRU, hidden_dim=4), NUM_FEATURES, names, [2, 2, 2], readout=partial(AttentionReadout))
    optimizer = model.configure_optimizers()
    model(torch.randn(2, 3, NUM_FEATURES), torch.tensor([3, 3])).sum().backward()
    optimizer.step()
    sampling = {"class_path": "videomem.video.sampling.Uniform", "init_args": {"num_frames": 8}}
    backbone = {"name": "alexnet", "layer": "fc6", "weights": "random", "library": "torchvision",
                "seed": 0, "grid": 3, "segment_frames": 1, "precision": "float32"}  # fmt: skip
    features = {"backbone": backbone, "sampling": sampling, "decoder": "auto", "dtype": "float16",
                "on_damage": "exclude", "imported": {"name": "clip", "feature_dim": NUM_FEATURES}}  # fmt: skip
    augmentation = {"crop": False, "horizontal_flip": 0.0, "classes_survive_flip": False}
    return {
        **{"epoch": 0, "global_step": 1, "pytorch-lightning_version": "2.6.6", "lr_schedulers": []},
        "state_dict": dict(model.state_dict()),
        "loops": {"fit_loop": trainer().fit_loop.state_dict()},
        "callbacks": {"ModelCheckpoint{}": {"best_model_path": "runs/last.ckpt", "dirpath": "runs"}},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": dict(model.hparams),
        "datamodule_hyper_parameters": {
            **{"catalog": "catalog.csv", "features": features, "store": "features", "source": "features"},
            **{
                "storage": "mmap",
                "batch_size": 32,
                "num_workers": 0,
                "balanced_sampling": False,
                "shuffle": "auto",
                "seed": 0,
            },
            **{"augmentation": augmentation, "reversed_pairs": False, "test_split": "test"},
        },
        VideoDataModule.__qualname__: {"features": {"schema": 1, "dtype": "float16"}, "class_names": names},
        RUN_RECORD: {"id": "abc", "project": "videomem", "group": None, "name": "a", "metrics": {"val/loss": 1.0}},
    }


@cache
def trainer() -> Trainer:
    """A trainer, made once, since it looks for plugins in all installed packages."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, max_epochs=2, **quiet)


class Tally:
    """Loads changed models, and keeps count."""

    def __init__(self, load: Callable[[], Classifier], readable: list[Path]) -> None:
        self._load, self._readable = load, readable
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        for _ in range(2):  # The first time imports what loading needs.
            self.expected = answers(load())

    def try_(self, what: str) -> None:
        """Load the model; it must be refused in one line or have the same logits, and do nothing else."""
        problem = ""
        with watched(self._readable) as events:
            try:
                same = torch.equal(answers(self._load()), self.expected)
                problem = "" if same else "it loads with another meaning"
                self.counts["loaded"] += same
            except VideomemError as error:
                self.counts["refused"] += 1
                if "\n" in str(error) or len(str(error)) > 1000:
                    problem = f"a long error: {str(error)[:200]}"
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is reported
                last = traceback.extract_tb(error.__traceback__)[-1]
                problem = f"{type(error).__name__}: {str(error)[:100]} ({Path(last.filename).name}:{last.lineno})"
        self.counts["changes"] += 1
        if problem or events:
            self.wrong.append(f"{what}: {problem} {events[:3]}")


@torch.no_grad()
def answers(model: Classifier) -> Tensor:
    x_BTD = torch.linspace(-1, 1, 4 * NUM_FEATURES).view(1, 4, NUM_FEATURES)
    return model.classify(x_BTD, torch.tensor([4]))


def load_and_prepare_to_resume(path: Path) -> Classifier:
    """What `predict`, `test` and `fit --ckpt-path` do with a checkpoint before they read data."""
    checkpoint: Checkpoint = read_checkpoint(path)
    json.dumps([checkpoint.config(), checkpoint.training_facts(), checkpoint.run_record, checkpoint.features])
    model = model_of(checkpoint)
    strategy = trainer().strategy
    files = strategy.checkpoint_io
    for resume in (False, True):
        try:
            restore_from(checkpoint, trainer(), checkpoint.classifier(), resume)
        finally:
            strategy.checkpoint_io = files
    return model


def change_checkpoints(folder: Path, num_values: int) -> Tally:
    path, content = folder / "model.ckpt", small_checkpoint()
    torch.save(content, path)
    tally = Tally(partial(load_and_prepare_to_resume, path), [path])
    for what, changed_content in changes(content, strange_values(folder) + STRANGE_OBJECTS, num_values):
        torch.save(changed_content, path)
        tally.try_(f"checkpoint {what}")
    return tally


def change_folders(folder: Path, num_values: int) -> Tally:
    path = folder / "exported"
    torch.save(small_checkpoint(), folder / "model.ckpt")
    model = load(folder / "model.ckpt")
    counts = {"split": "test", "num_clips": 4, "num_groups": 2, "num_permutations": 3}
    shares = ("accuracy", "shuffled", "reversed", "chance", "flip_rate", "max_logit_change")
    order_test = {"label": "gru", "verdict": "matters", "data_verdict": "Order matters", "plan_sha256": "0",
                  "value": 0.1, "low": 0.0, "high": 0.2}  # fmt: skip
    model.evidence = {"evaluation": {**counts, **dict.fromkeys(shares, 0.5)}, "order_test": order_test}
    model.save_pretrained(path)
    tally = Tally(partial(load, path), [path / name for name in (CONFIG, PREPROCESSOR, WEIGHTS)])
    for name in (CONFIG, PREPROCESSOR):
        text = (path / name).read_text()
        for what, content in changes(json.loads(text), strange_values(folder), num_values):
            (path / name).write_text(json.dumps(content))
            sign(path)
            tally.try_(f"{name} {what}")
        (path / name).write_text(text)
    return tally


def changes(content: dict[str, Any], values: list[Any], num_values: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """The content with `num_values` of the values at each place in turn, without each entry, and with further ones."""
    number = 0
    for place in places(content):
        for _ in range(min(num_values, len(values))):
            value = values[number % len(values)]
            number += 1
            yield f"{place} = {value!r:.60}", changed(content, place, value)
    for key in content:
        yield f"without {key}", {name: value for name, value in content.items() if name != key}
    for section in [(), *(place for place in places(content) if isinstance(at(content, place), dict))]:
        yield f"{section} with more", changed(content, (*section, "class_path"), f"{TRAP}.Trap")


def at(content: Any, place: Place) -> Any:
    for key in place:
        content = content[key]
    return content


def check_watch(folder: Path) -> None:
    """Each kind of action is noticed."""
    (folder / "noticed.py").write_text("")
    for number, action in enumerate((
        lambda: import_module("noticed"),
        lambda: (folder / "trap.yaml").read_text(),
        lambda: (folder / "written").write_text(""),
        lambda: (folder / "written").unlink(),
        lambda: subprocess.run(["true"], check=True),
        lambda: socket.socket().close(),
    )):  # fmt: skip
        with watched() as events:
            action()
        assert events, number


def main(folder: Path, num_values: int) -> None:
    (folder / f"{TRAP}.py").write_text("class Trap: pass\n")
    (folder / "trap.yaml").write_text(f"class_path: {TRAP}.Trap\n")
    sys.path.insert(0, str(folder))
    check_watch(folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_GIB * 2**30,) * 2)
    report = {}
    for change in (change_checkpoints, change_folders):
        inside = folder / change.__name__
        shutil.rmtree(inside, ignore_errors=True)
        inside.mkdir()
        tally = change(inside, num_values)
        report[change.__name__] = {**tally.counts, "wrong": tally.wrong}
    assert TRAP not in sys.modules
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
