"""Error rate and power of the order test on data with a known answer, with real training.

    python benchmarks/order_training.py --nulls 200 --planted 20

Each data set is generated from a seed: two classes, 40 groups of 5 clips, 8 frames per clip, 16 features per frame. In
a null data set, the frames of a clip are exchangeable given its class (a class mean, a group effect, a clip effect and
independent noise), so order has no value to any learner. In a planted data set, the first feature also rises or falls
over the clip, depending on the class. GRU heads are trained on each data set by the complete protocol: 10 runs on
group-disjoint folds, in the training conditions `ordered` and `fixed_permutation` (`--conditions` adds others).

OO: trained and tested in order. OS: trained in order, tested shuffled. FS: trained on one fixed permutation per clip,
tested shuffled. SS: trained on a new permutation in every epoch, tested shuffled.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from videomem.experiments.clips import Clips, clips_of_arrays
from videomem.experiments.order_test.plan import OrderSettings, Recipe, TrainingCondition
from videomem.experiments.order_test.run import make_plan, run_order_test

GROUPS, CLIPS, FRAMES, DIM = 40, 5, 8, 16
APPEARANCE, TREND = 0.33, 1.3
RECIPE = Recipe(epochs=10, batch_size=64, learning_rate=1e-2, dropout=0.2)


def draw(seed: int, planted: bool) -> Clips:
    """A data set: (T, D) arrays with labels and groups."""
    rng = np.random.default_rng((seed, planted))
    features, labels, groups = [], [], []
    for group in range(GROUPS):
        of_group = rng.normal(0, 0.3, DIM)
        for _ in range(CLIPS):
            sign = rng.choice([-1, 1])
            x_TD = rng.normal(0, 1, (FRAMES, DIM)) + of_group + rng.normal(0, 0.3, DIM)
            x_TD[:, 1] += sign * APPEARANCE
            if planted:
                x_TD[:, 0] += sign * TREND * np.linspace(-1, 1, FRAMES)
            features.append(x_TD.astype(np.float32))
            labels.append("up" if sign > 0 else "down")
            groups.append(str(group))
    return clips_of_arrays(features, labels, groups, name=f"{'planted' if planted else 'null'} {seed}")


def judge(job: tuple[int, bool], conditions: tuple[TrainingCondition, ...], out: Path) -> list[object]:
    """Kind, seed, verdict and numbers of one data set."""
    seed, planted = job
    torch.set_num_threads(1)
    clips = draw(seed, planted)
    settings = OrderSettings(
        heads=("gru",),
        training_conditions=conditions,
        runs=10,
        folds=10,
        hidden_dim=16,
        projection_dim=16,
        num_permutations=10,
        seed=seed,
    )
    result = run_order_test(clips, make_plan(clips, settings, RECIPE), out / "jobs").result
    gru = result.heads[0]
    value, biased = (
        gru.value_of_order,
        gru.accuracies["ordered/ordered"].value - gru.accuracies["reshuffled/shuffled"].value
        if "reshuffled" in conditions
        else "",
    )
    assert gru.verdict is not None
    kind = "planted" if planted else "null"
    row = [kind, seed, gru.verdict.kind, value.value, value.low, value.high, value.p, value.low90, value.high90]
    return [
        *row,
        gru.accuracies["ordered/ordered"].value,
        gru.reliance.value if gru.reliance else 0.0,
        gru.reliance_test.p if gru.reliance_test else "",
        biased,
    ]


COLUMNS = ("kind", "seed", "verdict", "OO - FS", "low", "high", "p", "low90", "high90", "OO", "OO - OS",
           "p of reliance", "OO - SS")  # fmt: skip


def summary(rows: list[list[object]], kind: str) -> str:
    """Counts of verdicts, the mean difference, and the share of p below 0.05 with its exact 95 % interval."""
    mine = [dict(zip(COLUMNS, row, strict=True)) for row in rows if row[0] == kind]
    if not mine:
        return f"{kind}: none"
    found = sum(row["p"] <= 0.05 for row in mine)
    low, high = stats.binomtest(found, len(mine)).proportion_ci()
    lines = [f"{kind}: {len(mine)} data sets, OO {np.mean([row['OO'] for row in mine]):.3f}"]
    lines.append(f"  verdicts: {dict(Counter(str(row['verdict']) for row in mine))}")
    lines.append(f"  OO - FS not 0 at 5 %: {found} of {len(mine)} = {found / len(mine):.3f} ({low:.3f} to {high:.3f})")
    for name in ("OO - FS", "OO - SS"):
        values = [row[name] for row in mine if row[name] != ""]
        if values:
            error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
            lines.append(f"  mean {name}: {100 * np.mean(values):.2f} points (standard error {100 * error:.2f})")
    if kind == "null":
        covered = np.mean([row["low"] <= 0 <= row["high"] for row in mine])
        lines.append(f"  95 % interval holds 0: {covered:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nulls", type=int, default=200)
    options.add_argument("--planted", type=int, default=20)
    options.add_argument("--conditions", nargs="+", default=["ordered", "fixed_permutation"])
    options.add_argument("--processes", type=int, default=os.cpu_count())
    options.add_argument("--out", type=Path, default=Path("runs/order_training"))
    given = options.parse_args()
    jobs = [(seed, False) for seed in range(given.nulls)] + [(seed, True) for seed in range(given.planted)]
    work = partial(judge, conditions=tuple(given.conditions), out=given.out)
    given.out.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(given.processes, get_context("spawn")) as pool,
        (given.out / "data_sets.csv").open("w", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        rows = []
        for row in pool.map(work, jobs):
            rows.append(row)
            writer.writerow(row)
            file.flush()
            print(f"\r{len(rows)} of {len(jobs)}", end="", flush=True)
    print(f"\n{summary(rows, 'null')}\n{summary(rows, 'planted')}\n{given.out / 'data_sets.csv'}")
