"""Time of a complete `videomem order` on stored features, by part.

    python benchmarks/order_cost.py --clips 2000 --out runs/order_cost
    python benchmarks/order_cost.py --clips 2000 --products           # 2 minutes

Features are noise of AlexNet fc6 size, 16 frames x 4096 in float16, in 10 classes and groups of 5; the time does not
depend on their values. They are imported, planned and tested by the command line with `configs/base.yaml` and
`configs/order.yaml` unchanged. Further arguments are passed to `videomem order`.

With `--products` nothing is tested: the time of the matrix products alone is printed, which a test of the default
settings cannot fall below. One stack of each head is trained and tested for one and for two epochs under torch's
profiler, and the time of the products is extrapolated to all epochs and jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml
from commands import configs, forecast, order_test, run
from torch.profiler import ProfilerActivity, profile

from videomem.experiments.clips import Clips, clips_of_arrays
from videomem.experiments.order_test.jobs import TrainingJob, in_cache
from videomem.experiments.order_test.plan import OrderSettings, Recipe
from videomem.experiments.order_test.run import make_plan
from videomem.experiments.order_test.run_splits import RunSplit
from videomem.experiments.order_test.training import stacks_of, train_jobs
from videomem.experiments.order_test.training_results import read_training_result
from videomem.utils.folders import config_folder
from videomem.utils.parallel_jobs import one_thread, quiet
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import write_catalog

CLASSES, FRAMES, DIM, PER_GROUP = 10, 16, 4096, 5
PRODUCTS = {f"aten::{name}" for name in ("mm", "bmm", "addmm", "baddbmm", "mkldnn_rnn_layer", "convolution")}


def write_features(num_clips: int, out: Path) -> None:
    """A catalog and an array for each of its clips."""
    (out / "arrays").mkdir(parents=True, exist_ok=True)
    rng, clips = np.random.default_rng(0), []
    for number in range(num_clips):
        name = f"{number:06d}"
        np.save(out / "arrays" / f"{name}.npy", rng.standard_normal((FRAMES, DIM), dtype=np.float32).astype(np.float16))
        clips.append(Clip(f"{name}.mp4", f"class{number % CLASSES}", "train", f"group{number // PER_GROUP}"))
    write_catalog(Catalog(tuple(clips)), out / "catalog.csv")


def products(num_clips: int) -> Iterator[tuple[str, int, float]]:
    """Each head with its number of training jobs and the CPU seconds of the matrix products of all of them."""
    default = yaml.safe_load((config_folder() / "order.yaml").read_text())["order"]
    settings, rng = OrderSettings(**{**default, "heads": tuple(default["heads"])}), np.random.default_rng(0)
    clips = clips_of_arrays(
        [rng.standard_normal((FRAMES, settings.projection_dim), dtype=np.float32) for _ in range(num_clips)],
        [f"class{number % CLASSES}" for number in range(num_clips)],
        [str(number // PER_GROUP) for number in range(num_clips)],
    )
    plan = make_plan(clips, settings, Recipe())
    jobs = {job: split for job, (split, _) in in_cache(plan, clips, Path("none")).items()}
    for name in settings.heads:
        mine = {job: split for job, split in jobs.items() if job.name == name}
        stack = stacks_of(mine, clips, plan)[0]
        one, two = (_product_s({job: mine[job] for job in stack}, clips, settings, epochs) for epochs in (1, 2))
        yield name, len(mine), len(mine) / len(stack) * (one + (plan.recipe.epochs - 1) * (two - one))


def _product_s(jobs: Mapping[TrainingJob, RunSplit], clips: Clips, settings: OrderSettings, epochs: int) -> float:
    with one_thread(), quiet(), profile(activities=[ProfilerActivity.CPU]) as found:
        list(train_jobs(jobs, clips, settings, Recipe(epochs=epochs)))
    return sum(event.self_cpu_time_total for event in found.key_averages() if event.key in PRODUCTS) / 1e6


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clips", type=int, default=2000)
    options.add_argument("--out", type=Path, default=Path("runs/order_cost"))
    options.add_argument("--products", action="store_true", help="time of the matrix products alone")
    given, further = options.parse_known_args()
    if given.products:
        total = 0.0
        for name, number, product_s in products(given.clips):
            print(f"{name}: {number} training jobs, {product_s:.0f} s of matrix products", flush=True)
            total += product_s
        cores = os.cpu_count() or 1
        print(f"matrix products alone: {total:.0f} CPU seconds, {total / cores:.0f} s on {cores} cores")
        raise SystemExit
    out = given.out.absolute()
    if not (out / "catalog.csv").exists():
        write_features(given.clips, out)
    place = ["--catalog", str(out / "catalog.csv"), "--store", str(out / "features")]
    run("import-features", *place, "--features", str(out / "arrays"), "--name", "noise")
    imported = json.dumps({"name": "noise", "feature_dim": DIM})
    data = ["--data.catalog", str(out / "catalog.csv"), "--data.store", str(out / "features")]
    data += ["--data.features.imported", imported]
    arguments = [*configs("base", "order"), *data]
    forecast(arguments, further)
    started = time.perf_counter()
    result = order_test(arguments, further, out / "order")
    wall = time.perf_counter() - started
    results = [read_training_result(path) for path in (out / "features" / "order_training_results").glob("*.npz")]
    whole, testing = sum(one.seconds for one in results), sum(one.seconds_testing for one in results)
    print(f"{len(results)} training jobs: {wall:.0f} s wall time with the report; {result.seconds:.0f} s to the result")
    print(f"sum over training jobs {whole:.0f} s: training {whole - testing:.0f} s, testing {testing:.0f} s")
    for label in dict.fromkeys(one.label for one in results):
        mine = [one.seconds for one in results if one.label == label]
        print(f"  {label}: {len(mine)} training jobs of {np.mean(mine):.1f} s")
