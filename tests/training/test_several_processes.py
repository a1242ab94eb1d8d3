"""Training and evaluation with several processes: the same as with one, and no clip is counted twice."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fit_arguments, logged_by, summary_of, tracked_arguments
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, SequentialSampler

from videomem.batch import IGNORED, VideoBatch
from videomem.cli.main import main
from videomem.heads import GRU
from videomem.training.lit_classifier import LitClassifier
from videomem.training.samplers import PADDING, EpochSampler, ShareSampler

UNEVEN = ("--data.reversed_pairs", "false", "--model.class_weighting", "balanced")


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 7), st.integers(0, 3))
def test_shares_have_each_clip_once_in_the_batches_that_one_process_makes(
    num_clips: int, world_size: int, batch_size: int, epoch: int
) -> None:
    whole = EpochSampler(num_clips, 0, lambda: epoch)
    shares = [list(ShareSampler(whole, rank, world_size)) for rank in range(world_size)]
    assert (
        {len(share) for share in shares} == {-(-num_clips // world_size)} == {len(ShareSampler(whole, 0, world_size))}
    )
    order = list(whole)
    for number in range(-(-len(shares[0]) // batch_size)):
        parts = [share[number * batch_size : (number + 1) * batch_size] for share in shares]
        clips = [item for part in parts for item in part if item != PADDING]
        assert sorted(clips) == sorted(order[number * batch_size * world_size : (number + 1) * batch_size * world_size])


def test_shares_of_an_evaluation_keep_the_order_of_the_clips() -> None:
    assert [list(ShareSampler(SequentialSampler(range(5)), rank, 3)) for rank in range(3)] == [
        [0, 3],
        [1, 4],
        [2, PADDING],
    ]


@pytest.mark.parametrize("num_classes", [3, 7])
def test_a_clip_that_fills_a_share_changes_no_metric(num_classes: int) -> None:
    model = LitClassifier(lambda dim: GRU(dim, 4), 5, list("abcdefg"[:num_classes]), [1, *[2] * (num_classes - 1)],
                          class_weighting="balanced")  # fmt: skip
    x, lengths, labels = torch.randn(6, 4, 5), torch.full((6,), 4), torch.arange(6) % num_classes
    batch = VideoBatch(x, lengths, labels, labels)
    fill = VideoBatch(x[:1], lengths[:1], torch.tensor([IGNORED]), labels[:1])
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    found, counts = [], []
    for batches in ([batch], [batch, fill], [VideoBatch(*map(torch.cat, zip(fill, batch, strict=True)))]):
        loader: Any = DataLoader(batches, batch_size=None, collate_fn=lambda one: one)  # type: ignore[arg-type]
        found += trainer.validate(model, loader, verbose=False)
        counts.append(model.confusion_counts())
    assert found[1] == pytest.approx(found[0]) and found[2] == pytest.approx(found[0])
    assert torch.equal(counts[0], counts[1]) and int(counts[0].sum()) == 6


# With two processes, joined by gloo.


def catalog_of(workspace: Path, split: str, num_clips: int) -> str:
    """The catalog of a workspace with the first clips of a split only."""
    path = workspace / "videos" / f"{split}{num_clips}.csv"
    with (workspace / "videos" / "catalog.csv").open() as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if row["split"] != split] + [row for row in rows if row["split"] == split][:num_clips]
    with path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(kept)
    return str(path)


def curve(run_dir: Path) -> list[float]:
    with (run_dir / "metrics.csv").open() as file:
        return [float(value) for row in csv.DictReader(file) for value in row.values() if value]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def runs(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of one and of two processes with 19 training clips, of which the last batch has one: a process has none."""
    folder = tmp_path_factory.mktemp("runs")
    uneven = ["--data.catalog", catalog_of(workspace, "train", 19), *UNEVEN]
    for devices in (1, 2):
        options = ["--trainer.devices", str(devices), "--data.batch_size", str(18 // devices)]
        assert main(["fit", *fit_arguments(workspace, folder / str(devices), epochs=3), *uneven, *options]) == 0
    return {devices: folder / str(devices) for devices in (1, 2)}


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_and_the_weights_of_one(runs: dict[int, Path]) -> None:
    assert curve(runs[2]) == pytest.approx(curve(runs[1]), rel=1e-4)
    one, two = weights(runs[1]), weights(runs[2])
    assert all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-4) for name in one)
    assert sorted(path.name for path in runs[2].rglob("*")) == sorted(path.name for path in runs[1].rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("num_clips", [5, 1])
def test_two_processes_report_the_metrics_of_one(
    workspace: Path, runs: dict[int, Path], tmp_path: Path, num_clips: int
) -> None:
    for devices in ("1", "2"):
        options = ["--ckpt-path", runs[1] / "checkpoints" / "last.ckpt", "--run-dir", tmp_path / devices, *UNEVEN[:2],
                   "--data.catalog", catalog_of(workspace, "test", num_clips), "--trainer.devices", devices,
                   "--trainer.accelerator", "cpu", "--data.batch_size", "2"]  # fmt: skip
        assert main(["test", *map(str, options)]) == 0
    one, two = (json.loads((tmp_path / devices / "metrics.json").read_text()) for devices in ("1", "2"))
    assert two.pop("loss") == pytest.approx(one.pop("loss"), rel=1e-6)
    assert two == one and two["num_clips"] == num_clips and "accuracy_top5" in two
    assert (tmp_path / "1" / "confusion.csv").read_text() == (tmp_path / "2" / "confusion.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_of_two_processes_is_resumed_with_two_or_with_one_of_the_same_batch(
    workspace: Path, runs: dict[int, Path], tmp_path: Path, devices: int
) -> None:
    uneven = ["--data.catalog", catalog_of(workspace, "train", 19), *UNEVEN]
    first = fit_arguments(workspace, tmp_path / "first", epochs=2)
    assert main(["fit", *first, *uneven, "--trainer.devices", "2", "--data.batch_size", "9"]) == 0
    options = ["--ckpt-path", str(tmp_path / "first" / "checkpoints" / "last.ckpt"), "--trainer.devices", str(devices)]
    rest = fit_arguments(workspace, tmp_path / "rest", epochs=3)
    assert main(["fit", *rest, *uneven, *options, "--data.batch_size", str(18 // devices)]) == 0
    whole, resumed = weights(runs[2]), weights(tmp_path / "rest")
    tolerance = 1e-4 if devices == 1 else 0
    assert all(torch.allclose(whole[name], resumed[name], rtol=tolerance, atol=tolerance) for name in whole)


@pytest.mark.slow
def test_two_processes_make_one_wandb_run_with_the_metrics_and_artifacts_of_the_first(
    workspace: Path, tmp_path: Path
) -> None:
    options = ["--trainer.devices", "2", "--trainer.log_every_n_steps", "1"]
    assert main(["fit", *tracked_arguments(workspace, tmp_path / "run", epochs=2), *options]) == 0
    (file,) = tmp_path.rglob("*.wandb")
    records, summary = logged_by(tmp_path), summary_of(tmp_path)
    assert summary["state"] == "finished" and "val/accuracy" in summary["summary"]
    epochs = [json.dumps(record) for record in records if record["type"] == "history"]
    assert sum("val/loss" in one for one in epochs) == 2
    kinds = [record["artifact"]["type"] for record in records if record["type"] == "artifact"]
    assert sorted(kinds) == ["dataset", "model", "run_table", "run_table"]
    assert list(file.parent.parent.glob("offline-run-*")) == [file.parent]


def failure(arguments: list[str]) -> list[str]:
    """The lines on standard error of a command that must fail, without those of what it is doing."""
    command = [sys.executable, "-m", "videomem", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    return [line for line in done.stderr.splitlines() if "processes with batches" not in line]


@pytest.mark.slow
def test_a_divergence_ends_both_processes_with_one_line(workspace: Path, tmp_path: Path) -> None:
    options = ["--trainer.devices", "2", "--model.learning_rate", "1e30", "--trainer.gradient_clip_val", "1e30"]
    (line,) = failure(["fit", *fit_arguments(workspace, tmp_path / "run", epochs=9), *options])
    assert "training diverged; lower model.learning_rate" in line


@pytest.mark.slow
def test_the_error_of_one_process_ends_both_with_one_line(workspace: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    (videos / "clips").mkdir(parents=True)
    rows = list(csv.DictReader((workspace / "videos" / "catalog.csv").open()))
    for row in rows:
        content = (workspace / "videos" / row["path"]).read_bytes()
        (videos / row["path"]).write_bytes(content)
    damaged = videos / [row["path"] for row in rows if row["split"] == "train"][1]  # In the share of process 1.
    damaged.write_bytes(damaged.read_bytes()[:900])
    (videos / "catalog.csv").write_bytes((workspace / "videos" / "catalog.csv").read_bytes())
    options = ["--data.source", "video", *UNEVEN, "--data.catalog", str(videos / "catalog.csv"),
               "--data.store", str(tmp_path / "store"), "--trainer.devices", "2"]  # fmt: skip
    *_, line = failure(["fit", *fit_arguments(workspace, tmp_path / "run"), *options])
    assert line.startswith(f"videomem: error: {damaged}: not decodable")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--trainer.strategy", "ddp_spawn"], "trainer.strategy is ddp_spawn, but several processes are trained"),
        (["--trainer.overfit_batches", "1"], "trainer.overfit_batches is 1, but trainer.devices is 2"),
        (["--trainer.num_nodes", "2"], "start the processes of each node with torchrun or srun"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    workspace: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    reason: str,
) -> None:
    arguments = [*fit_arguments(workspace, tmp_path / "run"), "--trainer.devices", "2", *options]
    assert main(["fit", *arguments]) == 2
    assert reason in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_processes_that_torchrun_starts_need_the_devices_and_a_run_directory(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GROUP_RANK": "0",
               "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29999"}  # fmt: skip
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    arguments = fit_arguments(workspace, tmp_path / "run")
    assert main(["fit", *arguments]) == 2
    assert "torchrun started 2 processes, but trainer.devices is 1" in capsys.readouterr().err
    arguments[arguments.index("--run-dir") : arguments.index("--run-dir") + 2] = ["--trainer.devices", "2"]
    assert main(["fit", *arguments]) == 2
    assert "2 processes were started without --run-dir" in capsys.readouterr().err
    assert not any((tmp_path / "runs").iterdir())
