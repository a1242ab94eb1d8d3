"""Speed of training and of evaluation, each beside a reference in the same run.

    python benchmarks/speed.py                     # about 6 minutes on 2 cores
    python benchmarks/speed.py --only fit shuffle

A row is a ratio of times: above 1 the reference is faster. `benchmarks/extraction.py` is the same for extraction.

    epoch    training epoch from the store, relative to decoding and running AlexNet in every epoch
    fit      `videomem fit`, relative to a loop in plain PyTorch on tensors in memory, 2,000 clips of 16 x 4096
    shuffle  shuffle evaluation with 100 permutations, relative to one forward pass, T = 16, D = 4096, H = 256, B = 200
    cells    forward and backward pass of memories, relative to `nn.GRU` of the same size
    stacks   CPU time per head and step of heads that are trained at once, relative to one head trained alone: 16 heads
             of an order test, 6 of a recall measurement, 3 of `fit`
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import scan
import torch
from commands import configs, run
from gpu_checks import noise, stored
from gpu_speed import TIMED, permutation_ratio
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


def epoch(folder: Path) -> Rows:
    drawn = SyntheticSettings(train_pairs=12, val_pairs=0, test_pairs=1, frame_size=224)
    catalog = synthesize(drawn, folder / "videos")
    features = FeatureSettings(BackboneSettings(weights="random"), Uniform(16))
    extract(catalog.clips, features, folder / "store")
    took = {}
    for source in ("features", "video"):
        data = VideoDataModule(str(folder / "videos" / "catalog.csv"), features, str(folder / "store"), source=source)  # type: ignore[arg-type]
        classifier = LitClassifier(GRU, 4096, data.class_names, data.class_counts)
        data.setup("fit")

        def one_epoch(data: VideoDataModule = data, classifier: LitClassifier = classifier) -> None:
            for batch in data.train_dataloader():
                on_device = data.on_after_batch_transfer(batch, 0)
                classifier.loss(classifier(on_device.x.float(), on_device.lengths), on_device.labels).mean().backward()

        one_epoch()
        took[source] = min(seconds(one_epoch) for _ in range(3))
    yield "an epoch with decoding and AlexNet / from the store", took["video"] / took["features"]


def fit(folder: Path) -> Rows:
    num_clips, epochs = 2000, 5
    data = stored(folder, num_clips, feature_dim=4096)
    module = VideoDataModule(**data)
    module.setup("fit")
    rows = module.rows("train")
    x_NTD = torch.stack([module.features(row).float() for row in rows])
    y_N = torch.tensor([module.class_names.index(module.clips[row].label) for row in rows])
    options = ["--data.catalog", data["catalog"], "--data.store", data["store"], "--data.features.imported",
               '{"name": "noise", "feature_dim": 4096}', "--trainer.max_epochs", str(epochs), "--wandb", "disabled",
               "--trainer.limit_val_batches", "0", "--run-dir", str(folder / "run")]  # fmt: skip
    took = seconds(lambda: run("fit", *configs("base", "head/gru"), *options))

    def loop() -> None:
        torch.manual_seed(0)
        head = LitClassifier(GRU, 4096, module.class_names, module.class_counts, dropout=0.5).head
        head.norm.set_statistics(*module.feature_statistics())
        optimizer = adamw(head.parameters(), 1e-3, 1e-2)
        for _ in range(epochs):
            for part in torch.randperm(len(rows)).split(32):
                optimizer.zero_grad()
                logits_BC = head(x_NTD[part], torch.full((len(part),), 16))
                nn.functional.cross_entropy(logits_BC, y_N[part]).backward()
                nn.utils.clip_grad_norm_(head.parameters(), 1.0)
                optimizer.step()

    with one_thread():
        bare = seconds(loop)
    yield f"fit of {epochs} epochs / bare loop", took / bare


def shuffle(folder: Path) -> Rows:
    with one_thread():
        for name in TIMED:
            ratio = permutation_ratio(partial(scan.MEMORIES[name], hidden_dim=256), 200, 4096, 10, "cpu")
            yield f"shuffle evaluation of {name} / one pass", ratio


def cells(folder: Path) -> Rows:
    with one_thread():
        for size, num_frames, names in ((64, 16, ("gated", "gru", "lstm")), (64, 64, ("gated", "gru", "lstm")),
                                        (64, 2048, (scan.SCAN,))):  # fmt: skip
            found = scan.ways(size, size, "cpu", torch.float32)
            x_BTD, lengths_B = noise(16, num_frames, size), torch.full((16,), num_frames)
            timed = {name: found[name] for name in (scan.UNIT, *names)}
            turns = scan.times(
                timed, scan.forward_and_backward, x_BTD, lengths_B, 15 if num_frames < 1000 else 5, "cpu"
            )
            for name in names:
                yield f"{name} / nn.GRU, T = {num_frames}", float(scan.ratio(turns[name], turns[scan.UNIT]))


def stacks(folder: Path) -> Rows:
    # heads, dropout, batch size, T, D, H
    cases = {"order test": (16, 0.5, 32, 16, 64, 64), "recall, T = 100": (6, 0.0, 64, 100, 64, 64),
             "fit": (3, 0.5, 32, 16, 4096, 256)}  # fmt: skip
    for case, (num, dropout, *sizes) in cases.items():
        for name in ("none", "rnn", "gated", "gru", "lstm", "mingru"):
            yield (
                f"{case}, {name}: {num} heads at once / alone",
                _stack_ratio(name, num, dropout, *sizes),
            )


def _stack_ratio(name: str, num: int, dropout: float, batch_size: int, num_frames: int, dim: int, hidden: int) -> float:
    def classifier(seed: int) -> LitClassifier:
        torch.manual_seed(seed)
        return LitClassifier(
            partial(scan.MEMORIES[name], hidden_dim=hidden), dim, list("abcdefghij"), [1] * 10, dropout=dropout
        )

    def batch() -> VideoBatch:
        lengths_B, labels_B = torch.full((batch_size,), num_frames), torch.randint(0, 10, (batch_size,))
        return VideoBatch(noise(batch_size, num_frames, dim), lengths_B, labels_B, torch.arange(batch_size))

    alone, stack = classifier(0), StackedClassifiers([classifier(seed) for seed in range(num)])
    batches = [batch() for _ in range(num)]

    def step(module: Any, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor]) -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    def loss_alone() -> Tensor:
        return alone.loss(alone(batches[0].x, batches[0].lengths), batches[0].labels).mean()

    one = partial(step, alone, alone.configure_optimizers(), loss_alone)
    all_at_once = partial(step, stack, stack.configure_optimizers(), lambda: stack.training_step(batches, 0))
    with one_thread():
        one(), all_at_once()
        times = [[seconds(run, time.process_time) for run in (one, all_at_once)] for _ in range(5)]
    fastest_alone, fastest = (min(column) for column in zip(*times, strict=True))
    return fastest / num / fastest_alone


PARTS: dict[str, Callable[[Path], Rows]] = {
    "epoch": epoch, "fit": fit, "shuffle": shuffle, "cells": cells, "stacks": stacks,
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    print(f"{os.cpu_count()} cores, torch {torch.__version__}\n| what | ratio |\n|---|---|")
    for name in options.parse_args().only:
        with tempfile.TemporaryDirectory() as folder:
            for what, ratio in PARTS[name](Path(folder)):
                print(f"| {what} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
