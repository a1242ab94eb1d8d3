"""Every config of a data set trains through the real command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import CONFIGS

from videomem.cli.main import main
from videomem.video.catalog import Catalog, read_catalog, write_catalog

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
