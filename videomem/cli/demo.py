"""`videomem demo`: make videos whose class only order tells, extract their features, and run the order test on them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from videomem.cli import order
from videomem.cli.extract import extract_data, read_data_module
from videomem.cli.options import add_fields, at_least, parser, usable_device
from videomem.cli.synthesize import HELPS
from videomem.errors import VideomemError
from videomem.utils.atomic import write_atomic
from videomem.utils.folders import config_folder, is_empty_or_absent
from videomem.video.synthetic import SyntheticSettings, synthesize


def main(command: str, arguments: Sequence[str]) -> int:
    """Run the whole of videomem once: videos, features, heads with and without order, verdict, report."""
    options = parser(command, __doc__)
    options.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of everything that is made")
    options.add_argument("--memories", nargs="+", default=None, help="heads, configs/head/<name>.yaml (default: all)")
    options.add_argument("--runs", type=at_least(1), default=None, help="runs, a split and a seed each")
    options.add_argument("--epochs", type=at_least(1), default=None, help="epochs of training")
    options.add_argument("--permutations", type=at_least(1), default=None, help="permutations of each test clip")
    options.add_argument("--processes", type=at_least(1), default=os.cpu_count(), help="trainings in parallel")
    options.add_argument(
        "--wandb", choices=("offline", "online", "disabled"), default="offline", help="mode of the W&B run"
    )
    add_fields(options, SyntheticSettings(), HELPS)
    given = vars(options.parse_args(arguments))
    settings = SyntheticSettings(**{name: given[name] for name in asdict(SyntheticSettings())})
    started, out, console = time.perf_counter(), given["out"].absolute(), Console(stderr=True)
    _claim(out)

    console.print("videomem: drawing and encoding videos")
    synthesize(settings, out / "videos")
    data = _data_arguments(out)
    if status := extract_data(read_data_module(data), usable_device("auto"), 2, allow_failures=False):
        return status
    for name in ("plan.json", "frozen.json"):  # A demo may be repeated with other settings.
        (out / name).unlink(missing_ok=True)
    status = order.main("order", [*data, *_order_arguments(given), "--out", str(out)])
    console.print(f"videomem: demo done in {time.perf_counter() - started:.0f} s")
    return status


def _claim(out: Path) -> None:
    """Make the folder ours; videos, features and trainings of an earlier demo are kept."""
    mark = out / "demo.json"
    if not is_empty_or_absent(out) and not mark.is_file():
        raise VideomemError(f"{out}: holds something else already; choose an empty folder for --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(mark, (json.dumps({"made_by": "videomem demo"}) + "\n").encode())


def _data_arguments(out: Path) -> list[str]:
    files = [config_folder() / name for name in ("base.yaml", "data/synthetic.yaml")]
    arguments = [part for path in files for part in ("--config", str(path))]
    return [*arguments, "--data.catalog", str(out / "videos" / "catalog.csv"), "--data.store", str(out / "features")]


def _order_arguments(given: dict[str, object]) -> list[str]:
    files = [config_folder() / name for name in ("order.yaml", "demo.yaml")]
    arguments = [part for path in files for part in ("--config", str(path))]
    wanted = {
        "order.memories": json.dumps(given["memories"]) if given["memories"] else None,
        "order.runs": given["runs"],
        "order.num_permutations": given["permutations"],
        "trainer.max_epochs": given["epochs"],
        "processes": given["processes"],
        "wandb": given["wandb"],
    }
    return arguments + [
        part for name, value in wanted.items() if value is not None for part in (f"--{name}", str(value))
    ]
