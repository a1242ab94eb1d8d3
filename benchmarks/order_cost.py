"""Time of a complete `videomem order` on stored features, by part.

    python benchmarks/order_cost.py --clips 2000 --out runs/order_cost

Features are noise of AlexNet fc6 size, 16 frames x 4096 in float16, in 10 classes and groups of 5; the time does not
depend on their values. They are imported, planned and tested by the command line with `configs/base.yaml` and
`configs/order.yaml` unchanged. Further arguments are passed to `videomem order`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from commands import configs, forecast, order_test, run

from videomem.experiments.order_test.training_results import read_training_result
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import write_catalog

CLASSES, FRAMES, DIM, PER_GROUP = 10, 16, 4096, 5


def write_features(num_clips: int, out: Path) -> None:
    """A catalog and an array for each of its clips."""
    (out / "arrays").mkdir(parents=True, exist_ok=True)
    rng, clips = np.random.default_rng(0), []
    for number in range(num_clips):
        name = f"{number:06d}"
        np.save(out / "arrays" / f"{name}.npy", rng.standard_normal((FRAMES, DIM), dtype=np.float32).astype(np.float16))
        clips.append(Clip(f"{name}.mp4", f"class{number % CLASSES}", "train", f"group{number // PER_GROUP}"))
    write_catalog(Catalog(tuple(clips)), out / "catalog.csv")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--clips", type=int, default=2000)
    options.add_argument("--out", type=Path, default=Path("runs/order_cost"))
    given, further = options.parse_known_args()
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
