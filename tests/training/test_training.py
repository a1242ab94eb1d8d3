"""Training from the command line: every config, resuming, and the content of checkpoints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from multiprocessing import synchronize
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import data_arguments, every_head, failed, fit_arguments, summary_of
from helpers.recomputed import check_recomputed

from videomem.cli.main import main
from videomem.cli.train import per_class_accuracy, run
from videomem.errors import VideomemError
from videomem.features.shard_files import Shards
from videomem.heads import GRU, LastReadout, Memory, NoMemory
from videomem.tracking import AtomicCSVLogger
from videomem.training.checkpoint import read_checkpoint
from videomem.training.lit_classifier import BalancedAccuracy, LitClassifier, balanced_weights
from videomem.utils import atomic
from videomem.utils.plain_data import as_plain, from_plain


@every_head
def test_every_config_trains_and_its_checkpoint_is_plain_data(checkpoints: dict[str, Path], head: str) -> None:
    content = torch.load(checkpoints[head], weights_only=True)
    assert not any("network" in name or "features." in name for name in content["state_dict"])
    features = content["VideoDataModule"]["features"]
    assert features["backbone"]["name"] == "alexnet" and len(features["backbone"]["weights_sha256"]) == 64
    json.dumps([content["hyper_parameters"], content["datamodule_hyper_parameters"], features])
    checkpoint = read_checkpoint(checkpoints[head])
    again = checkpoint.classifier()
    assert as_plain(dict(again.hparams)) == checkpoint.model_arguments
    assert all(torch.equal(value, content["state_dict"][name]) for name, value in again.state_dict().items())


def test_a_run_has_its_own_directory_with_its_config(checkpoints: dict[str, Path], workspace: Path) -> None:
    run_dir = checkpoints["gru"].parent.parent
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["model"]["memory"]["class_path"] == "videomem.heads.GRU"
    assert (run_dir / "metrics.csv").read_text().startswith("epoch,")
    with pytest.raises(VideomemError, match="already contains a run"):
        run("fit", fit_arguments(workspace, run_dir))


def test_learning_lowers_the_loss(workspace: Path, tmp_path: Path) -> None:
    cli = run("fit", fit_arguments(workspace, tmp_path / "run", "gated", epochs=12))
    assert cli is not None
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/loss")
    losses = [float(cells[column]) for cells in (row.split(",") for row in rows[1:]) if cells[column]]
    assert len(losses) == 12 and losses[-1] < 0.6 * losses[0]


def weights(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True)
    optimizer = content["optimizer_states"][0]["state"]
    moments = {f"{number}.{name}": value for number, state in optimizer.items() for name, value in state.items()}
    return {**content["state_dict"], **moments}


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(
    workspace: Path, tmp_path: Path, num_workers: str
) -> None:
    options = ["--data.num_workers", num_workers, "--data.batch_size", "8", "--data.storage", "mmap"]
    for name, epochs in (("whole", 3), ("first", 2)):
        run("fit", [*fit_arguments(workspace, tmp_path / name, epochs=epochs), *options])
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"
    torch.manual_seed(99)
    resumed = fit_arguments(workspace, tmp_path / "second", epochs=3)
    run("fit", [*resumed, *options, "--ckpt-path", str(checkpoint)])
    one, other = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "second"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(workspace: Path, tmp_path: Path) -> None:
    for name, seed in (("one", "3"), ("two", "3"), ("other", "4")):
        run("fit", [*fit_arguments(workspace, tmp_path / name), "--seed", seed])
    one, two, other = (weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("one", "two", "other"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["head.classify.weight"], other["head.classify.weight"])


def test_a_checkpoint_alone_finds_its_data(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command, split in (("test", "test"), ("validate", "val")):
        options = ["--run-dir", command, "--wandb", "offline", "--wandb-project", "team/ours"]
        assert main([command, "--ckpt-path", str(checkpoints["gru"]), *options]) == 0
        figures = json.loads(Path(command, "metrics.json").read_text())
        assert (figures["checkpoint"], figures["epoch"], figures["catalog"]) == ("gru/last.ckpt", 1, "videos")
        assert figures["split"] == split and figures["num_clips"] == {"test": 20, "val": 10}[split]
        assert 0 <= figures["accuracy"] <= figures["accuracy_top5"] <= 1
        assert len(figures["accuracy_per_class"]) == 10
        check_recomputed(command)
        rows = Path(command, "confusion.csv").read_text().splitlines()
        assert sum(int(cell) for row in rows[1:] for cell in row.split(",")[1:]) == figures["num_clips"]
        summary = summary_of(Path(command))
        assert summary["project"] == "ours"
        assert summary["summary"][f"{split}/confusion_plot_table"]["nrows"] == 10 * 10


def test_accuracy_is_that_of_a_plain_loop(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = read_checkpoint(checkpoints["lstm"])
    main(["test", "--ckpt-path", str(checkpoints["lstm"]), "--run-dir", str(tmp_path)])
    data, head = checkpoint.data_module(), checkpoint.classifier().head
    right = 0
    for row in data.rows("test"):
        x = data.features(row)[None]
        answer = data.class_names[int(head(x, torch.tensor([x.shape[1]])).argmax())]
        right += answer == data.clips[row].label
    assert json.loads((tmp_path / "metrics.json").read_text())["accuracy"] == pytest.approx(right / 20)


def test_a_training_that_diverges_ends_with_one_line_and_keeps_the_last_good_checkpoint(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.learning_rate", "1e30", "--trainer.gradient_clip_val", "1e30", "--data.batch_size", "8"]
    error = failed(capsys, "fit", *fit_arguments(workspace, tmp_path / "run", "leaky_sum", epochs=9), *options)
    assert re.fullmatch(r"videomem: error: (train|val)/loss is (nan|inf) in epoch \d: training diverged; .*", error)
    for path in (tmp_path / "run" / "checkpoints").glob("*"):
        assert all(torch.isfinite(value).all() for value in torch.load(path, weights_only=True)["state_dict"].values())


def test_features_that_are_not_finite_end_a_training_with_one_line(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, entry: read(self, entry) * float("nan"))
    error = failed(capsys, "fit", *fit_arguments(workspace, tmp_path / "run"))
    assert error.endswith("catalog.csv: training clips have features that are not finite; extract again")


def test_an_evaluation_on_features_that_are_not_finite_is_one_line(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, entry: read(self, entry) * float("nan"))
    error = failed(capsys, "test", "--ckpt-path", checkpoints["gru"], "--run-dir", tmp_path / "test")
    assert error.startswith("videomem: error: test/loss is nan: weights or features are not finite; train again")


def test_a_second_training_into_the_directory_of_a_running_one_is_refused(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys; from pathlib import Path; from videomem.utils.atomic import locked_folder\n"
        "with locked_folder(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()\n"
    )
    run_dir = tmp_path / "run"
    command = [sys.executable, "-c", code, str(run_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        error = failed(capsys, "fit", *fit_arguments(workspace, run_dir))
        other.kill()
    assert error == f"videomem: error: {run_dir}: another process is writing to it; choose another folder"
    assert {path.name for path in run_dir.iterdir()} == {".lock"}  # That of the killed process.
    assert main(["fit", *fit_arguments(workspace, run_dir)]) == 0, "the lock of a killed process does not remain"
    assert not (run_dir / ".lock").exists()


def test_incomplete_files_of_a_killed_training_do_not_block_its_directory(workspace: Path, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = tmp_path / "run" / "checkpoints" / f".last.ckpt.{atomic._host()}.{gone.pid}.0123abcd.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    assert main(["fit", *fit_arguments(workspace, tmp_path / "run")]) == 0
    assert [path.name for path in left.parent.iterdir()] == ["last.ckpt"]


def test_metrics_are_one_table_whatever_is_logged_when(tmp_path: Path) -> None:
    logger = AtomicCSVLogger(str(tmp_path), name="", version="")
    for step, values in enumerate([{"train/loss": 1.0}, {"val/loss": 2.0}, {"train/loss": torch.tensor(0.5)}]):
        logger.log_metrics(values, step)
        logger.save()
    table = "step,train/loss,val/loss\n0,1.0,\n1,,2.0\n2,0.5,\n"
    assert (tmp_path / "metrics.csv").read_text() == table and len(list(tmp_path.iterdir())) == 1


def test_without_shared_memory_workers_are_refused_in_one_line(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(synchronize, "Lock", none)
    error = failed(capsys, "fit", *fit_arguments(workspace, tmp_path / "run"), "--data.num_workers", "2")
    assert "/dev/shm: worker processes need this shared memory" in error and "set data.num_workers to 0" in error
    error = failed(capsys, "memory", "--processes", "2", "--steps", "1", "--out", tmp_path / "memory")
    assert "/dev/shm: worker processes need this shared memory" in error and "set --processes 1" in error


def test_only_matrices_are_decayed_and_the_backbone_is_not_optimized(checkpoints: dict[str, Path]) -> None:
    classifier = read_checkpoint(checkpoints["gated"]).classifier()
    decayed, plain = classifier.configure_optimizers().param_groups
    assert all(p.ndim > 1 for p in decayed["params"]) and all(p.ndim == 1 for p in plain["params"])
    assert plain["weight_decay"] == 0 < decayed["weight_decay"]
    assert sum(len(group["params"]) for group in (decayed, plain)) == len(list(classifier.head.parameters()))


def test_class_weights_are_inverse_frequencies() -> None:
    assert balanced_weights([10, 10]).tolist() == [1, 1]
    assert balanced_weights([30, 10]).tolist() == pytest.approx([2 / 3, 2])


def test_per_class_accuracy_is_the_share_of_the_diagonal_and_unknown_without_clips() -> None:
    assert per_class_accuracy(torch.tensor([[3, 1, 0], [0, 0, 0], [1, 0, 2]])) == [0.75, None, 2 / 3]


def test_balanced_accuracy_leaves_out_classes_without_clips() -> None:
    metric = BalancedAccuracy(3)
    metric.update(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 1]))
    assert metric.compute() == pytest.approx((1 + 1 / 3) / 2)


def test_parts_are_preserved_by_conversion_to_plain_data_and_back() -> None:
    arguments: dict[str, Any] = {"memory": partial(GRU, hidden_dim=8), "feature_dim": 6, "class_names": ["a", "b"],
                                 "class_counts": [1, 1], "readout": LastReadout, "num_layers": 2}  # fmt: skip
    classifier = LitClassifier(**arguments)
    again = from_plain(LitClassifier, dict(classifier.hparams))
    again.load_state_dict(classifier.state_dict())
    assert isinstance(again.head.readout, LastReadout) and len(again.head.layers) == 2
    assert from_plain(LitClassifier, dict(again.hparams)).hparams == again.hparams


# Untrusted checkpoints.


class Stranger(NoMemory):
    """A memory of another package."""


def altered(checkpoints: dict[str, Path], tmp_path: Path, change: Any) -> Path:
    content = torch.load(checkpoints["none"], weights_only=True)
    change(content)
    path = tmp_path / "altered.ckpt"
    torch.save(content, path)
    return path


STRANGER = {"class_path": f"{__name__}.Stranger", "init_args": {"hidden_dim": 128}}


@pytest.mark.parametrize("command", ["fit", "test", "validate", "shuffle", "export"])
@pytest.mark.parametrize("as_text", [False, True])
def test_a_checkpoint_that_names_another_module_is_refused_before_it_is_imported(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    command: str,
    as_text: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spy, mark = tmp_path / "spy_module.py", tmp_path / "imported"
    spy.write_text(f"open({str(mark)!r}, 'w')\nclass Spy: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = "spy_module.Spy" if as_text else {"class_path": "spy_module.Spy", "init_args": {}}
    path = altered(checkpoints, tmp_path, lambda content: content["hyper_parameters"].update(memory=named))
    option = [] if command in ("shuffle", "export") else ["--ckpt-path"]
    out = ["--out", str(tmp_path / "out")] if command in ("shuffle", "export") else ["--run-dir", str(tmp_path / "out")]
    assert main([command, *option, str(path), *out]) == 2
    error = capsys.readouterr().err
    assert ("'spy_module.Spy', but must be a class_path" if as_text else "names the class spy_module.Spy") in error
    assert not mark.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"memory": {"class_path": "videomem.features.store.os.mkdir", "init_args": {"path": "evil"}}},
        {"memory": {"class_path": "videomem.cli.main.import_module", "init_args": {"name": "evil"}}},
        {"memory.class_path": "spy_module.Spy"},
        {
            "memory": {
                "class_path": "videomem.heads.recurrent.GRU",
                "init_args": {"hidden_dim.class_path": "spy_module.Spy"},
            }
        },
        {"memory": "{class_path: os.mkdir, init_args: {path: evil}}"},
        {"readout": {"class_path": "videomem.heads.recurrent.GRU"}},
    ],
    ids=str,
)
def test_a_checkpoint_may_name_only_listed_classes(
    checkpoints: dict[str, Path], tmp_path: Path, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = altered(checkpoints, tmp_path, lambda content: content["hyper_parameters"].update(change))
    with pytest.raises(VideomemError, match=r"names the class|must be a class_path|has no argument|not a Readout"):
        read_checkpoint(path)
    assert not Path("evil").exists()


@pytest.mark.parametrize("change", [{"hidden": 3}, {"num_layers": "many"}, {"memory": None}])
def test_settings_that_fit_no_data_are_a_one_line_error(
    checkpoints: dict[str, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    path = altered(checkpoints, tmp_path, lambda content: content["hyper_parameters"].update(change))
    with pytest.raises(VideomemError, match=r"invalid settings.* LitClassifier"):
        read_checkpoint(path)


def test_trust_lets_a_checkpoint_name_another_class(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    path = altered(checkpoints, tmp_path, lambda content: content["hyper_parameters"].update(memory=STRANGER))
    memory: Memory = read_checkpoint(path, trust=True).classifier().head.memories[0]
    assert isinstance(memory, NoMemory)
    assert main(["test", "--ckpt-path", str(path), "--run-dir", str(tmp_path / "out"), "--trust"]) == 0


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return (os.mkdir, ("evil", 0o700))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: torch.save({"a": Evil()}, path), "not a checkpoint of plain data"),
        (lambda path: torch.save({"a": 1}, path), "it lacks VideoDataModule"),
        (lambda path: path.write_bytes(b"nothing"), "not a checkpoint of plain data"),
        (lambda path: None, "no such checkpoint"),
    ],
)
def test_what_is_not_a_checkpoint_is_a_one_line_error(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "x.ckpt")
    with pytest.raises(VideomemError, match=message):
        read_checkpoint(tmp_path / "x.ckpt")
    assert not Path("evil").exists()


def test_a_checkpoint_of_other_features_is_refused(
    checkpoints: dict[str, Path], workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["test", "--ckpt-path", str(checkpoints["gru"]), "--run-dir", str(tmp_path / "out")]
    assert main(["extract", *data_arguments(workspace), "--data.features.backbone.grid", "1", "--workers", "0"]) == 0
    assert main([*arguments, "--data.features.backbone.grid", "1"]) == 2
    assert "trained on other features: backbone.grid 3 not 1" in capsys.readouterr().err


@pytest.mark.gpu
def test_a_head_trains_on_the_gpu_in_mixed_precision(workspace: Path, tmp_path: Path) -> None:
    options = ["--trainer.accelerator", "gpu", "--trainer.precision", "bf16-mixed", "--data.storage", "device"]
    cli = run("fit", [*fit_arguments(workspace, tmp_path / "run"), *options])
    assert cli is not None and cli.trainer.global_step > 0


def test_evaluations_of_other_splits_and_checkpoints_do_not_replace_each_other(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "gru"
    shutil.copytree(checkpoints["gru"].parent.parent, run_dir)
    last, best = run_dir / "checkpoints" / "last.ckpt", run_dir / "checkpoints" / "best.ckpt"
    shutil.copy(last, best)
    options = ["--wandb", "disabled"]
    assert main(["test", "--ckpt-path", str(last), *options]) == 0
    assert "gru/last.ckpt, epoch 1: 20 clips of split test" in " ".join(capsys.readouterr().out.split())
    assert main(["test", "--ckpt-path", str(best), *options]) == 0
    assert main(["test", "--ckpt-path", str(last), "--data.test_split", "val", *options]) == 0
    found = {path.parent.name: json.loads(path.read_text()) for path in run_dir.glob("*/metrics.json")}
    assert {name: (one["split"], one["checkpoint"]) for name, one in found.items()} == {
        "test-last": ("test", "gru/last.ckpt"),
        "test-best": ("test", "gru/best.ckpt"),
        "val-last": ("val", "gru/last.ckpt"),
    }
    named = ["--run-dir", str(run_dir / "test-last")]
    assert "has the results of checkpoint gru/last.ckpt, not gru/best.ckpt; choose another --run-dir" in failed(
        capsys, "test", "--ckpt-path", best, *named, *options
    )
    assert main(["test", "--ckpt-path", str(last), *named, *options]) == 0


@pytest.mark.parametrize(("set_by_user", "expected"), [(None, 1), ("2", 2)])
def test_a_head_on_stored_features_is_trained_on_one_thread_unless_the_user_sets_a_number(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by_user: str | None, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if set_by_user:
        monkeypatch.setenv("OMP_NUM_THREADS", set_by_user)
    before, seen = torch.get_num_threads(), set()
    monkeypatch.setattr(LitClassifier, "seed_step", lambda self, step: seen.add(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        run("fit", fit_arguments(workspace, tmp_path / "run"))
        assert seen == {expected} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("num_classes", "is_shown"), [(3, False), (5, False), (6, True)])
def test_a_top_5_accuracy_is_shown_only_if_it_can_be_below_one(num_classes: int, is_shown: bool) -> None:
    names = [str(number) for number in range(num_classes)]
    classifier = LitClassifier(partial(GRU, hidden_dim=4), 3, names, [1] * num_classes)
    assert ("accuracy_top5" in classifier.val_metrics) == is_shown
