"""`videomem import-features`: bring features that were made elsewhere into the feature store.

A (T, D) array for each video: FOLDER/<path or stem of the video>.npy, or one HDF5 or safetensors file whose datasets or
tensors are named by the videos' paths (as the catalog writes them, or without suffix) or stems.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from videomem.cli.options import at_least, parser
from videomem.errors import VideomemError
from videomem.features.importing import Importing, ImportReport, import_features
from videomem.video.sampling import FixedRate, Sampling, Uniform


def main(command: str, arguments: Sequence[str]) -> int:
    """Import, and say what a config must say to use it."""
    given = _parser(command).parse_args(arguments)
    importing = Importing(given.name, _sampling(given), given.dtype, given.fps)
    report = import_features(given.catalog, given.features, given.store, importing)
    print(
        f"{report.num_imported} clips imported, {report.num_done_before} there before, {len(report.failures)} failed; "
        f"store {report.folder}"
    )
    print(f"for fit: --data.catalog {given.catalog} --data.store {given.store} {_options(importing, report)}")
    console = Console(stderr=True, soft_wrap=True)
    for failure in report.failures[:10]:
        console.print(f"failed: {failure.message}", markup=False, highlight=False)
    if report.failures:
        console.print(f"all failures are in {report.folder / 'failure_table.csv'}", highlight=False)
    return 1 if report.failures and not given.allow_failures else 0


def _parser(command: str) -> Any:
    options = parser(command, __doc__)
    options.add_argument("--catalog", required=True, help="catalog of the videos, which need not exist themselves")
    options.add_argument("--features", type=Path, required=True, help="folder or file of arrays")
    options.add_argument("--name", required=True, help="name of the features, such as clip-vit-b32")
    options.add_argument("--store", default="features", help="folder of feature stores")
    options.add_argument("--num-frames", type=at_least(2), default=16, help="rows of each array, spread evenly over it")
    options.add_argument("--fps", type=float, default=None, help="rows per second, where the catalog trims its clips")
    options.add_argument(
        "--sample-fps", type=float, default=None, help="rows per second to take, in place of --num-frames; needs --fps"
    )
    options.add_argument("--max-frames", type=at_least(2), default=64, help="most rows to take with --sample-fps")
    options.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="type to store them in")
    options.add_argument("--allow-failures", action="store_true", help="end with status 0 though clips failed")
    return options


def _sampling(given: Any) -> Sampling:
    if given.fps is not None and not 0 < given.fps <= 1000:
        raise VideomemError(f"--fps is {given.fps}, but must be above 0 and at most 1000 rows per second")
    return Uniform(given.num_frames) if given.sample_fps is None else FixedRate(given.sample_fps, given.max_frames)


def _options(importing: Importing, report: ImportReport) -> str:
    """Options of `fit` that name these features; `configs/data/imported.yaml` shows them as a config."""
    imported = json.dumps({"name": importing.name, "feature_dim": report.feature_dim})
    sampling = {"class_path": f"videomem.video.sampling.{type(importing.sampling).__name__}",
                "init_args": vars(importing.sampling)}  # fmt: skip
    dtype = "" if importing.dtype == "float16" else f" --data.feature_dtype {importing.dtype}"
    return f"--data.imported '{imported}' --data.sampling '{json.dumps(sampling)}'{dtype}"
