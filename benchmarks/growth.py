"""Peak memory and time per clip with many clips, relative to few.

    python benchmarks/growth.py                    # 400 and 4,000 clips
    python benchmarks/growth.py --few 40 --many 400 --only extract resume

    extract    clips that are parts of 0.3 s of videos of noise, 20 of each
    parts      the same, but all are parts of one video
    stored     `extract` when all clips are stored
    resume     `extract` after an interruption: the later half of the shards is missing
    fit        2 epochs
    order      2 heads, 2 training conditions, 6 runs of 6 folds, 2 epochs

Each command runs as a user would call it, with its own processes; its memory is the largest sum of the proportional set
sizes of all of them, which counts shared pages once. The time per clip includes starting; `beyond starting` is the
ratio of the times without that for the fewest clips (`--fewest`). The exit status is 1 if a ratio exceeds its limit.
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
MOST_TIME, MOST_MEMORY = 1.05, 1.15  # Limits of the ratios.
NOISE_S = 1.0  # A shorter time beyond that of starting counts as this.
COMMANDS = ("extract", "stored", "resume", "parts", "fit", "order")
CONFIG = config_folder() / "base.yaml"


def make_clips(folder: Path, num_clips: int, clips_of_video: int) -> Path:
    """A catalog of clips of `FRAMES` frames, in groups of two clips of different classes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for first in range(0, num_clips, clips_of_video):
        with av.open(str(folder / f"{first}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": str(FRAMES)})
            stream.width = stream.height = SIZE
            for _ in range(clips_of_video * FRAMES):
                blocks = rng.integers(0, 256, (8, 8, 3), np.uint8).repeat(SIZE // 8, 0).repeat(SIZE // 8, 1)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(blocks, "rgb24")))
            container.mux(stream.encode())
    splits = ["train"] * 7 + ["val"] + ["test"] * 2
    clips = []
    for number in range(num_clips):
        place, group = number % clips_of_video, number // 2
        path = str(folder / f"{number - place}.mp4")
        interval = place * FRAMES / RATE, (place + 1) * FRAMES / RATE
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


def interrupt(store: Path) -> None:
    """Remove what an interrupted extraction would not have written yet."""
    shards = sorted(store.glob("*/shards/*.safetensors"))
    for shard in shards[len(shards) // 2 :]:
        shard.unlink()


def run(name: str, folder: Path, num_clips: int) -> tuple[float, float]:
    """Seconds and peak memory in MiB of a command for so many clips, after the commands whose results it uses."""
    source = folder / ("one video" if name == "parts" else "videos")
    if not source.exists():
        make_clips(source, num_clips, num_clips if name == "parts" else CLIPS_OF_VIDEO)
    data = ["--config", str(CONFIG), "--data.catalog", str(source / "catalog.csv"), "--data.store",
            str(source / "store"), "--data.features.backbone.weights", "random", "--data.features.sampling", "Uniform",
            "--data.features.sampling.num_frames", str(FRAMES)]  # fmt: skip
    if name not in ("extract", "parts") and not (source / "store").exists():
        measured(["extract", *data])
    if name == "resume":
        interrupt(source / "store")
    if name == "fit":
        head = ["--config", str(CONFIG.parent / "head" / "gru.yaml")]
        return measured(["fit", *data, *head, "--wandb", "disabled", "--run-dir", str(folder / "run"),
                         "--trainer.max_epochs", "2"])  # fmt: skip
    if name == "order":
        return measured(["order", *data, "--config", str(CONFIG.parent / "order.yaml"), "--order.heads", "[none,gru]",
                         "--order.training_conditions", "[ordered,fixed_permutation]", "--order.runs", "6",
                         "--order.folds", "6", "--trainer.max_epochs", "2", "--wandb", "disabled",
                         "--out", str(folder / "order")])  # fmt: skip
    return measured(["extract", *data])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--fewest", type=int, default=24)
    options.add_argument("--few", type=int, default=400)
    options.add_argument("--many", type=int, default=4000)
    options.add_argument("--only", nargs="+", choices=COMMANDS, default=COMMANDS)
    given = options.parse_args()
    numbers, exceeded = (given.fewest, given.few, given.many), False
    print(f"limits: {MOST_TIME} of the time per clip, {MOST_MEMORY} of the peak memory")
    print("| command | clips | seconds | peak MiB | time per clip of many / few | beyond starting | peak memory |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in COMMANDS:
            if name not in given.only:
                continue
            seconds, mib = zip(*(run(name, Path(folder) / str(number), number) for number in numbers), strict=True)
            per_clip = seconds[2] / numbers[2] / (seconds[1] / numbers[1])
            # Where starting takes nearly all of the time, the rest is noise.
            few_s, many_s = (max(seconds[place] - seconds[0], NOISE_S) for place in (1, 2))
            beyond = many_s / few_s * (numbers[1] - numbers[0]) / (numbers[2] - numbers[0])
            memory = mib[2] / mib[1]
            for place in range(3):
                shown = f"{per_clip:.2f} | {beyond:.2f} | {memory:.2f}" if place == 2 else "| |"
                print(f"| {name} | {numbers[place]} | {seconds[place]:.1f} | {mib[place]:.0f} | {shown} |", flush=True)
            exceeded |= per_clip > MOST_TIME or memory > MOST_MEMORY
    raise SystemExit(int(exceeded))


if __name__ == "__main__":
    main()
