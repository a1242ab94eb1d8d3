"""`videomem import-features`: import features that were computed by another tool into the feature store.

Each video needs one (T, D) array: a file FOLDER/<path or stem of the video>.npy, or a dataset of one HDF5 file or a
tensor of one safetensors file. Its name is the path of the video in the catalog, with or without suffix, or the stem.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from videomem.cli.options import above_zero, add_shared, at_least, parser, print_failures, refuse_unused
from videomem.cli.terminal import say
from videomem.errors import VideomemError
from videomem.features.importing import Importing, ImportReport, import_features
from videomem.video.sampling import FixedRate, Sampling, Uniform


def main(command: str, arguments: Sequence[str]) -> int:
    """Import features and print the options of `fit` that use them."""
    options = _parser(command)
    given = options.parse_args(arguments)
    importing = Importing(given.name, _sampling(options, given), given.dtype, given.source_fps)
    report = import_features(given.catalog, given.features, given.store, importing)
    say(
        f"{report.num_imported} clips imported, {report.num_done_before} already stored, "
        f"{len(report.failures)} failed; store {report.folder}"
    )
    say(f"options of fit: --data.catalog {given.catalog} --data.store {given.store} {_options(importing, report)}")
    if report.num_imprecise:
        say(
            f"warning: {report.num_imprecise} of {report.feature_dim} features are in all clips too small for the full "
            f"precision of {given.dtype}; scale them{', or pass --dtype float32' * (given.dtype == 'float16')}",
            to_stderr=True,
        )
    print_failures(report.failures, f"{report.folder}/failures.csv")
    return 1 if report.failures and not given.allow_failures else 0


def _parser(command: str) -> Any:
    options = parser(command, __doc__)
    options.add_argument("--catalog", required=True, help="catalog of the videos, whose files need not exist")
    options.add_argument("--features", type=Path, required=True, help="folder or file with the arrays")
    options.add_argument("--name", required=True, help="name of the features, such as clip-vit-b32")
    options.add_argument("--store", default="features", help="folder of feature stores")
    rows = "rows that are taken from each array, spread evenly"
    options.add_argument("--num-frames", type=at_least(2), default=16, help=rows)
    add_shared(options, "--source-fps", "--allow-failures")
    rate = "sampling rate in rows per second, which replaces --num-frames; needs --source-fps"
    options.add_argument("--fps", type=above_zero, default=None, help=rate)
    options.add_argument("--max-frames", type=at_least(2), default=64, help="largest number of rows with --fps")
    dtypes = ("float16", "float32")
    options.add_argument("--dtype", choices=dtypes, default="float16", help="type of the stored features")
    return options


def _sampling(options: Any, given: Any) -> Sampling:
    if given.source_fps is not None and given.source_fps > 1000:
        raise VideomemError(f"--source-fps is {given.source_fps}, but must be at most 1000 rows per second")
    if given.fps is None:
        refuse_unused(options, given, ["max_frames"], "without --fps; set --num-frames")
        return Uniform(given.num_frames)
    refuse_unused(options, given, ["num_frames"], "with --fps; set --max-frames")
    return FixedRate(given.fps, given.max_frames)


def _options(importing: Importing, report: ImportReport) -> str:
    """Returns the options of `fit` that use these features; `configs/data/imported.yaml` is the same as a config."""
    imported = json.dumps({"name": importing.name, "feature_dim": report.feature_dim})
    sampling = {"class_path": f"videomem.video.sampling.{type(importing.sampling).__name__}",
                "init_args": vars(importing.sampling)}  # fmt: skip
    dtype = "" if importing.dtype == "float16" else f" --data.features.dtype {importing.dtype}"
    return f"--data.features.imported '{imported}' --data.features.sampling '{json.dumps(sampling)}'{dtype}"
