"""A store of millions of clips: sizes, times and memory of its catalog, index and epochs, without videos.

    python benchmarks/scale.py --clips 1000000 10000000

The catalog and the places of features are generated; the features are a few rows for each shard, because nothing here
reads them. A process of its own opens the store as training does. Ten million clips need 2 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES, SHARD_CLIPS, FRAMES = 400, 256, 16
PARQUET_CLIPS = 1_000_000  # More are too large for Python objects.


def memory_mb(kind: str) -> int:
    """Memory of this process: `RssAnon` is private, `RssFile` is of memory-mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1000 for line in lines if line.startswith(f"{kind}:"))


def settings() -> object:
    from videomem.features.backbone import BackboneSettings
    from videomem.features.settings import FeatureSettings, ImportedFeatures
    from videomem.video.sampling import Uniform

    return FeatureSettings(BackboneSettings(), Uniform(FRAMES), imported=ImportedFeatures("scale", 4096))


def write_catalog(num_clips: int, path: Path) -> None:
    from videomem.video.arrow_catalog import SCHEMA

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        classes = pa.array([f"class {number:03}" for number in range(CLASSES)])
        groups = pa.array([f"source {number:07}" for number in range(num_clips // 10)])
        for start in range(0, num_clips, 2**20):
            rows = np.arange(start, min(start + 2**20, num_clips))
            is_test = rows // 10 * 7919 % 97 >= 78
            values = {"label": (rows % CLASSES, classes), "split": (is_test, pa.array(["train", "test"])),
                      "group": (np.minimum(rows // 10, len(groups) - 1), groups)}  # fmt: skip
            columns: dict[str, pa.Array] = {
                "path": pa.array([f"videos/{row % 997:03}/clip_{row:08}.mp4" for row in rows])
            }
            for name, (codes, names) in values.items():
                columns[name] = pa.DictionaryArray.from_arrays(codes.astype(np.int32), names)
            columns |= {name: pa.nulls(len(rows), pa.float64()) for name in ("start_s", "end_s", "fps")}
            writer.write_table(pa.table(columns, schema=SCHEMA))


def build(num_clips: int, folder: Path) -> dict[str, float]:
    """Write the catalog, shards, index and record; returns seconds and megabytes."""
    from videomem.features.index import ClipTable, states_array
    from videomem.features.store import FeatureStore
    from videomem.video.catalog_files import read_catalog

    times, started = {}, time.perf_counter()
    catalog_path = folder / "catalog.arrow"
    write_catalog(num_clips, catalog_path)
    times["write catalog, s"] = time.perf_counter() - started
    store = FeatureStore(folder / "store", settings())  # type: ignore[arg-type]
    store.create()
    rng, rows = np.random.default_rng(0), np.arange(num_clips)
    keys_N = rng.integers(0, 2**64, (2, num_clips), np.uint64)
    start_N = rows % SHARD_CLIPS * FRAMES
    places_N5 = np.stack([rows // SHARD_CLIPS, start_N, start_N + FRAMES, rows % 2**31, np.full(num_clips, 90)], 1)
    for number in range(-(-num_clips // SHARD_CLIPS)):
        Path(store.folder, "shards", f"{number:06d}.safetensors").write_bytes(b"a shard")
    states = store.shards.states()
    table = ClipTable(keys_N[0], keys_N[1], places_N5.astype(np.int32), states_array(states))
    started = time.perf_counter()
    store.files.make("index")
    merged = ClipTable.merged([table], states)
    store.files.write("index/000000.safetensors", merged.content(store._identity("index", 0)))
    times["sort and write index, s"] = time.perf_counter() - started
    started = time.perf_counter()
    digest = read_catalog(catalog_path).digest
    store.files.make("catalogs")
    store.files.write(f"catalogs/{digest[:32]}.safetensors", table.content(store._record_identity(digest)))
    times["read catalog, write record, s"] = time.perf_counter() - started
    if num_clips <= PARQUET_CLIPS:
        pq.write_table(pa.ipc.open_file(catalog_path).read_all(), folder / "catalog.parquet")
        started = time.process_time()
        assert len(read_catalog(folder / "catalog.parquet").clips) == num_clips
        times["read the catalog as Parquet, CPU s"] = time.process_time() - started
    text = keys_N.T.astype(">u8").tobytes().hex()
    keys = [text[start : start + 32] for start in range(0, len(text), 32)]
    planned = FeatureStore(folder / "planned", settings())  # type: ignore[arg-type]
    planned.create()
    for name in ("plan new clips, CPU s", "read the plan and find no new clips, CPU s"):
        started = time.process_time()
        assert len(planned.extend_plan(keys)) == -(-num_clips // SHARD_CLIPS)
        times[name] = time.process_time() - started
    del text, keys
    parts = {
        "catalog": catalog_path,
        "index": folder / "store" / store.settings.key / "index",
        "record": folder / "store" / store.settings.key / "catalogs",
    }
    for name, path in parts.items():
        files = [path] if path.is_file() else list(path.iterdir())
        times[f"{name}, MB"] = sum(file.stat().st_size for file in files) / 1e6
    return times


def measure(folder: Path) -> dict[str, float]:
    """What training does with the store, in this process; returns seconds and megabytes."""
    from videomem.training.data_module import VideoDataModule
    from videomem.training.samplers import EpochSampler

    private, mapped = memory_mb("RssAnon"), memory_mb("RssFile")
    times, whole, whole_cpu = {}, time.perf_counter(), time.process_time()
    data = VideoDataModule(str(folder / "catalog.arrow"), settings(), str(folder / "store"))  # type: ignore[arg-type]
    started = time.perf_counter()
    num_classes = len(data.catalog.classes)
    times["open catalog, s"] = time.perf_counter() - started
    started = time.perf_counter()
    assert sum(data.class_counts) == len(data._rows("train")) and num_classes == CLASSES
    assert data.num_unusable == 0
    times["open record, splits, class counts, s"] = time.perf_counter() - started
    times["open for training, s"] = time.perf_counter() - whole
    times["open for training, CPU s"] = time.process_time() - whole_cpu
    times["private memory, MB"] = memory_mb("RssAnon") - private
    times["mapped memory, MB"] = memory_mb("RssFile") - mapped
    rows = np.random.default_rng(1).integers(0, len(data.clips), 10_000).tolist()
    started = time.perf_counter()
    for row in rows:
        data.entry(row)
    times["entry of a row, us"] = (time.perf_counter() - started) * 1e6 / len(rows)
    keys = [data.key(row) for row in rows]
    started = time.perf_counter()
    index = data.feature_store.read_index()
    times["open index, s"] = time.perf_counter() - started
    started = time.perf_counter()
    assert all(index[key] == data.entry(row) for key, row in zip(keys, rows, strict=True))
    times["look-up of a key and a row, us"] = (time.perf_counter() - started) * 1e6 / len(rows)
    train = data._rows("train")
    for name, shards in (("global", None), ("shards", data._entries.shards_N[train])):
        started = time.perf_counter()
        next(iter(EpochSampler(len(train), 0, lambda: 0, None, shards)))
        times[f"order of an epoch, {name}, s"] = time.perf_counter() - started
    return times


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clips", type=int, nargs="+", default=[1_000_000, 10_000_000])
    options.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        print(*(f"{name}\t{value}" for name, value in measure(given.measure).items()), sep="\n")
        sys.exit()
    results: list[dict[str, float]] = []
    for num_clips in given.clips:
        folder = Path(tempfile.mkdtemp(prefix="videomem_scale_"))
        try:
            built = build(num_clips, folder)
            command = [sys.executable, __file__, "--measure", str(folder)]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
            results.append(built | {name: float(value) for name, value in (line.split("\t") for line in lines)})
        finally:
            shutil.rmtree(folder)
    print(f"{os.cpu_count()} cores\n\n| | {' | '.join(f'{clips:,} clips' for clips in given.clips)} |")
    print("|---|" + "---|" * len(results))
    for name in results[0]:
        print(f"| {name} | {' | '.join(f'{result[name]:.3g}' if name in result else '' for result in results)} |")
