"""Extraction of real videos on Ray, while an actor and the driver are killed.

    python benchmarks/ray_kills.py --root FOLDER --squeezenet WEIGHTS.pth --clips 60

FOLDER holds videos. The store is compared, file by file, with that of the local engine: a killed process must leave no
hole, no duplicate and no other byte.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SHARD_CLIPS = 4  # so that sixty clips have many shards
PREFIX = "videomem_ray_kills_"
COMMAND = f"""
import sys
from videomem.features import store
from videomem.features.ray_engine import RayEngine  # Its actors are named in the list of processes.
store.SHARD_CLIPS = {SHARD_CLIPS}
from videomem.cli.main import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def processes(word: bytes, mark: str) -> Iterator[int]:
    """Processes with a word in their title that were started by this one."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title, environment = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if word in title and mark.encode() in environment:
            yield int(folder.name)


def shards(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*/shards/*.safetensors")}


def extract(arguments: list[str], store: Path, log: Path, mark: str, kills: dict[int, str]) -> int:
    """Extract, and kill a process when so many shards are complete; returns the exit status."""
    script = log.parent / "extract.py"
    script.write_text(COMMAND)
    started, left = time.perf_counter(), sorted(kills.items())
    with log.open("a") as file:
        driver = subprocess.Popen(
            [sys.executable, str(script), "extract", *arguments, "--data.store", str(store)],
            env=os.environ | {"VIDEOMEM_RAY_KILLS": mark}, stdout=file, stderr=file,
        )  # fmt: skip
        while driver.poll() is None:
            if left and len(shards(store)) >= left[0][0]:
                number, what = left.pop(0)
                victims = [driver.pid] if what == "driver" else list(processes(b"_ShardActor", mark))
                for victim in victims[:1]:
                    os.kill(victim, signal.SIGKILL)
                done = f"{what} killed (process {victims[0]})" if victims else f"no {what} found"
                print(f"  {time.perf_counter() - started:5.1f} s: {number} shards complete, {done}", flush=True)
            time.sleep(0.05)
    seconds = time.perf_counter() - started
    print(f"  {seconds:5.1f} s: exit status {driver.returncode}, {len(shards(store))} shards complete", flush=True)
    return driver.returncode


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", type=Path, required=True)
    options.add_argument("--squeezenet", type=Path, help="weights; default: random")
    options.add_argument("--clips", type=int, default=60)
    given = options.parse_args()
    from commands import configs, squeezenet

    from videomem.video.catalog import Catalog, Clip
    from videomem.video.catalog_files import write_catalog

    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as place:
        folder = Path(place)
        files = sorted(given.root.glob("*.mp4"))[:: max(1, len(list(given.root.glob("*.mp4"))) // given.clips)]
        clips = (Clip(str(file.absolute()), "ab"[row % 2], "train", file.stem) for row, file in enumerate(files))
        write_catalog(Catalog(tuple(clips)[: given.clips]), folder / "catalog.csv")
        net = json.dumps(squeezenet(given.squeezenet))
        arguments = [*configs("base"), "--data.catalog", str(folder / "catalog.csv"), "--data.features.backbone", net,
                     "--workers", "1", "--device", "cpu"]  # fmt: skip
        log = folder / "log.txt"
        print("local engine", flush=True)
        assert extract(arguments, folder / "local", log, place, {}) == 0, log.read_text()
        on_ray = [*arguments, "--engine", "ray"]
        print("Ray", flush=True)
        status = extract(on_ray, folder / "ray", log, place, {2: "actor", 8: "driver"})
        assert status == -signal.SIGKILL, log.read_text()
        print("Ray, the same command again", flush=True)
        assert extract(on_ray, folder / "ray", log, place, {}) == 0, log.read_text()
        print(log.read_text())
        local, ray = shards(folder / "local"), shards(folder / "ray")
        assert local == ray, [name for name in local | ray if local.get(name) != ray.get(name)]
        num_bytes = sum(map(len, ray.values()))
        print(f"the same bytes: {len(ray)} shards, {num_bytes / 1e6:.1f} MB, no duplicate and no hole")
