"""`videomem extract`: run the frozen backbone on every clip of a catalog and store the features."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence

from videomem.cli.config_options import build_data_module, config_parser, parse, refuse_without_effect
from videomem.cli.options import add_shared, print_failures, refuse_time_limit, refuse_unused, usable_device
from videomem.cli.terminal import console, say, table
from videomem.errors import VideomemError
from videomem.features.backbone import BackboneSettings, layer_dims
from videomem.features.encoders.by_torchvision import ALEXNET_LAYERS
from videomem.features.extraction import ExtractionReport, extract
from videomem.training.data_module import VideoDataModule

_OF_TRAINING = ("source", "storage", "batch_size", "num_workers", "balanced_sampling", "augmentation",
                "reversed_pairs", "test_split", "seed", "shuffle")  # fmt: skip
_TOLERATED_SHARE = 0.01  # of features that are imprecise in the stored type
UNUSED = {
    **{f"data.{name}": "it does not change stored features" for name in _OF_TRAINING},
    **dict.fromkeys(
        ("model", "trainer", "seed", "run-dir", "ckpt-path", "wandb", "new-wandb-run", "trust"),
        "it belongs to `videomem fit`",
    ),
    "order": "it belongs to `videomem order`",
}


def main(command: str, arguments: Sequence[str]) -> int:
    """Extract the features that the `data` section of the configs describes."""
    refuse_without_effect(command, arguments, UNUSED)
    options = config_parser(command, __doc__, UNUSED)
    options.add_class_arguments(VideoDataModule, "data", skip=set(_OF_TRAINING))
    options.add_argument("--layers", action="store_true", help="print the layers of the backbone with their numbers of "
                         "features, and extract nothing")  # fmt: skip
    add_shared(options, "--workers", "--time-limit", "--device", "--allow-failures")
    options.add_argument("--retry-failed", action="store_true", help="process only the clips that failed before")
    options.add_argument("--shard", type=part_of_catalog, default=None, metavar="I/N",
                         help="extract only the I-th of N parts of the catalog, I from 0 to N - 1")  # fmt: skip
    add_shared(options, "--engine", "--address")
    config = parse(options, arguments)
    refuse_time_limit(options, config)
    if config.layers:  # Before the weights are read, or downloaded.
        _print_layers(BackboneSettings(**config.data.features.backbone.as_dict()))
        return 0
    data = build_data_module(options, config)
    if (imported := data.settings.imported) is not None:
        raise VideomemError(
            f"data.features.imported is {imported.name}, whose features were made by another tool, so there is "
            "nothing to extract; use `videomem import-features`"
        )
    progress, backbone, started = console(to_stderr=True), data.settings.backbone, time.perf_counter()
    device = usable_device(config.device)
    if backbone.weights == "random":
        say(
            f"videomem: {backbone.name} has random weights (seed {backbone.seed}) and was never trained", to_stderr=True
        )
    engine = None
    if config.engine == "ray":
        from videomem.features.ray_engine import RayEngine  # Ray is an extra.

        engine = RayEngine(config.address)
    else:
        refuse_unused(options, config, ["address"], "with --engine local; set --engine ray")
    clips, digest, part = data.catalog.clips, data.catalog.digest, ""
    if config.shard is not None:
        number, count = config.shard
        part = f"{number}-of-{count}"
        clips, digest = clips[number * len(clips) // count : (number + 1) * len(clips) // count], ""
    report = extract(clips, data.settings, data.feature_store.root, device, config.workers, progress,
                     config.time_limit, config.retry_failed, digest, part, engine)  # fmt: skip
    _print(report, len(clips), time.perf_counter() - started)
    if report.imprecise_share > _TOLERATED_SHARE:
        remedy = "; set data.features.dtype to float32" * (data.settings.dtype == "float16")
        say(
            f"warning: {report.imprecise_share:.0%} of the features are in all clips too small for the full precision "
            f"of {data.settings.dtype}{remedy}",
            to_stderr=True,
        )
    return 1 if report.failures and not config.allow_failures else 0


def part_of_catalog(text: str | tuple[int, int]) -> tuple[int, int]:
    """Converts `I/N`, for argparse's `type`."""
    if isinstance(text, tuple):  # jsonargparse converts twice.
        return text
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"is {text!r}, but must be I/N with I from 0 to N - 1, such as 0/16")
    return int(match[1]), int(match[2])


def _print_layers(backbone: BackboneSettings) -> None:
    pooling = f", feature maps pooled to a grid of {backbone.grid}" if backbone.library == "torchvision" else ""
    names = {node: name for name, node in ALEXNET_LAYERS.items()} if backbone.name == "alexnet" else {}
    rows = [(f"{names[node]} = {node}" if node in names else node, f"{dim:,}")
            for node, dim in layer_dims(backbone).items()]  # fmt: skip
    console().print(table(f"{backbone.name}: features at each layer{pooling}", ["layer", "features"], rows))


def _print(report: ExtractionReport, num_clips: int, seconds: float) -> None:
    if not report.num_extracted and not report.failures:
        say(f"nothing to do: {report.num_done_before} of {num_clips} clips are in {report.folder}, and none failed")
        return
    say(
        f"{report.num_extracted} clips extracted in {seconds:.0f} s, {report.num_done_before} already stored, "
        f"{len(report.failures)} failed; store {report.folder}"
    )
    print_failures(report.failures, report.failure_table)
