"""Learning curves of heads on three data sets: is a head undertrained by the default recipe, and would a schedule help?

    python benchmarks/learning_curves.py --root FOLDER --squeezenet WEIGHTS.pth --out runs/learning_curves

The recipe is that of `videomem order` (`configs/base.yaml`), with its least number of epochs. Each head is trained with
several seeds, each on other folds of the groups, and evaluated after every epoch on the clips held out. The data sets:

- synthetic: videos of `videomem synthesize` with the features of `configs/data/synthetic.yaml`, as in `videomem demo`.
- egogestar: 88 real clips; `--root` and `--squeezenet` as in `benchmarks/egogestar.py`.
- two cues: 200 clips of 16 frames of noise; two of them, anywhere in the clip, have a cue, and the class is which cue
  comes first. An order-blind head is right on half of the clips.

`constant` is trained once, for four times this number of epochs. `cosine` (with a warm-up over a tenth of the
epochs) is trained separately for this number of epochs and for twice as many. The table has the best epoch, and
for each number of epochs the accuracy after the last one, in %, as the mean over seeds with its standard error, and the
loss on the training clips. `--seed` draws other folds and initial weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from commands import configs, run, squeezenet
from egogestar import write_groups
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Trainer

from videomem.cli.config_options import build_data_module, config_parser, parse
from videomem.experiments.clips import Clips, clips_of_arrays, clips_of_data
from videomem.experiments.drawing import PALETTE
from videomem.experiments.memories import read_heads
from videomem.experiments.order_test.data import plain_batches
from videomem.experiments.order_test.jobs import TrainingJob
from videomem.experiments.order_test.plan import MIN_EPOCHS, OrderSettings, Recipe
from videomem.experiments.order_test.run_splits import run_splits
from videomem.experiments.order_test.training import StackedData, untrained
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import LitClassifier
from videomem.training.stacked import StackedClassifiers
from videomem.utils.folders import config_folder
from videomem.utils.plotting import as_png

HEADS = ("none", "rnn", "gated", "gru", "lstm")
TIMES = (1, 2, 4)  # the default number of epochs
Curves = tuple[NDArray[np.float64], NDArray[np.float64]]  # accuracies and losses, seeds x epochs


def recipe() -> Recipe:
    """The recipe of an order test."""
    base = yaml.safe_load((config_folder() / "base.yaml").read_text())
    model = {name: base["model"][name] for name in ("num_layers", "dropout", "learning_rate", "weight_decay")}
    clip = base["trainer"]["gradient_clip_val"]
    return Recipe(epochs=MIN_EPOCHS, batch_size=base["data"]["batch_size"], gradient_clip_val=clip, **model)


def extracted(arguments: Sequence[str]) -> Clips:
    """The clips of a catalog, with features extracted if they are not yet stored."""
    arguments = [*configs("base"), *arguments]
    run("extract", *arguments, "--workers", "0")
    options = config_parser()
    options.add_class_arguments(VideoDataModule, "data")
    data = build_data_module(options, parse(options, arguments))
    return clips_of_data(data)


def synthetic(out: Path, pairs: int) -> Clips:
    videos = out / "synthetic"
    run("synthesize", "--out", str(videos), "--train-pairs", str(pairs), "--val-pairs", "1", "--test-pairs", "1")
    return extracted([*configs("data/synthetic"), "--data.catalog", str(videos / "catalog.csv"),
                      "--data.store", str(out / "features")])  # fmt: skip


def egogestar(out: Path, root: Path, weights: Path) -> Clips:
    write_groups(root, out / "egogestar.csv")
    return extracted(["--data.catalog", str(out / "egogestar.csv"), "--data.store", str(out / "features"),
                      "--data.features.backbone", json.dumps(squeezenet(weights))])  # fmt: skip


def two_cues(num_clips: int = 200, num_frames: int = 16, dim: int = 64, strength: float = 6.0) -> Clips:
    rng = np.random.default_rng(0)
    cues_2D = np.linalg.qr(rng.normal(size=(dim, 2)))[0].T * strength
    features, labels = [], []
    for number in range(num_clips):
        x_TD = rng.normal(size=(num_frames, dim))
        first, second = sorted(rng.choice(num_frames, 2, replace=False))
        x_TD[first] += cues_2D[number % 2]
        x_TD[second] += cues_2D[1 - number % 2]
        features.append(x_TD.astype(np.float32))
        labels.append("ab"[number % 2])
    return clips_of_arrays(features, labels, list(map(str, range(num_clips))), name="two cues")


class Scheduled(StackedClassifiers):
    """Heads trained at once with a warm-up and a cosine schedule."""

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        num_steps = int(self.trainer.estimated_stepping_batches)
        warmup, step = math.ceil(num_steps / 10), self.global_step
        cosine = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (num_steps - warmup))
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = self.learning_rate * ((step + 1) / warmup if step < warmup else cosine)


def train(clips: Clips, head: str, how: Recipe, settings: OrderSettings, schedule: str, epochs: int) -> Curves:
    """Accuracy on the clips held out and training loss (seeds, epochs)."""
    torch.manual_seed(0)
    plain, splits = read_heads([head], settings.hidden_dim)[head], run_splits(clips, settings)
    jobs = [TrainingJob(head, plain, "ordered", run) for run in range(settings.runs)]
    classifiers, parts = zip(
        *(untrained(job, split, clips, settings, how) for job, split in zip(jobs, splits, strict=True)), strict=True
    )
    held_out = [plain_batches(part.clips, split.test) for part, split in zip(parts, splits, strict=True)]
    accuracies_EM: list[list[float]] = []

    @torch.inference_mode()
    def evaluate(trained: Sequence[LitClassifier], epoch: int) -> None:
        of_epoch = []
        for classifier, batches in zip(trained, held_out, strict=True):
            model = classifier.head.eval()
            right = torch.cat([model(batch.x, batch.lengths).argmax(1) == batch.labels for batch in batches])
            of_epoch.append(float(right.float().mean()))
        accuracies_EM.append(of_epoch)

    stack = (StackedClassifiers if schedule == "constant" else Scheduled)(classifiers, evaluate)
    Trainer(max_epochs=epochs, accelerator="cpu", gradient_clip_val=how.gradient_clip_val, barebones=True).fit(
        stack, datamodule=StackedData(parts)
    )
    losses_ME = torch.stack(stack.losses).unflatten(0, (epochs, -1)).mean(1).T.double().numpy()
    return np.array(accuracies_EM).T, losses_ME


def of_seeds(values_M: NDArray[np.float64]) -> str:
    error = values_M.std(ddof=1) / math.sqrt(len(values_M)) if len(values_M) > 1 else math.nan
    return f"{100 * values_M.mean():.1f} ± {100 * error:.1f}"


def rows(data: str, head: str, curves: dict[tuple[str, int], Curves], epochs: int) -> list[list[object]]:
    """Rows of the table: a schedule each."""
    found = []
    constant_ME, losses_ME = curves["constant", epochs * TIMES[-1]]
    best = int(constant_ME.mean(0).argmax()) + 1
    ends = [epochs * times for times in TIMES]
    found.append([data, head, "constant", best, of_seeds(constant_ME[:, best - 1]),
                  *(of_seeds(constant_ME[:, end - 1]) for end in ends),
                  *(f"{losses_ME[:, end - 1].mean():.2f}" for end in ends)])  # fmt: skip
    cosine = [curves["cosine", end] for end in ends if ("cosine", end) in curves]
    if cosine:
        found.append([data, head, "cosine", "", "", *(of_seeds(accuracy[:, -1]) for accuracy, _ in cosine),
                      *(f"{loss[:, -1].mean():.2f}" for _, loss in cosine)])  # fmt: skip
    return found


def drawn(curves: dict[str, dict[str, Curves]], epochs: int) -> Figure:
    """Accuracy and training loss of each head at a constant learning rate, with standard errors."""
    figure = Figure(figsize=(3.3 * len(curves), 5.2), layout="constrained")
    axes = figure.subplots(2, len(curves), sharex=True, squeeze=False)
    for column, (data, heads) in enumerate(curves.items()):
        for (head, pair), color in zip(heads.items(), PALETTE, strict=False):
            for row, (values_ME, scale) in enumerate(zip(pair, (100, 1), strict=True)):
                mean_E = scale * values_ME.mean(0)
                error_E = scale * values_ME.std(0, ddof=1) / math.sqrt(len(values_ME))
                places = np.arange(1, len(mean_E) + 1)
                axes[row, column].plot(places, mean_E, color=color, linewidth=1.2, label=head)
                axes[row, column].fill_between(places, mean_E - error_E, mean_E + error_E, color=color, alpha=0.15)
        for row in range(2):
            for times in TIMES:
                axes[row, column].axvline(epochs * times, color="gray", linewidth=0.6, linestyle=":")
        axes[0, column].set_title(data, fontsize=10)
        axes[1, column].set_xlabel("epoch")
        axes[1, column].set_ylim(0)
    axes[0, 0].set_ylabel("accuracy on clips held out, %")
    axes[1, 0].set_ylabel("training loss")
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", type=Path, help="EgoGestAR clips; without them, the other data sets only")
    options.add_argument("--squeezenet", type=Path, help="weights for EgoGestAR")
    options.add_argument("--pairs", type=int, default=20, help="pairs of clips for each action of the synthetic videos")
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--seed", type=int, default=0, help="of folds and initial weights")
    options.add_argument("--schedules", nargs="+", choices=["constant", "cosine"], default=["constant", "cosine"])
    options.add_argument("--figure", type=Path, help="PNG file to write")
    options.add_argument("--out", type=Path, default=Path("runs/learning_curves"))
    given = options.parse_args()
    torch.set_num_threads(1)
    started, how = time.perf_counter(), recipe()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    data_sets = {"synthetic": synthetic(out, given.pairs)}
    if given.root and given.squeezenet:
        data_sets["egogestar"] = egogestar(out, given.root, given.squeezenet)
    data_sets["two cues"] = two_cues()
    settings = OrderSettings(runs=given.seeds, folds=5, seed=given.seed)
    shown: dict[str, dict[str, Curves]] = {}
    with (out / f"curves-{given.seed}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "head", "schedule", "epochs", "seed", "epoch", "accuracy", "loss"])
        for data, clips in data_sets.items():
            for head in HEADS:
                curves: dict[tuple[str, int], Curves] = {}
                for schedule in given.schedules:
                    lengths = TIMES[-1:] if schedule == "constant" else TIMES[:2]
                    for epochs in (how.epochs * times for times in lengths):
                        curves[schedule, epochs] = pair = train(clips, head, how, settings, schedule, epochs)
                        for seed, (accuracy_E, loss_E) in enumerate(zip(*pair, strict=True), start=given.seed):
                            of_epochs = enumerate(zip(accuracy_E, loss_E, strict=True), start=1)
                            writer.writerows(
                                [data, head, schedule, epochs, seed, epoch, *two] for epoch, two in of_epochs
                            )
                        file.flush()
                shown.setdefault(data, {})[head] = curves["constant", how.epochs * TIMES[-1]]
                for row in rows(data, head, curves, how.epochs):
                    print("| " + " | ".join(map(str, row)) + " |", flush=True)
    if given.figure:
        given.figure.write_bytes(as_png(drawn(shown, how.epochs)))
    print(f"{time.perf_counter() - started:.0f} s")
