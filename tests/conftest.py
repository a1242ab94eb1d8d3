"""What tests share: small videos, their features, trained heads, and the real data where it is at hand."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from videomem.cli.config_options import build_data_module, config_parser, parse
from videomem.cli.main import main
from videomem.training.data_module import VideoDataModule
from videomem.video.catalog import Catalog
from videomem.video.catalog_files import read_catalog
from videomem.video.synthetic import SyntheticSettings, synthesize

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
SHARED = ROOT.parent / "shared"
HEADS = sorted(path.stem for path in (CONFIGS / "head").glob("*.yaml"))
# One head for each form of a state: none, kept at a fixed rate, h and c, frames of a window, the frame's number.
VARIED_HEADS = ("none", "leaky", "lstm_last", "conv", "position_attention")
every_head = pytest.mark.parametrize("head", HEADS)
# For tests whose claim another test makes of every head at less expense.
varied_heads = pytest.mark.parametrize(
    "head", [head if head in VARIED_HEADS else pytest.param(head, marks=pytest.mark.slow) for head in HEADS]
)

os.environ["WANDB_MODE"] = "disabled"  # Tests of tracking ask for offline runs.
_outside = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # What W&B keeps of its own, elsewhere than at home.
os.environ |= {f"WANDB_{name}_DIR": f"{_outside.name}/{name}" for name in ("CACHE", "CONFIG")}
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


_LEFT_OUT = pytest.StashKey[int]()


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash[_LEFT_OUT] = item.config.stash.get(_LEFT_OUT, 0) + bool(item.get_closest_marker("slow"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # One of several processes, each of which leaves out the same.
        session.config.workeroutput["left_out"] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_LEFT_OUT] = node.workeroutput.get("left_out", 0)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = terminalreporter.config.stash.get(_LEFT_OUT, 0)
    terminalreporter.write_line(f"{left_out} slow tests were left out; `make test-all` runs them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def shared_data(name: str) -> Path:
    """A folder of real data, which is never part of the project."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the real data of {name}, which is not at hand")
    return path


@pytest.fixture(autouse=True, scope="module")
def long_lived_objects() -> None:
    """Leaves what earlier modules made and imported out of the garbage collections that several libraries call for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with synthetic videos and their features, as `synthesize` and `extract` leave it."""
    folder = tmp_path_factory.mktemp("workspace")
    settings = SyntheticSettings(train_pairs=2, val_pairs=1, test_pairs=2, frame_size=64)
    synthesize(settings, folder / "videos")
    assert main(["extract", *data_arguments(folder), "--workers", "0"]) == 0
    return folder


@pytest.fixture(scope="session")
def catalog(workspace: Path) -> Catalog:
    return read_catalog(workspace / "videos" / "catalog.csv")


@pytest.fixture
def data(workspace: Path) -> VideoDataModule:
    return read_data_module(data_arguments(workspace))


def read_data_module(arguments: list[str]) -> VideoDataModule:
    """The data module that `--config` and `--data.*` options describe; other sections are ignored."""
    options = config_parser()
    options.add_class_arguments(VideoDataModule, "data")
    return build_data_module(options, parse(options, arguments))


def data_arguments(workspace: Path) -> list[str]:
    """Configs and options that name the data of a workspace."""
    return [
        *("--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "data" / "synthetic.yaml")),
        *("--data.catalog", str(workspace / "videos" / "catalog.csv"), "--data.store", str(workspace / "features")),
    ]


def fit_arguments(workspace: Path, run_dir: Path, head: str = "gru", epochs: int = 1) -> list[str]:
    """A short, quiet training run."""
    return [
        *data_arguments(workspace),
        *("--config", str(CONFIGS / "head" / f"{head}.yaml"), "--config", str(CONFIGS / "quiet.yaml")),
        *("--run-dir", str(run_dir), "--trainer.max_epochs", str(epochs), "--trainer.accelerator", "cpu"),
        *("--trainer.check_val_every_n_epoch", "1"),
    ]


def tracked_arguments(workspace: Path, run_dir: Path, epochs: int = 1) -> list[str]:
    """A short training run whose loggers are those of configs/base.yaml."""
    return [
        *data_arguments(workspace),
        *("--config", str(CONFIGS / "head" / "gru.yaml"), "--run-dir", str(run_dir)),
        *("--trainer.max_epochs", str(epochs), "--trainer.accelerator", "cpu"),
        *("--trainer.check_val_every_n_epoch", "1", "--trainer.enable_progress_bar", "false", "--wandb", "offline"),
    ]


def logged_by(folder: Path) -> list[dict[str, Any]]:
    """The records of the W&B run below a folder, read by W&B."""
    return [json.loads(line) for line in _inspected(folder).splitlines()]


def summary_of(folder: Path) -> dict[str, Any]:
    """The summary of the W&B run below a folder, read by W&B."""
    return dict(json.loads(_inspected(folder, "--summary")))


def _inspected(folder: Path, *options: str) -> str:
    (path,) = folder.rglob("run-*.wandb")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", *options, "--json", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Checkpoints(dict[str, Path]):
    """A checkpoint of every head in configs/head, trained for one epoch through the real command line.

    Heads that tests name are trained at once, since tests may replace parts of the code; others when asked for.
    """

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        for head in ("gated", "gru", "leaky", "lstm", "none", "rnn"):
            self.__missing__(head)

    def __missing__(self, head: str) -> Path:
        from videomem.cli.train import run  # Needs wandb, which a machine for GPU tests may lack.

        run_dir = self.workspace / "runs" / head
        assert run("fit", fit_arguments(self.workspace, run_dir, head)) is not None
        return self.setdefault(head, run_dir / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="session")
def checkpoints(workspace: Path) -> dict[str, Path]:
    return Checkpoints(workspace)


def failed(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 2) -> str:
    """The error of a command that must fail with one line and no traceback."""
    assert main([str(argument) for argument in arguments]) == status
    captured = capsys.readouterr()
    error = captured.err.strip().splitlines()[-1]
    assert "Traceback" not in captured.err
    return error
