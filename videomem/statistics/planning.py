"""Number of groups and runs that a difference needs, for `--plan` and for undetermined verdicts.

The assumed variance of the mean over groups and runs of d = correct in one condition - correct in the other:

    Var = Var(d) (1 + (m' - 1) c) / (G m)  +  s^2 ((1 - rho) / R + rho)

G groups of m clips, m' = m (1 + cv^2) for unequal groups, c the correlation of d within a group, s the SD over runs,
and rho = n_test / (n_test + n_train) the correlation of runs with overlapping training sets (Nadeau & Bengio 2003). If
both conditions have accuracy a, then Var(d) = 2 a (1 - a) (1 - r), with r the correlation of both on the same clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, inf, log, sqrt

from scipy import stats

from videomem.errors import VideomemError

MIN_GROUPS = 20


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
    """

    clips_per_group: float = 5.0
    num_runs: int = 10
    accuracy: float = 0.8
    correlation: float = 0.2
    run_sd: float = 0.02
    overlap: float = 0.0
    condition_correlation: float = 0.5
    size_cv: float = 0.5

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {"clips_per_group": (1, inf), "num_runs": (1, inf)}
        limits |= dict.fromkeys(("accuracy", "correlation", "run_sd"), (0, 1))
        limits |= {"overlap": (0, inf), "condition_correlation": (-1, 1), "size_cv": (0, inf)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise VideomemError(f"{name} is {value}, but must be in [{low}, {high}]")


def variance_parts(num_groups: float, plan: Assumptions) -> tuple[float, float]:
    """Variance due to groups and variance due to runs, by the equation above."""
    of_d = 2 * plan.accuracy * (1 - plan.accuracy) * (1 - plan.condition_correlation)
    partners = plan.clips_per_group * (1 + plan.size_cv**2) - 1
    rho = plan.overlap / (1 + plan.overlap)
    of_groups = of_d * (1 + partners * plan.correlation) / (num_groups * plan.clips_per_group)
    return of_groups, plan.run_sd**2 * ((1 - rho) / plan.num_runs + rho)


def expected_se(num_groups: float, plan: Assumptions = Assumptions()) -> float:
    """Expected standard error of the difference."""
    return sqrt(sum(variance_parts(num_groups, plan)))


def detectable_effect(num_groups: int, plan: Assumptions = Assumptions(), power: float = 0.8) -> float:
    """Smallest effect that is detected with `power` at the two-sided 5 % level: (t_.975 + t_power) se."""
    return _reach(num_groups, power) * expected_se(num_groups, plan)


def groups_needed(margin: float, plan: Assumptions = Assumptions(), power: float = 0.8) -> int | None:
    """Groups that detect an effect of `margin` with `power`; None if the variance of runs alone is too large.

    In that case, `runs_needed` returns how many runs reduce it enough.
    """
    of_one, of_runs = variance_parts(1, plan)
    return groups_for(margin, of_one, of_runs, power)


def groups_for(effect: float, of_one_group: float, of_runs: float, power: float = 0.8) -> int | None:
    """Smallest G with (t_.975 + t_power)^2 (V_1 / G + V_R) <= effect^2; None if there is none."""
    _check(effect, power)
    needed = float(MIN_GROUPS)
    for _ in range(50):
        left = (effect / _reach(needed, power)) ** 2 - of_runs
        if left <= 0 and needed > 1e6:
            return None
        step = max(MIN_GROUPS, of_one_group / left) if left > 0 else needed * 100
        if abs(step - needed) < 1e-6 * needed:
            break
        needed = step
    return ceil(needed - 1e-6)


def groups_for_equivalence(margin: float) -> int:
    """Fewest groups that can show that a difference is within the margin: 1 - 0.1^(1/G) < margin.

    So many are needed even if no group differs (`zero_bound` of `contrasts.py` at 90 %). Groups that differ slightly
    are no better evidence against a large difference, so the minimum applies to them as well.
    """
    return floor(log(0.1) / log(1 - margin)) + 1


def runs_needed(margin: float, num_groups: int, plan: Assumptions = Assumptions(), power: float = 0.8) -> int | None:
    """Runs that detect an effect of `margin` with `power` for a number of groups; None if no number of runs does.

    More runs reduce neither the variance due to groups nor the covariance of overlapping training sets.
    """
    of_groups, of_runs = variance_parts(num_groups, plan)
    rho = plan.overlap / (1 + plan.overlap)
    shared = plan.run_sd**2 * rho
    return runs_for(margin, num_groups, of_groups + shared, (of_runs - shared) * plan.num_runs, power)


def runs_for(effect: float, num_groups: float, fixed: float, of_one_run: float, power: float = 0.8) -> int | None:
    """Smallest R with (t_.975 + t_power)^2 (fixed + V_1 / R) <= effect^2; None if there is none."""
    _check(effect, power)
    left = (effect / _reach(num_groups, power)) ** 2 - fixed
    return max(1, ceil(of_one_run / left - 1e-9)) if left > 0 else None


def _reach(num_groups: float, power: float) -> float:
    """Distance from 0, in standard errors, at which an effect is detected with `power`."""
    df = max(num_groups - 1, 1)
    return float(stats.t.ppf(0.975, df) + stats.t.ppf(power, df))


def _check(effect: float, power: float) -> None:
    if not effect > 0:
        raise VideomemError(f"the effect to detect is {effect:g}, but must be above 0; give a margin such as 0.02")
    if not 0.5 <= power < 1:
        raise VideomemError(f"power is {power:g}, but must be in [0.5, 1); give 0.8")
