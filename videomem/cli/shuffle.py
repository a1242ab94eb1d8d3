"""`videomem shuffle`: measure the accuracy of trained heads on shuffled and reversed clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.table import Table

from videomem.cli.options import add_out, add_shared, at_least, moved_data, parser, usable_device
from videomem.cli.terminal import console, say
from videomem.experiments.memories import distinct_labels
from videomem.experiments.shuffle.figure import accuracy_figure
from videomem.experiments.shuffle.measurements import (
    COLUMNS,
    CONDITIONS,
    Measurement,
    Summary,
    as_csv,
    chance,
    change_text,
    check_same_test,
    measure_checkpoint,
    summarize,
)
from videomem.tracking import Mode, log_order_results, run_of_checkpoints
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.utils.atomic import locked_folder, write_atomic
from videomem.utils.plotting import as_png


def main(command: str, arguments: Sequence[str]) -> int:
    """Evaluate checkpoints and write `shuffle.csv` and `shuffle.png`."""
    options = parser(command, __doc__)
    options.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoints of `videomem fit`")
    options.add_argument("--permutations", type=at_least(1), default=100, help="permutations of each clip")
    options.add_argument(
        "--forward", type=at_least(0), default=3, help="permutations that are checked with the plain forward pass"
    )
    add_shared(options, "--seed", "--split", "--catalog", "--store", "--device", "--wandb", "--trust")
    add_out(options, command)
    given = options.parse_args(arguments)
    checkpoints = [read_checkpoint(path, given.trust) for path in given.checkpoints]
    with locked_folder(given.out):
        measurements = _measure(given, checkpoints)
    console().print(results_table(summarize(measurements)))
    say(f"{given.out / 'shuffle.csv'}, {given.out / 'shuffle.png'}")
    return 0


def _measure(given: Any, checkpoints: Sequence[Checkpoint]) -> list[Measurement]:
    """Evaluates checkpoints, and writes and tracks the results."""
    device, num_forward = usable_device(given.device), min(given.forward, given.permutations)
    check_same_test(checkpoints)
    measured = []
    for checkpoint in checkpoints:
        data = checkpoint.data_module(**moved_data(given))
        rows = measure_checkpoint(checkpoint, data, given.permutations, num_forward, given.seed, device)
        measured.append((checkpoint, rows))
    measurements = _distinctly_named(measured)
    write_results(measurements, given.out, chance(data), 0.5 if data.reversed_pairs else None)
    track_results(measurements, given.out, given.wandb, checkpoints)
    return measurements


def _distinctly_named(measured: Sequence[tuple[Checkpoint, list[Measurement]]]) -> list[Measurement]:
    """Returns all rows; heads of different memories with the same name are named after their run directories."""
    labels = distinct_labels(
        [rows[0].head for _, rows in measured],
        [json.dumps(checkpoint.model_arguments["memory"], sort_keys=True) for checkpoint, _ in measured],
        [checkpoint.run_dir.name for checkpoint, _ in measured],
    )
    return [replace(row, head=label) for (_, rows), label in zip(measured, labels, strict=True) for row in rows]


def write_results(measurements: Sequence[Measurement], out: Path, chance: float, ceiling: float | None) -> None:
    write_atomic(out / "shuffle.csv", as_csv(measurements).encode())
    write_atomic(out / "shuffle.png", as_png(accuracy_figure(summarize(measurements), chance, ceiling)))


def track_results(
    measurements: Sequence[Measurement], out: Path, mode: Mode, checkpoints: Sequence[Checkpoint]
) -> None:
    """Logs the evaluation to a W&B run in the group of the runs that trained the heads."""
    run = run_of_checkpoints("shuffle", out, mode, checkpoints)
    summaries = summarize(measurements)
    changes = ("flip_rate", "js_divergence", "max_logit_change", "max_logit_change_forward")
    in_short = [
        [row.head, *(row.accuracy[name] for name in CONDITIONS), *(getattr(row, name) for name in changes)]
        for row in summaries
    ]
    tables = {
        "shuffle": (COLUMNS, [list(vars(row).values()) for row in measurements]),
        "shuffle_summary": (("head", *CONDITIONS, *changes), in_short),
    }
    numbers = {f"{row.head}/{condition}": value for row in summaries for condition, value in row.accuracy.items()}
    log_order_results(run, tables, numbers, {"accuracy": out / "shuffle.png"})
    run.finish()


def results_table(summaries: Sequence[Summary]) -> Table:
    """Returns a table of accuracies, flipped predictions, Jensen-Shannon divergence and largest logit changes."""
    table = Table(title="accuracy on ordered, shuffled and reversed clips; changes by shuffling")
    table.add_column("head", no_wrap=True)
    for name in ("order", "shuf", "rev", "flips", "JS", "logits", "forward"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summaries:
        accuracies = [f"{row.accuracy[name]:.3f}" for name in CONDITIONS]
        changes = (change_text(row.max_logit_change), change_text(row.max_logit_change_forward))
        table.add_row(row.head, *accuracies, f"{row.flip_rate:.3f}", f"{row.js_divergence:.4f}", *changes)
    return table
