"""`videomem memory CHECKPOINT`: trained heads on clips of their data set."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers.recomputed import check_recomputed
from helpers.result_files import check_file

from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.experiments.memory_horizon import trained_heads as own
from videomem.experiments.memory_horizon.recall_result import RecallResult
from videomem.experiments.memory_horizon.trained_heads import (
    SCHEMA_VERSION,
    HeadsResult,
    labels_of,
    lags_of,
    measure_checkpoints,
)
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.utils.result_models import schema_json


def changed(checkpoint: Checkpoint, **arguments: object) -> Checkpoint:
    """Returns the checkpoint with changed arguments of the model."""
    content = copy.deepcopy(checkpoint.content)
    content["hyper_parameters"].update(arguments)
    return replace(checkpoint, content=content)


def test_the_command_measures_trained_heads_on_their_own_clips(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own"
    given = [str(checkpoints[name]) for name in ("leaky_zero", "gated")]
    assert main(["memory", *given, "--videos", "0", "--out", str(out)]) == 0
    check_file(out / "memory.json", HeadsResult, SCHEMA_VERSION)
    check_recomputed(out)
    result = json.loads((out / "memory.json").read_text())
    zero, gated = result["memories"]
    assert (result["num_clips"], result["num_groups"], result["num_frames"]) == (20, 10, 8)
    assert zero["label"] == "leaky(alpha=0)" and zero["lyapunovs"] == ["-Infinity"] and set(zero["taus"][0]) == {0}
    for kind in ("gradient", "direct", "swap", "probe"):
        assert zero[kind]["value"] == pytest.approx([0] * 7, abs=1e-5), kind
        assert np.all(np.array(gated[kind]["value"])[:2] != 0)
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 4 and ">nan" not in page and "memory horizon on 20 clips" in capsys.readouterr().out


def test_the_report_shows_a_video_from_inside(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    assert main(["memory", str(checkpoints["gated"]), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Inspection of one video" in page and page.count("<svg") == 5
    assert (tmp_path / "figures/inside-0-0.png").stat().st_size > 10_000


def test_videos_of_imported_features_are_refused(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = copy.deepcopy(read_checkpoint(checkpoints["gated"]).content)
    feature_dim = content["hyper_parameters"]["feature_dim"]
    content["datamodule_hyper_parameters"]["features"]["imported"] = {"name": "clip", "feature_dim": feature_dim}
    torch.save(content, tmp_path / "imported.ckpt")
    assert main(["memory", str(tmp_path / "imported.ckpt"), "--videos", "2", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "--videos has no effect on imported features" in error and error.count("\n") == 1


def test_a_leaky_head_fades_by_its_alpha_on_any_data(checkpoints: dict[str, Path]) -> None:
    result = measure_checkpoints([read_checkpoint(checkpoints["leaky"])], {})
    (leaky,) = result.memories
    assert leaky.direct.value == pytest.approx([0.9**lag for lag in leaky.direct.places], rel=1e-3)
    assert leaky.gradient.value == pytest.approx(leaky.direct.value, rel=1e-6)
    assert leaky.tau == pytest.approx([min(-1 / np.log(0.9), 8)] * len(leaky.tau), rel=1e-5)
    assert leaky.lyapunov == pytest.approx(np.log(0.9), rel=1e-5)
    assert result.seconds_per_frame == pytest.approx(2 / 15, rel=0.1)


def test_heads_are_pooled_over_their_seeds_alone(checkpoints: dict[str, Path]) -> None:
    gated, none = (read_checkpoint(checkpoints[name]) for name in ("gated", "none"))
    memory = copy.deepcopy(gated.model_arguments["memory"])
    memory["init_args"]["coupled"] = False
    uncoupled, again = changed(gated, memory=memory), changed(gated, seed=5)
    assert labels_of([gated, none, again]) == ["gated", "none", "gated"]
    assert labels_of([gated, uncoupled, none, again]) == ["gated #1", "gated #2", "none", "gated #1"]


def test_every_head_of_a_kind_has_an_untrained_one_of_its_own(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "probe", lambda *_, **__: None)  # The probe is slow, and not used for untrained heads.
    gated = read_checkpoint(checkpoints["gated"])
    (found,) = measure_checkpoints([gated, changed(gated, seed=5)], {}).memories
    one, two = found.gradient_untrained.seeds
    assert found.num_heads == 2 and one != two
    assert found.gradient.seeds[0] == found.gradient.seeds[1]  # The same weights.


def test_heads_with_different_numbers_of_frames_are_measured_separately(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = read_checkpoint(checkpoints["gated"])
    for name in ("measure_head", "sensitivity", "clips_of_one_length"):
        monkeypatch.setattr(own, name, lambda *_: torch.zeros(1))
    for lengths, message in (([8, 12], "see 8 and 12 frames of a clip"), ([1], "sees one frame of most clips")):
        monkeypatch.setattr(own, "median_length", lambda _, left=iter(lengths): next(left))
        with pytest.raises(VideomemError, match=message):
            measure_checkpoints([gated] * len(lengths), {})


def test_lags_are_all_that_are_short_and_few_that_are_long() -> None:
    assert lags_of(2) == [1] and lags_of(9) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert lags_of(65)[-3:] == [32, 45, 64]


@pytest.mark.parametrize(("name", "model"), [("recall_result", RecallResult), ("trained_heads_result", HeadsResult)])
def test_the_schemas_in_the_documentation_are_up_to_date(name: str, model: type) -> None:
    assert (ROOT / f"docs/{name}.schema.json").read_text() == schema_json(model)
