"""`videomem shuffle`: take the order of the frames away from trained heads and measure what is lost."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pytorch_lightning.utilities import move_data_to_device
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from videomem.cli.options import at_least, parser, usable_device
from videomem.errors import VideomemError
from videomem.experiments.shuffle.figure import accuracy_figure
from videomem.experiments.shuffle.measurements import (
    COLUMNS,
    CONDITIONS,
    Measurement,
    Summary,
    as_csv,
    change_text,
    measure_order,
    summarize,
)
from videomem.tracking import Mode, log_order_results, run_of_checkpoints
from videomem.training.checkpoint import Checkpoint, read_checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.utils.atomic import write_atomic
from videomem.utils.plotting import as_png


def main(command: str, arguments: Sequence[str]) -> int:
    """Evaluate checkpoints and write `shuffle.csv` and `shuffle.png`."""
    options = parser(command, __doc__)
    options.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoints of `videomem fit`")
    options.add_argument("--permutations", type=at_least(1), default=100, help="permutations of each clip")
    options.add_argument("--forward", type=at_least(0), default=3, help="permutations checked with a plain forward")
    options.add_argument("--seed", type=at_least(0), default=0, help="seed of the permutations")
    options.add_argument("--split", default=None, help="split to evaluate (default: the data's test_split)")
    options.add_argument("--catalog", default=None, help="where the catalog is now, if it moved since training")
    options.add_argument("--store", default=None, help="where the feature stores are now, if they moved")
    options.add_argument("--out", type=Path, default=Path("runs/shuffle"), help="folder of the results")
    options.add_argument("--device", default="cpu", help="where heads run: cpu, cuda, ...")
    options.add_argument(
        "--wandb", choices=("offline", "online", "disabled"), default="offline", help="mode of the W&B run"
    )
    options.add_argument("--trust", action="store_true", help="let checkpoints name classes of other packages")
    given = options.parse_args(arguments)
    checkpoints = [read_checkpoint(path, given.trust) for path in given.checkpoints]
    given.out.mkdir(parents=True, exist_ok=True)
    changes = {"test_split": given.split, "catalog": given.catalog, "store": given.store}
    changes = {name: value for name, value in changes.items() if value}
    device, num_forward = usable_device(given.device), min(given.forward, given.permutations)
    check_same_test(checkpoints)
    measured = []
    for checkpoint in checkpoints:
        data = checkpoint.data_module(**changes)
        rows = measure_checkpoint(checkpoint, data, given.permutations, num_forward, given.seed, device)
        measured.append((checkpoint, rows))
    measurements = _told_apart(measured)
    write_results(measurements, given.out, chance(data), 0.5 if data.reversed_pairs else None)
    track_results(measurements, given.out, given.wandb, checkpoints)
    Console().print(results_table(summarize(measurements)))
    print(f"{given.out / 'shuffle.csv'}, {given.out / 'shuffle.png'}")
    return 0


def measure_checkpoint(
    checkpoint: Checkpoint,
    data: VideoDataModule,
    num_permutations: int,
    num_forward: int,
    permutation_seed: int,
    device: str = "cpu",
) -> list[Measurement]:
    """Measurements of one checkpoint on the test split of its data."""
    data.setup("test")
    classifier = checkpoint.classifier().to(device)
    batches = (
        data.on_after_batch_transfer(move_data_to_device(batch, torch.device(device)), 0)
        for batch in data.test_dataloader()
    )
    return measure_order(classifier.head, batches, classifier.seed, num_permutations, num_forward, permutation_seed)


def check_same_test(checkpoints: Sequence[Checkpoint]) -> None:
    """One table tells of one set of clips."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        for name in ("catalog", "test_split", "reversed_pairs"):
            one, two = first.data_arguments[name], other.data_arguments[name]
            if one != two:
                raise VideomemError(
                    f"{first.path} and {other.path} differ in data.{name} ({one}, {two}); run it for each"
                )


def _told_apart(measured: Sequence[tuple[Checkpoint, list[Measurement]]]) -> list[Measurement]:
    """All rows; heads whose memories differ though their names do not are named by the directories of their runs."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for checkpoint, rows in measured:
        kinds[rows[0].head].add(json.dumps(checkpoint.model_arguments["memory"], sort_keys=True))
    return [
        replace(row, head=checkpoint.run_dir.name) if len(kinds[row.head]) > 1 else row
        for checkpoint, rows in measured
        for row in rows
    ]


def chance(data: VideoDataModule) -> float:
    """Accuracy on the test split of always answering its most frequent class."""
    labels = Counter(data.clips[row].label for row in data.rows(data.test_split))
    return max(labels.values()) / labels.total()


def write_results(measurements: Sequence[Measurement], out: Path, chance: float, ceiling: float | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "shuffle.csv", as_csv(measurements).encode())
    write_atomic(out / "shuffle.png", as_png(accuracy_figure(summarize(measurements), chance, ceiling)))


def track_results(
    measurements: Sequence[Measurement], out: Path, mode: Mode, checkpoints: Sequence[Checkpoint] = ()
) -> None:
    """A W&B run that holds an evaluation of order, beside the runs that trained the heads."""
    run = run_of_checkpoints("shuffle", out, mode, checkpoints)
    summaries = summarize(measurements)
    columns = ("head", *CONDITIONS, "flip_rate", "js_divergence", "max_logit_change", "max_logit_change_forward")
    in_short = [
        [row.head, *(row.accuracy[name] for name in CONDITIONS), *(getattr(row, name) for name in columns[4:])]
        for row in summaries
    ]
    card_tables = {
        "shuffle": (COLUMNS, [list(vars(row).values()) for row in measurements]),
        "shuffle_summary": (columns, in_short),
    }
    numbers = {f"{row.head}/{condition}": value for row in summaries for condition, value in row.accuracy.items()}
    log_order_results(run, card_tables, numbers, {"accuracy": out / "shuffle.png"})
    run.finish()


def results_table(summaries: Sequence[Summary]) -> Table:
    """Accuracy in each condition, share of flipped predictions, Jensen-Shannon divergence, largest logit changes."""
    table = Table(title="accuracy in order, shuffled, reversed; change of the shuffled")
    table.add_column("head", no_wrap=True)
    for name in ("order", "shuf", "rev", "flips", "JS", "logits", "forward"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in summaries:
        accuracies = [f"{row.accuracy[name]:.3f}" for name in CONDITIONS]
        changes = (change_text(row.max_logit_change), change_text(row.max_logit_change_forward))
        table.add_row(escape(row.head), *accuracies, f"{row.flip_rate:.3f}", f"{row.js_divergence:.4f}", *changes)
    return table
