"""The script that recomputes results without the package: it agrees with the package, and notices a changed number."""

from __future__ import annotations

import ast
import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers.order_clips import drawn, planned, with_fixed_split
from helpers.small_heads import D

from videomem.experiments.clips import Clips, clips_of_arrays
from videomem.experiments.order_test.information import clip_scores_of
from videomem.experiments.order_test.jobs import in_cache
from videomem.experiments.order_test.order_tables import all_tables, group_names, training_jobs
from videomem.experiments.order_test.order_tables import tested_clips as table_of_clips
from videomem.experiments.order_test.plan import PRIMARY
from videomem.experiments.order_test.result import to_json
from videomem.experiments.order_test.run import run_order_test
from videomem.experiments.order_test.subset import write_clip_scores
from videomem.experiments.tables import csv_text
from videomem.features.backbone import BackboneSettings
from videomem.features.store import FeatureSettings
from videomem.inference.model import Classifier
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.plain_data import from_plain
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import write_catalog
from videomem.video.sampling import Uniform

sys.path.append(str(ROOT / "benchmarks"))

import recompute
import recompute_heads

SCRIPTS = sorted((ROOT / "benchmarks").glob("recompute*.py"))
THREE = (*PRIMARY, "rotated")


def made(folder: Path, drawn_clips: Clips, **protocol: Any) -> list[str]:
    """Arguments of the script for a small order test, whose folder this writes."""
    plan = planned(drawn_clips, heads=("none", "gru"), runs=6, folds=3, **protocol)
    tested = run_order_test(drawn_clips, plan, folder / "results")
    names = [drawn_clips.class_names[label] for label in drawn_clips.labels]
    of_clips = zip(names, drawn_clips.groups, strict=True)
    clips = [Clip(str(folder / f"{row}.mp4"), name, "train", f"g{group}") for row, (name, group) in enumerate(of_clips)]
    write_catalog(Catalog(tuple(clips)), folder / "catalog.csv")
    out, jobs = folder / "order", in_cache(plan, drawn_clips, folder / "results")
    (out / "tables").mkdir(parents=True)
    (out / "order.json").write_text(to_json(tested.result))
    further = [table_of_clips(tested.result, tested.scores, clips), training_jobs(tested.result, jobs)]
    for table in [*all_tables(tested.result), *further]:
        (out / "tables" / f"{table.name}.csv").write_text(csv_text(table))
    write_clip_scores(out, clips, clip_scores_of(tested.scores), group_names(tested.scores, clips))
    return [str(out), "--training-results", str(folder / "results"), "--catalog", str(folder / "catalog.csv")]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("recompute")
    return made(folder, drawn(ragged=True), sizes=(0.5,), sensitivity=("equal_parameters",))


def without_some(clips: Clips) -> Clips:
    """The clips without some of one class, so that groups differ in size and classes are imbalanced."""
    kept = np.flatnonzero((clips.labels == 0) | (np.arange(len(clips)) % 5 < 2)).tolist()
    labels, groups = ([str(values[row]) for row in kept] for values in (clips.labels, clips.groups))
    return clips_of_arrays([clips.features(row) for row in kept], labels, groups, [clips.splits[row] for row in kept])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_no_module_of_the_script_imports_videomem(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    imported = {one.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for one in node.names}
    imported |= {str(node.module).split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names) | {"numpy", "scipy"} | {one.stem for one in SCRIPTS}


def test_every_number_of_an_order_test_is_recomputed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, table = recompute.main(arguments), capsys.readouterr().out
    assert status == 0, table
    for quantity in ("information", "clip scores", "chiral pairs", "p of reliance", "confusions", "training sizes"):
        assert f"| {quantity} |" in table
    assert [line.split("|")[2].strip() for line in table.splitlines() if "not recomputed" in line] == [
        "random and best frame",
        "displacement, Kendall's tau, adjacency",
        "data checks",
    ]


@pytest.mark.parametrize(
    ("clips", "protocol"),
    [
        (drawn(groups=30, per_group=1), {"num_permutations": 1, "training_conditions": PRIMARY}),
        (without_some(drawn()), {"margin_of": "attainable", "metric": "balanced", "training_conditions": THREE}),
        (without_some(with_fixed_split(drawn(groups=48))), {"split": "fixed", "training_conditions": PRIMARY}),
        (drawn(groups=20, trend=0.0, look=4.0), {"training_conditions": PRIMARY}),
    ],
    ids=["one clip per group, one permutation", "unequal groups and classes", "fixed split", "hardly any difference"],
)
def test_other_designs_are_recomputed(
    clips: Clips, protocol: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = recompute.main(made(tmp_path, clips, **protocol))
    assert status == 0, capsys.readouterr().out


def _interval(path: Path) -> None:
    result = json.loads(path.read_text())
    result["heads"][1]["value_of_order"]["high"] += 1e-5
    path.write_text(json.dumps(result))


def _verdict(path: Path) -> None:
    result = json.loads(path.read_text())
    result["verdict"]["kind"] = "hurts"
    path.write_text(json.dumps(result))


def _last_number(path: Path) -> None:
    rows = list(csv.reader(path.open()))
    column = next(i for i, cell in enumerate(rows[-1]) if i > 2 and _is_number(cell))
    rows[-1][column] = str(float(rows[-1][column]) + 1e-3)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _is_number(cell: str) -> bool:
    return cell.replace(".", "").replace("-", "").replace("e", "").isdigit()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("order.json", _interval),
        ("order.json", _verdict),
        *((f"tables/{name}.csv", _last_number) for name in (
            "heads", "accuracies", "contrasts", "suite", "classes", "sizes", "confusions", "clip_scores", "tested_clips"
        )),
    ],
)  # fmt: skip
def test_a_changed_number_is_noticed(
    name: str, change: Callable[[Path], None], arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(arguments[0], tmp_path / "order"))
    change(folder / name)
    assert recompute.main([str(folder), *arguments[1:]]) == 1
    assert "DIFFERS" in capsys.readouterr().out


@pytest.mark.parametrize("memory", ["GRU", "NoMemory", "Leaky"])
def test_heads_are_recomputed_from_exported_weights(memory: str, tmp_path: Path) -> None:
    names, sizes = ["left", "right", "up"], {"hidden_dim": 5, **({"alpha": 0.7} if memory == "Leaky" else {})}
    arguments = {"memory": {"class_path": f"videomem.heads.{memory}", "init_args": sizes}, "feature_dim": D,
                 "class_names": names, "class_counts": [1] * 3}  # fmt: skip
    trained = from_plain(LitClassifier, arguments)
    settings = FeatureSettings(BackboneSettings(weights="random"), Uniform(6))
    model = Classifier(trained.head, names, settings, None, dict(trained.hparams))
    model.save_pretrained(tmp_path / "exported", with_backbone=False)
    x_TD = torch.randn(9, D, generator=torch.Generator().manual_seed(0))
    head = recompute_heads.Head(tmp_path / "exported")
    assert head.reason_against() is None
    logits_TC = head.logits(x_TD.double().numpy())
    for num_frames in (1, 5, 9):
        theirs_1C = model.classify(x_TD[None, :num_frames], torch.tensor([num_frames]))
        assert np.abs(logits_TC[num_frames - 1] - theirs_1C[0].detach().numpy()).max() < 1e-5


def test_a_folder_of_no_command_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        recompute.main([str(tmp_path)])
    assert "none of order.json" in capsys.readouterr().err
