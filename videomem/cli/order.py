"""`videomem order`: what is the order of the frames worth to learners trained on this data? A verdict with evidence."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace
from pytorch_lightning import Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from videomem.cli.options import usable_device
from videomem.errors import VideomemError, one_line_reason
from videomem.experiments.clips import Clips, clips_of_data
from videomem.experiments.frame_strips import write_strips
from videomem.experiments.order_test.analysis import accuracies_by_run
from videomem.experiments.order_test.examples import examples_of
from videomem.experiments.order_test.execution import num_cached
from videomem.experiments.order_test.forecast import Forecast, forecast
from videomem.experiments.order_test.order_tables import result_summary, result_tables, summary_table
from videomem.experiments.order_test.plan import OrderPlan, OrderSettings, Recipe
from videomem.experiments.order_test.report import write_report
from videomem.experiments.order_test.run import OrderTest, freeze, make_plan, run_order_test
from videomem.statistics.planning import Assumptions
from videomem.tracking import (
    Memory,
    Mode,
    data_artifact,
    group_of,
    log_result,
    log_strips,
    start_run,
    track_memories,
    use_artifact,
    without_paths,
)
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.plain_data import from_plain

# Of the `model` section: what the order test decides itself.
_NOT_OF_RECIPE = {"memory", "feature_dim", "class_names", "class_counts", "projection_dim", "seed"}


FEW_STEPS = 200  # below which heads of these sizes are mostly still learning


def main(command: str, arguments: Sequence[str]) -> int:
    """Train every memory in order and without it, and judge what order was worth."""
    options = _parser(f"videomem {command}")
    try:
        config = options.parse_args(list(arguments))
    except ArgumentError as error:
        raise VideomemError(one_line_reason(error)) from error
    data: VideoDataModule = from_plain(VideoDataModule, config.data.as_dict())
    clips = clips_of_data(data)
    plan = make_plan(clips, _dataclass(OrderSettings, config.order), recipe_of(config))
    devices = _devices(config.devices)
    processes = _processes(config.processes, devices)
    if config.plan:
        expected = forecast(plan, clips, _dataclass(Assumptions, config.assume), devices[0])
        print(forecast_text(plan, expected, processes))
        return 0
    out, cache = Path(config.out), Path(config.cells or data.feature_store.root / "order_cells")
    before = freeze(plan, out, num_cached(plan, clips, cache, devices[0]))
    command_line = shlex.join(["videomem", command, *arguments])
    with told(Console(stderr=True)) as tell:
        tested = run_order_test(clips, plan, cache, processes, devices, tell, command_line, failures_of(data), before)
    write_results(tested, data, clips, plan, out, config.wandb)
    return 0


def write_results(
    tested: OrderTest, data: VideoDataModule, clips: Clips, plan: OrderPlan, out: Path, mode: Mode
) -> None:
    """The report and all that goes with it, into a folder and to W&B; the verdict on the terminal."""
    result = tested.result
    examples = examples_of(data, clips, plan, tested.splits[0], tested.scores, result)
    figures, strips = write_report(result, out, examples), write_strips(examples, out / "figures")
    track_results(tested, data, clips, plan, out, mode, figures, strips)
    console = Console(soft_wrap=True)
    console.print(summary_table(result))
    console.print(result.verdict.sentence, markup=False, highlight=False)
    if result.verdict.remedy:
        console.print(result.verdict.remedy, markup=False, highlight=False)
    print(f"{out / 'report.html'}, {out / 'order.json'}, {out / 'methods.txt'}")


def track_results(
    tested: OrderTest,
    data: VideoDataModule,
    clips: Clips,
    plan: OrderPlan,
    out: Path,
    mode: Mode,
    figures: Mapping[str, Path],
    strips: Sequence[tuple[Path, str]],
) -> None:
    """W&B runs in a group of the plan's: one of the whole test, and one of each memory to compare them by."""
    # Paths of clips that failed, and of head configs, stay here.
    result = replace(tested.result, plan=without_paths(tested.result.plan), failures=())
    group = group_of(f"order-{result.plan_sha256[:8]}")
    run = start_run("videomem", out, mode, name=out.name, group=group, job_type="order", config=result.plan)
    if not run.disabled:
        use_artifact(run, data_artifact(run, data))
    log_result(run, "order", result_tables(result), figures, result_summary(result))
    log_strips(run, "order", strips)
    run.finish()
    memories = []
    for one in result.memories:
        config = {
            "memory": plan.memories[one.name],
            "training_conditions": plan.settings.training_conditions,
            "recipe": asdict(plan.recipe),
            "label": one.label,
            "num_parameters": one.num_parameters,
            "plan": result.plan_sha256,
        }
        own = {pair: accuracy.value for pair, accuracy in one.accuracies.items()}
        own |= {"value_of_order": one.value_of_order.value, "reliance": one.reliance.value}
        memories.append(Memory(one.name, config, own, accuracies_by_run(one.name, plan, clips, tested.scores)))
    track_memories("videomem", out, mode, group, memories)


def _parser(program: str) -> ArgumentParser:
    options = ArgumentParser(prog=program, description=__doc__, exit_on_error=False, allow_abbrev=False)
    options.add_argument("-c", "--config", action=ActionConfigFile, help="configs of `fit`, and configs/order.yaml")
    options.add_class_arguments(VideoDataModule, "data", instantiate=False)
    options.add_class_arguments(OrderSettings, "order", instantiate=False)
    options.add_class_arguments(LitClassifier, "model", skip=_NOT_OF_RECIPE, instantiate=False)
    options.add_class_arguments(Trainer, "trainer", instantiate=False)
    options.add_class_arguments(Assumptions, "assume", instantiate=False, skip=_OF_PLAN)
    options.add_argument("--seed_everything", type=int, default=0, help="ignored here; see order.seed")
    options.add_argument("--plan", action="store_true", help="say what to expect, and what it costs; train nothing")
    options.add_argument("--out", type=str, default="runs/order", help="folder of the plan, the result and the report")
    options.add_argument("--cells", default=None, help="folder of trainings, for all plans (default: in the store)")
    options.add_argument(
        "--processes", type=int, default=None, help="trainings in parallel (default: one a core, 2 a GPU)"
    )
    options.add_argument("--devices", type=str, default="auto", help="auto, cpu, or GPUs such as cuda:0,cuda:1")
    options.add_argument("--wandb", type=str, default="offline", choices=("offline", "online", "disabled"),
                         help="mode of the W&B run")  # fmt: skip
    return options


_OF_PLAN = {"clips_per_group", "num_runs", "overlap", "size_cv"}


def _dataclass(cls: type, section: Namespace) -> Any:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in section.as_dict().items()}
    return cls(**values)


def recipe_of(config: Namespace) -> Recipe:
    """How heads are trained, from the sections that `fit` reads."""
    model, trainer = config.model, config.trainer
    readout = model.readout.class_path if model.readout else Recipe.readout
    epochs = trainer.max_epochs if trainer.max_epochs is not None else Recipe.epochs
    return Recipe(
        epochs=epochs,
        batch_size=config.data.batch_size,
        learning_rate=model.learning_rate,
        weight_decay=model.weight_decay,
        dropout=model.dropout,
        num_layers=model.num_layers,
        class_weighting=model.class_weighting,
        balanced_sampling=config.data.balanced_sampling,
        gradient_clip_val=trainer.gradient_clip_val,
        readout=readout,
    )


def _devices(text: str) -> list[str]:
    if text == "auto":
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
    return [usable_device(name.strip()) for name in text.split(",")]


def _processes(wanted: int | None, devices: Sequence[str]) -> int:
    if wanted is not None and wanted < 1:
        raise VideomemError(f"--processes is {wanted}, but must be at least 1")
    on_gpus = any(device.startswith("cuda") for device in devices)
    return wanted or (2 * len(devices) if on_gpus else os.cpu_count() or 1)


def failures_of(data: VideoDataModule) -> list[tuple[str, str]]:
    """Clips of the catalog that are in no run, and why."""
    usable, failure_table = set(data.clips), data.feature_store.failure_table.read()
    lost = [clip for clip in data.catalog.clips if clip not in usable]
    reasons = {
        clip: failure_table[clip.path, *clip.interval].message
        for clip in lost
        if (clip.path, *clip.interval) in failure_table
    }
    return [
        (
            str(clip),
            reasons.get(clip, "its partner of a reversed pair failed" if data.reversed_pairs else "has no features"),
        )
        for clip in lost
    ]


@contextmanager
def told(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal, a line at the start and the end elsewhere."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=None)
        first: list[int] = []

        def tell(done: int, total: int) -> None:
            if not first:
                console.print(f"videomem: {total} trainings, {done} of them done before")
                first.append(done)
            progress.update(task, completed=done, total=total)

        yield tell


def forecast_text(plan: OrderPlan, expected: Forecast, num_processes: int) -> str:
    """What `--plan` prints."""
    assumed, settings = expected.assumed, plan.settings
    splits = f"{settings.folds} folds of groups" if settings.split == "random" else "the catalog's own split"
    lines = {
        "plan": f"{plan.sha256[:16]}: {plan.contrast}",
        "data": f"{plan.num_clips} clips; {expected.num_groups} groups of {expected.clips_per_group:.1f} are tested",
        "memories": f"{', '.join(plan.memories)}; trained {', '.join(settings.training_conditions)}",
        "runs": f"{settings.runs} on {splits}; n_test / n_train {assumed.overlap:.2f}",
        "training": f"{plan.recipe.epochs} epochs, {expected.num_steps} steps"
        + ("" if expected.num_steps >= FEW_STEPS else ": few, raise trainer.max_epochs unless heads learn as fast"),
        "assumed": f"accuracy {assumed.accuracy:g}, correlation in groups {assumed.correlation:g}, SD of runs "
        f"{100 * assumed.run_sd:g} points (--assume.accuracy, .correlation, .run_sd, .condition_correlation)",
        "precision": f"standard error {100 * expected.se:.1f} points; {100 * expected.detectable:.1f} points are found "
        "with power 0.8",
        "margin": f"{100 * settings.margin:g} points; {_needed(expected)}",
        "cost": f"{expected.num_jobs} trainings, {minutes(expected.seconds_training)} on one process, "
        f"{minutes(expected.seconds_training / num_processes)} on {num_processes}",
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def _needed(expected: Forecast) -> str:
    """What would show that order does not matter."""
    groups, runs = expected.groups_needed, expected.runs_needed
    ways = [f"{groups} groups with these runs"] if groups else []
    ways += [f"{runs} runs with these groups"] if runs else []
    if not ways:
        return "to show that order does not matter takes both more groups and more runs"
    return f"to show that order does not matter takes {' or '.join(ways)}"


def minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
