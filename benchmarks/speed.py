"""Speed of training and of evaluation, each beside a reference in the same run.

    python benchmarks/speed.py                     # about 6 minutes on 2 cores
    python benchmarks/speed.py --only fit --epochs 40

A row is a ratio of times: above 1 the reference is faster. `benchmarks/extraction.py` is the same for extraction.

    epoch    training epoch from the store, relative to decoding and running AlexNet in every epoch
    fit      `videomem fit`, relative to a loop in plain PyTorch on tensors in memory, 2,000 clips of 16 x 4096
    shuffle  shuffle evaluation with 100 permutations, relative to one forward pass, T = 16, D = 4096, H = 256, B = 200
    cells    forward and backward pass of memories, relative to `nn.GRU` of the same size
    stacks   CPU time per head and step (on a GPU: time) of heads that are trained at once, relative to one head trained
             alone: 16 heads of an order test, 6 of a recall measurement, 3 of `fit`
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import scan
import torch
from commands import configs, run
from gpu_checks import noise, stored
from gpu_speed import TIMED, permutation_ratio
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor, nn

from videomem.batch import VideoBatch
from videomem.features.backbone import BackboneSettings
from videomem.features.extraction import extract
from videomem.features.settings import FeatureSettings
from videomem.heads import GRU
from videomem.training.data_module import VideoDataModule
from videomem.training.lit_classifier import LitClassifier, adamw
from videomem.training.stacked import StackedClassifiers
from videomem.utils.parallel_jobs import one_thread
from videomem.video.sampling import Uniform
from videomem.video.synthetic import SyntheticSettings, synthesize

Rows = Iterator[tuple[str, float]]


def seconds(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    run()
    return clock() - started


def epoch(folder: Path, device: str = "cpu", workers: int = 0, pairs: int = 12) -> Rows:
    drawn = SyntheticSettings(train_pairs=pairs, val_pairs=0, test_pairs=1, frame_size=224)
    catalog = synthesize(drawn, folder / "videos")
    features = FeatureSettings(BackboneSettings(weights="random"), Uniform(16))
    extract(catalog.clips, features, folder / "store", device)
    took = {}
    for source in ("features", "video"):
        data = VideoDataModule(
            str(folder / "videos" / "catalog.csv"), features, str(folder / "store"), source=source,  # type: ignore[arg-type]
            num_workers=workers if source == "video" else 0,
        )  # fmt: skip
        classifier = LitClassifier(GRU, 4096, data.class_names, data.class_counts).to(device)
        data.setup("fit")

        def one_epoch(data: VideoDataModule = data, classifier: LitClassifier = classifier) -> None:
            for batch in data.train_dataloader():
                there = data.on_after_batch_transfer(move_data_to_device(batch, torch.device(device)), 0)
                classifier.loss(classifier(there.x.float(), there.lengths), there.labels).mean().backward()

        took[source] = min(scan.seconds(one_epoch, 1, device) for _ in range(4))
    yield "an epoch with decoding and AlexNet / from the store", took["video"] / took["features"]


def fit(folder: Path, device: str = "cpu", num_clips: int = 2000, epochs: int = 5, dim: int = 4096) -> Rows:
    data = stored(folder, num_clips, feature_dim=dim)
    module = VideoDataModule(**data)
    module.setup("fit")
    rows = module.rows("train")
    x_NTD = torch.stack([module.features(row).float() for row in rows]).to(device)
    y_N = torch.tensor([module.class_names.index(module.clips[row].label) for row in rows], device=device)
    options = ["--data.catalog", data["catalog"], "--data.store", data["store"], "--data.features.imported",
               f'{{"name": "noise", "feature_dim": {dim}}}', "--trainer.max_epochs", str(epochs), "--wandb", "disabled",
               "--trainer.limit_val_batches", "0", "--run-dir", str(folder / "run"),
               "--trainer.accelerator", "cpu" if device == "cpu" else "gpu",
               "--data.storage", "mmap" if device == "cpu" else "device"]  # fmt: skip
    took = seconds(lambda: run("fit", *configs("base", "head/gru"), *options))

    def loop() -> None:
        torch.manual_seed(0)
        head = LitClassifier(GRU, dim, module.class_names, module.class_counts, dropout=0.5).head
        head.norm.set_statistics(*module.feature_statistics())
        head.to(device)
        optimizer = adamw(head.parameters(), 1e-3, 1e-2)
        for _ in range(epochs):
            for part in torch.randperm(len(rows), device=device).split(32):
                optimizer.zero_grad()
                logits_BC = head(x_NTD[part], torch.full((len(part),), 16, device=device))
                nn.functional.cross_entropy(logits_BC, y_N[part]).backward()
                nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimizer.step()

    with one_thread():
        bare = scan.seconds(loop, 1, device)
    yield f"fit of {epochs} epochs / bare loop", took / bare


def shuffle(folder: Path) -> Rows:
    with one_thread():
        for name in TIMED:
            ratio = permutation_ratio(partial(scan.MEMORIES[name], hidden_dim=256), 200, 4096, 10, "cpu")
            yield f"shuffle evaluation of {name} / one pass", ratio


def cells(folder: Path, device: str = "cpu", size: int = 64, num_clips: int = 16) -> Rows:
    with one_thread():
        for num_frames, names in ((16, ("gated", "gru", "lstm")), (64, ("gated", "gru", "lstm")), (2048, (scan.SCAN,))):
            found = scan.ways(size, size, device, torch.float32)
            x_BTD = noise(num_clips, num_frames, size).to(device)
            lengths_B = torch.full((num_clips,), num_frames, device=device)
            timed = {name: found[name] for name in (scan.UNIT, *names)}
            turns = scan.times(
                timed, scan.forward_and_backward, x_BTD, lengths_B, 15 if num_frames < 1000 else 5, device
            )
            for name in names:
                yield f"{name} / nn.GRU, T = {num_frames}", float(scan.ratio(turns[name], turns[scan.UNIT]))


# Of `stacks`: heads, dropout, batch size, T, D, H.
STACKS = {"order test": (16, 0.5, 32, 16, 64, 64), "recall, T = 100": (6, 0.0, 64, 100, 64, 64),
          "fit": (3, 0.5, 32, 16, 4096, 256)}  # fmt: skip


def stacks(folder: Path, device: str = "cpu", cases: Sequence[str] = tuple(STACKS)) -> Rows:
    for case in cases:
        num, dropout, *sizes = STACKS[case]
        for name in ("none", "rnn", "gated", "gru", "lstm", "mingru"):
            yield f"{case}, {name}: {num} heads at once / alone", _stack_ratio(name, device, num, dropout, *sizes)


def _stack_ratio(
    name: str, device: str, num: int, dropout: float, batch_size: int, num_frames: int, dim: int, hidden: int
) -> float:
    def classifier(seed: int) -> LitClassifier:
        torch.manual_seed(seed)
        memory = partial(scan.MEMORIES[name], hidden_dim=hidden)
        return LitClassifier(memory, dim, list("abcdefghij"), [1] * 10, dropout=dropout)

    def batch() -> VideoBatch:
        lengths_B, labels_B = torch.full((batch_size,), num_frames), torch.randint(0, 10, (batch_size,))
        parts = noise(batch_size, num_frames, dim), lengths_B, labels_B, torch.arange(batch_size)
        return VideoBatch(*(part.to(device) for part in parts))

    alone, stack = classifier(0).to(device), StackedClassifiers([classifier(seed) for seed in range(num)]).to(device)
    stack.on_fit_start()
    batches = [batch() for _ in range(num)]

    def step(module: Any, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    def loss_alone() -> Tensor:
        return alone.loss(alone(batches[0].x, batches[0].lengths), batches[0].labels).mean()

    one = partial(step, alone, alone.configure_optimizers(), loss_alone)
    all_at_once = partial(step, stack, stack.configure_optimizers(), lambda: stack.training_step(batches, 0))

    def took(run: Callable[[], None]) -> float:
        return seconds(run, time.process_time) if device == "cpu" else scan.seconds(run, 10, device)

    with one_thread():
        one(), all_at_once()
        times = [[took(run) for run in (one, all_at_once)] for _ in range(5)]
    fastest_alone, fastest = (min(column) for column in zip(*times, strict=True))
    return fastest / num / fastest_alone


PARTS: dict[str, Callable[..., Rows]] = {
    "epoch": epoch, "fit": fit, "shuffle": shuffle, "cells": cells, "stacks": stacks,
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options.add_argument("--epochs", type=int, default=5, help="epochs of fit")
    given = options.parse_args()
    parts = {**PARTS, "fit": partial(fit, epochs=given.epochs)}
    print(f"{os.cpu_count()} cores, torch {torch.__version__}\n| what | ratio |\n|---|---|")
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            for what, ratio in parts[name](Path(folder)):
                print(f"| {what} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
