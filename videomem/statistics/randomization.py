"""Exact and randomization tests: reliance on frame order, McNemar's test, and Holm's adjustment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from videomem.errors import VideomemError
from videomem.statistics.group_tables import chunks, codes, rows
from videomem.statistics.results import Randomization


def reliance_test(correct_NA: ArrayLike, groups_N: ArrayLike, num_draws: int = 9999, seed: int = 0) -> Randomization:
    """Test whether models trained in order classify ordered frames differently from permuted ones.

    The statistic is T = sum over rows of c_0 - mean(c_1 .. c_K). Under the null hypothesis, the K + 1 frame orders are
    exchangeable. Each draw selects one of them per group as the ordered one, uniformly and for all clips and runs of
    the group; the true one may be drawn. p = (b + 1) / (m + 1), for b of m draws with |T*| >= |T| (Phipson & Smyth
    2010). The test is two-sided, because a model that is less accurate in order also relies on order.

    Args:
        correct_NA: Correct (0 or 1) under each frame order; column 0 is in order, the others are permutations.
        groups_N: Id of the clip's group.
        num_draws: Number of draws, m.
        seed: Seed of the draws.
    Shape:
        correct (N, K + 1), one row per run and clip
    Raises:
        VideomemError: If there are fewer than two frame orders or lengths differ.
    """
    correct, groups = rows(correct_NA, groups_N)
    if correct.ndim != 2 or correct.shape[1] < 2:
        raise VideomemError(
            f"frame orders have shape {correct.shape}, but must be (rows, at least 2); add a permutation"
        )
    if num_draws < 1:
        raise VideomemError(f"num_draws is {num_draws}, but must be at least 1")
    group_codes, num_groups = codes(groups)
    sums_GA = np.zeros((num_groups, correct.shape[1]))
    np.add.at(sums_GA, group_codes, correct)
    num_orders = correct.shape[1]
    # Contribution of each group to T for each choice of the ordered frame order: c_a - mean of the others.
    advantage_GA = (sums_GA * num_orders - sums_GA.sum(1, keepdims=True)) / (num_orders - 1)
    observed, num_extreme = abs(advantage_GA[:, 0].sum()) - 1e-9, 0
    rng = np.random.default_rng(seed)
    for chunk in chunks(num_draws, num_groups):
        drawn_BG = rng.integers(num_orders, size=(chunk, num_groups))
        num_extreme += int((np.abs(advantage_GA[np.arange(num_groups), drawn_BG].sum(1)) >= observed).sum())
    attainable = (2 if num_orders == 2 else 1) * float(num_orders) ** -num_groups
    return Randomization((num_extreme + 1) / (num_draws + 1), num_draws, max(1 / (num_draws + 1), attainable))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment (1979): p_(i) times (m - i + 1), made monotone and at most 1."""
    if len(p_values) == 0:
        return []
    if not all(0 <= p <= 1 for p in p_values):
        raise VideomemError(f"p-values {list(p_values)} are not all within [0, 1]")
    return [float(p) for p in multipletests(list(p_values), method="holm")[1]]


def mcnemar_p(one_N: ArrayLike, other_N: ArrayLike, groups_N: ArrayLike) -> float:
    """Exact two-sided p of McNemar's test (1947) on clips that are correct in exactly one of two conditions.

    Args:
        one_N: Correct (0 or 1) in one condition, in one run.
        other_N: Correct in the other condition.
    Raises:
        VideomemError: If a group has more than one clip, because the test assumes independent clips.
    """
    one, groups = rows(one_N, groups_N)
    other, _ = rows(other_N, groups_N)
    ids, counts = np.unique(groups, return_counts=True)
    if counts.max() > 1:
        raise VideomemError(
            f"group {ids[counts.argmax()]} has {counts.max()} clips, but McNemar's test allows 1 per group; "
            "use reliance_test, which draws once per group"
        )
    right, other_right = one > 0.5, other > 0.5
    table = [[int((right == a)[other_right == b].sum()) for b in (True, False)] for a in (True, False)]
    return float(mcnemar(np.array(table), exact=True).pvalue)
