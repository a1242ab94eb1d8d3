"""W&B runs, read from disk by W&B: recorded values, and no private information."""

from __future__ import annotations

import getpass
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from conftest import fit_arguments, logged_by, summary_of

from videomem.cli.train import run
from videomem.tracking import Tracking, start_run

LOGGERS = [
    {
        "class_path": "pytorch_lightning.loggers.CSVLogger",
        "init_args": {"save_dir": "{run_dir}", "name": "", "version": ""},
    },
    {
        "class_path": "videomem.tracking.WandbLogger",
        "init_args": {"group": "a group", "tags": ["a tag"], "mode": "offline"},
    },
]
CALLBACKS = [
    {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": {"filename": "last"}},
    {"class_path": "videomem.tracking.LogConfusionMatrix"},
]


@pytest.fixture(scope="module")
def tracked(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("tracked") / "run"
    options = ["--trainer.logger", json.dumps(LOGGERS), "--trainer.callbacks", json.dumps(CALLBACKS)]
    cli = run("fit", [*fit_arguments(workspace, run_dir), *options])
    assert cli is not None
    cli.trainer.loggers[1].experiment.finish()
    return run_dir


@pytest.fixture(scope="module")
def records(tracked: Path) -> list[dict[str, Any]]:
    return logged_by(tracked)


def test_a_run_is_offline_and_holds_config_and_metrics(tracked: Path) -> None:
    assert list((tracked / "wandb").glob("offline-run-*"))
    summary = summary_of(tracked)
    assert summary["state"] == "finished" and summary["project"] == "videomem"
    assert summary["config"]["memory"]["class_path"].endswith("GRU")
    assert {"train/loss", "val/accuracy", "val/accuracy_top5", "val/accuracy_macro"} <= summary["summary"].keys()
    assert "val/confusion_matrix" in summary["summary"]


def test_a_run_keeps_its_checkpoint_as_an_artifact(records: list[dict[str, Any]]) -> None:
    artifacts = [record for record in records if "artifact" in record["type"]]
    assert any('"model-' in json.dumps(record) for record in artifacts), {record["type"] for record in records}


def test_the_confusion_matrix_counts_every_validation_clip(tracked: Path) -> None:
    (path,) = tracked.rglob("confusion_matrix*.table.json")
    table = json.loads(path.read_text())
    assert table["columns"][0] == "true class" and len(table["columns"]) == 11
    assert sum(cell for row in table["data"] for cell in row[1:]) == 10


def test_a_run_records_nothing_about_the_machine(tracked: Path, records: list[dict[str, Any]]) -> None:
    text = json.dumps(records)
    assert not any(f'"{word}"' in text for word in (socket.gethostname(), getpass.getuser()))
    assert not any("stats" in record["type"] for record in records)
    assert not list(tracked.rglob("wandb-metadata.json")) and not list(tracked.rglob("diff.patch"))


def test_a_stored_api_key_does_not_enable_uploading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    started = start_run(Tracking(), tmp_path)
    assert started.offline
    started.finish()
    assert list(tmp_path.rglob("offline-run-*"))


def test_disabled_writes_nothing(tmp_path: Path) -> None:
    started = start_run(Tracking("disabled"), tmp_path)
    started.log({"a": 1})
    started.finish()
    assert not list(tmp_path.rglob("run-*.wandb"))
