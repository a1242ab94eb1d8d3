"""`videomem extract`: run the frozen backbone over a catalog, once, into the feature store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace
from rich.console import Console

from videomem.cli.options import usable_device
from videomem.errors import VideomemError, one_line_reason
from videomem.features.extraction import ExtractionReport, extract
from videomem.training.data_module import VideoDataModule
from videomem.utils.workers import TIME_LIMIT_S


def main(command: str, arguments: Sequence[str]) -> int:
    """Extract what the `data` section of the configs describes; the sections of `fit` may stand beside it."""
    options = _parser(f"videomem {command}")
    options.add_argument(
        "--workers", type=int, default=1, help="processes that decode; 0 decodes in this one, unsheltered"
    )
    options.add_argument(
        "--time-limit", type=float, default=TIME_LIMIT_S, help="seconds that one clip may take a worker"
    )
    options.add_argument("--retry-failed", action="store_true", help="try only the clips that failed before")
    options.add_argument("--device", type=str, default="auto", help="where the backbone runs: auto, cpu, cuda, ...")
    options.add_argument("--allow-failures", action="store_true", help="end with status 0 though clips failed")
    config, data = _parse(options, arguments)
    if (imported := data.settings.imported) is not None:
        raise VideomemError(
            f"data.imported names {imported.name}, made elsewhere, so there is nothing to extract; "
            "`videomem import-features` brings such features into the store"
        )
    if config.workers < 0:
        raise VideomemError(f"--workers is {config.workers}, but must be at least 0")
    if not config.time_limit > 0:
        raise VideomemError(f"--time-limit is {config.time_limit}, but must be above 0 seconds")
    device = usable_device(config.device)
    return extract_data(data, device, config.workers, config.allow_failures, config.time_limit, config.retry_failed)


def read_data_module(arguments: Sequence[str]) -> VideoDataModule:
    """The data module of configs and `--data.*` options; other sections of `fit` are passed over."""
    return _parse(_parser("videomem"), arguments)[1]


def _parser(program: str) -> ArgumentParser:
    options = ArgumentParser(prog=program, description=__doc__, exit_on_error=False, allow_abbrev=False)
    options.add_argument(
        "-c", "--config", action=ActionConfigFile, help="config of `fit`; only its data section is read"
    )
    options.add_class_arguments(VideoDataModule, "data")
    of_fit = ("model", "trainer", "seed_everything", "run_dir", "ckpt_path", "wandb", "new_wandb_run", "trust")
    for section in of_fit:
        options.add_argument(f"--{section}", type=Any, default=None, help="ignored here; belongs to `fit`")
    return options


def _parse(options: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, VideoDataModule]:
    try:
        config = options.parse_args(list(arguments))
        return config, options.instantiate(config).data
    except ArgumentError as error:
        raise VideomemError(one_line_reason(error)) from error


def extract_data(
    data: VideoDataModule,
    device: str,
    num_workers: int,
    allow_failures: bool,
    time_limit_s: float = TIME_LIMIT_S,
    retry_failed: bool = False,
) -> int:
    """Extract the features of a data module's catalog and say what came of it."""
    backbone, console, started = data.settings.backbone, Console(stderr=True), time.perf_counter()
    if backbone.weights == "random":
        console.print(f"videomem: {backbone.name} has random weights (seed {backbone.seed}): it was never trained")
    clips, root = data.catalog.clips, data.feature_store.root
    report = extract(clips, data.settings, root, device, num_workers, console, time_limit_s, retry_failed)
    _print(report, len(clips), time.perf_counter() - started)
    return 1 if report.failures and not allow_failures else 0


def _print(report: ExtractionReport, num_clips: int, seconds: float) -> None:
    if not report.num_extracted and not report.failures:
        print(f"nothing to do: {report.num_done_before} of {num_clips} clips are in {report.folder}, and none failed")
        return
    print(
        f"{report.num_extracted} clips extracted in {seconds:.0f} s, {report.num_done_before} there before, "
        f"{len(report.failures)} failed; store {report.folder}"
    )
    console = Console(stderr=True, soft_wrap=True)
    for failure in report.failures[:10]:
        console.print(f"failed: {failure.message}", markup=False, highlight=False)
    if report.failures:
        console.print(f"all failures are in {report.folder / 'failure_table.csv'}", highlight=False)
