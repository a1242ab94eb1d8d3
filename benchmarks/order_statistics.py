"""Error rates of the statistics of the order test, by simulation; the tables of docs/order_statistics.md.

    python benchmarks/order_statistics.py [--simulations 5000] [--out settings.csv]

Every simulated setting has its own fixed seed, so its numbers do not depend on the other settings.

A clip is classified correctly if a latent normal variable of variance 1 is below a threshold, so that the accuracy in
each condition is exact. The conditions are O (trained and tested in order) and F (trained on a fixed permutation,
tested shuffled, mean over `PERMUTATIONS`). The latent variable has four components:

    group      variance such that the correctness of two clips of a group has the given correlation in each run
    clip       `CLIP_SHARE` of the rest, the same in all runs
    remainder  drawn for each run and permutation
    run        one value per condition and run for all clips, such that the difference in accuracy has the given
               standard deviation over runs; the thresholds are adjusted so that mean accuracies do not change

Both conditions share `CONDITION_SHARE` of the variance of group and clip effects, so the differences within a group are
about as correlated as the correctness. Group sizes are independent of group effects. They are lognormal quantiles with
sigma 0 (5 clips each), 0.7 (`unequal`, the largest 4 times the mean) or 1 (`very unequal`, 6 times), with equal totals.

There are two designs. In `fixed`, every run tests the same clips. In `random`, each run tests a quarter of the pool,
drawn again for every `CHUNK` simulations. Run effects of two runs then correlate by rho = n_test / (n_test + n_train),
as Nadeau & Bengio (2003) assume for overlapping training sets, and the analysis uses n_test / n_train = 1/3.
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
CLIP_SHARE, CONDITION_SHARE = 0.6, 0.7
TEST_SHARE = 0.25
MARGIN = 0.02
CHUNK = 250
SIGMA = {"equal": 0.0, "unequal": 0.7, "very unequal": 1.0}
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)


@dataclass(frozen=True)
class Setting:
    table: str
    design: str
    groups: int
    sizes: str
    accuracy: float
    correlation: float
    run_sd: float
    effect: float
    condition_share: float = CONDITION_SHARE


@dataclass(frozen=True)
class Rates:
    """Shares of simulations. `sd` (standard deviation of the estimate) and `mean_se` are in points.

    `oracle` is the power of a z test with known standard deviation, by the normal distribution: about the maximum.
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
    """Share r of the latent variance for which P(both correct) - accuracy^2 is the given covariance."""

    def excess(r: float) -> float:
        shares = ndtr((ndtri(accuracy) - np.sqrt(r) * NODES) / np.sqrt(1 - r))
        return float((WEIGHTS / WEIGHTS.sum()) @ shares**2 - accuracy**2 - covariance)

    return float(brentq(excess, 1e-9, 0.98)) if covariance > 0 else 0.0


def draw_splits(setting: Setting, rng: np.random.Generator) -> list[np.ndarray]:
    """Groups tested in each run."""
    if setting.design == "fixed":
        return [np.arange(setting.groups)] * RUNS
    num_tested = round(TEST_SHARE * setting.groups)
    return [np.sort(rng.permutation(setting.groups)[:num_tested]) for _ in range(RUNS)]


def normals(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def simulate(
    setting: Setting, num: int, rng: np.random.Generator, null: bool = False
) -> Iterator[tuple[int, np.ndarray, list]]:
    """For each run: its number, the tested groups, and numbers of correct clips (num, groups) in O and per permutation.

    With `null`, F has the latent variables of O except for the remainder, so all frame orders are exchangeable.
    """
    sizes = group_sizes(setting.groups, SIGMA[setting.sizes])
    splits = draw_splits(setting, rng)
    shared = normals(rng, num, setting.groups), normals(rng, num, sizes.sum())
    conditions = [
        _condition(setting, accuracy, sizes, shared, num, rng)
        for accuracy in (setting.accuracy, setting.accuracy - setting.effect)
    ]
    for run, tested in enumerate(splits):
        clips = np.flatnonzero(np.isin(np.repeat(np.arange(setting.groups), sizes), tested))
        starts = np.concatenate([[0], np.cumsum(sizes[tested])[:-1]])
        sums = []
        for condition, times in ((0, 1), (0 if null else 1, PERMUTATIONS)):
            lasting, thresholds, noise_sd = conditions[condition]
            below = (thresholds[:, run, None] - lasting[:, clips]) / noise_sd
            for _ in range(times):
                right = (normals(rng, num, len(clips)) < below).astype(np.float32)
                sums.append(np.add.reduceat(right, starts, axis=1))
        yield run, tested, sums


def _condition(
    setting: Setting, accuracy: float, sizes: np.ndarray, shared: tuple, num: int, rng: np.random.Generator
) -> tuple:
    """Constant part of the latent variable (num, clips), thresholds (num, RUNS), and SD of the remainder."""
    of_group = latent_variance(accuracy, setting.correlation * accuracy * (1 - accuracy))
    of_run = latent_variance(accuracy, setting.run_sd**2 / 2)
    of_run /= 1 - of_run
    of_clip = CLIP_SHARE * (1 - of_group)
    common, own = np.float32(np.sqrt(setting.condition_share)), np.float32(np.sqrt(1 - setting.condition_share))
    group = common * shared[0] + own * normals(rng, num, setting.groups)
    clip = common * shared[1] + own * normals(rng, num, int(sizes.sum()))
    lasting = np.float32(np.sqrt(of_group)) * np.repeat(group, sizes, axis=1) + np.float32(np.sqrt(of_clip)) * clip
    rho = 0.0 if setting.design == "fixed" else TEST_SHARE
    run = np.sqrt(rho) * normals(rng, num, 1) + np.sqrt(1 - rho) * normals(rng, num, RUNS)
    thresholds = ndtri(accuracy) * np.sqrt(1 + of_run) - np.sqrt(of_run) * run
    return lasting, thresholds.astype(np.float32), np.float32(np.sqrt(1 - of_group - of_clip))


def tables(setting: Setting, num: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Sums of d (num, G, R) and counts (G, R) of the groups tested in any run."""
    sums, counts = np.zeros((num, setting.groups, RUNS)), np.zeros((setting.groups, RUNS))
    sizes = group_sizes(setting.groups, SIGMA[setting.sizes])
    for run, tested, (ordered, *shuffled) in simulate(setting, num, rng):
        sums[:, tested, run] = ordered - sum(shuffled) / PERMUTATIONS
        counts[tested, run] = sizes[tested]
    there = counts.sum(1) > 0
    return sums[:, there], counts[there]


def overlap(setting: Setting) -> float:
    return 0.0 if setting.design == "fixed" else TEST_SHARE / (1 - TEST_SHARE)


def contrast_rates(setting: Setting, num: int, rng: np.random.Generator) -> Rates:
    parts = []
    for _ in range(num // CHUNK):
        sums, counts = tables(setting, CHUNK, rng)
        fit = two_way(sums, counts, overlap(setting))
        differs, num_groups = fit.se > 1e-12, len(counts)
        half95 = np.where(differs, fit.half(0.95), zero_bound(num_groups, 0.95))
        half90 = np.where(differs, fit.half_for_equivalence(), zero_bound(num_groups, 0.90))
        p = np.where(differs, two_way_p(fit), 1.0)
        enough = num_groups >= groups_for_equivalence(MARGIN)
        parts.append((fit.value, fit.se, np.abs(fit.value - setting.effect) <= half95, p <= 0.05,
                      (np.abs(fit.value) + half90 < MARGIN) & enough))  # fmt: skip
    value, se, covered, rejected, equivalent = (np.concatenate(part) for part in zip(*parts, strict=True))
    z = setting.effect / value.std()
    oracle = float(ndtr(z - 1.96) + ndtr(-z - 1.96))
    return Rates(len(value), covered.mean(), rejected.mean(), oracle, equivalent.mean(),
                   100 * value.std(), 100 * se.mean())  # fmt: skip


def bootstrap_rates(setting: Setting, num: int, rng: np.random.Generator) -> Rates:
    """Coverage of the bootstrap-t with 399 draws, on a fifth of the simulations."""
    values, halves = [], []
    for start in range(0, num // 5, CHUNK):
        sums, counts = tables(setting, min(CHUNK, num // 5 - start), rng)
        values.extend(sums.sum((1, 2)) / counts.sum())
        halves.extend(bootstrap_t(one, counts, overlap(setting), 399, seed) for seed, one in enumerate(sums))
    value, half = np.array(values), np.array([np.inf if one is None else one for one in halves])
    covered, rejected = np.abs(value - setting.effect) <= half, np.abs(value) > half
    return Rates(len(value), covered.mean(), rejected.mean(), np.nan, np.nan, 100 * value.std(), np.nan)


def reliance_rates(setting: Setting, num: int, rng: np.random.Generator) -> Rates:
    """Size of the reliance test with 499 draws; rows are groups in a run, with shares of correct clips."""
    rejected = []
    for _ in range(num // CHUNK):
        rows, groups = [], []
        for _, tested, sums in simulate(setting, CHUNK, rng, null=True):
            rows.append(np.stack(sums, -1) / group_sizes(setting.groups, SIGMA[setting.sizes]).max())
            groups.append(tested)
        rows, groups = np.concatenate(rows, 1), np.concatenate(groups)
        rejected += [reliance_test(one, groups, 499, seed).p <= 0.05 for seed, one in enumerate(rows)]
    return Rates(len(rejected), np.nan, np.mean(rejected), np.nan, np.nan, np.nan, np.nan)


GRID = {"accuracy": (0.6, 0.8, 0.9, 0.97), "correlation": (0.0, 0.1, 0.2, 0.3), "run_sd": (0.0, 0.02, 0.05)}


def settings() -> Iterator[Setting]:
    everything = list(product(SIGMA, *GRID.values()))
    moderate = [one for one in everything if one[0] != "very unequal"]
    grids = {
        ("fixed", 40): everything,
        ("fixed", 20): [one for one in everything if one[3] != 0.02],
        ("random", 40): moderate,
        ("random", 160): [one for one in moderate if one[1] != 0.9 and one[2] != 0.1],
    }
    for ((design, groups), grid), effect in product(grids.items(), (0.0, 0.1)):
        yield from (Setting(f"{design} {groups}", design, groups, *one, effect) for one in grid)
    for accuracy, share in product(GRID["accuracy"], (0.5, 0.7, 0.9)):
        yield Setting("power", "fixed", 40, "equal", accuracy, 0.2, 0.02, 0.1, share)
    for sizes, accuracy, correlation, run_sd in product(SIGMA, (0.8, 0.97), (0.0, 0.3), (0.0, 0.02)):
        yield Setting("margin", "fixed", 120, sizes, accuracy, correlation, run_sd, MARGIN)
    for sizes, (accuracy, correlation) in product(SIGMA, ((0.8, 0.0), (0.97, 0.0), (0.97, 0.3))):
        yield Setting("margin", "fixed", 400, sizes, accuracy, correlation, 0.0, MARGIN)
    for sizes, accuracy, design in product(("equal", "unequal"), (0.8, 0.97), ("fixed", "random")):
        yield Setting("bootstrap", design, 40, sizes, accuracy, 0.2, 0.02, 0.1)
    for sizes, accuracy, correlation in product(("equal", "very unequal"), (0.6, 0.97), (0.0, 0.3)):
        yield Setting("reliance", "fixed", 40, sizes, accuracy, correlation, 0.02, 0.0)


def simulated_rates(setting: Setting, num: int) -> Rates:
    rng = np.random.default_rng(crc32(repr(astuple(setting)).encode()))
    kinds = {"bootstrap": bootstrap_rates, "reliance": reliance_rates}
    return kinds.get(setting.table, contrast_rates)(setting, num, rng)


def describe(setting: Setting) -> str:
    accuracy, correlation, run_sd = setting.accuracy, setting.correlation, 100 * setting.run_sd
    return f"{setting.sizes}, accuracy {accuracy:g}, correlation {correlation:g}, run SD {run_sd:g}"


def report(results: list[tuple[Setting, Rates]]) -> None:
    """Print the worst setting of each table."""
    print("| table | what | worst | median | beyond the limit | where worst |\n|---|---|---|---|---|---|")
    for table in dict.fromkeys(setting.table for setting, _ in results):
        here = [(setting, one) for setting, one in results if setting.table == table]
        for what, limit, sign, kept in (
            ("size (at most .06)", 0.06, 1, [(c, o.rejected) for c, o in here if c.effect == 0]),
            ("coverage at 0 (at least .93)", 0.93, -1, [(c, o.coverage) for c, o in here if c.effect == 0]),
            ("coverage at effect (at least .93)", 0.93, -1, [(c, o.coverage) for c, o in here if c.effect != 0]),
            ("wrong equivalence (at most .05)", 0.05, 1, [(c, o.equivalent) for c, o in here if c.effect == MARGIN]),
        ):
            kept = [(c, float(v)) for c, v in kept if not np.isnan(v)]
            if kept:
                setting, worst = max(kept, key=lambda pair: sign * pair[1])
                beyond = sum(sign * value > sign * limit for _, value in kept)
                middle = np.median([value for _, value in kept])
                print(
                    f"| {table} | {what} | {worst:.3f} | {middle:.3f} | {beyond} of {len(kept)} | {describe(setting)} |"
                )
    print("\n| power at 10 points, correlation 0.2, run SD 2 | both conditions share | power | with known SD |")
    print("|---|---|---|---|")
    for setting, one in results:
        named = (setting.correlation, setting.run_sd, setting.effect) == (0.2, 0.02, 0.1)
        if named and setting.table in ("power", "fixed 40", "random 160"):
            where = f"{setting.design}, {setting.sizes}, accuracy {setting.accuracy:g} and {setting.accuracy - 0.1:.2g}"
            print(f"| {where} | {setting.condition_share:g} | {one.rejected:.3f} | {one.oracle:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=5000, help=f"simulations per setting, a multiple of {CHUNK}")
    parser.add_argument("--out", type=Path, help="CSV file for all settings")
    parser.add_argument("--table", action="append", help="run this table only; may be repeated")
    options = parser.parse_args()
    chosen = [setting for setting in settings() if not options.table or setting.table in options.table]
    results, start = [], time.monotonic()
    for i, setting in enumerate(chosen, 1):
        results.append((setting, simulated_rates(setting, options.simulations)))
        if i % 20 == 0 or i == len(chosen):
            print(f"\r{i} of {len(chosen)} settings, {time.monotonic() - start:.0f} s", end="", flush=True)
    print("\n")
    report(results)
    if options.out:
        with options.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for kind in (Setting, Rates) for field in fields(kind)])
            writer.writeheader()
            writer.writerows({**asdict(setting), **asdict(one)} for setting, one in results)


if __name__ == "__main__":
    main()
