"""Power of the interval that verdicts use, and the numbers of groups and runs that a difference needs.

The assumed variance of the mean over groups and runs of d = correct in one condition - correct in the other:

    Var = Var(d) (1 + (m' - 1) c) / (G m)  +  sigma^2 ((1 - rho) / R + rho)

G groups of m clips, m' = m (1 + cv^2) for unequal groups, c the correlation of d within a group, sigma the SD over
runs, and rho = n_test / (n_test + n_train) the correlation of runs with overlapping training sets (Nadeau & Bengio
2003). If both conditions have accuracy a, then Var(d) = 2 a (1 - a) (1 - r), with r the correlation of both on the same
clip.

Power is computed for the interval of `variance.py`: its half width depends on the observed variances, so it is averaged
over their sampling distributions, which are multiples of chi^2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import floor, inf, log, sqrt

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import ndtr

from videomem.errors import VideomemError
from videomem.statistics.contrasts import zero_bound
from videomem.statistics.group_tables import Floats
from videomem.statistics.variance import LEAST_NOISE, RunSpread, TwoWay

MIN_GROUPS = 20
MIN_RUNS = 6
POWER = 0.8
MOST_GROUPS, MOST_RUNS = 1_000_000, 1_000
_QUANTILES = (np.arange(8) + 0.5) / 8


@dataclass(frozen=True)
class Design:
    """The variances that determine the power of a test.

    Attributes:
        of_one_group: Variance due to groups, times their number.
        noise_of_one_group: tau^2 of `RunSpread`, times the number of groups.
        run_sd: Standard deviation of run effects, sigma.
        num_runs: R.
        overlap: n_test / n_train if training sets of runs overlap; 0 for a fixed split.
        df_share: Degrees of freedom of the variance due to groups, divided by the number of groups less 1.
        comparisons: Number of estimates whose intervals hold together (`Estimate.comparisons`).
        effective_share: Effective number of groups (`Estimate.effective_groups`), divided by their number.
    """

    of_one_group: float
    noise_of_one_group: float
    run_sd: float
    num_runs: int
    overlap: float = 0.0
    df_share: float = 1.0
    comparisons: int = 1
    effective_share: float = 1.0

    def variance(self, num_groups: float) -> float:
        """Variance of the estimated difference."""
        rho = self.overlap / (1 + self.overlap)
        return self.of_one_group / num_groups + self.run_sd**2 * ((1 - rho) / self.num_runs + rho)

    def power(self, num_groups: int, effect: float) -> float:
        """Probability that the 95 % interval excludes 0 on the side of the effect."""
        half = _half_width(self, num_groups, 1 - 0.05 / self.comparisons)
        return float(_share_below(abs(effect) - half, self.variance(num_groups)).mean())

    def power_of_equivalence(self, num_groups: int, effect: float, margin: float, one_sided: bool = False) -> float:
        """Probability that the 90 % interval lies within the margin; with `one_sided`, that it lies below."""
        half = _half_width(self, num_groups, 1 - 0.10 / self.comparisons)
        variance, room = self.variance(num_groups), margin - half
        below = _share_below(room - effect, variance)
        too_low = 0.0 if one_sided else _share_below(-room - effect, variance)
        return float(np.maximum(below - too_low, 0).mean())

    def decides(self, num_groups: int, value: float, margin: float, one_sided: bool = False) -> bool:
        """Whether a true difference of `value` is shown with `POWER` to be different from 0, or to be negligible.

        That is, the 95 % interval excludes 0, or the 90 % interval lies within the margin; with `one_sided`, above 0
        or below the margin.
        """
        if not (one_sided and value < 0) and self.power(num_groups, value) >= POWER:
            return True
        enough = num_groups * self.effective_share >= groups_for_equivalence(margin, self.comparisons)
        return enough and self.power_of_equivalence(num_groups, value, margin, one_sided) >= POWER


def _share_below(distance: Floats, variance: float) -> Floats:
    """P(z sqrt(variance) < distance) for a standard normal z."""
    return np.asarray(ndtr(distance / sqrt(variance)) if variance > 0 else distance > 0, dtype=np.float64)


@lru_cache(maxsize=4096)
def _half_width(design: Design, num_groups: int, level: float) -> Floats:
    """Half widths of the interval on a grid of quantiles of both observed variances, (Q, Q)."""
    if design.variance(num_groups) == 0:
        return np.array(zero_bound(num_groups * design.effective_share, level))
    rho, df = design.overlap / (1 + design.overlap), max((num_groups - 1) * design.df_share, 1.0)
    groups_Q1 = design.of_one_group / num_groups * stats.chi2.ppf(_QUANTILES, df)[:, None] / df
    noise, df_runs = design.noise_of_one_group / num_groups, design.num_runs - 1.0
    expected = design.run_sd**2 * (1 - rho) + noise
    square_Q = expected * stats.chi2.ppf(_QUANTILES, df_runs) / df_runs if df_runs else np.zeros(len(_QUANTILES))
    noise_Q, factor = np.maximum(noise, LEAST_NOISE * square_Q), 1 / design.num_runs + design.overlap
    groups, dfs, *spread, zero = np.broadcast_arrays(groups_Q1, df, square_Q, noise_Q, df_runs, factor, 0.0)
    return TwoWay(zero, groups, dfs, RunSpread(*spread), zero).half(level)


@dataclass(frozen=True)
class Assumptions:
    """Assumptions about results that have not been measured. Accuracies are shares of 1.

    Attributes:
        clips_per_group: Mean number of test clips per group.
        num_runs: Runs, each with its own split and seed.
        accuracy: Mean accuracy of the two compared conditions.
        correlation: Correlation of d between clips of a group.
        run_sd: Standard deviation over runs of the difference in accuracy.
        overlap: n_test / n_train if training sets of runs overlap; 0 for a fixed split.
        condition_correlation: Correlation of correctness between the two conditions on the same clip.
        size_cv: Coefficient of variation of the groups' sizes.
        tested_share: Share of the groups that one run tests.
    """

    clips_per_group: float = 5.0
    num_runs: int = 10
    accuracy: float = 0.8
    correlation: float = 0.2
    run_sd: float = 0.02
    overlap: float = 0.0
    condition_correlation: float = 0.5
    size_cv: float = 0.5
    tested_share: float = 1.0

    def __post_init__(self) -> None:
        limits = {
            "clips_per_group": (1, inf),
            "num_runs": (1, inf),
            "accuracy": (0, 1),
            "correlation": (0, 1),
            "run_sd": (0, 1),
            "overlap": (0, inf),
            "condition_correlation": (-1, 1),
            "size_cv": (0, inf),
            "tested_share": (0, 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise VideomemError(f"{name} is {value}, but must be in [{low}, {high}]")

    def design(self) -> Design:
        """The variances by the equation above. Half of the variance within groups is drawn again in each run."""
        of_d = 2 * self.accuracy * (1 - self.accuracy) * (1 - self.condition_correlation)
        partners = self.clips_per_group * (1 + self.size_cv**2) - 1
        of_one = of_d * (1 + partners * self.correlation) / self.clips_per_group
        noise = of_one if self.tested_share < 1 else of_d * (1 - self.correlation) / self.clips_per_group / 2
        equal = 1 / (1 + self.size_cv**2)  # Kish's effective number of groups, divided by their number
        noise /= self.tested_share
        return Design(of_one, noise, self.run_sd, self.num_runs, self.overlap, df_share=equal, effective_share=equal)


def detectable_effect(num_groups: int, design: Design, power: float = POWER) -> float:
    """Smallest effect that the 95 % interval shows with `power`; at most 1."""
    if design.power(num_groups, 1.0) < power:
        return 1.0
    return float(brentq(lambda effect: design.power(num_groups, effect) - power, 0.0, 1.0, xtol=1e-6))


def groups_for(effect: float, design: Design, power: float = POWER) -> int | None:
    """Fewest groups, at least `MIN_GROUPS`, that show an effect with `power`; None if no number of groups does."""
    _check(effect, power)
    return _fewest(lambda number: design.power(number, effect) >= power, MIN_GROUPS, MOST_GROUPS)


def lacking_for_verdict(num_groups: int, num_runs: int) -> str:
    """What a verdict needs but the numbers of groups and runs lack, such as `20 groups (now 8)`; empty if nothing."""
    least = (("groups", MIN_GROUPS, num_groups), ("runs", MIN_RUNS, num_runs))
    return " and ".join(f"{needed} {what} (now {now})" for what, needed, now in least if now < needed)


def groups_to_decide(value: float, margin: float, design: Design, one_sided: bool = False) -> int | None:
    """Fewest groups that decide (`Design.decides`), at least `MIN_GROUPS`; None if no number of groups does."""
    return _fewest(lambda number: design.decides(number, value, margin, one_sided), MIN_GROUPS, MOST_GROUPS)


def runs_to_decide(value: float, margin: float, num_groups: int, design: Design, one_sided: bool = False) -> int | None:
    """Fewest runs, more than those of the design, that decide (`Design.decides`); None if no number of runs does."""

    def decides(number: int) -> bool:
        return replace(design, num_runs=number).decides(num_groups, value, margin, one_sided)

    return _fewest(decides, max(MIN_RUNS, design.num_runs + 1), MOST_RUNS)


def groups_for_equivalence(margin: float, comparisons: int = 1) -> int:
    """Fewest groups of equal size that can show that a difference is within the margin: 1 - (0.1/m)^(1/G) < margin.

    So many are needed even if no group differs (`zero_bound` of `contrasts.py` at 90 %, for m comparisons). Groups that
    differ slightly are no better evidence against a large difference, so the minimum applies to them as well.
    """
    return floor(log(0.1 / comparisons) / log(1 - margin)) + 1


def _fewest(enough: Callable[[int], bool], least: int, most: int) -> int | None:
    """Smallest number from `least` to `most` that is enough, by bisection; None if none is."""
    if least > most or not enough(most):
        return None
    low, high = least - 1, most
    while high - low > 1:
        middle = int(sqrt(low * high)) if high > 4 * max(low, 1) else (low + high) // 2
        middle = min(max(middle, low + 1), high - 1)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(effect: float, power: float) -> None:
    if not effect > 0:
        raise VideomemError(f"the effect to detect is {effect:g}, but must be above 0; give a margin such as 0.02")
    if not 0.5 <= power < 1:
        raise VideomemError(f"power is {power:g}, but must be in [0.5, 1); give 0.8")
