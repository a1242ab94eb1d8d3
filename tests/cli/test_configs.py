"""Every config of a data set and of a head works through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import CONFIGS, every_head, fit_arguments, varied_heads

from videomem.cli.main import main
from videomem.heads import SetReadout
from videomem.training.checkpoint import read_checkpoint
from videomem.video.catalog import Catalog
from videomem.video.catalog_files import read_catalog, write_catalog

DATA_SETS = sorted(
    path.stem for path in (CONFIGS / "data").glob("*.yaml") if path.stem not in ("synthetic", "imported")
)


@pytest.fixture(scope="module")
def small(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of each of two classes in every split, and features beside them."""
    folder = tmp_path_factory.mktemp("small")
    labels = catalog.classes[:2]
    groups = [[c for c in catalog.split(split) if c.label == label] for split in catalog.splits for label in labels]
    write_catalog(Catalog(tuple(clip for group in groups for clip in group[:2])), folder / "catalog.csv")
    return folder


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_config_of_a_data_set_trains(small: Path, tmp_path: Path, name: str) -> None:
    config = CONFIGS / "data" / f"{name}.yaml"
    weights = "random" if name.startswith("synthetic") else "imagenet"
    assert yaml.safe_load(config.read_text())["data"]["features"]["backbone"]["weights"] == weights
    data = [*arguments_of(config, small), "--data.features.backbone.weights", "random"]
    assert main(["extract", *data, "--workers", "1"]) == 0
    check_training(data, small, tmp_path)


def test_the_config_of_imported_features_trains(small: Path, tmp_path: Path) -> None:
    config = CONFIGS / "data" / "imported.yaml"
    imported = yaml.safe_load(config.read_text())["data"]["features"]["imported"]
    (tmp_path / "arrays").mkdir()
    for clip in read_catalog(small / "catalog.csv").clips:
        array = np.random.default_rng(0).random((20, imported["feature_dim"]), dtype=np.float32)
        np.save(tmp_path / "arrays" / f"{Path(clip.path).stem}.npy", array)
    place = ["--catalog", str(small / "catalog.csv"), "--store", str(small / "features")]
    assert main(["import-features", *place, "--features", str(tmp_path / "arrays"), "--name", imported["name"]]) == 0
    check_training(arguments_of(config, small), small, tmp_path)


def arguments_of(config: Path, small: Path) -> list[str]:
    return [
        *("--config", str(CONFIGS / "base.yaml"), "--config", str(config)),
        *("--data.catalog", str(small / "catalog.csv"), "--data.store", str(small / "features")),
    ]


def check_training(data: list[str], small: Path, tmp_path: Path) -> None:
    head = ["--config", str(CONFIGS / "head" / "gated.yaml"), "--run-dir", str(tmp_path / "run")]
    trainer = ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", *data, *head, *trainer, "--trainer.check_val_every_n_epoch", "1"]) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert main(["test", "--ckpt-path", str(checkpoint)]) == 0
    assert len(read_catalog(small / "catalog.csv").clips) >= 8


@varied_heads
def test_every_command_takes_every_head(
    workspace: Path, checkpoints: dict[str, Path], catalog: Catalog, tmp_path: Path, head: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """`inspect`, and `export` with the backbone, are tested on every head beside their code."""
    checkpoint, video, out = checkpoints[head], catalog.clips[0].path, tmp_path / "out"
    assert main(["test", "--ckpt-path", str(checkpoint), "--run-dir", str(tmp_path / "test")]) == 0
    assert main(["shuffle", str(checkpoint), "--permutations", "2", "--out", str(tmp_path / "shuffle")]) == 0
    assert main(["export", str(checkpoint), "--out", str(out), "--without-backbone", "--permutations", "2"]) == 0
    written, wanted = json.loads((out / "config.json").read_text()), yaml.safe_load(head_config(head))["model"]
    for part in ("memory", "readout"):
        named = wanted.get(part, {"class_path": "videomem.heads.MeanReadout"})
        assert written[part]["name"] == named["class_path"].rsplit(".", 1)[-1]
        assert named.get("init_args", {}).items() <= written[part]["arguments"].items()
    capsys.readouterr()
    assert main(["predict", video, "--model", str(checkpoint), "--format", "jsonl"]) == 0
    predicted = json.loads(capsys.readouterr().out.splitlines()[0])
    state = ["--state", str(tmp_path / "state.safetensors")]
    assert main(["stream", video, "--model", str(checkpoint), *state]) == 0
    assert predicted["top"] and (tmp_path / "state.safetensors").stat().st_size > 0


@pytest.mark.slow
@every_head
def test_every_head_exports_graphs(checkpoints: dict[str, Path], tmp_path: Path, head: str) -> None:
    graphs = ["--onnx", "--torch-export", "--without-backbone", "--no-evaluation"]
    assert main(["export", str(checkpoints[head]), "--out", str(tmp_path / "out"), *graphs]) == 0
    assert len(json.loads((tmp_path / "out" / "checks.json").read_text())["graphs"]) == 4


def head_config(name: str) -> str:
    return (CONFIGS / "head" / f"{name}.yaml").read_text()


def test_a_readout_and_its_arguments_are_named_on_the_command_line(workspace: Path, tmp_path: Path) -> None:
    options = ["--model.readout", "SetReadout", "--model.readout.hidden_dim", "9"]
    assert main(["fit", *fit_arguments(workspace, tmp_path / "run", "none"), *options]) == 0
    head = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt").classifier().head
    assert isinstance(head.readout, SetReadout) and head.readout.hidden_dim == 9


def test_configs_are_copied_and_edited_ones_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["configs"]) == 0
    copied = {path.relative_to(tmp_path / "configs") for path in (tmp_path / "configs").rglob("*.yaml")}
    assert copied == {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    edited = tmp_path / "configs" / "data" / "my_videos.yaml"
    edited.write_text("data: {catalog: mine.csv}\n")
    capsys.readouterr()
    assert main(["configs"]) == 0
    assert capsys.readouterr().out == "kept the existing configs/data/my_videos.yaml\n0 configs written to configs\n"
    assert edited.read_text() == "data: {catalog: mine.csv}\n"
    assert main(["configs", "--out", str(edited)]) == 2
