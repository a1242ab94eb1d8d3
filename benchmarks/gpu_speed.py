"""Measure the speed of a device: the last parts of `benchmarks/gpu.py`. On a CPU, sizes are smaller."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from tempfile import TemporaryDirectory
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
            module = network.encoder.to(memory_format=layout)
            for name, precision in precisions.items():
                with precision(), torch.no_grad():
                    rate = batch_size / seconds(part.device, partial(module, laid_out))
                words = f"batch {batch_size}, {name}, {str(layout)[6:].removesuffix('_format')}"
                part.figure(words, rate, "frames/s")


def extraction(part: Part) -> None:
    """Rate of extraction, relative to the slowest of decoding, resizing and the network, and to the usual loop."""
    import extraction as bench

    from videomem.cli.options import SHARED
    from videomem.features.extraction import extract
    from videomem.features.settings import FeatureSettings
    from videomem.video.catalog import Clip
    from videomem.video.sampling import Uniform

    cores, default, num_clips = os.cpu_count() or 1, SHARED["--workers"]["default"], 160 if part.is_gpu else 2
    if not part.is_gpu:
        bench.NETWORK_S, bench.BATCHES = 0.1, (4, 16)

    def clips_per_s(num_clips: int, settings: BackboneSettings, num_workers: int) -> float:
        with TemporaryDirectory(dir=part.folder) as store:
            features, started = FeatureSettings(settings, Uniform(bench.SAMPLED)), time.perf_counter()
            report = extract(clips[:num_clips], features, store, part.device, num_workers)
            return report.num_extracted / (time.perf_counter() - started)

    for width, height in ((640, 480), (320, 240))[0 if part.is_gpu else 1 :]:
        paths = [part.folder / f"{width}-{number}.mp4" for number in range(num_clips)]
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(bench.write, paths, range(num_clips), [width] * num_clips, [height] * num_clips))
        clips = [Clip(str(path), "class", "train", path.stem) for path in paths]
        few = clips[: max(num_clips // 16, 1)]
        stages_s: dict[str, float] = {}
        for name, layer in (("alexnet", "fc6"), ("resnet18", "avgpool")):
            exact = load_backbone(BackboneSettings(name, layer, "random"), part.device)
            loop_s = bench.usual_loop(few, exact, part.folder / f"{width}-{name}") / len(few)
            if not stages_s:
                found = bench.decoding_and_resizing(few, exact.preprocessing)
                stages_s = dict(zip(("decoding", "resizing"), (took / len(few) for took in found), strict=True))
            for precision in ("float32", "bfloat16"):
                settings = BackboneSettings(name, layer, "random", precision=precision)  # type: ignore[arg-type]
                network_s = bench.network_seconds(load_backbone(settings, part.device)) * bench.SAMPLED
                if part.is_gpu:  # Start the server that workers are forked from, and hash the weights.
                    clips_per_s(1, settings, 1)
                for label, workers in (("default workers", default), (f"{cores} workers", cores)):
                    rate = clips_per_s(num_clips if workers == cores else max(num_clips // 4, 1), settings, workers)
                    alone_s = {stage: took / workers for stage, took in stages_s.items()}
                    alone_s["network"] = network_s / (1 if part.is_gpu else cores)
                    slowest = max(alone_s, key=alone_s.__getitem__)
                    words = f"{width}x{height}, {name}, {precision}, {label}"
                    part.figure(words, rate * bench.SAMPLED, "frames/s")
                    part.figure(f"{words}, rate / {slowest} alone", rate * alone_s[slowest], "", least=0.9)
                    part.figure(f"{words}, rate / usual loop", rate * loop_s, "", least=5)


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


def training(part: Part) -> None:
    """An epoch from the store, and `fit`, relative to the usual ways."""
    import speed

    workers, pairs = ((os.cpu_count() or 0), 12) if part.is_gpu else (0, 1)
    for name, ratio in speed.epoch(part.folder / "epoch", part.device, workers, pairs):
        part.figure(name, ratio, "", least=100)
    sizes = (2000, 40, 4096) if part.is_gpu else (100, 2, 256)
    for name, ratio in speed.fit(part.folder / "fit", part.device, *sizes):
        part.figure(f"{name}, {sizes[0]} videos", ratio, "", most=1.15)


def memories(part: Part) -> None:
    """Time of every memory, forward and with gradients, relative to `nn.GRU`."""
    import speed

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
    for name, ratio in speed.cells(part.folder, part.device, dim, batch_size):
        part.figure(f"forward and backward, {name}", ratio, "", most=0.1 if name.startswith(scan.SCAN) else 2)


def permutations(part: Part) -> None:
    """Time of 100 permutations in a shuffle evaluation, relative to a forward pass on the same clips."""
    num_clips, dim, hidden_dim = (200, 4096, 256) if part.is_gpu else (8, 512, 16)
    for name in TIMED:
        memory = partial(scan.MEMORIES[name], hidden_dim=hidden_dim)
        ratio = permutation_ratio(memory, num_clips, dim, C, part.device)
        part.figure(f"{name}, 100 permutations", ratio, "passes", most=10)


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


def stacks(part: Part) -> None:
    """Time of a head that is trained at once with others, relative to a head that is trained alone."""
    import speed

    for name, ratio in speed.stacks(part.folder, part.device, tuple(speed.STACKS)[: None if part.is_gpu else 1]):
        part.figure(name, ratio, "", most=1)
