"""The value of order for each class, partially pooled because a single class has few groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from videomem.errors import VideomemError
from videomem.statistics.contrasts import zero_bound
from videomem.statistics.group_tables import Floats, Ints, chunks, group_by_run, rows
from videomem.statistics.randomization import holm
from videomem.statistics.results import ClassGain
from videomem.statistics.variance import cr2

ENUMERATED_GROUPS = 12
FLIPS = 9999
PRIOR_DF = 4.0


@dataclass(frozen=True)
class _Raw:
    """Sums and counts of the groups of one class, their mean and its variance (0 with one group)."""

    sums_G: Floats
    counts_G: Floats
    value: float
    variance: float

    @property
    def num_groups(self) -> int:
        return len(self.sums_G)


def class_gains(
    values_N: ArrayLike,
    groups_N: ArrayLike,
    runs_N: ArrayLike,
    labels_N: ArrayLike,
    class_names: Sequence[str],
    seed: int = 0,
) -> tuple[ClassGain, ...]:
    """Gain of each tested class, in the order of `class_names`.

    `value` and `se` refer to the class alone, with CR2 over its groups (all runs of a group together; a group may have
    several classes). For pooling, the variance of a group's mean is moderated towards that of all classes, with a
    weight of `PRIOR_DF` degrees of freedom (Smyth 2004): s~^2 = (df s^2 + d0 s0^2) / (df + d0). Otherwise, three groups
    that agree by chance would outweigh all others. A class with one group or without variance has this moderated value
    as its `se`; if no class has any variance, `se` is b / 1.96 with b of `zero_bound`. All numbers are finite.

    Pooling uses random effects with tau^2 of Paule & Mandel (1982), shrunk by B = tau^2 / (tau^2 + se^2):
    pooled = B value + (1 - B) mu, with variance B se^2 + (1 - B)^2 Var(mu) and a normal interval within [-1, 1].

    p flips the signs of whole groups: exactly for up to `ENUMERATED_GROUPS` groups, otherwise with `FLIPS` draws and
    p = (b + 1) / (m + 1).

    Args:
        values_N: Gain, one row per run and clip.
        groups_N: Id of the clip's group.
        runs_N: Id of the run.
        labels_N: True class.
        class_names: Names of the classes.
        seed: Seed of the draws.
    Raises:
        VideomemError: If a label has no name or lengths differ.
    """
    values, groups, runs, labels = rows(values_N, groups_N, runs_N, labels_N)
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise VideomemError(f"labels run from {labels.min()} to {labels.max()}, but there are {len(class_names)} names")
    present = np.unique(labels)
    raw = [_alone(*(part[labels == label] for part in (values, groups, runs))) for label in present]
    se_C = _moderated(raw)
    pooled_C, low_C, high_C = _pool(np.array([one.value for one in raw]), se_C)
    tests = [_sign_flips(one.sums_G, seed) for one in raw]
    adjusted = holm([p for p, _ in tests])
    return tuple(
        ClassGain(
            name=class_names[label],
            num_groups=one.num_groups,
            value=one.value,
            se=float(np.sqrt(one.variance)) if one.variance > 0 else float(se_C[i]),
            pooled=float(pooled_C[i]),
            low=float(low_C[i]),
            high=float(high_C[i]),
            p=tests[i][0],
            p_holm=adjusted[i],
            smallest_p=tests[i][1],
        )
        for i, (label, one) in enumerate(zip(present, raw, strict=True))
    )


def _alone(values_N: Floats, groups_N: Ints, runs_N: Ints) -> _Raw:
    sums_GR, counts_GR = group_by_run(values_N, groups_N, runs_N)
    sums_G, counts_G = sums_GR.sum(1), counts_GR.sum(1)
    value = float(sums_G.sum() / counts_G.sum())
    variance = float(cr2(sums_G - value * counts_G, counts_G)) if len(sums_G) > 1 else 0.0
    return _Raw(sums_G, counts_G, value, variance if variance > 1e-20 else 0.0)


def _moderated(raw: list[_Raw]) -> Floats:
    """Standard errors (C,), with the variance of a group's mean moderated towards that of all classes."""
    groups_C = np.array([one.num_groups for one in raw], dtype=np.float64)
    df_C, spread_C = groups_C - 1, groups_C * np.array([one.variance for one in raw])
    common = float((df_C * spread_C).sum() / max(df_C.sum(), 1.0))
    if common == 0:
        return np.array([zero_bound(one.num_groups) / 1.96 for one in raw])
    return np.sqrt((df_C * spread_C + PRIOR_DF * common) / (df_C + PRIOR_DF) / groups_C)


def _pool(value_C: Floats, se_C: Floats) -> tuple[Floats, Floats, Floats]:
    """Pooled gains with the ends of their 95 % intervals; a single class is not shrunk."""
    if len(value_C) == 1:
        weight_C, mean, mean_variance = np.ones(1), 0.0, 0.0
    else:
        with np.errstate(divide="ignore"):  # I^2 of equal effects
            fit = combine_effects(value_C, se_C**2, method_re="iterated")
        weight_C = fit.tau2 / (fit.tau2 + se_C**2)
        mean, mean_variance = float(fit.mean_effect_re), float(fit.var_eff_w_re)
    pooled_C = weight_C * value_C + (1 - weight_C) * mean
    half_C = stats.norm.ppf(0.975) * np.sqrt(weight_C * se_C**2 + (1 - weight_C) ** 2 * mean_variance)
    return pooled_C, np.maximum(pooled_C - half_C, -1), np.minimum(pooled_C + half_C, 1)


def _sign_flips(sums_G: Floats, seed: int) -> tuple[float, float]:
    """Two-sided p of |sum_g s_g S_g| over the signs s of whole groups, and the smallest p that is possible."""
    num_groups = len(sums_G)
    attainable = 2.0 ** (1 - num_groups)
    if num_groups <= ENUMERATED_GROUPS:
        signs = 1 - 2 * ((np.arange(2**num_groups)[:, None] >> np.arange(num_groups)) & 1)
        return float((np.abs(signs @ sums_G) >= abs(sums_G.sum()) - 1e-9).mean()), attainable
    rng, num_extreme = np.random.default_rng(seed), 0
    for chunk in chunks(FLIPS, num_groups):
        signs = 1 - 2 * rng.integers(2, size=(chunk, num_groups))
        num_extreme += int((np.abs(signs @ sums_G) >= abs(sums_G.sum()) - 1e-9).sum())
    return (num_extreme + 1) / (FLIPS + 1), max(1 / (FLIPS + 1), attainable)
