"""The mean of a difference over groups and runs, with intervals that are valid for few and unequal groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from videomem.errors import VideomemError
from videomem.statistics.group_tables import Floats, chunks, group_by_run, rows
from videomem.statistics.results import Estimate
from videomem.statistics.variance import two_way, two_way_p

ZERO = 1e-12


def estimate_mean(
    values_N: ArrayLike,
    groups_N: ArrayLike,
    runs_N: ArrayLike,
    overlap: float = 0.0,
    bootstrap: int = 999,
    seed: int = 0,
) -> Estimate:
    """Mean of d over all (run, clip): value +- t(df) * se, with the equations in `variance.py`.

    With a single run, the variation between runs cannot be estimated, and the interval refers to the given trainings
    only. If the variance is 0 (no clip differs, or all differ by the same amount), the interval is value -+ b, clipped
    to [-1, 1], with b of `zero_bound`; p is 1 for a value of 0, and otherwise 2^(1 - G), that of G groups with the same
    sign.

    Args:
        values_N: d in [-1, 1], one row per run and test clip.
        groups_N: Id of the clip's group.
        runs_N: Id of the run.
        overlap: n_test / n_train if training sets of runs overlap (Nadeau & Bengio 2003); 0 for a fixed split.
        bootstrap: Draws of the bootstrap-t; 0 skips it.
        seed: Seed of the bootstrap.
    Raises:
        VideomemError: If there are fewer than 2 groups, `overlap` is negative, or lengths differ.
    """
    values, groups, runs = rows(values_N, groups_N, runs_N)
    if not 0 <= overlap < np.inf:
        raise VideomemError(
            f"overlap is {overlap}, but must be at least 0; give n_test / n_train, or 0 for a fixed split"
        )
    sums_GR, counts_GR = group_by_run(values, groups, runs)
    num_groups, num_runs = sums_GR.shape
    if num_groups < 2:
        raise VideomemError("the tested clips have 1 group, but a standard error needs at least 2; add groups")
    fit = two_way(sums_GR, counts_GR, overlap)
    value, limit, boot = float(fit.value), np.inf, None
    if fit.se > ZERO:
        se, df, p = float(fit.se), float(fit.df), float(two_way_p(fit))
        half, half90 = float(fit.half(0.95)), float(fit.half_for_equivalence())
        variances = {"variance_groups": float(fit.groups), "variance_runs": float(fit.runs)}
        boot = bootstrap_t(sums_GR, counts_GR, overlap, bootstrap, seed) if bootstrap else None
    else:
        se, df, p = 0.0, num_groups - 1.0, 1.0 if abs(value) <= ZERO else 2.0 ** (1 - num_groups)
        half, half90, limit = zero_bound(num_groups), zero_bound(num_groups, 0.90), 1.0
        variances = {}
    return Estimate(
        value=value,
        se=se,
        df=df,
        low=max(value - half, -limit),
        high=min(value + half, limit),
        low90=max(value - half90, -limit),
        high90=min(value + half90, limit),
        p=p,
        num_groups=num_groups,
        num_runs=num_runs,
        boot_low=None if boot is None else value - boot,
        boot_high=None if boot is None else value + boot,
        overlap=overlap,
        **variances,
    )


def zero_bound(num_groups: int, level: float = 0.95) -> float:
    """Share of differing groups above which one of G groups differs with probability `level`: 1 - (1 - level)^(1/G).

    Since |d| <= 1, this also bounds the mean for groups of similar size.
    """
    return float(1 - (1 - level) ** (1 / num_groups))


def bootstrap_t(
    sums_GR: Floats, counts_GR: Floats, overlap: float = 0.0, num_draws: int = 999, seed: int = 0, level: float = 0.95
) -> float | None:
    """Half width of the symmetric cluster bootstrap-t interval: se times the `level` quantile of |t*|.

    Groups and runs are resampled independently with replacement (Owen 2007, The pigeonhole bootstrap), but not clips;
    t* = (theta* - theta) / se*, with the standard error of each draw (Cameron, Gelbach & Miller 2008; Hall 1992).

    Returns:
        The half width; None if so many draws have no variance that the quantile is infinite.
    Shape:
        sums (G, R), counts (G, R)
    """
    fit = two_way(sums_GR, counts_GR, overlap)
    rng = np.random.default_rng(seed)
    parts = [
        _resampled_t(sums_GR, counts_GR, overlap, float(fit.value), chunk, rng)
        for chunk in chunks(num_draws, sums_GR.size)
    ]
    critical = float(np.quantile(np.concatenate(parts), level, method="higher"))
    return critical * float(fit.se) if np.isfinite(critical) else None


def _resampled_t(
    sums_GR: Floats, counts_GR: Floats, overlap: float, value: float, num_draws: int, rng: np.random.Generator
) -> Floats:
    """|t*| of each draw, (num_draws,); infinite for a draw with another mean but no variance."""
    num_groups, num_runs = sums_GR.shape
    groups_BG = rng.integers(num_groups, size=(num_draws, num_groups))[:, :, None]
    runs_BR = rng.integers(num_runs, size=(num_draws, num_runs))[:, None, :]
    counts_BGR = counts_GR[groups_BG, runs_BR]
    tested = counts_BGR.sum((1, 2)) > 0
    fit = two_way(sums_GR[groups_BG, runs_BR][tested], counts_BGR[tested], overlap)
    moved = np.abs(fit.value - value)
    with np.errstate(invalid="ignore", divide="ignore"):
        t_B = moved / fit.se
    return np.where(fit.se > ZERO, t_B, np.where(moved > ZERO, np.inf, 0.0))
