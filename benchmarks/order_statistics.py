"""How often the statistics of the order test are right, by simulation; the tables of docs/order_statistics.md.

    python benchmarks/order_statistics.py [--simulations 5000] [--out cells.csv]

Every cell has its own fixed seed, so a cell gives the same numbers alone and among the others.

What is simulated. A clip is right where a latent normal of variance 1 is below a threshold, so each arm's accuracy is
exactly what is asked for. The latent variable of arm O (in order) or F (fixed shuffle, mean over `PERMUTATIONS`) has:

    group      variance such that right and wrong of two clips of a group have the asked correlation, in each run
    clip       `CLIP_SHARE` of the rest, the same in all runs
    remainder  new for each run and permutation
    run        one value per arm and run for all clips, such that the difference in accuracy has the asked SD over runs;
               the thresholds are moved so that accuracies are kept on average

Both arms share group and clip effects to `ARM_SHARE` of their variance, so a group's differences are correlated about
as its outcomes are. Sizes of groups say nothing about their effects; they are lognormal quantiles with
sigma 0 (5 clips each), 0.7 (`unequal`, the largest 4 times the mean) or 1 (`very unequal`, 6 times), of the same total.

Two designs: `fixed`, every run tests the same clips; `random`, each run tests a quarter of the pool, drawn again
for every `CHUNK` simulations. There, run effects of any two runs correlate by rho = n_test / (n_test + n_train), as
Nadeau & Bengio (2003) assume of trainings on overlapping sets, and the analysis is told n_test / n_train = 1/3.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass, fields
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from videomem.statistics.contrasts import bootstrap_t, zero_bound
from videomem.statistics.group_tables import Floats
from videomem.statistics.planning import groups_for_equivalence
from videomem.statistics.randomization import reliance_test
from videomem.statistics.variance import two_way, two_way_p

RUNS, PERMUTATIONS, CLIPS_PER_GROUP = 10, 2, 5
CLIP_SHARE, ARM_SHARE = 0.6, 0.7
TEST_SHARE = 0.25
MARGIN = 0.02
CHUNK = 250
SIGMA = {"equal": 0.0, "unequal": 0.7, "very unequal": 1.0}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


@dataclass(frozen=True)
class Cell:
    table: str
    design: str
    groups: int
    sizes: str
    accuracy: float
    correlation: float
    run_sd: float
    effect: float
    arm_share: float = ARM_SHARE


@dataclass(frozen=True)
class Outcome:
    """Shares of simulations, but `sd` (of the estimate) and `mean_se` in points.

    `oracle` is the power of a z test that knows the SD, by the normal distribution: about the most that can be had.
    """

    simulations: int
    coverage: float
    rejected: float
    oracle: float
    equivalent: float
    sd: float
    mean_se: float


def group_sizes(num_groups: int, sigma: float) -> np.ndarray:
    wanted = np.exp(sigma * ndtri((np.arange(num_groups) + 0.5) / num_groups))
    wanted *= CLIPS_PER_GROUP * num_groups / wanted.sum()
    sizes = np.maximum(1, np.floor(wanted)).astype(int)
    while sizes.sum() != CLIPS_PER_GROUP * num_groups:
        lacks = sizes.sum() < CLIPS_PER_GROUP * num_groups
        sizes[np.argmax(wanted - sizes) if lacks else np.argmax(sizes)] += 1 if lacks else -1
    return sizes


def latent_variance(accuracy: float, covariance: float) -> float:
    """Share r of the latent variance at which P(both right) - accuracy^2 is the covariance asked for."""

    def excess(r: float) -> float:
        shares = ndtr((ndtri(accuracy) - np.sqrt(r) * NODES) / np.sqrt(1 - r))
        return float((WEIGHTS / WEIGHTS.sum()) @ shares**2 - accuracy**2 - covariance)

    return float(brentq(excess, 1e-9, 0.98)) if covariance > 0 else 0.0


def draw_splits(cell: Cell, rng: np.random.Generator) -> list[np.ndarray]:
    """Groups tested in each run."""
    if cell.design == "fixed":
        return [np.arange(cell.groups)] * RUNS
    num_tested = round(TEST_SHARE * cell.groups)
    return [np.sort(rng.permutation(cell.groups)[:num_tested]) for _ in range(RUNS)]


def normals(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def simulate(
    cell: Cell, num: int, rng: np.random.Generator, null: bool = False
) -> Iterator[tuple[int, np.ndarray, list]]:
    """For each run: its number, the groups tested, and sums of right clips (num, groups) of O and of each permutation.

    With `null`, F has the same latent variables as O but for the remainder: an frame order like any other.
    """
    sizes = group_sizes(cell.groups, SIGMA[cell.sizes])
    splits = draw_splits(cell, rng)
    shared = normals(rng, num, cell.groups), normals(rng, num, sizes.sum())
    arms = [_arm(cell, accuracy, sizes, shared, num, rng) for accuracy in (cell.accuracy, cell.accuracy - cell.effect)]
    for run, tested in enumerate(splits):
        clips = np.flatnonzero(np.isin(np.repeat(np.arange(cell.groups), sizes), tested))
        starts = np.concatenate([[0], np.cumsum(sizes[tested])[:-1]])
        sums = []
        for arm, times in ((0, 1), (0 if null else 1, PERMUTATIONS)):
            lasting, thresholds, noise_sd = arms[arm]
            below = (thresholds[:, run, None] - lasting[:, clips]) / noise_sd
            for _ in range(times):
                right = (normals(rng, num, len(clips)) < below).astype(np.float32)
                sums.append(np.add.reduceat(right, starts, axis=1))
        yield run, tested, sums


def _arm(cell: Cell, accuracy: float, sizes: np.ndarray, shared: tuple, num: int, rng: np.random.Generator) -> tuple:
    """Lasting part of the latent variable (num, clips), thresholds (num, RUNS), SD of the remainder."""
    of_group = latent_variance(accuracy, cell.correlation * accuracy * (1 - accuracy))
    of_run = latent_variance(accuracy, cell.run_sd**2 / 2)
    of_run /= 1 - of_run
    of_clip = CLIP_SHARE * (1 - of_group)
    common, own = np.float32(np.sqrt(cell.arm_share)), np.float32(np.sqrt(1 - cell.arm_share))
    group = common * shared[0] + own * normals(rng, num, cell.groups)
    clip = common * shared[1] + own * normals(rng, num, int(sizes.sum()))
    lasting = np.float32(np.sqrt(of_group)) * np.repeat(group, sizes, axis=1) + np.float32(np.sqrt(of_clip)) * clip
    rho = 0.0 if cell.design == "fixed" else TEST_SHARE
    run = np.sqrt(rho) * normals(rng, num, 1) + np.sqrt(1 - rho) * normals(rng, num, RUNS)
    thresholds = ndtri(accuracy) * np.sqrt(1 + of_run) - np.sqrt(of_run) * run
    return lasting, thresholds.astype(np.float32), np.float32(np.sqrt(1 - of_group - of_clip))


def tables(cell: Cell, num: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Sums of d (num, G, R) and counts (G, R) of the groups that were tested at all."""
    sums, counts = np.zeros((num, cell.groups, RUNS)), np.zeros((cell.groups, RUNS))
    sizes = group_sizes(cell.groups, SIGMA[cell.sizes])
    for run, tested, (ordered, *shuffled) in simulate(cell, num, rng):
        sums[:, tested, run] = ordered - sum(shuffled) / PERMUTATIONS
        counts[tested, run] = sizes[tested]
    there = counts.sum(1) > 0
    return sums[:, there], counts[there]


def overlap(cell: Cell) -> float:
    return 0.0 if cell.design == "fixed" else TEST_SHARE / (1 - TEST_SHARE)


def contrast_cell(cell: Cell, num: int, rng: np.random.Generator) -> Outcome:
    parts = []
    for _ in range(num // CHUNK):
        sums, counts = tables(cell, CHUNK, rng)
        fit = two_way(sums, counts, overlap(cell))
        differs, num_groups = fit.se > 1e-12, len(counts)
        half95 = np.where(differs, fit.half(0.95), zero_bound(num_groups, 0.95))
        half90 = np.where(differs, fit.half_for_equivalence(), zero_bound(num_groups, 0.90))
        p = np.where(differs, two_way_p(fit), 1.0)
        enough = num_groups >= groups_for_equivalence(MARGIN)
        parts.append((fit.value, fit.se, np.abs(fit.value - cell.effect) <= half95, p <= 0.05,
                      (np.abs(fit.value) + half90 < MARGIN) & enough))  # fmt: skip
    value, se, covered, rejected, equivalent = (np.concatenate(part) for part in zip(*parts, strict=True))
    z = cell.effect / value.std()
    oracle = float(ndtr(z - 1.96) + ndtr(-z - 1.96))
    return Outcome(len(value), covered.mean(), rejected.mean(), oracle, equivalent.mean(),
                   100 * value.std(), 100 * se.mean())  # fmt: skip


def bootstrap_cell(cell: Cell, num: int, rng: np.random.Generator) -> Outcome:
    """Coverage of the bootstrap-t with 399 draws, for a fifth of the simulations."""
    values, halves = [], []
    for start in range(0, num // 5, CHUNK):
        sums, counts = tables(cell, min(CHUNK, num // 5 - start), rng)
        values.extend(sums.sum((1, 2)) / counts.sum())
        halves.extend(bootstrap_t(one, counts, overlap(cell), 399, seed) for seed, one in enumerate(sums))
    value, half = np.array(values), np.array([np.inf if one is None else one for one in halves])
    covered, rejected = np.abs(value - cell.effect) <= half, np.abs(value) > half
    return Outcome(len(value), covered.mean(), rejected.mean(), np.nan, np.nan, 100 * value.std(), np.nan)


def reliance_cell(cell: Cell, num: int, rng: np.random.Generator) -> Outcome:
    """Size of the reliance test with 499 draws: rows are groups in a run, with shares of right clips."""
    rejected = []
    for _ in range(num // CHUNK):
        rows, groups = [], []
        for _, tested, sums in simulate(cell, CHUNK, rng, null=True):
            rows.append(np.stack(sums, -1) / group_sizes(cell.groups, SIGMA[cell.sizes]).max())
            groups.append(tested)
        rows, groups = np.concatenate(rows, 1), np.concatenate(groups)
        rejected += [reliance_test(one, groups, 499, seed).p <= 0.05 for seed, one in enumerate(rows)]
    return Outcome(len(rejected), np.nan, np.mean(rejected), np.nan, np.nan, np.nan, np.nan)


GRID = {"accuracy": (0.6, 0.8, 0.9, 0.97), "correlation": (0.0, 0.1, 0.2, 0.3), "run_sd": (0.0, 0.02, 0.05)}


def cells() -> Iterator[Cell]:
    everything = list(product(SIGMA, *GRID.values()))
    moderate = [one for one in everything if one[0] != "very unequal"]
    grids = {
        ("fixed", 40): everything,
        ("fixed", 20): [one for one in everything if one[3] != 0.02],
        ("random", 40): moderate,
        ("random", 160): [one for one in moderate if one[1] != 0.9 and one[2] != 0.1],
    }
    for ((design, groups), grid), effect in product(grids.items(), (0.0, 0.1)):
        yield from (Cell(f"{design} {groups}", design, groups, *one, effect) for one in grid)
    for accuracy, share in product(GRID["accuracy"], (0.5, 0.7, 0.9)):
        yield Cell("power", "fixed", 40, "equal", accuracy, 0.2, 0.02, 0.1, share)
    for sizes, accuracy, correlation, run_sd in product(SIGMA, (0.8, 0.97), (0.0, 0.3), (0.0, 0.02)):
        yield Cell("margin", "fixed", 120, sizes, accuracy, correlation, run_sd, MARGIN)
    for sizes, (accuracy, correlation) in product(SIGMA, ((0.8, 0.0), (0.97, 0.0), (0.97, 0.3))):
        yield Cell("margin", "fixed", 400, sizes, accuracy, correlation, 0.0, MARGIN)
    for sizes, accuracy, design in product(("equal", "unequal"), (0.8, 0.97), ("fixed", "random")):
        yield Cell("bootstrap", design, 40, sizes, accuracy, 0.2, 0.02, 0.1)
    for sizes, accuracy, correlation in product(("equal", "very unequal"), (0.6, 0.97), (0.0, 0.3)):
        yield Cell("reliance", "fixed", 40, sizes, accuracy, correlation, 0.02, 0.0)


def run_cell(cell: Cell, num: int) -> Outcome:
    rng = np.random.default_rng(crc32(repr(astuple(cell)).encode()))
    kinds = {"bootstrap": bootstrap_cell, "reliance": reliance_cell}
    return kinds.get(cell.table, contrast_cell)(cell, num, rng)


def describe(cell: Cell) -> str:
    return f"{cell.sizes}, accuracy {cell.accuracy:g}, correlation {cell.correlation:g}, run SD {100 * cell.run_sd:g}"


def report(results: list[tuple[Cell, Outcome]]) -> None:
    """The worst cell of each table."""
    print("| table | what | worst | median | cells beyond | where worst |\n|---|---|---|---|---|---|")
    for table in dict.fromkeys(cell.table for cell, _ in results):
        here = [(cell, one) for cell, one in results if cell.table == table]
        for what, limit, sign, kept in (
            ("size (at most .06)", 0.06, 1, [(c, o.rejected) for c, o in here if c.effect == 0]),
            ("coverage at 0 (at least .93)", 0.93, -1, [(c, o.coverage) for c, o in here if c.effect == 0]),
            ("coverage at effect (at least .93)", 0.93, -1, [(c, o.coverage) for c, o in here if c.effect != 0]),
            ("wrong equivalence (at most .05)", 0.05, 1, [(c, o.equivalent) for c, o in here if c.effect == MARGIN]),
        ):
            kept = [(c, float(v)) for c, v in kept if not np.isnan(v)]
            if kept:
                cell, worst = max(kept, key=lambda pair: sign * pair[1])
                beyond = sum(sign * value > sign * limit for _, value in kept)
                middle = np.median([value for _, value in kept])
                print(f"| {table} | {what} | {worst:.3f} | {middle:.3f} | {beyond} of {len(kept)} | {describe(cell)} |")
    print("\n| power at 10 points, correlation 0.2, run SD 2 | both arms share | power | knowing the SD |")
    print("|---|---|---|---|")
    for cell, one in results:
        named = (cell.correlation, cell.run_sd, cell.effect) == (0.2, 0.02, 0.1)
        if named and cell.table in ("power", "fixed 40", "random 160"):
            where = f"{cell.design}, {cell.sizes}, accuracy {cell.accuracy:g} and {cell.accuracy - 0.1:.2g}"
            print(f"| {where} | {cell.arm_share:g} | {one.rejected:.3f} | {one.oracle:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=5000, help=f"per cell, a multiple of {CHUNK}")
    parser.add_argument("--out", type=Path, help="a CSV of all cells")
    parser.add_argument("--table", action="append", help="only this table; may be given more than once")
    options = parser.parse_args()
    chosen = [cell for cell in cells() if not options.table or cell.table in options.table]
    results, start = [], time.monotonic()
    for i, cell in enumerate(chosen, 1):
        results.append((cell, run_cell(cell, options.simulations)))
        if i % 20 == 0 or i == len(chosen):
            print(f"\r{i} of {len(chosen)} cells, {time.monotonic() - start:.0f} s", end="", flush=True)
    print("\n")
    report(results)
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for kind in (Cell, Outcome) for field in fields(kind)])
            writer.writeheader()
            writer.writerows({**asdict(cell), **asdict(one)} for cell, one in results)


if __name__ == "__main__":
    main()
