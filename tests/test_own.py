"""`videomem memory CHECKPOINT`: trained heads on the videos that they were trained for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import fit_arguments

from videomem.checkpoint import read_checkpoint
from videomem.cli import main
from videomem.commands.train import run
from videomem.horizon.own import lags_of, measure_checkpoints, seconds_per_frame


def measure(out: Path, checkpoints: list[Path], *options: str) -> int:
    return main(["memory", *map(str, checkpoints), "--out", str(out), "--films", "0", *options])


def test_lags_are_dense_then_wide_and_within_the_clips() -> None:
    assert lags_of(16) == [1, 2, 3, 4, 5, 6, 7, 8, 11]
    assert lags_of(2) == [1]
    long = lags_of(2000)
    assert long[-1] < 2000 and (np.diff(np.log(long[8:])) < 0.36).all()


def test_heads_are_measured_on_their_own_videos(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    names = ["none", "leaky", "gru"]
    assert measure(tmp_path, [checkpoints[name] for name in names]) == 0
    card = json.loads((tmp_path / "memory.json").read_text())
    none, leaky, gru = card["memories"]
    assert (card["num_frames"], card["num_clips"], card["num_groups"]) == (16, 20, 10)
    assert card["seconds_per_frame"] == pytest.approx(1 / 16)
    lags = none["gradient"]["places"]
    assert max(none["swap"]["value"]) == 0 and set(none["gradient"]["seeds"][0]) == {0}
    assert leaky["direct"]["value"] == pytest.approx([0.9**lag for lag in lags], rel=1e-3)
    assert leaky["gradient"]["value"] == pytest.approx(leaky["direct"]["value"], rel=1e-6)
    assert leaky["tau"] == pytest.approx([-1 / np.log(0.9)] * len(leaky["tau"]), rel=1e-5)
    assert leaky["lyapunov"] == pytest.approx(np.log(0.9), rel=1e-5) and none["lyapunov"] is None
    assert all(0 < tau <= 16 for tau in gru["tau"]) and min(gru["swap"]["value"]) > 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 4 and "leaky(alpha=0.9)" in page and "0.0625 s apart" in page
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"memory.csv", "curves.csv"}


def test_checkpoints_of_one_memory_are_its_seeds(workspace: Path, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    run("fit", [*fit_arguments(workspace, tmp_path / "second", "rnn"), "--seed_everything", "1"])
    pair = [checkpoints["rnn"], tmp_path / "second/checkpoints/last.ckpt"]
    card = measure_checkpoints([read_checkpoint(path) for path in pair], {})
    (rnn,) = card.memories
    assert rnn.num_heads == 2 and len(rnn.gradient.seeds) == 2 and rnn.gradient.seeds[0] != rnn.gradient.seeds[1]
    assert rnn.gradient.value[0] == pytest.approx(np.sqrt(rnn.gradient.seeds[0][0] * rnn.gradient.seeds[1][0]))
    assert rnn.gradient.low[0] < rnn.gradient.value[0] < rnn.gradient.high[0]


def test_the_report_shows_a_film_from_inside(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    assert main(["memory", str(checkpoints["gated"]), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "seen from the inside" in page and page.count("<svg") == 5
    assert (tmp_path / "figures/inside-0-0.png").stat().st_size > 10_000


def test_the_time_between_frames_is_that_of_the_sampling(data) -> None:  # type: ignore[no-untyped-def]
    data.setup("test")
    assert seconds_per_frame(data, data.rows("test")) == pytest.approx(1 / 16)


def test_what_cannot_be_measured_is_one_line(
    workspace: Path, checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(tmp_path, [checkpoints["gru"]], "--split", "nowhere") == 2
    assert "the split nowhere has 0 clip(s), 2 are needed" in capsys.readouterr().err
    assert measure(tmp_path, [tmp_path / "no.ckpt"]) == 2
    assert "no such checkpoint" in capsys.readouterr().err
    moved = tmp_path / "moved.csv"
    moved.write_text((workspace / "videos" / "catalog.csv").read_text())
    run_dir = tmp_path / "other"
    run("fit", [*fit_arguments(workspace, run_dir, "rnn"), "--data.catalog", str(moved)])
    assert measure(tmp_path, [checkpoints["gru"], run_dir / "checkpoints/last.ckpt"]) == 2
    assert "differ in data.catalog" in capsys.readouterr().err
