"""The demo, small: everything once, the promises of its table, and the page that it writes."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from videomem.cli import main
from videomem.evaluation.report import Example, Report, Strip, render
from videomem.evaluation.shuffle import CONDITIONS, Summary

SMALL = ["--heads", "none", "gated", "--num-seeds", "2", "--epochs", "2", "--permutations", "4", "--train-pairs", "2",
         "--val-pairs", "1", "--test-pairs", "1", "--frame-size", "64", "--processes", "2"]  # fmt: skip


def test_the_demo_makes_what_it_promises_and_twice_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    tables = []
    for _ in range(2):
        assert main(["demo", "--out", str(out), *SMALL]) == 0
        tables.append((out / "shuffle.csv").read_text())
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    assert len(rows) == 2 * 2 * (4 + 2)
    none = [row for row in rows if row["head"] == "none"]
    assert {float(row["max_logit_change"]) for row in none} == {0.0}
    assert all(float(row["accuracy"]) <= 0.5 for row in none)
    for seed in "01":
        assert len({row["accuracy"] for row in none if row["seed"] == seed}) == 1
    page = (out / "report.html").read_text()
    assert "random weights: a network that was never trained" in page
    assert page.count("<details") == 5 and "move_right" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    assert len(list((out / "heads").glob("*/checkpoints/last.ckpt"))) == 4
    assert len(list((out / "wandb").glob("offline-run-*"))) == 2
    assert "report.html" in capsys.readouterr().out


def test_the_demo_deletes_nothing_before_it_knows_that_it_can_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo.json").write_text("{}")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "thesis.txt").write_text("years of work")
    head = tmp_path / "heads" / "gru" / "last.ckpt"
    head.parent.mkdir(parents=True)
    head.write_text("hours of training")
    assert main(["demo", "--out", str(tmp_path), *SMALL]) == 2
    assert "holds something else already" in capsys.readouterr().err and head.exists()


def test_the_demo_leaves_other_folders_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "holds something else already" in capsys.readouterr().err


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def test_names_from_data_are_escaped_in_the_page() -> None:
    nasty = "<script>alert(1)</script>"
    summary = Summary(nasty, 1, dict.fromkeys(CONDITIONS, 0.5), dict.fromkeys(CONDITIONS, 0.0), 0.0, 0.0, 0.0, None)
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    page = render(
        Report(
            facts={nasty: nasty},
            summaries=[summary],
            curves={nasty: [(0, 0.5), (1, 0.6)]},
            confusions={nasty: np.eye(2, dtype=np.int64)},
            class_names=[nasty, "b"],
            examples=[Example(nasty, nasty, [Strip("ordered", frames, {nasty: nasty})])],
            chance=0.5,
            ceiling=0.5,
        )
    )
    parser = _Tags()
    parser.feed(page)
    assert "script" not in parser.found and "img" in parser.found and "svg" in parser.found
