"""Measure the time per frame of streams with every memory, relative to AlexNet alone, and of sliding-window models.

    python benchmarks/streaming.py                  # about 25 minutes on 2 cores
    python benchmarks/streaming.py --frames 1000

For each frame of 320x240 noise, AlexNet up to fc6 runs at batch size 1 on the preprocessed frame (`AlexNet alone`).
Then each memory's stream processes the original frame (`Stream.step`: resizing, cropping, normalizing, AlexNet, head,
softmax), so that all of them are timed under the same conditions. The overhead is the median over frames of the ratio
to `AlexNet alone`, minus one; `without resizing` is that of `Stream.step_shaped`, measured on every other frame.
Streams are not reset. `AlexNet, all layers` is torchvision's network up to its 1000 logits.

Sliding-window models process the last 16 frames at every frame: `window, AlexNet + gru` runs the same network on 16
frames; `window, features cached` caches the features of the last 15 frames and runs only the head on 16; r3d_18 and
mvit_v2_s are torchvision's video networks on 16 preprocessed frames. Weights are random, which does not affect times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torchvision

from videomem.experiments.memories import read_heads
from videomem.experiments.order_test.jobs import build_head
from videomem.features.backbone import Backbone, BackboneSettings
from videomem.features.settings import FeatureSettings
from videomem.inference.model import Classifier
from videomem.utils.folders import config_folder
from videomem.video.sampling import Uniform

WINDOW = 16
ALONE = "AlexNet alone"
CLIP_NETWORKS = {"r3d_18": 112, "mvit_v2_s": 224}  # pixels a side, of torchvision's presets
Way = Callable[[int], object]


def milliseconds(way: Way, place: int) -> float:
    started = time.perf_counter()
    way(place)
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--frames", type=int, default=10_000, help="frames of each stream")
    options.add_argument("--windows-every", type=int, default=100, help="frames between sliding windows")
    given = options.parse_args()
    backbone = Backbone(BackboneSettings(weights="random"))
    settings = FeatureSettings(backbone.settings, Uniform(WINDOW))
    names = sorted(path.stem for path in (config_folder() / "head").glob("*.yaml"))
    models = {}
    for name, plain in read_heads(names, hidden_dim=128).items():
        head = build_head(plain, backbone.feature_dim, 10, 1, None).eval()
        models[name] = Classifier(head, [str(number) for number in range(10)], settings, backbone)
    frames = np.random.default_rng(0).integers(0, 256, (32, 240, 320, 3), np.uint8)
    shaped = backbone.preprocessing.shape_frames(frames)
    normed = backbone.preprocessing.normalize(shaped)
    streams = {name: model.stream() for name, model in models.items()}

    ways: dict[str, Way] = {ALONE: lambda n: backbone.encoder(normed[n % 32][None])}
    whole: dict[str, Way] = {name: lambda n, s=stream: s.step(frames[n % 32]) for name, stream in streams.items()}
    cropped: dict[str, Way] = {
        name: lambda n, s=stream: s.step_shaped(shaped[n % 32][None]) for name, stream in streams.items()
    }
    windows = clip_ways(models["gru"], shaped)
    times: dict[str, list[float]] = defaultdict(list)
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    with torch.inference_mode():
        for way in (*ways.values(), *whole.values(), *windows.values()):
            way(0)  # Warms up.
        for stream in streams.values():
            stream.reset()
        for place in range(given.frames):
            kind = "whole" if place % 2 else "cropped"
            bare = milliseconds(ways[ALONE], place)
            times[ALONE].append(bare)
            for name, way in (whole if place % 2 else cropped).items():
                took = milliseconds(way, place)
                ratios[name, kind].append(took / bare)
                if kind == "whole":
                    times[name].append(took)
            if place % given.windows_every == 0:
                for name, way in windows.items():
                    times[name].append(milliseconds(way, place))
    print_table(times, ratios, names, list(windows))
    states = {stream.num_frames for stream in streams.values()}
    print(f"{given.frames} frames, each stream without a reset over {states.pop()}; {os.cpu_count()} cores, "
          f"{torch.get_num_threads()} threads, torch {torch.__version__}")  # fmt: skip


def clip_ways(model: Classifier, shaped: torch.Tensor) -> dict[str, Way]:
    """Sliding-window models, which process the last 16 frames at every frame."""
    backbone, head, lengths_B = model.frame_network, model.head, torch.tensor([WINDOW])
    kept_1TD = torch.zeros(1, WINDOW, head.feature_dim)

    def features_cached(n: int) -> object:
        kept_1TD[0, n % WINDOW] = backbone(shaped[n % 32][None])[0]
        return head(kept_1TD, lengths_B)

    ways: dict[str, Way] = {
        "window, AlexNet + gru": lambda n: head(backbone(shaped[:WINDOW])[None], lengths_B),
        "window, features cached": features_cached,
    }
    image, alexnet = torch.rand(1, 3, 224, 224), torchvision.models.alexnet(weights=None).eval()
    ways["AlexNet, all layers"] = lambda n: alexnet(image)
    for name, side in CLIP_NETWORKS.items():
        network = torchvision.models.get_model(name, weights=None).eval()
        clip = torch.rand(1, 3, WINDOW, side, side)
        ways[f"window, {name}"] = lambda n, network=network, clip=clip: network(clip)
    return ways


def print_table(
    times: dict[str, list[float]],
    ratios: dict[tuple[str, str], list[float]],
    memories: Sequence[str],
    windows: Sequence[str],
) -> None:
    print("| | ms per frame, median | 95th percentile | overhead | without resizing |")
    print("|---|---|---|---|---|")
    for name in (ALONE, *memories, *windows):
        row = sorted(times[name])
        cells = [f"{statistics.median(row):.2f}", f"{row[int(0.95 * (len(row) - 1))]:.2f}"]
        if name in memories:
            cells += [f"{100 * (statistics.median(ratios[name, kind]) - 1):.1f} %" for kind in ("whole", "cropped")]
        elif name in windows:
            cells += [f"{statistics.median(row) / statistics.median(times[ALONE]):.1f} times AlexNet alone", ""]
        else:
            cells += ["", ""]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
