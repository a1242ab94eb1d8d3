"""Peak memory and time per clip with many clips, relative to few.

    python benchmarks/growth.py                    # 400 and 4,000 clips
    python benchmarks/growth.py --few 50 --many 500 --only extract

The clips are parts of 0.3 s of videos of noise, 20 of each. Each command runs as a user would call it, with its own
processes; its memory is the largest sum of the proportional set sizes of all of them, which counts shared pages once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np

from videomem.utils.folders import config_folder
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import write_catalog

FRAMES, RATE, SIZE, CLIPS_OF_VIDEO = 3, 10, 64, 20
CONFIG = config_folder() / "base.yaml"


def make_clips(folder: Path, num_clips: int) -> Path:
    """A catalog of clips of `FRAMES` frames, in groups of two clips of different classes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for first in range(0, num_clips, CLIPS_OF_VIDEO):
        with av.open(str(folder / f"{first}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": str(FRAMES)})
            stream.width = stream.height = SIZE
            for _ in range(CLIPS_OF_VIDEO * FRAMES):
                blocks = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(SIZE // 8, 0).repeat(SIZE // 8, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(blocks, "rgb24")))
            container.mux(stream.encode())
    splits = ["train"] * 7 + ["val"] + ["test"] * 2
    clips = []
    for number in range(num_clips):
        place, group = number % CLIPS_OF_VIDEO * FRAMES, number // 2
        path = str(folder / f"{number - number % CLIPS_OF_VIDEO}.mp4")
        interval = place / RATE, (place + FRAMES) / RATE
        clips.append(Clip(path, "ab"[number % 2], splits[group % len(splits)], f"group{group}", *interval))
    write_catalog(Catalog(tuple(clips)), folder / "catalog.csv")
    return folder / "catalog.csv"


def tree(process: int) -> list[int]:
    """A process and its descendants."""
    found = [process]
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        found += [one for child in children.read_text().split() for one in tree(int(child))]
    return found


def memory_mib(process: int) -> float:
    total = 0
    for one in tree(process):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue  # It has ended.
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in MiB of a command."""
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, "-m", "videomem", *arguments], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        with suppress(OSError):  # It has ended.
            peak = max(peak, memory_mib(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"videomem {' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - started, peak


def commands(folder: Path, num_clips: int) -> dict[str, list[str]]:
    catalog = make_clips(folder, num_clips)
    data = ["--config", str(CONFIG), "--data.catalog", str(catalog), "--data.store", str(folder / "store")]
    data += ["--data.features.backbone.weights", "random", "--data.features.sampling", "Uniform",
             "--data.features.sampling.num_frames", str(FRAMES)]  # fmt: skip
    head = ["--config", str(CONFIG.parent / "head" / "gru.yaml")]
    return {
        "extract": ["extract", *data],
        "extract, all clips stored": ["extract", *data],
        "fit": ["fit", *data, *head, "--wandb", "disabled", "--run-dir", str(folder / "run"),
                "--trainer.max_epochs", "2"],
        "order": ["order", *data, "--config", str(CONFIG.parent / "order.yaml"), "--order.heads", "[none,gru]",
                  "--order.training_conditions", "[ordered,fixed_permutation]", "--order.runs", "6",
                  "--order.folds", "6", "--trainer.max_epochs", "2", "--wandb", "disabled",
                  "--out", str(folder / "order")],
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--few", type=int, default=400)
    options.add_argument("--many", type=int, default=4000)
    options.add_argument("--only", nargs="+", default=["extract", "fit", "order"])
    given = options.parse_args()
    print("| command | clips | seconds | peak MiB | time per clip of many / few | peak memory of many / few |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        few, many = (commands(Path(folder) / str(number), number) for number in (given.few, given.many))
        for name in few:
            if name.split(",")[0] not in given.only:
                continue
            (few_s, few_mib), (many_s, many_mib) = measured(few[name]), measured(many[name])
            per_clip = many_s / given.many / (few_s / given.few)
            print(f"| {name} | {given.few} | {few_s:.1f} | {few_mib:.0f} | | |")
            print(f"| | {given.many} | {many_s:.1f} | {many_mib:.0f} | {per_clip:.2f} | {many_mib / few_mib:.2f} |",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
