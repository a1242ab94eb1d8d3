"""Measure the speed of a device: the last parts of `benchmarks/gpu.py`. On a CPU, sizes are smaller."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import scan
import torch
from gpu_checks import MEMORIES, C, noise, random_frames, stored, tf32, trainer
from gpu_part import Part
from torch import Tensor, autocast

from videomem.batch import VideoBatch
from videomem.features.backbone import BackboneSettings, exact_float32, load_backbone
from videomem.heads import Head

TIMED = ("none", "leaky", "rnn", "gated", "gru", "lstm", "mingru", "minlstm")


def seconds(device: str, run: Callable[[], Any], turns: int = 3) -> float:
    """The median time of a pass in seconds, after a warm-up pass."""
    return statistics.median(scan.measure({"it": run}, turns, device)["it"])


def backbone(part: Part) -> None:
    """Frames per second of AlexNet up to fc6, by batch, precision and memory format."""
    network = load_backbone(BackboneSettings(weights="random"), part.device)
    precisions: dict[str, Any] = {"float32": exact_float32, "bfloat16": partial(autocast, part.device, torch.bfloat16)}
    if part.is_gpu:
        precisions |= {"TF32": tf32, "float16": partial(autocast, part.device, torch.float16)}
    for batch_size in (16, 64, 256, 1024) if part.is_gpu else (4, 16):
        images = network.preprocessing.normalize(random_frames(batch_size).to(part.device))
        for layout in (torch.contiguous_format, torch.channels_last):
            laid_out = images.to(memory_format=layout)
            module = network.network.to(memory_format=layout)
            for name, precision in precisions.items():
                with precision(), torch.no_grad():
                    rate = batch_size / seconds(part.device, partial(module, laid_out))
                words = f"batch {batch_size}, {name}, {str(layout)[6:].removesuffix('_format')}"
                part.figure(words, rate, "frames/s")


def extraction(part: Part) -> None:
    """Speed of feature extraction, and the fraction of time spent waiting for decoded frames."""
    import videomem.features.extraction as extracting
    from videomem.features.settings import FeatureSettings
    from videomem.video.sampling import Uniform
    from videomem.video.synthetic import SyntheticSettings, synthesize

    pairs = 20 if part.is_gpu else 1
    drawn = SyntheticSettings(train_pairs=pairs, val_pairs=0, test_pairs=1, frame_size=224)
    catalog = synthesize(drawn, part.folder / "videos")
    settings = FeatureSettings(BackboneSettings(weights="random"), Uniform(16))
    waited, decode_each = [0.0], extracting.decode_each

    def timed(*arguments: Any) -> Any:
        answers = decode_each(*arguments)
        try:
            while True:
                started = time.perf_counter()
                try:
                    answer = next(answers)
                except StopIteration:
                    return
                waited[0] += time.perf_counter() - started
                yield answer
        finally:
            answers.close()

    extracting.decode_each = timed
    load_backbone(settings.backbone, part.device)
    workers, started = os.cpu_count() or 1, time.perf_counter()
    report = extracting.extract(catalog.clips, settings, part.folder / "store", part.device, workers)
    took = time.perf_counter() - started
    part.figure(f"{workers} workers", report.num_extracted * 16 / took, "frames/s")
    part.figure(f"{workers} workers, share of waiting", waited[0] / took, "")


def epochs(part: Part) -> None:
    """Epochs per second of `fit`, with features memory-mapped, in RAM and on the device."""
    from pytorch_lightning import Callback

    from videomem.training.data_module import VideoDataModule
    from videomem.training.lit_classifier import LitClassifier

    num_clips, dim = (2000, 4096) if part.is_gpu else (100, 256)
    data = stored(part.folder, num_clips, feature_dim=dim)

    class Clock(Callback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            self.ends.append(time.perf_counter())

    for storage in ("mmap", "ram", "device"):
        module, clock = VideoDataModule(**data, storage=storage), Clock()
        classifier = LitClassifier(MEMORIES["gru"], dim, module.class_names, module.class_counts, dropout=0.5)
        trainer(part.device, clock, max_epochs=5).fit(classifier, datamodule=module)
        rate = (len(clock.ends) - 1) / (clock.ends[-1] - clock.ends[0])
        part.figure(f"{storage}, {num_clips} clips of 16 x {dim}", rate, "epochs/s")


def memories(part: Part) -> None:
    """Time of every memory, forward and with gradients, relative to `nn.GRU`."""
    torch.manual_seed(0)
    batch_size, dim = (64, 256) if part.is_gpu else (16, 64)
    found = scan.ways(dim, dim, part.device, torch.float32)
    for num_frames in (16, 128, 1024, 4096) if part.is_gpu else (16, 128):
        x_BTD = noise(batch_size, num_frames, dim).to(part.device)
        lengths_B = torch.full((batch_size,), num_frames, device=part.device)
        for name, one_pass in (("forward", scan.forward), ("forward and backward", scan.forward_and_backward)):
            turns = scan.times(found, one_pass, x_BTD, lengths_B, 5 if num_frames <= 128 else 1, part.device)
            words = f"T = {num_frames}, {name}"
            part.figure(f"{words}, {scan.UNIT}", 1000 * statistics.median(turns[scan.UNIT]), "ms")
            for key in turns:
                if key != scan.UNIT:
                    part.figure(f"{words}, {key}", float(scan.ratio(turns[key], turns[scan.UNIT])), f"x {scan.UNIT}")


def permutations(part: Part) -> None:
    """Time of 100 permutations in a shuffle evaluation, relative to a forward pass on the same clips."""
    num_clips, dim = (64, 4096) if part.is_gpu else (8, 512)
    for name in TIMED:
        ratio = permutation_ratio(MEMORIES[name], num_clips, dim, C, part.device)
        part.figure(f"{name}, 100 permutations", ratio, "passes")


def permutation_ratio(memory: Any, num_clips: int, dim: int, num_classes: int, device: str) -> float:
    """Time of 100 permutations of clips of 16 frames, relative to a forward pass."""
    from videomem.experiments.shuffle.measurements import measure_order

    labels_B, lengths_B = torch.arange(num_clips) % num_classes, torch.full((num_clips,), 16)
    parts = (noise(num_clips, 16, dim), lengths_B, labels_B, torch.arange(num_clips))
    batch = VideoBatch(*(tensor.to(device) for tensor in parts))
    head = Head(memory, dim, num_classes).to(device).eval()

    def one_pass() -> Tensor:
        with torch.inference_mode():
            return head(batch.x, batch.lengths)

    return seconds(device, partial(measure_order, head, [batch], 0, 100, 0), turns=1) / seconds(device, one_pass)
