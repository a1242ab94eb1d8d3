"""The mean of a difference over groups and runs, with intervals that are valid for few and unequal groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from videomem.errors import VideomemError
from videomem.statistics.group_tables import Floats, group_by_run, rows
from videomem.statistics.results import Estimate
from videomem.statistics.variance import TwoWay, two_way

ZERO = 1e-12


def estimate_mean(
    values_N: ArrayLike,
    groups_N: ArrayLike,
    runs_N: ArrayLike,
    overlap: float = 0.0,
    limits: tuple[float, float] = (-1.0, 1.0),
    comparisons: int = 1,
    weights_N: ArrayLike | None = None,
) -> Estimate:
    """Mean of d over all (run, clip) with the interval of `variance.py`, clipped to `limits`.

    With a single run, the variation between runs cannot be estimated, and the interval refers to the given trainings
    only. If the variance is 0 (no clip differs, or all differ by the same amount), the interval is value -+ b, with b
    of `zero_bound` for the effective number of groups; p is 1 for a value of 0, and otherwise 2^(1 - G), that of G
    groups with the same sign.

    Args:
        values_N: d in [-1, 1], one row per run and test clip.
        groups_N: Id of the clip's group.
        runs_N: Id of the run.
        overlap: n_test / n_train if training sets of runs overlap (Nadeau & Bengio 2003); 0 for a fixed split.
        limits: Smallest and largest possible value: (0, 1) for an accuracy.
        comparisons: Number m of estimates of which this is one. Intervals have the levels 1 - 0.05/m and 1 - 0.1/m, and
            p is multiplied by m (Bonferroni), so that all m intervals hold together.
        weights_N: Weights of the rows, which replace their counts: `class_weights` for a balanced accuracy.
    Raises:
        VideomemError: If there are fewer than 2 groups, `overlap` is negative, weights are not above 0, or lengths
            differ.
    """
    values, groups, runs = rows(values_N, groups_N, runs_N)
    if not 0 <= overlap < np.inf:
        raise VideomemError(
            f"overlap is {overlap}, but must be at least 0; give n_test / n_train, or 0 for a fixed split"
        )
    weights = None if weights_N is None else _weights(weights_N, len(values))
    sums_GR, counts_GR = group_by_run(values, groups, runs, weights)
    num_groups, num_runs = sums_GR.shape
    if num_groups < 2:
        raise VideomemError("the tested clips have 1 group, but a standard error needs at least 2; add groups")
    fit = two_way(sums_GR, counts_GR, overlap)
    counts_G = counts_GR.sum(1)
    effective_groups = float(counts_G.sum() ** 2 / (counts_G**2).sum())
    half, half90, p = _half_widths(fit, num_groups, effective_groups, comparisons)
    value, varies = float(fit.value), bool(fit.se > ZERO)
    ends = (value - half, value + half, value - half90, value + half90)
    low, high, low90, high90 = (float(np.clip(end, *limits)) for end in ends)
    return Estimate(
        value=value,
        se=float(fit.se) if varies else 0.0,
        df=float(fit.df) if varies else num_groups - 1.0,
        low=low,
        high=high,
        low90=low90,
        high90=high90,
        p=min(1.0, comparisons * p),
        num_groups=num_groups,
        num_runs=num_runs,
        variance_groups=float(fit.groups) if varies else 0.0,
        run_sd=float(np.sqrt(fit.spread.variance)) if varies else 0.0,
        run_noise=float(fit.spread.noise) if varies else 0.0,
        overlap=overlap,
        comparisons=comparisons,
        effective_groups=None if np.ptp(counts_G) <= ZERO * counts_G.max() else effective_groups,
    )


def class_weights(labels_N: ArrayLike) -> Floats:
    """Weights 1 / n_class of rows, for which the mean over rows is the mean over classes (balanced accuracy)."""
    _, codes_N, counts_C = np.unique(labels_N, return_inverse=True, return_counts=True)
    return 1 / counts_C[codes_N.reshape(-1)]


def _weights(weights_N: ArrayLike, num_rows: int) -> Floats:
    weights = np.asarray(weights_N, dtype=np.float64)
    if weights.shape != (num_rows,):
        raise VideomemError(f"weights have shape {weights.shape}, but there are {num_rows} rows; give one per row")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise VideomemError(f"weights run from {weights.min():g} to {weights.max():g}, but must be finite and above 0")
    return weights


def _half_widths(fit: TwoWay, num_groups: int, effective_groups: float, comparisons: int) -> tuple[float, float, float]:
    """Half widths of the 95 % interval and of the 90 % interval for equivalence, and p of a single comparison."""
    level, level90 = 1 - 0.05 / comparisons, 1 - 0.10 / comparisons
    if fit.se > ZERO:
        half90 = float(fit.half_for_equivalence(level90, level))
        return float(fit.half(level)), half90, float(fit.tail_probability(fit.value))
    p = 1.0 if abs(fit.value) <= ZERO else 2.0 ** (1 - num_groups)
    return zero_bound(effective_groups, level), zero_bound(effective_groups, level90), p


def zero_bound(num_groups: float, level: float = 0.95) -> float:
    """Share of differing groups above which one of G groups differs with probability `level`: 1 - (1 - level)^(1/G).

    Since |d| <= 1, this also bounds the mean for groups of similar size.
    """
    return float(1 - (1 - level) ** (1 / num_groups))
