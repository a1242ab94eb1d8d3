"""Cost of extracting the features of many videos, from rates that are measured on this machine.

    python benchmarks/scale_plan.py --videos 10000000 --nodes 20 --cores 32

Videos of 60 frames at 640x480 are decoded, resized and put through AlexNet up to fc6 as in `extraction.py`, each alone
on one thread; measure your own videos with `--sample FILE ...`. All other numbers are options: the cluster, the prices,
and the rate of a GPU, which is not measured. Without `--gpu-frames-per-s` the network runs on the CPU.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from extraction import SAMPLED, decoding_and_resizing, network_seconds, write

from videomem.features.backbone import BackboneSettings, load_backbone
from videomem.features.store import SHARD_CLIPS
from videomem.video.catalog import Clip

BYTES_PER_ROW = 70 + 36 + 36  # of the catalog, the index and the record of a catalog, as `scale.py` measures them


def measured_ms(sample: list[str], precision: str) -> tuple[float, float, float, int]:
    """CPU milliseconds of decoding, resizing and the network for each clip, and features per frame."""
    backbone = load_backbone(BackboneSettings("alexnet", "fc6", "random", precision=precision))
    with tempfile.TemporaryDirectory() as folder:
        if not sample:
            sample = [str(Path(folder, f"{number}.mp4")) for number in range(12)]
            for number, path in enumerate(sample):
                write(Path(path), number, 640, 480)
        clips = [Clip(path, "class", "train", path) for path in sample]
        decode_s, resize_s = decoding_and_resizing(clips, backbone.preprocessing)
        network_s = network_seconds(backbone) * SAMPLED * len(clips)
    return *(1000 * part / len(clips) for part in (decode_s, resize_s, network_s)), backbone.feature_dim


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--videos", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    options.add_argument("--nodes", type=int, default=20)
    options.add_argument("--cores", type=int, default=32, help="of a node")
    options.add_argument("--of-limit", type=float, default=0.9, help="share of the limit that `extract` reaches")
    options.add_argument("--core-hour", type=float, default=0.04, help="price of a CPU core for an hour")
    options.add_argument("--gpu-hour", type=float, default=2.5, help="price of a GPU for an hour")
    options.add_argument(
        "--gpu-frames-per-s", type=float, default=None, help="frames per second of the network on a GPU"
    )
    options.add_argument("--gb-month", type=float, default=0.02, help="price of storing a gigabyte for a month")
    options.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options.add_argument("--sample", nargs="+", default=[], help="videos to measure")
    given = options.parse_args()
    decode, resize, network, dim = measured_ms(given.sample, given.precision)
    print(f"CPU ms for a clip of {SAMPLED} frames: decoding {decode:.1f}, resizing {resize:.1f}, network {network:.1f}")
    on_gpu = given.gpu_frames_per_s is not None
    core_s = (decode + resize + (0 if on_gpu else network)) / 1000 / given.of_limit
    gpu_s = SAMPLED / given.gpu_frames_per_s if on_gpu else 0.0
    bytes_clip = SAMPLED * dim * 2 + BYTES_PER_ROW
    print(
        "| videos | core-hours | GPU-hours | hours on the cluster | GB of features | shards | cost | per 1,000 videos |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for number in given.videos:
        core_h, gpu_h = number * core_s / 3600, number * gpu_s / 3600
        size_gb, shards = number * bytes_clip / 1e9, -(-number // SHARD_CLIPS)
        cost = core_h * given.core_hour + gpu_h * given.gpu_hour + size_gb * given.gb_month
        hours = max(core_h / (given.nodes * given.cores), gpu_h / given.nodes)
        print(
            f"| {number:,} | {core_h:,.1f} | {gpu_h:,.1f} | {hours:,.2f} | {size_gb:,.1f} | {shards:,} | "
            f"{cost:,.2f} | {1000 * cost / number:.4f} |"
        )


if __name__ == "__main__":
    main()
