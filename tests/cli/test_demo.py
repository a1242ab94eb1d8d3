"""The demo, small: everything once, the promises of its table, and nothing of the user's touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import logged_by

from videomem.cli.main import main
from videomem.experiments.order_test.result import OrderTestResult, from_json

SMALL = ["--heads", "none", "gated", "--runs", "2", "--epochs", "2", "--permutations", "4", "--train-pairs", "2",
         "--val-pairs", "1", "--test-pairs", "1", "--frame-size", "64", "--processes", "1",
         "--wandb", "offline"]  # fmt: skip


def test_the_demo_writes_the_promised_files_and_is_reproducible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    results = []
    for mode in ("offline", "disabled"):
        assert main(["demo", "--out", str(out), *SMALL, "--wandb", mode]) == 0
        results.append(from_json((out / "order.json").read_text()))
        for path in (out / "features" / "order_training_results").glob("*.npz"):
            path.unlink()  # The second time, all trainings are done again.
    assert results[0].heads == results[1].heads and results[0].plan_sha256 == results[1].plan_sha256
    none = results[0].heads[0]
    assert none.is_order_blind and none.max_logit_change == 0
    assert (
        none.accuracies["ordered/ordered"].value
        == none.accuracies["ordered/shuffled"].value
        == none.accuracies["ordered/reversed"].value
        <= 0.5
    )
    page = (out / "report.html").read_text()
    assert "random weights" in page and "move_right" in page
    assert len(list((out / "wandb").glob("offline-run-*"))) == 3  # Of the test, and of each memory.
    check_tracking(out, results[1])
    assert json.loads((out / "plan.json").read_text())["settings"]["runs"] == 2
    assert "report.html" in capsys.readouterr().out


def check_tracking(out: Path, result: OrderTestResult) -> None:
    """The runs of a test are a group: one of the whole, and one of each memory with its accuracies."""
    logged = [logged_by(path) for path in (out / "wandb").glob("offline-run-*")]
    started = [next(record["run"] for record in records if record["type"] == "run") for records in logged]
    assert {run["run_group"] for run in started} == {f"order-{result.plan_sha256[:8]}"}
    kinds = sorted((run["job_type"], run["display_name"]) for run in started)
    assert kinds == sorted([("memory", "none"), ("memory", "gated"), ("order", out.name)])
    for run, records in zip(started, logged, strict=True):
        summary = {
            key: value for one in records if one["type"] == "summary" for key, value in one["summary"]["update"].items()
        }
        if run["job_type"] == "memory":
            (one,) = [one for one in result.heads if one.name == run["display_name"]]
            assert {pair: summary[pair] for pair in one.accuracies} == {
                pair: accuracy.value for pair, accuracy in one.accuracies.items()
            }
            assert summary["value_of_order"] == one.value_of_order.value
            assert sum(record["type"] == "history" for record in records) == result.num_runs
        else:
            tables = ("heads", "accuracies", "suite", "confusions", "contrasts", "plan")
            assert all(summary[f"order/{table}._type"] == "table-file" for table in tables)
            assert "order/failures._type" not in summary  # It has paths.
            assert summary["order/figures/suite._type"] == "image-file" and summary["order/verdict"]
            names = [record["artifact"].get("name") for record in records if "artifact" in record]
            assert "data-videos" in names and f"order-{out.name}" in names
            assert summary["order/report._type"] == "html-file"
            assert (
                summary["trainings/finished"] == result.num_trainings and "trainings/gated/ordered/shuffled" in summary
            )


def test_the_demo_deletes_nothing_before_its_checks_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo.json").write_text("{}")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "thesis.txt").write_text("years of work")
    plan = tmp_path / "plan.json"
    plan.write_text("hours of thinking")
    assert main(["demo", "--out", str(tmp_path), *SMALL]) == 2
    assert "is not empty; choose an empty folder" in capsys.readouterr().err and plan.exists()


def test_the_demo_leaves_other_folders_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "contains other files" in capsys.readouterr().err
