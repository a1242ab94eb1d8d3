"""TensorBoard, CSV and W&B selected by config; sweeps; runs that are killed or start at the same time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from copy import deepcopy
from csv import DictReader
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
import yaml
from conftest import CONFIGS, data_arguments, fit_arguments, logged_by, summary_of, tracked_arguments
from jsonargparse import Namespace
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config
from wandb.sdk.lib.config_util import save_config_file_from_dict

from videomem.cli import lightning_cli
from videomem.cli.main import main
from videomem.cli.options import tracking_of
from videomem.cli.train import run
from videomem.errors import VideomemError
from videomem.tracking import Tracking, WandbLogger, start_run, without_paths
from videomem.tracking.runs import FLUSH_INTERVAL_S, environment, run_settings
from videomem.video.catalog import data_name


def test_csv_has_every_metric(checkpoints: dict[str, Path]) -> None:
    with (checkpoints["gru"].parent.parent / "metrics.csv").open() as file:
        rows = list(DictReader(file))
    assert {"epoch", "step", "train/loss", "val/loss", "val/accuracy", "val/accuracy_top5"} <= rows[0].keys()
    assert any(row["val/accuracy"] for row in rows) and any(row["train/loss"] for row in rows)


def test_tensorboard_has_metrics_settings_the_confusion_matrix_and_no_host_name(
    workspace: Path, tmp_path: Path
) -> None:
    arguments = fit_arguments(workspace, tmp_path / "run", epochs=2)
    assert main(["fit", *arguments, "--config", str(CONFIGS / "tensorboard.yaml")]) == 0
    (file,) = (tmp_path / "run").glob("events.out.tfevents.*")
    assert socket.gethostname() not in file.name and socket.gethostname().encode() not in file.read_bytes()
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert len(events.Scalars("train/loss")) == 2
    assert events.Scalars("val/accuracy") and "hp_metric" not in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["val/confusion_matrix"]
    assert events.Images("val/confusion_matrix")[0].encoded_image_string.startswith(b"\x89PNG")
    assert yaml.safe_load((tmp_path / "run" / "hparams.yaml").read_text())["learning_rate"] == 2e-3


def test_a_missing_tensorboard_is_a_one_line_error(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lightning_cli, "find_spec", lambda name: None)
    arguments = [*fit_arguments(workspace, tmp_path / "run"), "--config", str(CONFIGS / "tensorboard.yaml")]
    with pytest.raises(VideomemError, match=r"pip install 'videomem\[tensorboard\]'"):
        run("fit", arguments)
    assert not (tmp_path / "run").exists()


# Sweeps.


def corners(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Settings of a sweep agent: the minimum and maximum of each parameter."""
    ends = {
        name: [given["min"], given["max"]] if "min" in given else given["values"] for name, given in parameters.items()
    }
    return [{name: {"value": values[end]} for name, values in ends.items()} for end in (0, -1)]


@pytest.mark.parametrize("end", [0, 1])
def test_an_agent_of_the_sweep_trains_with_its_settings(
    workspace: Path, tmp_path: Path, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep_config(str(CONFIGS / "sweep.yaml"))
    assert sweep is not None and sweep["metric"] == {"name": "val/accuracy", "goal": "maximize"}
    given = corners(sweep["parameters"])[end]
    args = create_sweep_command_args({"args": given})["args"]
    command = create_sweep_command(deepcopy(sweep["command"]))
    command = [part for word in command for part in (args if word == "${args}" else [word])]
    assert command[:3] == ["${env}", "videomem", "fit"] and "--wandb=online" in command
    here = {"--wandb=online": "--wandb=offline", "--config=configs/base.yaml": None,
            "--config=configs/data/ucf101.yaml": None}  # fmt: skip
    arguments = [here.get(word, word) for word in command[3:]]
    monkeypatch.chdir(CONFIGS.parent)
    settings = tmp_path / "config-of-the-agent.yaml"
    save_config_file_from_dict(str(settings), given)
    for name, value in {"SWEEP_ID": "abcd1234", "RUN_ID": f"run{end}", "SWEEP_PARAM_PATH": str(settings)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb.teardown()  # It reads the environment only once per process.
    small = ["--run-dir", str(tmp_path / "run"), "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
    ours = [*data_arguments(workspace), *(word for word in arguments if word is not None), *small]
    assert main(["fit", *ours, "--trainer.check_val_every_n_epoch", "1"]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    for name, value in given.items():
        found: Any = config
        for part in name.split("."):
            found = found[part]
        assert found == value["value"]
    summary = summary_of(tmp_path / "run")
    assert "val/accuracy" in summary["summary"]
    assert summary["config"]["learning_rate"] == config["model"]["learning_rate"]
    for name, value in given.items():  # As the agent passes them to W&B, with the names of the command line.
        assert summary["config"][name] == value["value"]
    (started,) = [record["run"] for record in logged_by(tmp_path / "run") if record["type"] == "run"]
    assert started["run_group"] == "sweep-abcd1234" and started["job_type"] == "train"
    wandb.teardown()


def test_a_sweep_has_only_fields_of_its_schema() -> None:
    sweep = yaml.safe_load((CONFIGS / "sweep.yaml").read_text())
    assert set(sweep) == {"project", "name", "method", "metric", "parameters", "command"}
    assert sweep["method"] in ("bayes", "random", "grid")
    assert _validate_config_and_fill_distribution(deepcopy(sweep))["parameters"].keys() == sweep["parameters"].keys()
    for given in sweep["parameters"].values():
        assert set(given) in ({"values"}, {"distribution", "min", "max"})


def test_runs_that_start_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    assert [lightning_cli.claim_folder(tmp_path / "runs", "now").name for _ in range(3)] == ["now", "now-2", "now-3"]


@pytest.mark.parametrize("wrong", [["--model.learning_rate", "-1"], ["--wandb", "online"]], ids=str)
def test_a_run_that_cannot_be_set_up_leaves_no_folder(
    workspace: Path, tmp_path: Path, wrong: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = fit_arguments(workspace, Path("unused"))
    place = arguments.index("--run-dir")
    with pytest.raises(VideomemError):
        run("fit", [*arguments[:place], *arguments[place + 2 :], *wrong])
    assert not list(tmp_path.glob("runs/*"))


# W&B.


def test_the_mode_on_the_command_line_overrides_the_config(workspace: Path, tmp_path: Path) -> None:
    assert main(["fit", *tracked_arguments(workspace, tmp_path / "run"), "--wandb", "disabled"]) == 0
    assert not list(tmp_path.rglob("*.wandb"))


def test_a_mode_without_a_logger_is_a_one_line_error(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(VideomemError, match=r"--wandb is online, but trainer.logger has no videomem.tracking"):
        run("fit", [*fit_arguments(workspace, tmp_path / "run"), "--wandb", "online"])


def test_the_best_checkpoint_by_a_monitor_is_called_so(workspace: Path, tmp_path: Path) -> None:
    callbacks = [
        {
            "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
            "init_args": {"monitor": "val/loss", "mode": "max", "save_last": True, "save_top_k": 1},
        }
    ]
    logger = [{"class_path": "videomem.tracking.WandbLogger", "init_args": {"code": str(CONFIGS), "mode": "offline"}}]
    options = ["--trainer.logger", json.dumps(logger), "--trainer.callbacks", json.dumps(callbacks)]
    cli = run("fit", [*fit_arguments(workspace, tmp_path / "run", epochs=3), *options])
    assert cli is not None and isinstance(cli.trainer.logger, WandbLogger)
    cli.trainer.logger.experiment.finish()
    logged = [record for record in logged_by(tmp_path / "run") if record["type"] == "artifact"]
    models = [record["artifact"] for record in logged if record["artifact"].get("type") == "model"]
    best = [model for model in models if "best" in model["aliases"]]
    assert len(best) == 1 and [model for model in models if "last" in model["aliases"]]
    losses = {model["metadata"]: json.loads(model["metadata"])["val/loss"] for model in models}
    assert losses[best[0]["metadata"]] == max(losses.values())
    assert [record["artifact"]["name"] for record in logged if record["artifact"].get("type") == "code"] == ["code"]


def test_a_logged_checkpoint_is_kept_when_the_next_overwrites_it(workspace: Path, tmp_path: Path) -> None:
    logger = [{"class_path": "videomem.tracking.WandbLogger", "init_args": {"log_model": "all", "mode": "offline"}}]
    options = ["--trainer.logger", json.dumps(logger)]
    assert main(["fit", *fit_arguments(workspace, tmp_path / "run", epochs=2), *options]) == 0
    logged = [record["artifact"] for record in logged_by(tmp_path / "run") if record["type"] == "artifact"]
    models = [artifact for artifact in logged if artifact["type"] == "model"]
    paths = [Path(artifact["manifest"]["contents"][0]["local_path"]) for artifact in models]
    assert len(set(paths)) == 2 and [torch.load(path, weights_only=True)["epoch"] for path in paths] == [0, 1]
    assert all(path.is_relative_to(tmp_path / "run" / "wandb") for path in paths)


def test_machine_details_are_there_when_asked_for(tmp_path: Path) -> None:
    run = start_run(Tracking("offline"), tmp_path, settings=run_settings(machine_details=True))
    run.finish()
    (started,) = [record["run"] for record in logged_by(tmp_path) if record["type"] == "run"]
    assert started["host"] == socket.gethostname()


def test_an_id_that_wandb_refuses_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(VideomemError, match="no run could be started"):
        start_run(Tracking("offline"), tmp_path, id="a/b")


def test_paths_of_this_machine_become_names(tmp_path: Path) -> None:
    plain = {"a": [str(tmp_path), "word"], "b": {"c": str(Path.home() / "x" / "y.csv")}, "d": "/m/0k4j", "e": 1}
    assert without_paths(plain) == {"a": [tmp_path.name, "word"], "b": {"c": "y.csv"}, "d": "/m/0k4j", "e": 1}


def test_a_group_is_the_data_or_the_sweep_or_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_name("data/ucf101.csv") == data_name("data/ucf101/catalog.parquet") == "ucf101"
    assert environment().group is None
    monkeypatch.setenv("WANDB_SWEEP_ID", "s1")
    assert environment().group == "sweep-s1"
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    assert environment().group == "mine"


TEAM = {"PROJECT": "ours", "ENTITY": "team", "RUN_GROUP": "night", "TAGS": "a,b"}


@pytest.mark.parametrize(
    ("mode", "expected"), [(None, None), ("online", None), ("offline", None), ("disabled", "disabled")]
)
def test_the_environment_can_disable_runs_and_name_their_place_but_not_upload_them(
    monkeypatch: pytest.MonkeyPatch, mode: str | None, expected: str | None
) -> None:
    for name, value in TEAM.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_MODE") if mode is None else monkeypatch.setenv("WANDB_MODE", mode)
    assert environment() == Tracking(expected, "ours", "team", "night", ["a", "b"])  # type: ignore[arg-type]


def test_an_option_counts_before_the_config_the_config_before_the_environment_and_that_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    for name, value in TEAM.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    logger = Namespace(class_path="videomem.tracking.WandbLogger", init_args=Namespace(project="config", tags=["c"]))
    given, nothing = (Namespace(wandb=None, wandb_project=project) for project in ("mine/option", None))
    defaults = Tracking(project="default", group="default")
    found = []
    for number, (options, config) in enumerate([(given, logger), (nothing, logger), (nothing, None)]):
        with start_run(tracking_of(options, config), tmp_path / str(number), defaults):
            pass
        (run,) = [record["run"] for record in logged_by(tmp_path / str(number)) if record["type"] == "run"]
        found.append((run["entity"], run["project"], run["run_group"], run["tags"]))
    assert found == [
        ("mine", "option", "night", ["c"]),
        ("team", "config", "night", ["c"]),
        ("team", "ours", "night", ["a", "b"]),
    ]
    for number in range(3):  # WANDB_MODE=online uploads nothing.
        assert list((tmp_path / str(number)).glob("wandb/offline-run-*"))


@pytest.mark.parametrize("wrong", ["", "/", "a/", "/b", "a/b/c"])
def test_a_project_that_is_none_is_a_one_line_error(wrong: str) -> None:
    with pytest.raises(VideomemError, match="must be PROJECT or ENTITY/PROJECT"):
        tracking_of(Namespace(wandb=None, wandb_project=wrong))


def test_loggers_without_that_of_wandb_disable_runs_unless_an_option_asks_for_one() -> None:
    nothing = Namespace(wandb=None, wandb_project=None)
    assert tracking_of(nothing).mode is None
    assert tracking_of(nothing, [Namespace(class_path="videomem.tracking.AtomicCSVLogger")]).mode == "disabled"
    assert tracking_of(nothing, False).mode == "disabled"
    assert tracking_of(Namespace(wandb="offline", wandb_project=None), False).mode == "offline"


LOG_AND_WAIT = """
import sys, time
from pathlib import Path
from videomem.tracking import Tracking, start_run
run = start_run(Tracking("offline"), Path(sys.argv[1]))
for step in range(5):
    run.log({"loss": 1 / (1 + step)})
print("logged", flush=True)
time.sleep(600)
"""


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and its child processes, including those of W&B."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_logged_metrics_survive_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOG_AND_WAIT, str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "logged\n"
        time.sleep(5 * FLUSH_INTERVAL_S)
    finally:
        kill(process)
    assert sum(record["type"] == "history" for record in logged_by(tmp_path)) == 5


@pytest.mark.slow
def test_a_killed_training_keeps_what_it_logged(workspace: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "videomem", "fit", *tracked_arguments(workspace, tmp_path / "run", 100_000)]
    process = subprocess.Popen(command, start_new_session=True, text=True)
    try:
        while not (table := tmp_path / "run" / "metrics.csv").exists() or len(table.read_text().splitlines()) < 50:
            assert process.poll() is None
            time.sleep(0.2)
        time.sleep(5 * FLUSH_INTERVAL_S)
    finally:
        kill(process)
    logged = logged_by(tmp_path / "run")
    assert sum(record["type"] == "history" for record in logged) >= 50
    assert any(record["type"] == "artifact" for record in logged)  # The data set artifact.
