"""`videomem demo`: make videos whose class depends on frame order only, and run the order test on them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from videomem.cli.main import run_command
from videomem.cli.options import add_out, add_shared, add_synthetic_settings, at_least, parser
from videomem.cli.terminal import say
from videomem.errors import VideomemError
from videomem.utils.atomic import locked_folder, write_atomic
from videomem.utils.folders import config_folder, is_empty_or_absent
from videomem.video.synthetic import SyntheticSettings, synthesize


def main(command: str, arguments: Sequence[str]) -> int:
    """Run the whole pipeline: synthesize videos, extract features, train heads with and without order, report."""
    options = parser(command, __doc__)
    add_out(options, command, "videos, features, training results and the report")
    options.add_argument("--heads", nargs="+", default=None, help="names of configs/head/ (default: all)")
    for flag, what, config in (
        ("--runs", "runs, each with its own split and seed", "demo"),
        ("--epochs", "passes over the training clips", "demo"),
        ("--permutations", "permutations of each test clip", "order"),
    ):
        text = f"{what} (default: as in configs/{config}.yaml)"
        options.add_argument(flag, type=at_least(1), default=None, help=text)
    add_shared(options, "--processes", "--wandb", "--wandb-project")
    add_synthetic_settings(options)
    given = vars(options.parse_args(arguments))
    started, out = time.perf_counter(), given["out"].absolute()
    _claim(out)
    with locked_folder(out):
        status = _run(given, out)
    say(f"videomem: demo done in {time.perf_counter() - started:.0f} s", to_stderr=True)
    return status


def _run(given: dict[str, Any], out: Path) -> int:
    say("videomem: making videos and extracting features", to_stderr=True)
    synthesize(SyntheticSettings(**{name: given[name] for name in asdict(SyntheticSettings())}), out / "videos")
    data = [*_configs("base.yaml", "data/synthetic.yaml"), "--data.catalog", str(out / "videos" / "catalog.csv"),
            "--data.store", str(out / "features")]  # fmt: skip
    if status := run_command(["extract", *data, "--workers", "2"]):
        return status
    for name in ("plan.json", "frozen.json"):  # A demo may be repeated with other settings.
        (out / name).unlink(missing_ok=True)
    return run_command(["order", *data, *_order_arguments(given), "--out", str(out)])


def _claim(out: Path) -> None:
    """Marks the folder as a demo's; videos, features and training results of an earlier demo are kept."""
    mark = out / "demo.json"
    if not is_empty_or_absent(out) and not mark.is_file():
        raise VideomemError(f"{out}: contains other files; choose an empty folder for --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(mark, (json.dumps({"made_by": "videomem demo"}) + "\n").encode())


def _configs(*names: str) -> list[str]:
    return [part for name in names for part in ("--config", str(config_folder() / name))]


def _order_arguments(given: dict[str, object]) -> list[str]:
    wanted = {
        "order.heads": json.dumps(given["heads"]) if given["heads"] else None,
        "order.runs": given["runs"],
        "order.num_permutations": given["permutations"],
        "trainer.max_epochs": given["epochs"],
        "processes": given["processes"],
        "wandb": given["wandb"],
        "wandb-project": given["wandb_project"],
    }
    chosen = [part for name, value in wanted.items() if value is not None for part in (f"--{name}", str(value))]
    return [*_configs("order.yaml", "demo.yaml"), *chosen]
