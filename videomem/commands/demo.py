"""`videomem demo`: make videos, train every memory on them, and report what order was worth."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

import videomem
from videomem.batch import pad_videos
from videomem.checkpoint import read_checkpoint
from videomem.commands.arguments import add_fields, at_least, parser, usable_device
from videomem.commands.extract import extract_data, read_data_module
from videomem.commands.shuffle import chance, measure_checkpoint, results_table, track_results, write_results
from videomem.commands.synthesize import HELPS
from videomem.commands.train import run
from videomem.data import VideoDataModule
from videomem.errors import VideomemError, is_empty_or_absent
from videomem.evaluation import perturb
from videomem.evaluation.report import Example, Report, Strip, render
from videomem.evaluation.shuffle import CONDITIONS, Measurement, arrange, summarize
from videomem.plain import config_folder
from videomem.tracking import keep_checkpoints
from videomem.video.decoding import decode_clip
from videomem.video.synthetic import ACTIONS, SyntheticSettings, synthesize
from videomem.whole_files import write_whole

# From no memory to the most selective one.
HEADS = ("none", "leaky_zero", "leaky", "leaky_sum", "rnn", "gated", "gru", "lstm")


@dataclass(frozen=True)
class Task:
    """One training run of the demo."""

    head: str
    seed: int
    arguments: tuple[str, ...]
    run_dir: Path
    num_permutations: int


@dataclass(frozen=True)
class Outcome:
    """What one training run gave."""

    checkpoint: Path
    measurements: list[Measurement]
    curve: list[tuple[int, float]]
    confusion_CC: NDArray[np.int64]


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run the whole of videomem once: videos, features, heads, evaluation, report."""
    options = parser(verb, __doc__)
    options.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of everything that is made")
    options.add_argument(
        "--heads", nargs="+", choices=HEADS, default=HEADS, help="heads to train, configs/head/<name>.yaml"
    )
    options.add_argument("--num-seeds", type=at_least(1), default=3, help="training runs per head")
    options.add_argument("--epochs", type=at_least(1), default=None, help="epochs of training (default: the config's)")
    options.add_argument("--permutations", type=at_least(1), default=100, help="permutations of each test clip")
    options.add_argument("--processes", type=at_least(1), default=os.cpu_count(), help="training runs side by side")
    options.add_argument(
        "--wandb", choices=("offline", "online", "disabled"), default="offline", help="mode of the W&B run"
    )
    add_fields(options, SyntheticSettings(), HELPS)
    given = vars(options.parse_args(arguments))
    settings = SyntheticSettings(**{name: given[name] for name in asdict(SyntheticSettings())})
    started, out, console = time.perf_counter(), given["out"].absolute(), Console(stderr=True)
    _claim(out)

    console.print("videomem: drawing and encoding videos")
    synthesize(settings, out / "videos")
    shutil.rmtree(out / "heads", ignore_errors=True)
    common = _data_arguments(out)
    data = read_data_module(common)
    if status := extract_data(data, usable_device("auto"), 2, allow_failures=False):
        return status
    epochs = ("--trainer.max_epochs", str(given["epochs"])) if given["epochs"] else ()
    tasks = [
        Task(head, seed, (*common, "--config", str(config_folder() / "head" / f"{head}.yaml"), *epochs),
             out / "heads" / f"{head}-seed{seed}", given["permutations"])
        for head in dict.fromkeys(given["heads"]) for seed in range(given["num_seeds"])
    ]  # fmt: skip
    outcomes = _train_all(tasks, given["processes"], console)

    measurements = [row for outcome in outcomes for row in outcome.measurements]
    data.setup("test")
    write_results(measurements, out, chance(data), 0.5)
    page = render(_report(data, tasks, outcomes, settings, time.perf_counter() - started))
    write_whole(out / "report.html", page.encode())
    with track_results(measurements, out, given["wandb"], "demo") as wandb_run:
        keep_checkpoints(wandb_run, "demo-heads", [outcome.checkpoint for outcome in outcomes])
    Console().print(results_table(summarize(measurements)))
    print(f"{out / 'report.html'}\n{out / 'shuffle.csv'}")
    console.print(f"videomem: demo done in {time.perf_counter() - started:.0f} s")
    return 0


def _claim(out: Path) -> None:
    """Make the folder ours; the heads of an earlier demo are trained anew, its videos and features are kept."""
    mark = out / "demo.json"
    if not is_empty_or_absent(out) and not mark.is_file():
        raise VideomemError(f"{out}: holds something else already; choose an empty folder for --out")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(mark, (json.dumps({"made_by": "videomem demo"}) + "\n").encode())


def _data_arguments(out: Path) -> tuple[str, ...]:
    files = [config_folder() / name for name in ("base.yaml", "data/synthetic.yaml", "demo.yaml")]
    arguments = [part for path in files for part in ("--config", str(path))]
    return (*arguments, "--data.catalog", str(out / "videos" / "catalog.csv"), "--data.store", str(out / "features"))


def _train_all(tasks: Sequence[Task], num_processes: int, console: Console) -> list[Outcome]:
    """Train heads in processes of one thread each: small matrices gain nothing from more, and the bits stay."""
    outcomes: dict[Task, Outcome] = {}
    with ProcessPoolExecutor(min(num_processes, len(tasks)), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        running = {pool.submit(_train, task): task for task in tasks}
        finished = as_completed(running)
        for future in track(
            finished,
            f"training {len(tasks)} heads",
            len(tasks),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ):
            outcomes[running[future]] = future.result()
    return [outcomes[task] for task in tasks]


def _train(task: Task) -> Outcome:
    arguments = [*task.arguments, "--run_dir", str(task.run_dir), "--seed_everything", str(task.seed)]
    cli = run("fit", arguments)
    assert cli is not None
    checkpoint = read_checkpoint(task.run_dir / "checkpoints" / "last.ckpt")
    num_forward = min(3, task.num_permutations)
    measurements = measure_checkpoint(
        checkpoint, cli.datamodule, task.num_permutations, num_forward, permutation_seed=0
    )
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    with (task.run_dir / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["train/accuracy"]]
    curve = [(int(row["epoch"]), float(row["train/accuracy"])) for row in rows]
    return Outcome(checkpoint.path, measurements, curve, cli.model.confusion_counts().numpy())


def _report(
    data: VideoDataModule,
    tasks: Sequence[Task],
    outcomes: Sequence[Outcome],
    settings: SyntheticSettings,
    seconds: float,
) -> Report:
    summaries = summarize([row for outcome in outcomes for row in outcome.measurements])
    label_of = {task: outcome.measurements[0].head for task, outcome in zip(tasks, outcomes, strict=True)}
    confusions: dict[str, NDArray[np.int64]] = {}
    for task, outcome in zip(tasks, outcomes, strict=True):
        label = label_of[task]
        confusions[label] = confusions.get(label, np.zeros_like(outcome.confusion_CC)) + outcome.confusion_CC
    first = [(task, outcome) for task, outcome in zip(tasks, outcomes, strict=True) if task.seed == tasks[0].seed]
    backbone, sampling = data.settings.backbone, data.settings.sampling
    pairs = 2 * len(ACTIONS)
    facts = {
        "videos": f"{settings.train_pairs * pairs} for training, {settings.test_pairs * pairs} for testing; "
        f"lossless H.264, {settings.num_frames} frames of {settings.frame_size} x {settings.frame_size}",
        "frames looked at": f"{getattr(sampling, 'num_frames', '')} per video",
        "features": f"{backbone.name}, layer {backbone.layer}, {backbone.weights} weights"
        + (": a network that was never trained" if backbone.weights == "random" else ""),
        "heads": f"{len(confusions)} memories, {len(tasks) // len(confusions)} seeds each",
        "permutations": f"{tasks[0].num_permutations} of every test clip",
        "best possible without order": "0.5",
        "made by": f"videomem {videomem.__version__} in {seconds:.0f} s",
    }
    return Report(
        facts=facts,
        summaries=summaries,
        curves={label_of[task]: outcome.curve for task, outcome in first},
        confusions=confusions,
        class_names=data.class_names,
        examples=_examples(data, {label_of[task]: outcome.checkpoint for task, outcome in first}),
        chance=chance(data),
        ceiling=0.5,
    )


def _examples(data: VideoDataModule, checkpoints: dict[str, Path]) -> list[Example]:
    """A test clip of each pair of classes in three orders, and what each head takes it for."""
    heads = {label: read_checkpoint(path).classifier().head for label, path in checkpoints.items()}
    examples = []
    for label, partner in ACTIONS:
        row = next(row for row in data.rows("test") if data.clips[row].label == label)
        frames_THWC = decode_clip(data.clips[row].path, data.settings.sampling).frames_THWC
        x_BTD, lengths_B = pad_videos([data.features(row)])
        num_frames = len(frames_THWC)
        orders = (
            perturb.ordered(num_frames, num_frames),
            perturb.shuffled(num_frames, num_frames, 1, (0, row)),
            perturb.reversed_order(num_frames, num_frames),
        )
        strips = []
        for condition, order_1T in zip(CONDITIONS, orders, strict=True):
            shown_BTD = arrange(x_BTD, torch.from_numpy(order_1T))
            with torch.inference_mode():
                answers = {
                    name: data.class_names[int(head(shown_BTD, lengths_B).argmax())] for name, head in heads.items()
                }
            strips.append(Strip(condition, frames_THWC[order_1T[0]], answers))
        examples.append(Example(label, partner, strips))
    return examples
