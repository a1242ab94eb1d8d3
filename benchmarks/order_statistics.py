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
sigma 0 (all equal), 0.7 (`unequal`, the largest 4 times the mean) or 1 (`very unequal`, 6 times), with equal totals.

There are two designs. In `fixed`, every run tests the same clips. In `folds`, as in `videomem order`, groups are
distributed over K folds, each run tests one of them, and the folds are drawn again after K runs; they differ between
`CHUNK`s of simulations. Run effects of two runs then correlate by rho = n_test / (n_test + n_train) = 1/K, as Nadeau &
Bengio (2003) assume for overlapping training sets.

`heavy` runs have effects from Student's t with 3 degrees of freedom instead of a normal distribution. A `fifth` of the
groups have five times the effect, and the others none.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from itertools import product
from pathlib import Path
from zlib import crc32

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from videomem.statistics.contrasts import zero_bound
from videomem.statistics.group_tables import Floats
from videomem.statistics.planning import Design, detectable_effect, groups_for_equivalence
from videomem.statistics.randomization import reliance_test
from videomem.statistics.variance import run_excess, two_way

PERMUTATIONS, CLIPS_PER_GROUP = 2, 5
CLIP_SHARE, CONDITION_SHARE = 0.6, 0.7
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
    runs: int = 10
    folds: int = 5
    condition_share: float = CONDITION_SHARE
    clips_per_group: int = CLIPS_PER_GROUP
    tails: str = "normal"
    where: str = "all groups"


@dataclass(frozen=True)
class Rates:
    """Shares of simulations. `sd` (standard deviation of the estimate) and `mean_se` are in points.

    `oracle` is the power of a z test with known standard deviation, by the normal distribution: about the maximum.
    `coverage_without` and `coverage_with` are the coverage where the estimated variance of runs s^2 was at most 0, a
    share `without` of the simulations, and where it was above 0.
    """

    simulations: int
    coverage: float
    without: float
    coverage_without: float
    coverage_with: float
    rejected: float
    oracle: float
    equivalent: float
    sd: float
    mean_se: float
    half_width: float


def group_sizes(setting: Setting) -> np.ndarray:
    total = setting.clips_per_group * setting.groups
    wanted = np.exp(SIGMA[setting.sizes] * ndtri((np.arange(setting.groups) + 0.5) / setting.groups))
    wanted *= total / wanted.sum()
    sizes = np.maximum(1, np.floor(wanted)).astype(int)
    while sizes.sum() != total:
        lacks = sizes.sum() < total
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
        return [np.arange(setting.groups)] * setting.runs
    deals = [rng.permutation(setting.groups) % setting.folds for _ in range(-(-setting.runs // setting.folds))]
    return [np.flatnonzero(deal == fold) for deal in deals for fold in range(setting.folds)][: setting.runs]


def normals(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def simulate(
    setting: Setting, num: int, rng: np.random.Generator, null: bool = False
) -> Iterator[tuple[int, np.ndarray, list]]:
    """For each run: its number, the tested groups, and numbers of correct clips (num, groups) in O and per permutation.

    With `null`, F has the latent variables of O except for the remainder, so all frame orders are exchangeable.
    """
    sizes = group_sizes(setting)
    splits = draw_splits(setting, rng)
    shared = normals(rng, num, setting.groups), normals(rng, num, sizes.sum())
    affected = np.arange(setting.groups) % 5 == 0 if setting.where == "a fifth" else np.ones(setting.groups, dtype=bool)
    effect = setting.effect * sizes.sum() / sizes[affected].sum()
    conditions = [
        _condition(setting, setting.accuracy - lost, sizes, shared, num, rng)
        for lost in (np.zeros(setting.groups), np.where(affected, effect, 0.0))
    ]
    for run, tested in enumerate(splits):
        clips = np.flatnonzero(np.isin(np.repeat(np.arange(setting.groups), sizes), tested))
        starts = np.concatenate([[0], np.cumsum(sizes[tested])[:-1]])
        sums = []
        for condition, times in ((0, 1), (0 if null else 1, PERMUTATIONS)):
            lasting, base, run_effects, noise_sd = conditions[condition]
            below = (base[clips] - run_effects[:, run, None] - lasting[:, clips]) / noise_sd
            for _ in range(times):
                right = (normals(rng, num, len(clips)) < below).astype(np.float32)
                sums.append(np.add.reduceat(right, starts, axis=1))
        yield run, tested, sums


def _condition(
    setting: Setting, accuracy_G: Floats, sizes: np.ndarray, shared: tuple, num: int, rng: np.random.Generator
) -> tuple:
    """Constant part of the latent variable (num, clips), thresholds (clips,), effects (num, R), SD of the remainder."""
    mean = float(accuracy_G @ sizes / sizes.sum())
    of_group = latent_variance(mean, setting.correlation * mean * (1 - mean))
    of_run = latent_variance(mean, setting.run_sd**2 / 2)
    of_run /= 1 - of_run
    of_clip = CLIP_SHARE * (1 - of_group)
    common, own = np.float32(np.sqrt(setting.condition_share)), np.float32(np.sqrt(1 - setting.condition_share))
    group = common * shared[0] + own * normals(rng, num, setting.groups)
    clip = common * shared[1] + own * normals(rng, num, int(sizes.sum()))
    lasting = np.float32(np.sqrt(of_group)) * np.repeat(group, sizes, axis=1) + np.float32(np.sqrt(of_clip)) * clip
    base_of = {accuracy: threshold(setting, float(accuracy), of_run) for accuracy in np.unique(accuracy_G)}
    base = np.repeat([base_of[accuracy] for accuracy in accuracy_G], sizes).astype(np.float32)
    run_effects = np.sqrt(of_run) * run_latents(setting, num, rng)
    return lasting, base, run_effects.astype(np.float32), np.float32(np.sqrt(1 - of_group - of_clip))


def run_latents(setting: Setting, num: int, rng: np.random.Generator) -> np.ndarray:
    """Effects of runs with variance 1, (num, R)."""
    rho = 0.0 if setting.design == "fixed" else 1 / setting.folds
    heavy = setting.tails == "heavy"
    own = rng.standard_t(3, (num, setting.runs)) / np.sqrt(3) if heavy else normals(rng, num, setting.runs)
    return np.sqrt(rho) * normals(rng, num, 1) + np.sqrt(1 - rho) * own


def threshold(setting: Setting, accuracy: float, of_run: float) -> float:
    """Threshold of the latent variable for which the mean accuracy over runs is exact."""
    normal = float(ndtri(accuracy) * np.sqrt(1 + of_run))
    if setting.tails == "normal" or of_run == 0:
        return normal
    effects = np.sqrt(of_run) * run_latents(setting, 20_000, np.random.default_rng(0))
    return float(brentq(lambda base: ndtr(base - effects).mean() - accuracy, normal - 1, normal + 1, xtol=1e-5))


def tables(setting: Setting, num: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Sums of d (num, G, R) and counts (G, R) of the groups tested in any run."""
    sums, counts = np.zeros((num, setting.groups, setting.runs)), np.zeros((setting.groups, setting.runs))
    sizes = group_sizes(setting)
    for run, tested, (ordered, *shuffled) in simulate(setting, num, rng):
        sums[:, tested, run] = ordered - sum(shuffled) / PERMUTATIONS
        counts[tested, run] = sizes[tested]
    there = counts.sum(1) > 0
    return sums[:, there], counts[there]


def overlap(setting: Setting) -> float:
    return 0.0 if setting.design == "fixed" else 1 / (setting.folds - 1)


def contrast_rates(setting: Setting, num: int, rng: np.random.Generator) -> Rates:
    parts = []
    for _ in range(num // CHUNK):
        sums, counts = tables(setting, CHUNK, rng)
        fit = two_way(sums, counts, overlap(setting))
        differs, num_groups = fit.se > 1e-12, counts.sum() ** 2 / (counts.sum(1) ** 2).sum()
        half95 = np.where(differs, fit.half(0.95), zero_bound(num_groups, 0.95))
        half90 = np.where(differs, fit.half_for_equivalence(), zero_bound(num_groups, 0.90))
        p = np.where(differs, fit.tail_probability(fit.value), 1.0)
        enough = num_groups >= groups_for_equivalence(MARGIN)
        errors = sums - fit.value[:, None, None] * counts
        varies = run_excess(errors, counts)[0] > 0
        parts.append((fit.value, fit.se, np.abs(fit.value - setting.effect) <= half95, p <= 0.05,
                      (np.abs(fit.value) + half90 < MARGIN) & enough, half95, varies))  # fmt: skip
    value, se, covered, rejected, equivalent, half, varies = (np.concatenate(part) for part in zip(*parts, strict=True))
    z = setting.effect / value.std()
    oracle = float(ndtr(z - 1.96) + ndtr(-z - 1.96))
    without, with_ = (covered[part].mean() if part.any() else np.nan for part in (~varies, varies))
    return Rates(len(value), covered.mean(), 1 - varies.mean(), without, with_, rejected.mean(), oracle,
                 equivalent.mean(), 100 * value.std(), 100 * se.mean(), 100 * half.mean())  # fmt: skip


def detectable(setting: Setting, num: int, rng: np.random.Generator) -> Setting:
    """The setting with the effect that a plan with the true variances calls detectable with power 0.8."""
    for _ in range(2):  # The variances depend on the effect.
        sums, counts = tables(setting, num, rng)
        fit = two_way(sums, counts, overlap(setting))
        design = Design(
            of_one_group=setting.groups * float(fit.groups.mean()),
            noise_of_one_group=setting.groups * float(fit.spread.noise.mean()),
            run_sd=setting.run_sd,
            num_runs=setting.runs,
            overlap=overlap(setting),
            df_share=float(np.mean(fit.df)) / (setting.groups - 1),
        )
        effect = detectable_effect(setting.groups, design)
        setting = replace(setting, effect=min(effect, setting.accuracy - 0.02))
    return setting


def reliance_rates(setting: Setting, num: int, rng: np.random.Generator) -> Rates:
    """Size of the reliance test with 499 draws; rows are groups in a run, with shares of correct clips."""
    rejected = []
    for _ in range(num // CHUNK):
        rows, groups = [], []
        for _, tested, sums in simulate(setting, CHUNK, rng, null=True):
            rows.append(np.stack(sums, -1) / group_sizes(setting).max())
            groups.append(tested)
        rows, groups = np.concatenate(rows, 1), np.concatenate(groups)
        rejected += [reliance_test(one, groups, 499, seed).p <= 0.05 for seed, one in enumerate(rows)]
    return Rates(len(rejected), *[np.nan] * 4, np.mean(rejected), *[np.nan] * 5)


GRID = {"accuracy": (0.6, 0.8, 0.97), "correlation": (0.0, 0.3), "run_sd": (0.0, 0.05)}
DESIGNS = [(4, 4), (6, 3), (6, 6), (10, 5), (10, 10)]  # runs, folds
PLAIN = {f"{runs} runs, {folds} folds" for runs, folds in DESIGNS}


def settings() -> Iterator[Setting]:
    everything = list(product(SIGMA, *GRID.values()))
    moderate = [one for one in everything if one[0] != "very unequal"]
    for effect in (0.0, 0.1):
        yield from (Setting("fixed 40", "fixed", 40, *one, effect) for one in everything)
        for (runs, folds), groups, run_sd in product(DESIGNS, (20, 40, 100, 350), (0.0, 0.02, 0.05, 0.08)):
            for tails, where in (("normal", "all groups"), ("heavy", "all groups"), ("normal", "a fifth")):
                plain = tails == "normal" and where == "all groups"
                if plain or (groups in (40, 350) and (effect if tails == "normal" else run_sd and not effect)):
                    yield Setting(f"{runs} runs, {folds} folds", "folds", groups, "equal", 0.7, 0.2, run_sd, effect,
                                  runs, folds, clips_per_group=2, tails=tails, where=where)  # fmt: skip
        for (runs, folds), groups in product(DESIGNS[1:], (40, 100)):
            yield Setting("run SD 15", "folds", groups, "equal", 0.7, 0.2, 0.15, effect, runs, folds,
                          clips_per_group=2)  # fmt: skip
        for sizes, accuracy, correlation, run_sd in moderate:
            yield Setting("unequal, 10 runs", "folds", 100, sizes, accuracy, correlation, run_sd, effect)
    for (runs, folds), groups, run_sd in product(DESIGNS[1:], (20, 40, 100, 350), (0.0, 0.05)):
        yield Setting("power", "folds", groups, "equal", 0.7, 0.2, run_sd, 0.0, runs, folds, clips_per_group=2)
    for sizes, accuracy, correlation, run_sd in product(SIGMA, (0.8, 0.97), (0.0, 0.3), (0.0, 0.02)):
        yield Setting("margin", "fixed", 120, sizes, accuracy, correlation, run_sd, MARGIN)
    for sizes, (accuracy, correlation) in product(SIGMA, ((0.8, 0.0), (0.97, 0.0), (0.97, 0.3))):
        yield Setting("margin", "fixed", 400, sizes, accuracy, correlation, 0.0, MARGIN)
    for sizes, accuracy, correlation in product(("equal", "very unequal"), (0.6, 0.97), (0.0, 0.3)):
        yield Setting("reliance", "fixed", 40, sizes, accuracy, correlation, 0.02, 0.0)


def simulated_rates(setting: Setting, num: int) -> tuple[Setting, Rates]:
    rng = np.random.default_rng(crc32(repr(astuple(setting)).encode()))
    if setting.table == "power":
        setting = detectable(setting, num, rng)
    return setting, (reliance_rates if setting.table == "reliance" else contrast_rates)(setting, num, rng)


def describe(setting: Setting) -> str:
    words = [f"{setting.groups} groups", setting.sizes, f"accuracy {setting.accuracy:g}",
             f"correlation {setting.correlation:g}", f"run SD {100 * setting.run_sd:g}"]  # fmt: skip
    words += [f"{setting.tails} tails"] * (setting.tails != "normal")
    return ", ".join(words + [f"effect in {setting.where}"] * (setting.where != "all groups"))


def report(results: list[tuple[Setting, Rates]]) -> None:
    """Print the worst setting of each table, the coverage of each design, and the power of plans."""
    print("| table | what | worst | median | beyond the limit | where worst |\n|---|---|---|---|---|---|")
    for table in dict.fromkeys(setting.table for setting, _ in results):
        _report_worst(table, [(setting, one) for setting, one in results if setting.table == table])
    print("\n| runs, folds | groups | run SD | size | coverage | s^2 at most 0 | coverage there | coverage elsewhere | "
          "power at 10 points | half width |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    cells: dict[tuple[str, int, float], list[Rates]] = {}
    for setting, one in results:
        if setting.table in PLAIN and setting.tails == "normal" and setting.where == "all groups":
            cells.setdefault((setting.table, setting.groups, setting.run_sd), []).append(one)
    for (table, groups, run_sd), pair in cells.items():
        if len(pair) == 2:
            null, other = pair
            numbers = [null.rejected, (null.coverage + other.coverage) / 2, (null.without + other.without) / 2]
            numbers += [_pooled((null, other), without=True), _pooled((null, other), without=False), other.rejected]
            words = " | ".join("few" if np.isnan(number) else f"{number:.3f}" for number in numbers)
            print(f"| {table} | {groups} | {100 * run_sd:g} | {words} | {other.half_width:.1f} |")
    print("\n| runs, folds | groups | run SD | called detectable with power 0.8 | power |\n|---|---|---|---|---|")
    for setting, one in results:
        if setting.table == "power":
            print(f"| {setting.runs} runs, {setting.folds} folds | {setting.groups} | {100 * setting.run_sd:g} | "
                  f"{100 * setting.effect:.1f} points | {one.rejected:.3f} |")  # fmt: skip


def _pooled(rates: Sequence[Rates], without: bool) -> float:
    """Coverage where s^2 was at most 0, or elsewhere; NaN for less than 100 simulations."""
    shares = [one.without if without else 1 - one.without for one in rates]
    covered = [one.coverage_without if without else one.coverage_with for one in rates]
    if sum(share * one.simulations for share, one in zip(shares, rates, strict=True)) < 100:
        return float("nan")
    return float(np.average(np.nan_to_num(covered), weights=shares))


def _report_worst(table: str, here: list[tuple[Setting, Rates]]) -> None:
    for what, limit, sign, kept in (
        ("size (at most .06)", 0.06, 1, [(c, o.rejected) for c, o in here if c.effect == 0]),
        ("coverage (at least .93)", 0.93, -1, [(c, o.coverage) for c, o in here]),
        ("coverage where s^2 <= 0 (at least .90)", 0.90, -1, [(c, _pooled([o], without=True)) for c, o in here]),
        ("coverage where s^2 > 0 (at least .90)", 0.90, -1, [(c, _pooled([o], without=False)) for c, o in here]),
        ("power, at least .75", 0.75, -1, [(c, o.rejected) for c, o in here if table == "power"]),
        ("power, at most .85", 0.85, 1, [(c, o.rejected) for c, o in here if table == "power"]),
        ("wrong equivalence (at most .05)", 0.05, 1, [(c, o.equivalent) for c, o in here if c.effect == MARGIN]),
    ):
        kept = [(c, float(v)) for c, v in kept if not np.isnan(v)]
        if kept:
            setting, worst = max(kept, key=lambda pair: sign * pair[1])
            beyond = sum(sign * value > sign * limit for _, value in kept)
            middle = np.median([value for _, value in kept])
            print(f"| {table} | {what} | {worst:.3f} | {middle:.3f} | {beyond} of {len(kept)} | {describe(setting)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=5000, help=f"simulations per setting, a multiple of {CHUNK}")
    parser.add_argument("--out", type=Path, help="CSV file, to which each setting is added when it is finished")
    parser.add_argument("--table", action="append", help="run this table only; may be repeated")
    options = parser.parse_args()
    chosen = [setting for setting in settings() if not options.table or setting.table in options.table]
    results, start = [], time.monotonic()
    with (options.out or Path(os.devnull)).open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for kind in (Setting, Rates) for field in fields(kind)])
        writer.writeheader()
        for i, setting in enumerate(chosen, 1):
            results.append(simulated_rates(setting, options.simulations))
            writer.writerow({key: value for part in results[-1] for key, value in asdict(part).items()})
            file.flush()
            if i % 20 == 0 or i == len(chosen):
                print(f"\r{i} of {len(chosen)} settings, {time.monotonic() - start:.0f} s", end="", flush=True)
    print("\n")
    report(results)


if __name__ == "__main__":
    main()
