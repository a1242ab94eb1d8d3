"""`videomem order`: measure how much accuracy frame order is worth to heads trained on a data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger

from videomem.cli.config_options import config_parser, parse, refuse_without_effect
from videomem.cli.options import add_out, add_shared, refuse_unused, tracking_of, usable_device
from videomem.cli.terminal import console, say, table
from videomem.errors import VideomemError
from videomem.experiments.clips import clips_of_data
from videomem.experiments.html import write_strips
from videomem.experiments.order_test.answers import answers, headline
from videomem.experiments.order_test.data_checks import with_joined_groups
from videomem.experiments.order_test.forecast import forecast, forecast_text, training_text
from videomem.experiments.order_test.information import clip_scores_of
from videomem.experiments.order_test.jobs import in_cache, num_cached
from videomem.experiments.order_test.order_tables import group_names, summary_table, tested_clips, training_jobs
from videomem.experiments.order_test.order_tracking import group_of, numbers_of, track_heads, track_results
from videomem.experiments.order_test.plan import MODEL_SETTINGS, OrderSettings, Recipe
from videomem.experiments.order_test.report import examples_of, top_clips_of, write_report
from videomem.experiments.order_test.run import OrderTest, freeze, make_plan, run_order_test
from videomem.experiments.order_test.run_splits import run_splits
from videomem.experiments.order_test.subset import write_clip_scores
from videomem.experiments.tables import csv_text
from videomem.statistics.planning import Assumptions
from videomem.tracking import Run, Tracking, finishing, log_trainings, start_run
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import TRAINING_OPTIONS, LitClassifier
from videomem.utils.atomic import locked_folder, write_atomic
from videomem.utils.plain_data import from_plain
from videomem.utils.progress import training_progress
from videomem.utils.sharing import shared_command, shared_text


@dataclass(frozen=True)
class TrainerSettings:
    """Training of the heads.

    Args:
        max_epochs: Passes over the training clips; null: 20, or as many as give 500 steps.
        gradient_clip_val: Largest norm of the gradient; null for no limit.
        logger: Loggers, as for `fit`; the order test uses the settings of a WandbLogger for its own W&B runs.
    """

    max_epochs: int | None = None
    gradient_clip_val: float | None = Recipe.gradient_clip_val
    logger: Logger | list[Logger] | bool | None = None


# Settings of the `model` section that the order test sets itself.
_NOT_OF_RECIPE = {"memory", "feature_dim", "class_names", "class_counts", "projection_dim", "seed"}
_OF_PLAN = {"clips_per_group", "num_runs", "overlap", "size_cv"}  # assumptions that the plan decides
_SEEDED = "set order.seed"
_STORED = "features are read from the store"
UNUSED = {
    **{f"trainer.{name}": "all heads are trained as one model, with trainer.max_epochs and trainer.gradient_clip_val"
       for name in signature(Trainer).parameters if name not in {field.name for field in fields(TrainerSettings)}},
    "model.projection_dim": "set order.projection and order.projection_dim",
    "model.seed": _SEEDED,
    "data.seed": _SEEDED,
    "seed": _SEEDED,
    "data.num_workers": _STORED,
    "data.storage": _STORED,
    "data.augmentation": _STORED,
    "data.test_split": "set order.split",
    "run-dir": "set --out",
    "ckpt-path": "the order test trains its own heads",
    "new-wandb-run": "an order test always starts new W&B runs",
    "trust": "no checkpoint is read",
}  # fmt: skip
UNUSED_WITH_PLAN = dict.fromkeys(
    ("out", "training-results", "engine", "address", "wandb", "wandb-project"), "a forecast trains and writes nothing"
)
UNUSED_WITHOUT_PLAN = {"assume": "only the forecast of --plan is made from assumptions"}


def main(command: str, arguments: Sequence[str]) -> int:
    """Train every head on ordered and on shuffled clips, and write the verdict and the report."""
    # A config file with a memory is refused too, because its head would seem to be trained.
    refuse_without_effect(command, arguments, {**UNUSED, "model.memory": "set order.heads"})
    options = _parser(command)
    config = parse(options, arguments)
    if config.plan:
        refuse_without_effect(f"{command} --plan", arguments, UNUSED_WITH_PLAN)
    else:
        refuse_without_effect(command, arguments, UNUSED_WITHOUT_PLAN)
    data: VideoDataModule = from_plain(VideoDataModule, config.data.as_dict())
    clips, joined = with_joined_groups(clips_of_data(data))
    plan = make_plan(clips, _dataclass(OrderSettings, config.order), recipe_of(config))
    devices, runner = _devices(config.devices), None
    if config.engine == "ray":
        from videomem.utils.ray_cluster import RayJobs  # Ray is an extra.

        on_gpu = devices[0].startswith("cuda")
        devices, runner = ["cuda:0" if on_gpu else "cpu"], RayJobs(config.address, on_gpu)  # Ray shows a job its GPU.
    else:
        refuse_unused(options, config, ["address"], "with --engine local; set --engine ray")
    processes = _processes(config.processes, devices)
    if config.plan:
        expected = forecast(plan, clips, _dataclass(Assumptions, config.assume), devices[0])
        say(*forecast_text(plan, expected, processes).split("\n"))
        return 0
    num_train = len(run_splits(clips, plan.settings)[0].train)
    say(f"videomem: training {training_text(plan, plan.recipe.num_steps(num_train))}", to_stderr=True)
    out, cache = Path(config.out), Path(config.training_results or data.feature_store.cache / "order_training_results")
    command_line, tracking = shared_command([command, *arguments]), tracking_of(config, config.trainer.logger)
    with locked_folder(out):
        before = freeze(plan, out, num_cached(plan, clips, cache, devices[0]))
        details = {"name": out.name, "job_type": "order", "config": plan.as_plain()}
        with finishing(start_run(tracking, out, Tracking(group=group_of(plan)), **details)) as run:
            log = log_trainings(run)
            with training_progress(console(to_stderr=True)) as tell:
                tested = run_order_test(clips, plan, cache, processes, devices, tell, command_line, failures_of(data),
                                        before, [joined] if joined else [],
                                        lambda job, accuracies: log(numbers_of(job, accuracies)), runner)  # fmt: skip
            write_results(tested, data, out, run)
        track_heads(tested, out, tracking)
        jobs = training_jobs(tested.result, in_cache(plan, clips, cache, devices[0]))
        write_atomic(out / "tables" / "training_jobs.csv", csv_text(jobs).encode())
    return 0


def _parser(command: str) -> ArgumentParser:
    options = config_parser(command, __doc__, UNUSED)
    of_data = {name.removeprefix("data.") for name in UNUSED if name.startswith("data.")}
    options.add_class_arguments(VideoDataModule, "data", skip=of_data, instantiate=False)
    options.add_class_arguments(OrderSettings, "order", instantiate=False)
    options.add_class_arguments(LitClassifier, "model", skip=_NOT_OF_RECIPE, instantiate=False)
    options.set_defaults({f"model.{name}": getattr(Recipe, name) for name in MODEL_SETTINGS})
    options.add_class_arguments(TrainerSettings, "trainer", instantiate=False)
    options.add_class_arguments(Assumptions, "assume", instantiate=False, skip=_OF_PLAN)
    options.add_argument("--plan", action="store_true", help="print the expected precision and cost; train nothing")
    add_out(options, command, "the plan, the result and the report")
    options.add_argument("--training-results", default=None, help="folder of training results, shared by all plans "
                         "(default: in the store)")  # fmt: skip
    add_shared(options, "--processes", "--devices", "--engine", "--address", "--wandb", "--wandb-project")
    return options


def _dataclass(cls: type, section: Namespace) -> Any:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in section.as_dict().items()}
    return cls(**values)


def recipe_of(config: Namespace) -> Recipe:
    """Returns the training recipe, from the sections that `fit` reads too."""
    model = config.model
    for name in TRAINING_OPTIONS:
        if model[name] != (default := signature(LitClassifier).parameters[name].default):
            raise VideomemError(f"model.{name} is {model[name]}, but an order test trains its heads with {default}; "
                                "leave it out")  # fmt: skip
    if (epochs := config.trainer.max_epochs) is not None and epochs < 1:
        raise VideomemError(f"trainer.max_epochs is {epochs}, but must be at least 1, or null for enough steps")
    return Recipe(
        epochs=epochs or 0,
        batch_size=config.data.batch_size,
        balanced_sampling=config.data.balanced_sampling,
        gradient_clip_val=config.trainer.gradient_clip_val,
        readout=model.readout.class_path if model.readout else Recipe.readout,
        **{name: model[name] for name in MODEL_SETTINGS},
    )


def _devices(text: str) -> list[str]:
    if text == "auto":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
    return [usable_device(name.strip()) for name in text.split(",")]


def _processes(wanted: int | None, devices: Sequence[str]) -> int:
    on_gpus = any(device.startswith("cuda") for device in devices)
    return wanted or (2 * len(devices) if on_gpus else os.cpu_count() or 1)


def failures_of(data: VideoDataModule) -> list[tuple[str, str]]:
    """Returns the clips of the catalog that are excluded from the test, each with the reason."""
    usable, failure_table = set(data.clips), data.feature_store.failure_table.read()
    other = "the other clip of its reversed pair failed" if data.reversed_pairs else "has no features"
    lost = [clip for clip in data.catalog.clips if clip not in usable]
    failures = [failure_table.get((clip.path, *clip.interval)) for clip in lost]
    reasons = [
        shared_text(one.message, [clip.path]) if one else other for clip, one in zip(lost, failures, strict=True)
    ]
    return list(zip(map(str, lost), reasons, strict=True))


def write_results(tested: OrderTest, data: VideoDataModule, out: Path, run: Run) -> None:
    """Writes the report and its figures to a folder and to W&B, and prints the verdict."""
    result = tested.result
    examples, top_clips = examples_of(data, tested.scores, result), []
    if result.information:
        scores = clip_scores_of(tested.scores)
        write_clip_scores(out, data.clips, scores, group_names(tested.scores, data.clips))
        top_clips = top_clips_of(data, scores)
    figures = write_report(result, out, examples, top_clips)
    text = csv_text(tested_clips(result, tested.scores, data.clips))
    write_atomic(out / "tables" / "tested_clips.csv", text.encode("utf-8", "surrogateescape"))
    strips = write_strips(examples, out / "figures")
    track_results(tested, data, out, run, figures, strips)
    console(soft_wrap=True).print(table(*summary_table(result), left=["verdict"], box=None, padding=(0, 1, 0, 0),
                                        pad_edge=False, header_style="bold underline"))  # fmt: skip
    found = [check.sentence for check in result.checks]
    for text in (headline(result), *(answer for _, answer in answers(result)), result.verdict.remedy, *found):
        if text:
            say(text)
    say(f"{out / 'report.html'}, {out / 'order.json'}, {out / 'methods.txt'}")
