"""Check every CUDA path of videomem on one GPU in under 6 minutes: tests marked `gpu`, comparisons with the CPU, speed.

    python benchmarks/gpu.py                      # on a machine with a GPU; `make test-gpu` does this in .venv
    python benchmarks/gpu.py --wheels wheels      # where packages are missing: see benchmarks/gpu_wheels.py
    python benchmarks/gpu.py --device cpu         # a smaller run without a GPU, to test the script
    python benchmarks/gpu.py --only heads fit --plant-error     # every comparison must fail

The script downloads nothing, and videomem need not be installed. Each part runs in a separate process with a time
limit, so that a part that fails, hangs or corrupts the CUDA context does not affect the others. The final table has one
line per part, and one per measurement with an aim, which holds for a GPU and is no condition of success; the JSON file
has all comparisons and measurements. A part is skipped if a package that it needs is missing, and the reason names the
package.

The exit status is 0 if nothing failed, 1 if something failed, and 2 if there is no GPU or an option is invalid.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 100.0  # of one part
TEST_LIMIT_S = 40  # of one test
TESTS = "tests"
CHECKS = ("features", "heads", "scan", "streams", "fit", "stacked", "storage", "video", "order", "shuffle", "inside",
          "network", "graphs")  # fmt: skip
SPEED = ("extraction", "training", "permutations", "memories", "stacks", "backbone", "epochs")  # Aims first.
PARTS = (TESTS, *CHECKS, *SPEED)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    options.add_argument("--wheels", type=Path, help="folder of wheels to install for this run only")
    options.add_argument("--out", type=Path, default=Path("runs/gpu.json"), help="file for the results")
    options.add_argument("--minutes", type=float, default=6.0, help="time after which no further part is started")
    options.add_argument(
        "--plant-error", action="store_true", help="change parameters on the device, so that all comparisons must fail"
    )
    options.add_argument("--part", nargs=3, metavar=("NAME", "FOLDER", "ROWS"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.part:
        name, folder, rows = given.part
        return run_part(name, given.device, Path(folder), Path(rows), given.plant_error)
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
        packages = [install(given.wheels, Path(folder) / "site")] if given.wheels else []
        paths = [str(ROOT), *packages, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        machine = describe(given.device, environment)
        if given.device == "cuda" and not machine["gpu"]:
            print("gpu.py: torch finds no GPU; run it on a machine with a GPU, or at a smaller size with --device cpu",
                  file=sys.stderr)  # fmt: skip
            return 2
        print(f"{machine['gpu'] or machine['cpu']}, Python {machine['python']}, torch {machine['torch']}", flush=True)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        results: list[dict[str, Any]] = []
        ends_s = time.monotonic() + 60 * given.minutes
        for name in dict.fromkeys(given.only):
            results.append(run(name, given, Path(folder), environment, ends_s))
            # After each part, so that an interrupted run keeps its results.
            given.out.write_text(json.dumps({"machine": machine, "parts": results}, indent=1) + "\n")
    print_table(results)
    print(f"all comparisons and measurements: {given.out}")
    return int(any(result["status"] not in ("ok", "skipped") for result in results))


def install(wheels: Path, site: Path) -> str:
    """Install wheels into a temporary folder."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"gpu.py: --wheels {wheels}: no wheels there; benchmarks/gpu_wheels.py downloads them")
    options = ("--quiet", "--no-index", "--no-deps", "--no-compile", "--target", str(site))
    if subprocess.run([sys.executable, "-m", "pip", "install", *options, *files]).returncode:
        raise SystemExit(f"gpu.py: --wheels {wheels}: pip cannot install them")
    return str(site)


def describe(device: str, environment: dict[str, str]) -> dict[str, Any]:
    """Facts about the machine, determined in a separate process, so that this one never uses the GPU."""
    code = (
        "import json, torch, torchvision; gpu = torch.cuda.is_available() and torch.cuda.get_device_name();"
        "print(json.dumps({'gpu': gpu or None, 'torch': torch.__version__, 'torchvision': torchvision.__version__,"
        "'cuda': torch.version.cuda, 'cudnn': torch.backends.cudnn.version() if gpu else None}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if printed.returncode:
        raise SystemExit(f"gpu.py: torch and torchvision cannot be imported: {printed.stderr.strip().splitlines()[-1]}")
    known = json.loads(printed.stdout.splitlines()[-1])
    known["gpu"] = known["gpu"] if device == "cuda" else None
    cores = os.cpu_count()
    return {**known, "python": platform.python_version(), "cpu": f"{cores} CPU cores", "platform": platform.platform()}


def run(
    name: str, given: argparse.Namespace, folder: Path, environment: dict[str, str], ends_s: float
) -> dict[str, Any]:
    """Run a part in a separate process, and determine its result from the rows that it wrote."""
    left_s = ends_s - time.monotonic()
    if left_s <= 0:
        return {"part": name, "status": "no time left", "seconds": 0.0, "rows": []}
    work = folder / name
    work.mkdir()
    rows, log = work / "rows.jsonl", work / "log.txt"
    rows.touch()
    began = time.monotonic()
    with log.open("w") as output:
        limit_s = min(LIMIT_S, left_s)
        command = test_command(given.device, work) if name == TESTS else part_command(name, given, work, rows)
        status = bounded(command, limit_s, environment, output)
    found = [json.loads(line) for line in rows.read_text().splitlines()]
    if name == TESTS:
        found += rows_of_tests(work / "junit.xml")
        # Status 1 of pytest means failed tests, which are listed in rows.
        status = 0 if found and status == 1 else status
    result = {"part": name, "status": judge(status, found), "seconds": time.monotonic() - began, "rows": found}
    if result["status"] in ("failed", "timed out"):
        result["log"] = log.read_text(errors="replace")[-4000:]
    print(f"{name}: {result['status']}, {result['seconds']:.0f} s", flush=True)
    return result


def part_command(name: str, given: argparse.Namespace, work: Path, rows: Path) -> list[str]:
    planted = ["--plant-error"] if given.plant_error else []
    return [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--device", given.device, *planted,
            "--part", name, str(work), str(rows)]  # fmt: skip


def test_command(device: str, work: Path) -> list[str]:
    """The pytest command for the files with GPU tests. If a test hangs, pytest-xdist restarts its worker."""
    files = [
        str(path) for path in sorted((ROOT / "tests").glob("**/test_*.py")) if "pytest.mark.gpu" in path.read_text()
    ]
    workers = min(4, os.cpu_count() or 1) if device == "cuda" else 1
    return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", str(workers), "--timeout", str(TEST_LIMIT_S),
            "--timeout-method", "thread", "-p", "no:cacheprovider", "--junitxml", str(work / "junit.xml"),
            "--continue-on-collection-errors", "--rootdir", str(ROOT), *files]  # fmt: skip


def bounded(command: Sequence[str], limit_s: float, environment: dict[str, str], output: Any) -> int | None:
    """The exit status of a command, or None if it exceeded the time limit and was killed with its child processes."""
    process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True, cwd=ROOT)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rows_of_tests(report: Path) -> list[dict[str, Any]]:
    """One row per test. A test counts as failed unless pytest reports that it passed or was skipped."""
    if not report.is_file():
        return []
    rows: list[dict[str, Any]] = []
    num_skipped = 0
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        name = f"{case.get('classname') or ''}::{case.get('name')}".removeprefix("::")
        said = " ".join(child.text or "" for child in case)
        missing = re.search(r"ModuleNotFoundError: No module named '(\w+)", said)
        if missing and "error" in kinds:  # A file that cannot be imported.
            rows.append({"kind": "note", "name": f"{name} needs {missing[1]}"})
        elif "skipped" in kinds:
            num_skipped += 1
        else:
            rows.append({"kind": "test", "name": name, "ok": not kinds & {"failure", "error"}})
    return [*rows, {"kind": "note", "name": f"{num_skipped} skipped"}] if num_skipped else rows


def judge(status: int | None, rows: Sequence[dict[str, Any]]) -> str:
    if status is None:
        return "timed out"
    if any(row["kind"] == "skipped" for row in rows):
        return "skipped"
    judged = [row for row in rows if row["kind"] in ("comparison", "test")]
    if any(not row["ok"] for row in judged):
        return "differs" if status == 0 else "failed"
    if status == 0:
        measured = judged or any(row["kind"] == "figure" for row in rows)
        return "ok" if measured else "skipped" if rows else "failed"
    return "failed"


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Print one line per part: status, worst comparison or number of results, time and memory."""
    print(f"\n{'part':<13}{'status':<13}{'s':>5}{'MiB':>7}  results")
    for result in results:
        rows = result["rows"]
        peak = next((row["value"] for row in rows if row["name"] == "peak device memory"), None)
        print(f"{result['part']:<13}{result['status']:<13}{result['seconds']:>5.0f}"
              f"{'' if peak is None else f'{peak:.0f}':>7}  {in_short(result)}")  # fmt: skip
        for row in rows:
            if row.get("ok") is False:
                error = f": {row['error']:.1e}, limit {row['limit']:.0e}" if row["kind"] == "comparison" else ""
                print(f"{'':<13}{row['name']}{error}")
            if "aim" in row:
                value = f"{row['value']:.2f} {row['unit']}".rstrip()
                print(f"{'':<13}{row['name']}: {value} (aim {row['aim']}: {'met' if row['met'] else 'missed'})")
        if "log" in result:
            print(f"{'':<13}{result['log'].strip().splitlines()[-1:]}")


def in_short(result: dict[str, Any]) -> str:
    rows = result["rows"]
    skipped = next((row["name"] for row in rows if row["kind"] == "skipped"), None)
    if skipped:
        return skipped
    judged = [row for row in rows if row["kind"] in ("comparison", "test")]
    figures = sum(row["kind"] == "figure" and row["name"] != "peak device memory" for row in rows)
    notes = [row["name"] for row in rows if row["kind"] == "note"]
    parts = [f"{sum(row['ok'] for row in judged)} of {len(judged)} passed"] if judged else []
    close = [row for row in judged if row["kind"] == "comparison" and row["limit"] and row["ok"]]
    if close:
        nearest = max(close, key=lambda row: row["error"] / row["limit"])
        parts.append(f"nearest to its limit: {nearest['name']} {nearest['error']:.1e} of {nearest['limit']:.0e}")
    parts += [f"{figures} figures"] if figures else []
    return "; ".join([*parts, *notes])


def run_part(name: str, device: str, folder: Path, rows: Path, planted: bool) -> int:
    """Main function of the process of a part."""
    from gpu_part import Part

    part = Part(device, folder, rows, planted)
    try:
        import torch

        if name in CHECKS:
            import gpu_checks as module
        else:
            import gpu_speed as module  # type: ignore[no-redef]
        getattr(module, name)(part)
        if part.is_gpu:
            part.figure("peak device memory", torch.cuda.max_memory_allocated() / 2**20, "MiB")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("videomem"):
            raise
        traceback.print_exc()
        part.skip(f"needs {error.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
