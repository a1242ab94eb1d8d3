"""Code that only a GPU reaches, as far as it can be tested without one, and the script that checks it on one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from packaging.requirements import Requirement
from torch import nn

from videomem.cli import order
from videomem.cli.options import usable_device
from videomem.errors import VideomemError
from videomem.experiments.clips import clips_of_arrays
from videomem.experiments.order_test import run as protocol
from videomem.utils.parallel_jobs import run_parallel

sys.path.append(str(ROOT / "benchmarks"))

import gpu
import gpu_checks
import gpu_speed
import gpu_wheels
from gpu_part import Part, relative_error

SCRIPT = ROOT / "benchmarks" / "gpu.py"


# Branches of the package.


def test_every_branch_that_only_a_gpu_reaches_is_listed_with_what_reaches_it() -> None:
    pattern = re.compile(r'is_cuda|torch\.(cuda|backends\.cu)|"cuda|OutOfMemoryError')
    sources = [path for path in (ROOT / "videomem").rglob("*.py") if pattern.search(path.read_text())]
    helped_only = {"cli/extract.py"}  # It names `cuda` in a help text alone.
    found = {path.relative_to(ROOT / "videomem").as_posix() for path in sources} - helped_only
    table = (ROOT / "benchmarks" / "README.md").read_text().split("### Code that only a GPU reaches")[1]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    listed = {name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row[1])}
    assert listed == found
    reached = {name for row in rows for name in re.findall(r"`([\w/.]+)`", row[3])}
    assert all(name in gpu.PARTS or (ROOT / name).is_file() for name in reached)


def test_auto_selects_the_available_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert usable_device("auto") == "cuda"
    devices = order._devices("auto")
    assert devices == ["cuda:0", "cuda:1"] and order._processes(None, devices) == 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert usable_device("auto") == "cpu"
    assert order._devices("auto") == ["cpu"] and order._processes(None, ["cpu"]) == os.cpu_count()


def test_a_report_names_each_gpu_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"GPU {name}")
    assert protocol._devices(["cuda:0", "cuda:1", "cuda:0", "cpu"]) == "GPU cuda:0, GPU cuda:1, CPU"


def run_out(*arguments: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.slow
def test_running_out_of_memory_in_a_training_process_is_a_one_line_error() -> None:
    with pytest.raises(VideomemError, match=r"memory was too small.*fewer --processes"):
        list(run_parallel(run_out, [(), ()], None, 2))


@pytest.mark.gpu
def test_features_given_on_a_gpu_are_those_given_on_the_cpu() -> None:
    arrays = [torch.ones(4, 3), torch.zeros(4, 3)]
    one, other = (clips_of_arrays(given, "ab", "12") for given in (arrays, [array.cuda() for array in arrays]))
    assert one.ids == other.ids and other.features(0).device.type == "cpu"


# The script.


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_prints_one_line(tmp_path: Path) -> None:
    done = command("--out", str(tmp_path / "gpu.json"))
    assert done.returncode == 2 and not done.stdout and not (tmp_path / "gpu.json").exists()
    assert done.stderr.startswith("gpu.py: torch finds no GPU; ") and len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_script_runs_through_on_a_cpu(tmp_path: Path) -> None:
    started = time.monotonic()
    done = command("--device", "cpu", "--out", str(tmp_path / "gpu.json"))
    parts = {part["part"]: part for part in json.loads((tmp_path / "gpu.json").read_text())["parts"]}
    assert done.returncode == 0, done.stdout + done.stderr
    assert tuple(parts) == gpu.PARTS
    print(f"{time.monotonic() - started:.0f} s")  # Shown by `pytest -s`: it has 6 minutes on 2 cores.
    for name, part in parts.items():
        assert part["status"] == ("skipped" if name == gpu.TESTS and not torch.cuda.is_available() else "ok"), name
        assert name == gpu.TESTS or any(row["kind"] in ("comparison", "figure") for row in part["rows"])
        assert f"\n{name:<13}{part['status']}" in done.stdout


@pytest.mark.slow
def test_every_comparison_fails_where_an_error_is_planted(tmp_path: Path) -> None:
    done = command("--device", "cpu", "--plant-error", "--out", str(tmp_path / "gpu.json"), "--only", *gpu.CHECKS)
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert done.returncode == 1
    assert {part["status"] for part in parts} == {"differs"}
    rows = [row for part in parts for row in part["rows"] if row["kind"] == "comparison"]
    assert len(rows) > 150 and not any(row["ok"] for row in rows)


def test_parts_are_the_functions_that_there_are() -> None:
    for names, module in ((gpu.CHECKS, gpu_checks), (gpu.SPEED, gpu_speed)):
        assert all(callable(getattr(module, name)) and getattr(module, name).__doc__ for name in names)


def given(**changes: Any) -> Namespace:
    return Namespace(**{"device": "cpu", "plant_error": False, **changes})


def run_with(body: str, monkeypatch: pytest.MonkeyPatch, folder: Path, limit_s: float = 30.0) -> dict[str, Any]:
    """The result of a part whose process runs this code; `rows` is the file of its results."""
    code = f"import json, sys, time; rows = open({str(folder / 'part' / 'rows.jsonl')!r}, 'a')\n{body}"
    monkeypatch.setattr(gpu, "part_command", lambda *_: [sys.executable, "-c", code])
    monkeypatch.setattr(gpu, "LIMIT_S", limit_s)
    return gpu.run("part", given(), folder, dict(os.environ), time.monotonic() + 100)


PASSED = (
    "print(json.dumps(dict(kind='comparison', name='one', error=0.0, limit=0.1, ok=True)), file=rows, flush=True)\n"
)


def test_a_part_that_crashes_keeps_its_results_and_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result = run_with(f"{PASSED}raise ValueError('broken')", monkeypatch, tmp_path)
    assert result["status"] == "failed" and result["rows"][0]["name"] == "one"
    assert result["log"].endswith("ValueError: broken\n")


def test_a_part_that_hangs_is_ended_with_its_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = "import time; time.sleep(60)  # of a part that hangs"
    body = f"import subprocess\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n{PASSED}time.sleep(60)"
    result = run_with(body, monkeypatch, tmp_path, limit_s=2.0)
    assert result["status"] == "timed out" and result["seconds"] < 20 and result["rows"][0]["ok"]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "of a part that hangs" not in listed


def test_a_part_that_measured_nothing_is_not_ok(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run_with("pass", monkeypatch, tmp_path)["status"] == "failed"


def test_a_comparison_beyond_its_limit_makes_the_part_differ(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run_with(PASSED.replace("ok=True", "ok=False"), monkeypatch, tmp_path)["status"] == "differs"


def test_no_part_starts_after_the_time_limit(tmp_path: Path) -> None:
    assert gpu.run("heads", given(), tmp_path, {}, time.monotonic() - 1)["status"] == "no time left"


def test_a_part_without_its_package_is_skipped_and_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def needs(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(gpu_checks, "scan", lambda part: needs("av"))
    rows = tmp_path / "rows.jsonl"
    assert gpu.run_part("scan", "cpu", tmp_path, rows, False) == 0
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert found == [{"kind": "skipped", "name": "needs av"}] and gpu.judge(0, found) == "skipped"
    monkeypatch.setattr(gpu_checks, "scan", lambda part: needs("videomem.gone"))
    with pytest.raises(ModuleNotFoundError):
        gpu.run_part("scan", "cpu", tmp_path, rows, False)


def test_reports_of_tests_are_read_one_by_one(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    report.write_text(
        "<testsuites><testsuite>"
        "<testcase classname='tests.test_a' name='good'/>"
        "<testcase classname='tests.test_a' name='bad'><failure>no</failure></testcase>"
        "<testcase classname='tests.test_a' name='left'><skipped>why</skipped></testcase>"
        "<testcase classname='' name='tests.test_b'>"
        "<error>ModuleNotFoundError: No module named 'wandb'</error></testcase>"
        "<testcase classname='tests.test_c' name='ill'><error>RuntimeError</error></testcase>"
        "</testsuite></testsuites>"
    )
    rows = gpu.rows_of_tests(report)
    assert [(row["name"], row["ok"]) for row in rows if row["kind"] == "test"] == [
        ("tests.test_a::good", True), ("tests.test_a::bad", False), ("tests.test_c::ill", False),
    ]  # fmt: skip
    assert [row["name"] for row in rows if row["kind"] == "note"] == ["tests.test_b needs wandb", "1 skipped"]
    assert gpu.rows_of_tests(tmp_path / "none.xml") == []


def test_measurements_are_printed_beside_their_aims(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = Part("cpu", tmp_path, tmp_path / "rows", False)
    part.figure("extraction", 0.93, "", least=0.9)
    part.figure("fit", 1.2, "x", most=1.15)
    part.figure("epochs", 3.0, "1/s")
    rows = [json.loads(line) for line in part.rows.read_text().splitlines()]
    assert [row.get("met") for row in rows] == [True, False, None]
    gpu.print_table([{"part": "one", "status": gpu.judge(0, rows), "seconds": 1.0, "rows": rows}])
    printed = capsys.readouterr().out
    assert "extraction: 0.93 (aim >= 0.9: met)\n" in printed and "fit: 1.20 x (aim <= 1.15: missed)\n" in printed
    assert "ok" in printed and "epochs:" not in printed


def test_errors_are_relative_and_never_hidden() -> None:
    two = torch.tensor([1.0, -2.0])
    assert relative_error([two], [two]) == 0
    assert relative_error([two + 0.5], [two]) == 0.25
    assert relative_error([two, two + 1], [two, two]) == 0.5
    assert relative_error([torch.tensor([3.0])], [torch.zeros(1)]) == 3
    for wrong in ([two[:1]], [torch.tensor([1.0, float("nan")])], [torch.tensor([1.0, float("inf")])], [], [two, two]):
        assert relative_error(wrong, [two]) == float("inf")


def test_a_planted_error_changes_the_copy_alone(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    same, other = (Part("cpu", tmp_path, tmp_path / "rows", planted).moved(layer) for planted in (False, True))
    assert torch.equal(same.weight, before) and torch.equal(layer.weight, before)
    assert not torch.allclose(other.weight, before)


# The wheels.


def test_wheels_are_what_is_required_less_what_is_there() -> None:
    whole = [pin.split("==")[0] for pin in gpu_wheels.closure(Requirement("rich"), set(), "3.12")]
    assert whole[-1] == "rich" and {"markdown-it-py", "mdurl", "pygments"} <= set(whole)
    less = [pin.split("==")[0] for pin in gpu_wheels.closure(Requirement("rich"), {"markdown-it-py"}, "3.12")]
    assert "markdown-it-py" not in less and "mdurl" not in less and "pygments" in less
    assert gpu_wheels.closure(Requirement("rich"), {"rich"}, "3.12") == []
    extra = [pin.split("==")[0] for pin in gpu_wheels.closure(Requirement("jsonargparse[signatures]"), set(), "3.12")]
    assert "typeshed-client" in extra


def test_features_of_the_script_tell_the_classes(tmp_path: Path) -> None:
    losses = gpu_checks.trained("cpu", "gru", gpu_checks.stored(tmp_path, 80), 1e-2).numpy()
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
