"""`videomem memory`: measure how far back memories reach: recall, gradients and time constants."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from videomem.cli.options import (
    above_zero,
    add_out,
    add_shared,
    at_least,
    moved_data,
    parser,
    refuse_unused,
    tracking_of,
)
from videomem.cli.terminal import console, narrow_table, say
from videomem.experiments.inspect.inspection import inspect_frames, read_video
from videomem.experiments.inspect.inspection_report import InspectionView, view_inspection
from videomem.experiments.memory_horizon import horizon_tables as tables
from videomem.experiments.memory_horizon.horizon_report import write_heads_report, write_recall_report
from videomem.experiments.memory_horizon.recall_jobs import plan_of
from videomem.experiments.memory_horizon.recall_measurement import NUM_DRAWINGS, NUM_TEST_DRAWINGS, measure_recall
from videomem.experiments.memory_horizon.recall_tasks import TASKS
from videomem.experiments.memory_horizon.recall_training import RecallRecipe
from videomem.experiments.memory_horizon.trained_heads import labels_of, measure_checkpoints
from videomem.experiments.shuffle.shuffle_result import check_same_test
from videomem.experiments.tables import TerminalTable, flat
from videomem.features.backbone import BackboneSettings
from videomem.inference.model import model_of
from videomem.tracking import finishing, log_report, log_result, log_trainings, run_of_checkpoints, start_run
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.utils.atomic import locked_folder
from videomem.utils.progress import training_progress
from videomem.utils.sharing import shared_command

OF_CHECKPOINTS = ("videos", "catalog", "store", "split", "trust")  # options that apply only to checkpoints
OF_BOTH = ("checkpoints", "out", "wandb", "wandb_project")
FILES = ("memory.json", "report.html")
SUITE = ["none", "leaky", "leaky_sum", "leaky_learned", "rnn", "gated", "gru", "lstm", "mingru", "minlstm"]


def main(command: str, arguments: Sequence[str]) -> int:
    """Train every memory on recall tasks, or measure checkpoints, and write `report.html` and `memory.json`."""
    options = _parser(command)
    given, command_line = options.parse_args(arguments), shared_command([command, *arguments])
    of_training = [name for name in vars(given) if name not in (*OF_BOTH, *OF_CHECKPOINTS)]
    if given.checkpoints:
        refuse_unused(options, given, of_training, "on checkpoints; leave it out, or name no CHECKPOINT")
    else:
        refuse_unused(options, given, OF_CHECKPOINTS, "without checkpoints; leave it out, or name a CHECKPOINT")
    with locked_folder(given.out):
        measure = partial(_measure_checkpoints, options) if given.checkpoints else _measure_recall
        shown = measure(given, command_line)
    for one in shown:
        console(soft_wrap=True).print(narrow_table(*one))
    say(f"{given.out / 'report.html'}, {given.out / 'memory.json'}")
    return 0


def _parser(command: str) -> Any:
    options, recipe, backbone = parser(command, __doc__), RecallRecipe(), BackboneSettings(weights="random")
    options.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT",
                         help="checkpoints of `videomem fit`, which are measured on the test split of their data; "
                         "without checkpoints, memories are trained on recall tasks")  # fmt: skip
    options.add_argument("--memories", nargs="+", default=SUITE, metavar="HEAD",
                         help="names of configs/head/, or paths of such files")  # fmt: skip
    options.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS), help="recall tasks")
    drawings = f"drawings of each frame, {NUM_TEST_DRAWINGS} of them for testing only"
    weights = "weights of the backbone: imagenet, random, or the file of a state_dict"
    delay = "longest delay in training, in frames; tests go up to twice this delay"
    for name, kind, default, text in (
        ("--seeds", at_least(1), 3, "training jobs of each memory on each task"),
        ("--max-delay", at_least(2), recipe.max_delay, delay),
        ("--steps", at_least(1), recipe.max_steps, "largest number of optimizer steps of each training job"),
        ("--batch-size", at_least(1), recipe.batch_size, "sequences per batch"),
        ("--learning-rate", above_zero, recipe.learning_rate, "learning rate of AdamW"),
        ("--hidden-dim", at_least(1), recipe.hidden_dim, "state size of each memory"),
        ("--drawings", at_least(NUM_TEST_DRAWINGS + 2), NUM_DRAWINGS, drawings),
        ("--test", at_least(2), 256, "test sequences of each delay"),
        ("--backbone", str, backbone.name, "name of the backbone"),
        ("--layer", str, backbone.layer, "layer of the backbone"),
        ("--weights", str, backbone.weights, weights),
    ):
        options.add_argument(name, type=kind, default=default, help=text)
    add_shared(options, "--processes", "--catalog", "--store", "--split")
    options.add_argument("--videos", type=at_least(0), default=1,
                         help="clips of the split for which the report shows the states of each memory")  # fmt: skip
    add_shared(options, "--trust", "--wandb", "--wandb-project")
    add_out(options, command, "training results, figures and the report")
    return options


def _measure_recall(given: Any, command_line: str) -> list[TerminalTable]:
    """Trains memories on recall tasks, and returns tables for the terminal."""
    recipe = RecallRecipe(
        max_steps=given.steps,
        batch_size=given.batch_size,
        max_delay=given.max_delay,
        learning_rate=given.learning_rate,
        hidden_dim=given.hidden_dim,
    )
    plan = plan_of(given.memories, recipe, given.tasks, given.seeds, given.test)
    backbone = BackboneSettings(given.backbone, given.layer, given.weights)
    processes = given.processes or os.cpu_count() or 1
    details = {"name": given.out.name, "job_type": "memory-horizon", "config": asdict(plan)}
    with (
        finishing(start_run(tracking_of(given), given.out, **details)) as run,
        training_progress(console(to_stderr=True, soft_wrap=True)) as tell,
    ):
        log = log_trainings(run)
        result, frames = measure_recall(
            plan, backbone, given.out / "trainings", given.drawings, processes, tell, command_line,
            finished=lambda one: log({f"{one.memory}/{one.task}/recall": fmean(one.accuracy)}),
        )  # fmt: skip
        figures = write_recall_report(result, frames, given.out)
        written = [(one.name, *flat(one)) for one in tables.recall_tables(result)]
        log_result(run, "memory", written, figures, tables.recall_summary(result))
        log_report(run, "memory", given.out, FILES)
    return tables.recall_terminal_tables(result)


def _measure_checkpoints(options: Any, given: Any, command_line: str) -> list[TerminalTable]:
    """Measures trained heads on the test clips of their own data, and returns a table for the terminal."""
    checkpoints = [read_checkpoint(path, given.trust) for path in given.checkpoints]
    check_same_test(checkpoints)
    changes = moved_data(given)
    if all(checkpoint.feature_settings().imported for checkpoint in checkpoints):
        refuse_unused(options, given, ["videos"], "on imported features, which have no videos; leave it out")
    result = measure_checkpoints(checkpoints, changes, command=command_line)
    figures = write_heads_report(result, given.out, _videos(checkpoints, changes, given.videos))
    written = [(one.name, *flat(one)) for one in tables.heads_tables(result)]
    with finishing(
        run_of_checkpoints(given.out.name, given.out, tracking_of(given), checkpoints, "memory-horizon")
    ) as run:
        log_result(run, "memory", written, figures, tables.heads_summary(result))
        log_report(run, "memory", given.out, FILES)
    return [tables.heads_terminal_table(result)]


def _videos(checkpoints: Sequence[Checkpoint], changes: dict[str, Any], num_clips: int) -> list[InspectionView]:
    """Returns the states of each memory's first head on the first clips of the split whose videos exist."""
    shown: dict[str, list[InspectionView]] = {}
    for checkpoint, label in zip(checkpoints, labels_of(checkpoints), strict=True):
        if label in shown or checkpoint.feature_settings().imported:
            continue
        data = checkpoint.data_module(**changes)
        model, clips = model_of(checkpoint), [data.clips[row] for row in data.rows(data.test_split)[:num_clips]]
        videos = [read_video(model, clip) for clip in clips if Path(clip.path).exists()]
        shown[label] = [
            view_inspection(video, inspect_frames(model, video.frames_TCHW), f"inside-{len(shown)}-{number}")
            for number, video in enumerate(videos)
        ]
    return [one for videos in shown.values() for one in videos]
