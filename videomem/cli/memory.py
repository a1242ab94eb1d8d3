"""`videomem memory`: how far back a memory reaches, in recall, in gradients, and in what its neurons keep."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from videomem.cli.options import at_least, parser
from videomem.cli.order import told
from videomem.cli.shuffle import check_same_test
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
from videomem.experiments.memory_horizon.trained_heads_report import terminal_table as own_table
from videomem.experiments.tables import flat
from videomem.features.backbone import BackboneSettings
from videomem.inference.model import model_of
from videomem.tracking import log_result, run_of_checkpoints, start_run
from videomem.training.checkpoint import Checkpoint, read_checkpoint

OF_CHECKPOINTS = ("videos", "catalog", "store", "split", "trust")  # options that only measuring checkpoints has
OF_BOTH = ("checkpoints", "out", "wandb")
SUITE = ["none", "leaky", "leaky_sum", "leaky_learned", "rnn", "gated", "gru", "lstm", "mingru", "minlstm"]


def main(command: str, arguments: Sequence[str]) -> int:
    """Train every memory to recall, and write `report.html` and `memory.json`."""
    options = _parser(command)
    given, command_line = options.parse_args(arguments), shlex.join(["videomem", command, *arguments])
    _check_used(options, given)
    if given.checkpoints:
        return _measure_own(given, command_line)
    plan, backbone = _plan(given), BackboneSettings(given.backbone, given.layer, given.weights)
    console = Console(stderr=True, soft_wrap=True)
    processes = given.processes or os.cpu_count() or 1
    with told(console) as tell:
        card, table = measure_recall(
            plan, backbone, given.out / "trainings", given.drawings, processes, tell, command_line
        )
    figures = write_recall_report(card, table, given.out)
    run = start_run(
        "videomem", given.out, given.wandb, name=given.out.name, job_type="memory-horizon", config=card.plan
    )
    log_result(run, "memory", [(one.name, *flat(one)) for one in recall_tables(card)], figures, recall_summary(card))
    run.finish()
    _print(card, given.out)
    return 0


def _parser(command: str) -> Any:
    options, recipe, backbone = parser(command, __doc__), RecallRecipe(), BackboneSettings(weights="random")
    options.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT",
                         help="of `videomem fit`, to measure on the test split of their own data, with the options "
                         "from --catalog on; where none is named, memories are trained to recall")  # fmt: skip
    options.add_argument("--memories", nargs="+", default=SUITE, metavar="HEAD",
                         help="of configs/head/, or paths of such files")  # fmt: skip
    options.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS), help="recall tasks")
    options.add_argument("--seeds", type=at_least(1), default=3, help="trainings of each memory on each task")
    options.add_argument("--max-delay", type=at_least(2), default=recipe.max_delay,
                         help="longest delay that is trained, in frames; twice as long is tested")  # fmt: skip
    options.add_argument("--steps", type=at_least(1), default=recipe.num_steps, help="batches of each training")
    options.add_argument("--batch-size", type=at_least(1), default=recipe.batch_size, help="sequences of a batch")
    options.add_argument("--learning-rate", type=float, default=recipe.learning_rate, help="of AdamW")
    options.add_argument("--hidden-dim", type=at_least(1), default=recipe.hidden_dim, help="neurons of each memory")
    options.add_argument("--drawings", type=at_least(NUM_TEST_DRAWINGS + 2), default=NUM_DRAWINGS,
                         help=f"drawings of each frame; {NUM_TEST_DRAWINGS} are kept for testing")  # fmt: skip
    options.add_argument("--test", type=at_least(2), default=256, help="test sequences of each delay")
    options.add_argument("--backbone", default=backbone.name, help="the frozen network")
    options.add_argument("--layer", default=backbone.layer, help="its layer")
    options.add_argument("--weights", default=backbone.weights, help="imagenet, random, or the file of a state_dict")
    options.add_argument("--processes", type=at_least(1), default=None, help="trainings in parallel (one a core)")
    options.add_argument("--catalog", default=None, help="where the catalog is now, if it moved since training")
    options.add_argument("--store", default=None, help="where the feature stores are now, if they moved")
    options.add_argument("--split", default=None, help="split to measure on (default: the data's test_split)")
    options.add_argument("--videos", type=at_least(0), default=1,
                         help="clips of the split that the report shows from inside each memory")  # fmt: skip
    options.add_argument("--trust", action="store_true", help="let checkpoints name classes of other packages")
    options.add_argument("--out", type=Path, default=Path("runs/memory"), help="folder of trainings and results")
    options.add_argument("--wandb", choices=("offline", "online", "disabled"), default="offline",
                         help="mode of the W&B run")  # fmt: skip
    return options


def _check_used(options: Any, given: Any) -> None:
    """Refuse options that the other of the two measurements has."""
    for name, value in vars(given).items():
        idle = name not in OF_BOTH and (name in OF_CHECKPOINTS) != bool(given.checkpoints)
        if idle and value != options.get_default(name):
            option = f"--{name.replace('_', '-')}"
            if given.checkpoints:
                raise VideomemError(f"{option} is for training memories; leave it out, or name no CHECKPOINT")
            raise VideomemError(f"{option} needs checkpoints; leave it out, or name a CHECKPOINT")


def _measure_own(given: Any, command_line: str) -> int:
    """Measure trained heads on the videos that they were trained for."""
    checkpoints = [read_checkpoint(path, given.trust) for path in given.checkpoints]
    check_same_test(checkpoints)
    changes = {"test_split": given.split, "catalog": given.catalog, "store": given.store}
    changes = {name: value for name, value in changes.items() if value}
    card = measure_checkpoints(checkpoints, changes)
    card = replace(card, command=command_line, versions=versions())
    figures = write_heads_report(card, given.out, _videos(checkpoints, changes, given.videos))
    tables = [(table.name, *flat(table)) for table in heads_tables(card)]
    run = run_of_checkpoints(given.out.name, given.out, given.wandb, checkpoints, job_type="memory-horizon")
    log_result(run, "memory", tables, figures, heads_summary(card))
    run.finish()
    Console(soft_wrap=True).print(own_table(card))
    print(f"{given.out / 'report.html'}, {given.out / 'memory.json'}")
    return 0


def _videos(checkpoints: Sequence[Checkpoint], changes: dict[str, Any], num_clips: int) -> list[InspectionView]:
    """The first clips of the split, seen from inside each memory's first head; the videos must be at hand."""
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


def _print(card: RecallResult, out: Path) -> None:
    Console().print(terminal_table(card))
    for one in card.expectations:
        print(f"{one.found}: {one.claim} ({one.evidence})")
    print(f"{out / 'report.html'}, {out / 'memory.json'}")
