"""`videomem memory`: measure how far back memories reach: recall, gradients and time constants."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from videomem.cli.options import add_out, add_shared, at_least, moved_data, parser, refuse_unused
from videomem.cli.terminal import training_progress
from videomem.errors import VideomemError
from videomem.experiments.inspect.inspection import inspect_frames, read_video
from videomem.experiments.inspect.inspection_report import InspectionView, view_inspection
from videomem.experiments.memories import read_memories
from videomem.experiments.memory_horizon.horizon_report import write_recall_report
from videomem.experiments.memory_horizon.horizon_result import RecallResult
from videomem.experiments.memory_horizon.horizon_tables import recall_summary, recall_tables, terminal_table
from videomem.experiments.memory_horizon.recall_jobs import RecallPlan
from videomem.experiments.memory_horizon.recall_measurement import (
    NUM_DRAWINGS,
    NUM_TEST_DRAWINGS,
    measure_recall,
    versions,
)
from videomem.experiments.memory_horizon.recall_tasks import TASKS
from videomem.experiments.memory_horizon.recall_training import RecallRecipe
from videomem.experiments.memory_horizon.trained_heads import labels_of, measure_checkpoints
from videomem.experiments.memory_horizon.trained_heads_report import heads_summary, heads_tables, write_heads_report
from videomem.experiments.memory_horizon.trained_heads_report import terminal_table as heads_table
from videomem.experiments.shuffle.measurements import check_same_test
from videomem.experiments.tables import flat
from videomem.features.backbone import BackboneSettings
from videomem.inference.model import model_of
from videomem.tracking import log_result, run_of_checkpoints, start_run
from videomem.training.checkpoint import Checkpoint, read_checkpoint

OF_CHECKPOINTS = ("videos", "catalog", "store", "split", "trust")  # options that apply only to checkpoints
OF_BOTH = ("checkpoints", "out", "wandb")
SUITE = ["none", "leaky", "leaky_sum", "leaky_learned", "rnn", "gated", "gru", "lstm", "mingru", "minlstm"]


def main(command: str, arguments: Sequence[str]) -> int:
    """Train every memory on recall tasks, or measure checkpoints, and write `report.html` and `memory.json`."""
    options = _parser(command)
    given, command_line = options.parse_args(arguments), shlex.join(["videomem", command, *arguments])
    _check_used(options, given)
    if given.checkpoints:
        return _measure_checkpoints(given, command_line)
    plan, backbone = _plan(given), BackboneSettings(given.backbone, given.layer, given.weights)
    console = Console(stderr=True, soft_wrap=True)
    processes = given.processes or os.cpu_count() or 1
    with training_progress(console) as tell:
        result, table = measure_recall(
            plan, backbone, given.out / "trainings", given.drawings, processes, tell, command_line
        )
    figures = write_recall_report(result, table, given.out)
    run = start_run(
        "videomem", given.out, given.wandb, name=given.out.name, job_type="memory-horizon", config=result.plan
    )
    log_result(
        run, "memory", [(one.name, *flat(one)) for one in recall_tables(result)], figures, recall_summary(result)
    )
    run.finish()
    _print(result, given.out)
    return 0


def _parser(command: str) -> Any:
    options, recipe, backbone = parser(command, __doc__), RecallRecipe(), BackboneSettings(weights="random")
    options.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT",
                         help="checkpoints of `videomem fit`, which are measured on the test split of their data; "
                         "without checkpoints, memories are trained on recall tasks")  # fmt: skip
    options.add_argument("--memories", nargs="+", default=SUITE, metavar="HEAD",
                         help="names of configs/head/, or paths of such files")  # fmt: skip
    options.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS), help="recall tasks")
    options.add_argument("--seeds", type=at_least(1), default=3, help="training jobs of each memory on each task")
    options.add_argument("--max-delay", type=at_least(2), default=recipe.max_delay,
                         help="longest delay in training, in frames; tests go up to twice this delay")  # fmt: skip
    options.add_argument(
        "--steps", type=at_least(1), default=recipe.num_steps, help="optimizer steps of each training job"
    )
    options.add_argument("--batch-size", type=at_least(1), default=recipe.batch_size, help="sequences per batch")
    options.add_argument("--learning-rate", type=float, default=recipe.learning_rate, help="learning rate of AdamW")
    options.add_argument("--hidden-dim", type=at_least(1), default=recipe.hidden_dim, help="state size of each memory")
    options.add_argument("--drawings", type=at_least(NUM_TEST_DRAWINGS + 2), default=NUM_DRAWINGS,
                         help=f"drawings of each frame, {NUM_TEST_DRAWINGS} of them for testing only")  # fmt: skip
    options.add_argument("--test", type=at_least(2), default=256, help="test sequences of each delay")
    options.add_argument("--backbone", default=backbone.name, help="name of the backbone")
    options.add_argument("--layer", default=backbone.layer, help="layer of the backbone")
    options.add_argument(
        "--weights",
        default=backbone.weights,
        help="weights of the backbone: imagenet, random, or the file of a state_dict",
    )
    add_shared(options, "--processes", "--catalog", "--store", "--split")
    options.add_argument("--videos", type=at_least(0), default=1,
                         help="clips of the split for which the report shows the states of each memory")  # fmt: skip
    add_shared(options, "--trust", "--wandb")
    add_out(options, command, "training results, figures and the report")
    return options


def _check_used(options: Any, given: Any) -> None:
    """Refuses the options of the measurement that is not made."""
    of_training = [name for name in vars(given) if name not in (*OF_BOTH, *OF_CHECKPOINTS)]
    if given.checkpoints:
        refuse_unused(options, given, of_training, "on checkpoints; leave it out, or name no CHECKPOINT")
    else:
        refuse_unused(options, given, OF_CHECKPOINTS, "without checkpoints; leave it out, or name a CHECKPOINT")


def _measure_checkpoints(given: Any, command_line: str) -> int:
    """Measures trained heads on the test clips of their own data."""
    checkpoints = [read_checkpoint(path, given.trust) for path in given.checkpoints]
    check_same_test(checkpoints)
    changes = moved_data(given)
    result = measure_checkpoints(checkpoints, changes)
    result = replace(result, command=command_line, versions=versions())
    figures = write_heads_report(result, given.out, _videos(checkpoints, changes, given.videos))
    tables = [(table.name, *flat(table)) for table in heads_tables(result)]
    run = run_of_checkpoints(given.out.name, given.out, given.wandb, checkpoints, job_type="memory-horizon")
    log_result(run, "memory", tables, figures, heads_summary(result))
    run.finish()
    Console(soft_wrap=True).print(heads_table(result))
    print(f"{given.out / 'report.html'}, {given.out / 'memory.json'}")
    return 0


def _videos(checkpoints: Sequence[Checkpoint], changes: dict[str, Any], num_clips: int) -> list[InspectionView]:
    """Returns the states of each memory's first head on the first clips of the split whose videos exist."""
    shown: dict[str, list[InspectionView]] = {}
    for checkpoint, label in zip(checkpoints, labels_of(checkpoints), strict=True):
        data = checkpoint.data_module(**changes)
        if label in shown or data.settings.imported is not None:
            continue
        model, clips = model_of(checkpoint), [data.clips[row] for row in data.rows(data.test_split)[:num_clips]]
        videos = [read_video(model, clip) for clip in clips if Path(clip.path).exists()]
        shown[label] = [
            view_inspection(video, inspect_frames(model, video.frames_TCHW), f"inside-{len(shown)}-{number}")
            for number, video in enumerate(videos)
        ]
    return [one for videos in shown.values() for one in videos]


def _plan(given: Any) -> RecallPlan:
    if not 0 < given.learning_rate < float("inf"):
        raise VideomemError(f"--learning-rate is {given.learning_rate}, but must be finite and above 0")
    recipe = RecallRecipe(given.steps, given.batch_size, given.max_delay, given.learning_rate, given.hidden_dim)
    delays = [2**power for power in range(given.max_delay.bit_length()) if 2**power < given.max_delay]
    tasks = tuple(task for task in TASKS if task in given.tasks)
    memories = read_memories(given.memories, given.hidden_dim)
    return RecallPlan(memories, tasks, given.seeds, recipe, (*delays, given.max_delay, 2 * given.max_delay), given.test)


def _print(result: RecallResult, out: Path) -> None:
    Console().print(terminal_table(result))
    for one in result.expectations:
        print(f"{one.found}: {one.claim} ({one.evidence})")
    print(f"{out / 'report.html'}, {out / 'memory.json'}")
