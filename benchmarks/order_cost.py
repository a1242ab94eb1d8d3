"""Time of a complete `videomem order` on stored features, by part.

    python benchmarks/order_cost.py --clips 2000 --out runs/order_cost
    python benchmarks/order_cost.py --clips 2000 --products           # 2 minutes

Features are noise of AlexNet fc6 size, 16 frames x 4096 in float16, in 10 classes and groups of 5; the time does not
depend on their values. They are imported, planned and tested by the command line with `configs/base.yaml` and
`configs/order.yaml` unchanged. Further arguments are passed to `videomem order`.

With `--products` no test is run. Printed is the time of its matrix products alone, which it cannot fall below: their
number of operations, counted while a stack of each head is trained and tested for one and for two epochs on fewer
clips, and extrapolated to all epochs, jobs and clips, divided by the speed of the machine for products of these sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from commands import configs, forecast, order_test, run
from speed import seconds
from torch.utils.flop_counter import FlopCounterMode

from videomem.experiments.clips import Clips, clips_of_arrays
from videomem.experiments.order_test.jobs import TrainingJob, in_cache
from videomem.experiments.order_test.plan import MIN_EPOCHS, OrderSettings, Recipe
from videomem.experiments.order_test.run import make_plan
from videomem.experiments.order_test.run_splits import RunSplit
from videomem.experiments.order_test.training import MAX_STACK, stacks_of, train_jobs
from videomem.experiments.order_test.training_results import read_training_result
from videomem.utils.folders import config_folder
from videomem.utils.parallel_jobs import one_thread, quiet
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import write_catalog

CLASSES, FRAMES, DIM, PER_GROUP = 10, 16, 4096, 5
COUNTED_CLIPS = 200  # Their training clips fill all batches.


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
    """Each head with its number of training jobs and the floating point operations of the products of all of them."""
    default = yaml.safe_load((config_folder() / "order.yaml").read_text())["order"]
    settings, rng = OrderSettings(**{**default, "heads": tuple(default["heads"])}), np.random.default_rng(0)
    counted = COUNTED_CLIPS
    clips = clips_of_arrays(
        [rng.standard_normal((FRAMES, settings.projection_dim), dtype=np.float32) for _ in range(counted)],
        [f"class{number % CLASSES}" for number in range(counted)],
        [str(number // PER_GROUP) for number in range(counted)],
    )
    plan = make_plan(clips, settings, Recipe(epochs=MIN_EPOCHS))
    jobs = {job: split for job, (split, _) in in_cache(plan, clips, Path("none")).items()}
    for name in settings.heads:
        mine = {job: split for job, split in jobs.items() if job.name == name}
        stack = {job: mine[job] for job in stacks_of(mine, clips, plan)[0]}
        # The first count has the projection too, which all jobs of a run share.
        _, one, two = (operations(stack, clips, settings, epochs) for epochs in (1, 1, 2))
        of_stack = num_clips / counted * (one + (plan.recipe.epochs - 1) * (two - one))
        yield name, len(mine), of_stack * len(mine) / len(stack)


def operations(jobs: Mapping[TrainingJob, RunSplit], clips: Clips, settings: OrderSettings, epochs: int) -> int:
    with one_thread(), quiet(), FlopCounterMode(display=False) as counter:
        list(train_jobs(jobs, clips, settings, Recipe(epochs=epochs)))
    return counter.get_total_flops()


def product_speed() -> float:
    """Floating point operations per second of one thread, for the products of a recurrence of `MAX_STACK` heads."""
    num_clips, dim = Recipe().batch_size, OrderSettings().hidden_dim
    state, weights = torch.randn(MAX_STACK, num_clips, dim), torch.randn(MAX_STACK, dim, 3 * dim)
    with one_thread():
        taken = min(seconds(partial(torch.bmm, state, weights)) for _ in range(1000))
    return 2 * MAX_STACK * num_clips * dim * 3 * dim / taken


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clips", type=int, default=2000)
    options.add_argument("--out", type=Path, default=Path("runs/order_cost"))
    options.add_argument("--products", action="store_true", help="time of the matrix products alone")
    given, further = options.parse_known_args()
    if given.products:
        total, speed, cores = 0.0, product_speed(), os.cpu_count() or 1
        for name, number, flop in products(given.clips):
            print(f"{name}: {number} training jobs, {flop / 1e12:.2f} * 10^12 operations", flush=True)
            total += flop
        taken = total / speed
        print(f"{taken:.0f} CPU seconds at {speed / 1e9:.0f} * 10^9 per second, {taken / cores:.0f} s on {cores} cores")
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
