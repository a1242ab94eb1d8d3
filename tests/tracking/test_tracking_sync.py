"""Offline runs of training, resuming, testing, shuffling and exporting, uploaded to a local server by `wandb sync`."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS, ROOT, tracked_arguments
from helpers.wandb_server import OPTIONAL, FakeServer, serving

from videomem.cli.main import main
from videomem.tracking import Tracking, track_export
from videomem.training.checkpoint import read_checkpoint


def sync(server: FakeServer, folder: Path, *paths: Path) -> str:
    """Run `wandb sync` on offline runs; returns its output."""
    environment = {**os.environ, "WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40}
    command = [str(Path(sys.executable).parent / "wandb"), "sync", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=120, check=True)
    return done.stdout + done.stderr


def offline_runs(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


@dataclass
class Story:
    """Folders of the runs, the server with their uploads, and the ids of the runs."""

    folder: Path
    server: FakeServer
    home: Path

    def run_id(self, name: str) -> str:
        (path,) = {path.name.rsplit("-", 1)[-1] for path in offline_runs(self.folder / name)}
        return path

    def run(self, name: str) -> dict[str, object]:
        return self.server.runs[self.run_id(name)]


@pytest.fixture(scope="module")
def story(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("story")
    home = folder / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch, serving() as server:
        patch.setenv("HOME", str(home))
        assert main(["fit", *tracked_arguments(workspace, folder / "first")]) == 0
        first, last = (folder / name / "checkpoints" / "last.ckpt" for name in ("first", "second"))
        assert main(["fit", *tracked_arguments(workspace, folder / "second", 2), "--ckpt-path", str(first)]) == 0
        assert main(["test", "--ckpt-path", str(last), "--run-dir", str(folder / "test"), "--wandb", "offline"]) == 0
        assert (
            main(["shuffle", str(last), "--permutations", "2", "--out", str(folder / "shuffle"), "--wandb", "offline"])
            == 0
        )
        exported = folder / "exported"
        exported.mkdir()
        for name in ("config.json", "model.safetensors"):
            (exported / name).write_text(name)
        track_export(exported, read_checkpoint(last), Tracking("offline"), where=folder / "export")
        for name in ("first", "second", "test", "shuffle", "export"):
            sync(server, folder, *offline_runs(folder / name))
        return Story(folder, server, home)


def test_the_client_sends_only_requests_that_the_test_server_implements(story: Story) -> None:
    assert set(story.server.unknown) <= OPTIONAL


def test_runs_of_a_data_set_are_a_group_and_say_what_they_do(story: Story, workspace: Path) -> None:
    kinds = {"first": "train", "test": "test", "shuffle": "shuffle", "export": "export"}
    for name, kind in kinds.items():
        assert (story.run(name)["jobType"], story.run(name)["groupName"]) == (kind, "videos")
    assert story.run("first")["displayName"] == "second"  # The run was continued in the second directory.


def test_a_resumed_run_is_the_same_run_and_its_steps_go_on(story: Story) -> None:
    assert story.run_id("first") == story.run_id("second")
    history = story.server.history[story.run_id("first")]
    steps = [line["trainer/global_step"] for _, line in sorted(history.items()) if "train/loss" in line]
    assert len(steps) == 2 and steps[0] < steps[1]
    assert [line["_step"] for _, line in sorted(history.items())] == sorted(history)


def test_the_config_of_a_run_has_no_id(story: Story) -> None:
    text = (story.folder / "second" / "config.yaml").read_text()
    assert story.run_id("second") not in text
    logger = yaml.safe_load(text)["trainer"]["logger"][1]["init_args"]
    assert logger["id"] is None and logger["name"] is None and logger["group"] is None


def test_checkpoints_are_artifacts_with_their_metrics(story: Story) -> None:
    run_id = story.run_id("second")
    versions = story.server.versions(f"model-{run_id}")
    assert [version.metadata["epoch"] for version in versions] == [0, 1]
    assert versions[1].aliases == {"latest", "last", "used"} and not versions[0].aliases
    assert {"val/accuracy", "val/loss", "train/loss", "step", "seed"} <= versions[1].metadata.keys()
    assert versions[1].metadata["memory"]["class_path"].endswith(".GRU")
    assert versions[1].files["model.ckpt"] == (story.folder / "second" / "checkpoints" / "last.ckpt").read_bytes()
    summary = story.server.summaries[run_id]
    assert versions[1].metadata["val/accuracy"] == pytest.approx(summary["val/accuracy"])


def test_lineage_joins_data_training_measurement_and_export(story: Story) -> None:
    training, export = story.run_id("second"), story.run_id("export")
    (data,) = story.server.versions("data-videos")
    assert data.type == "dataset" and data.used_by == {training}
    assert data.metadata["features"]["backbone"]["name"] == "alexnet" and data.metadata["num_clips"] == 50
    last = story.server.versions(f"model-{training}")[-1]
    assert last.made_by == training
    assert last.used_by == {story.run_id(name) for name in ("test", "shuffle", "export")}
    (exported,) = story.server.versions("export-second")
    assert exported.type == "model" and exported.made_by == export
    assert exported.files["config.json"] == b"config.json" and "val/accuracy" in exported.metadata
    assert exported.is_committed


def test_the_catalog_of_a_data_set_names_only_files_below_its_folder(story: Story) -> None:
    (data,) = story.server.versions("data-videos")
    lines = data.files["catalog.csv"].decode().splitlines()
    assert len(lines) == 51 and not any(line.startswith("/") for line in lines)


def test_tables_and_figures_are_uploaded(story: Story) -> None:
    files = [name for name in story.server.files if name.endswith((".png", ".json"))]
    for run, parts in {
        "second": ("table/val/confusion_matrix", "images/val/confusion_figure"),
        "test": ("table/test/confusion_matrix", "images/test/confusion_figure"),
        "shuffle": ("table/shuffle_", "table/shuffle_summary_", "images/accuracy_"),
    }.items():
        for part in parts:
            assert any(name.startswith(f"{story.run_id(run)}/media/{part}") for name in files), (run, part, files)
    assert story.server.versions(f"run-{story.run_id('shuffle')}-shuffle")[0].type == "run_table"


def told_of(server: FakeServer, *private: str) -> list[str]:
    """Requests with private information, except paths described in docs/tracking.md."""
    sent = [text.replace(str(Path(sys.executable).parent / "wandb"), "") for text in server.received]
    sent = [text for text in sent if not text.split()[1].endswith((".ckpt", ".png", "/wandb_manifest.json"))]
    sent = [text for text in sent if not re.search(r"(UpsertSweep|CreateAgent) ?\(", text)]
    assert len(sent) > 10
    # Whole words: a random id may begin with a short host name.
    words = re.compile(rf"""(?<=["' =/])(?:{"|".join(map(re.escape, private))})(?!\w)""")
    return [text for text in sent if words.search(f" {text}")]


def test_uploads_contain_nothing_about_the_machine(story: Story, workspace: Path) -> None:
    private = [str(story.folder), str(workspace), str(Path.home()), socket.gethostname(), getpass.getuser()]
    assert not told_of(story.server, *private)
    assert told_of(story.server, "videos")  # The group is found, so a private word would be found, too.


def test_all_that_a_sync_needs_lies_with_the_run(story: Story) -> None:
    assert not [path for path in story.home.rglob("*") if path.is_file()]
    for artifact in story.server.artifacts:
        contents = json.loads(artifact.files["wandb_manifest.json"])["contents"]
        assert all(Path(entry["local_path"]).is_relative_to(story.folder) for entry in contents.values())


def test_a_run_can_be_resumed_as_a_new_one(story: Story, workspace: Path, tmp_path: Path) -> None:
    checkpoint = story.folder / "first" / "checkpoints" / "last.ckpt"
    options = ["--ckpt-path", str(checkpoint), "--new-wandb-run"]
    assert main(["fit", *tracked_arguments(workspace, tmp_path / "run", 2), *options]) == 0
    (path,) = offline_runs(tmp_path / "run")
    assert story.run_id("first") not in path.name


def test_both_directories_of_a_resumed_run_may_be_uploaded_at_once(story: Story, tmp_path: Path) -> None:
    with serving() as server:
        paths = offline_runs(story.folder / "second") + offline_runs(story.folder / "first")
        sync(
            server, tmp_path, *(path / f"run-{story.run_id('first')}.wandb" for path in paths), Path("--include-synced")
        )
        history, in_turn = server.history[story.run_id("first")], story.server.history[story.run_id("first")]
        assert [line["_step"] for line in history.values()] == [line["_step"] for line in in_turn.values()]
        assert [line.get("train/loss") for line in history.values()] == [
            line.get("train/loss") for line in in_turn.values()
        ]


@pytest.mark.slow
def test_runs_of_a_sweep_belong_to_one_sweep(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(CONFIGS)
    sweep = yaml.safe_load((CONFIGS / "sweep.yaml").read_text())
    place = sweep["command"].index("--config=configs/data/ucf101.yaml")
    data = ["--config=configs/data/synthetic.yaml", f"--data.catalog={workspace / 'videos' / 'catalog.csv'}"]
    short = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.check_val_every_n_epoch=1"]
    sweep["command"][place : place + 1] = [*data, f"--data.store={workspace / 'features'}", *short]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    rates = [0.01, 0.001]
    with serving() as server:
        server.to_train = [{"model.learning_rate": rate, "model.memory.init_args.hidden_dim": 8} for rate in rates]
        environment = {
            **{name: value for name, value in os.environ.items() if name != "WANDB_MODE"},
            **{"WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40, "PYTHONPATH": str(ROOT)},
            **{"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        }
        for command in (["sweep", "sweep.yaml"], ["agent", "someone/videomem/sweep1"]):
            done = subprocess.run(["wandb", *command], cwd=tmp_path, env=environment, capture_output=True, text=True,
                                  timeout=300, check=False)  # fmt: skip
            assert done.returncode == 0 and "videomem: error" not in done.stderr, done.stderr
    assert set(server.unknown) <= OPTIONAL
    assert sorted(server.runs) == ["swept1", "swept2"] and len(list((tmp_path / "runs").iterdir())) == 2
    for run in server.runs.values():
        assert (run["sweep"], run["groupName"], run["jobType"]) == ("sweep1", "sweep-sweep1", "train")
        assert run.get("host") in (None, "undisclosed") and run.get("program") in (None, "videomem"), run
    assert not told_of(server, str(tmp_path), str(workspace), socket.gethostname(), getpass.getuser())
    found = [json.loads(server.runs[name]["config"])["learning_rate"]["value"] for name in ("swept2", "swept1")]
    assert found == rates
    assert all("val/accuracy" in summary for summary in server.summaries.values())
    assert server.versions("data-videos")[0].used_by == set(server.runs)
    assert [server.versions(f"model-{name}")[0].aliases for name in server.runs] == [{"latest", "last"}] * 2
