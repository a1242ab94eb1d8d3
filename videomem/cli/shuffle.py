"""`videomem shuffle`: measure the accuracy of trained heads on shuffled and reversed clips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from videomem.cli.options import add_out, add_shared, at_least, moved_data, parser, tracking_of, usable_device
from videomem.cli.terminal import console, say, table
from videomem.experiments.memories import distinct_labels
from videomem.experiments.shuffle.measurements import COLUMNS, CONDITIONS, Measurement, as_csv
from videomem.experiments.shuffle.shuffle_figures import accuracy_figure, animations
from videomem.experiments.shuffle.shuffle_result import (
    SCHEMA_VERSION,
    ShuffleResult,
    Summary,
    chance,
    check_same_test,
    clips_table,
    measure_checkpoint,
    sentence,
    summary_table,
)
from videomem.experiments.tables import TerminalTable, csv_text, flat, percent
from videomem.statistics.results import Estimate
from videomem.tracking import Run, finishing, log_order_results, log_report, log_videos, run_of_checkpoints
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.utils.atomic import locked_folder, write_atomic
from videomem.utils.plotting import as_png
from videomem.utils.result_models import dump
from videomem.utils.sharing import shared_command, shared_path

FILES = ("shuffle.json", "shuffle.csv", "shuffle_summary.csv", "shuffle_clips.csv", "shuffle.png")


def main(command: str, arguments: Sequence[str]) -> int:
    """Evaluate checkpoints and write `shuffle.json`, tables and a figure."""
    options = parser(command, __doc__)
    options.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoints of `videomem fit`")
    options.add_argument("--permutations", type=at_least(1), default=100, help="permutations of each clip")
    options.add_argument(
        "--forward", type=at_least(0), default=3, help="permutations that are checked with the plain forward pass"
    )
    add_shared(
        options, "--seed", "--split", "--catalog", "--store", "--device", "--wandb", "--wandb-project", "--trust"
    )
    add_out(options, command)
    given = options.parse_args(arguments)
    paths = {Path(path).resolve(): path for path in given.checkpoints}
    checkpoints = [read_checkpoint(path, given.trust) for path in paths.values()]
    with locked_folder(given.out):
        result = _measure(given, checkpoints, shared_command([command, *arguments]))
    console().print(table(*results_table(result.checkpoints)))
    say(*result.sentences, ", ".join(str(given.out / name) for name in FILES))
    return 0


def _measure(given: Any, checkpoints: Sequence[Checkpoint], command_line: str) -> ShuffleResult:
    """Evaluates checkpoints, and writes and tracks the results."""
    tracking = tracking_of(given)
    device, num_forward = usable_device(given.device), min(given.forward, given.permutations)
    check_same_test(checkpoints)
    names = distinct_labels(
        [shared_path(checkpoint.run_dir / checkpoint.path.stem) for checkpoint in checkpoints],
        [checkpoint.path for checkpoint in checkpoints],
    )
    measured = []
    for checkpoint, name in zip(checkpoints, names, strict=True):
        data = checkpoint.data_module(**moved_data(given))
        measured.append(measure_checkpoint(checkpoint, data, given.permutations, num_forward, given.seed, device, name))
    heads = _distinct_heads([one.summary.head for one in measured], checkpoints)
    rows = [replace(row, head=head) for one, head in zip(measured, heads, strict=True) for row in one.evaluation.rows]
    summaries = [replace(one.summary, head=head) for one, head in zip(measured, heads, strict=True)]
    write_atomic(given.out / "shuffle.csv", as_csv(rows).encode())
    write_atomic(given.out / "shuffle_summary.csv", csv_text(summary_table(summaries)).encode())
    clips_text = csv_text(clips_table(summaries, [one.of_clips for one in measured]))
    write_atomic(given.out / "shuffle_clips.csv", clips_text.encode("utf-8", "surrogateescape"))
    ceiling, shown = 0.5 if data.reversed_pairs else None, bar_names(summaries)
    figure = accuracy_figure(summaries, shown, chance(data), ceiling)
    write_atomic(given.out / "shuffle.png", as_png(figure))
    sentences = tuple(sentence(one, name) for one, name in zip(summaries, shown, strict=True))
    result = ShuffleResult(SCHEMA_VERSION, command_line, given.permutations, given.seed, chance(data),
                           tuple(summaries), sentences)  # fmt: skip
    write_atomic(given.out / "shuffle.json", dump(result).encode())
    with finishing(run_of_checkpoints("shuffle", given.out, tracking, checkpoints)) as run:
        track_results(run, rows, result, given.out)
        for name, one in zip(shown, measured, strict=True) if not run.disabled else ():
            log_videos(
                run, f"flipped by shuffling/{name}", animations(data, one.evaluation, given.permutations, given.seed)
            )
    return result


def _distinct_heads(labels: Sequence[str], checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Returns the labels of heads; heads of different architecture or recipe with one label are numbered."""
    arguments = [{**checkpoint.model_arguments, "seed": None} for checkpoint in checkpoints]
    return distinct_labels(labels, [json.dumps(one, sort_keys=True) for one in arguments])


def bar_names(summaries: Sequence[Summary]) -> list[str]:
    """Returns a name for each checkpoint: that of its head, followed by that of the checkpoint if heads repeat."""
    heads, checkpoints = ([getattr(one, name) for one in summaries] for name in ("head", "checkpoint"))
    return distinct_labels(heads, checkpoints, [f"{h} {c}" for h, c in zip(heads, checkpoints, strict=True)])


def track_results(run: Run, rows: Sequence[Measurement], result: ShuffleResult, out: Path) -> None:
    """Logs the tables, the figure and the numbers of an evaluation, and its files as an artifact."""
    summaries = result.checkpoints
    in_short = flat(summary_table(summaries))
    tables = {"shuffle": (COLUMNS, [list(vars(row).values()) for row in rows]), "shuffle_summary": in_short}
    numbers = {
        f"{name}/{condition}": value
        for name, one in zip(bar_names(summaries), summaries, strict=True)
        for condition, value in one.accuracy.items()
    }
    log_order_results(run, tables, numbers, {"accuracy": out / "shuffle.png"})
    log_report(run, "shuffle", out, ("shuffle.json", "shuffle.csv", "shuffle_summary.csv", "shuffle.png"))


def results_table(summaries: Sequence[Summary]) -> TerminalTable:
    """Returns a row per checkpoint: accuracies and reliance in %, and changes of the predictions."""
    columns = ("head", "order", "shuf", "rev", "reliance", "flips", "logits")
    rows = [
        (
            f"{one.head}\n{one.checkpoint}\nepoch {one.epoch}",
            *(_with_interval(one.accuracy[name], one.estimate[name]) for name in CONDITIONS),
            _with_interval(one.reliance, one.reliance_estimate),
            f"{one.flip_rate:.3f}",
            f"{one.max_logit_change:.3g}",
        )
        for one in summaries
    ]
    return TerminalTable("accuracy in %, with 95 % intervals over groups; changes by shuffling", columns, rows)


def _with_interval(value: float, estimate: Estimate | None) -> str:
    return (
        percent(value)
        if estimate is None
        else f"{percent(value)}\n{100 * estimate.low:.0f} to {100 * estimate.high:.0f}"
    )
