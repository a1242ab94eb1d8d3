"""The value of order for each clip, shrunk towards the mean because a single clip is tested only a few times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from videomem.errors import VideomemError
from videomem.statistics.group_tables import Floats, Ints, group_by_run, rows
from videomem.statistics.variance import cr2


@dataclass(frozen=True, eq=False)
class ClipScores:
    """Order scores of the M tested clips, sorted by clip.

    Attributes:
        clips: Id of each clip (M,).
        groups: Id of each clip's group (M,).
        tests: Number of tests n_i of each clip (M,), one per run that tests it.
        raw: Mean d_i over the tests of each clip (M,).
        scores: Shrunken means s_i (M,).
        standard_errors: Standard errors of the scores (M,).
        mean: Mean over all tests, to which the scores are shrunk.
        between: Variance of the clips' effects, tau^2; NaN if no clip is tested twice.
        within: Variance of the tests of one clip, sigma^2; NaN if no clip is tested twice.
    """

    clips: Ints
    groups: Ints
    tests: Ints
    raw: Floats
    scores: Floats
    standard_errors: Floats
    mean: float
    between: float
    within: float


def clip_scores(values_N: ArrayLike, clips_N: ArrayLike, groups_N: ArrayLike) -> ClipScores:
    """Empirical Bayes estimate of the effect of each clip.

    The model is d_ij = mean + a_i + e_ij for test j of clip i, with Var a_i = tau^2 and Var e_ij = sigma^2. Its
    variances are estimated by the method of moments (analysis of variance for unequal n_i, not below 0), and

        s_i = mean + B_i (d_i - mean)    with B_i = tau^2 / (tau^2 + sigma^2 / n_i).

    The standard error is the root of B_i sigma^2 / n_i + (1 - B_i)^2 Var(mean), with Var(mean) by groups (CR2). It
    treats tau^2 and sigma^2 as known, and is therefore too small if there are only a few clips.

    Differences between clips cannot be told from differences between tests if no clip is tested twice. Then every score
    is the mean, and its standard error is the standard deviation of d, an upper limit of tau. A clip that is tested
    once, among others that are tested several times, has B_i with n_i = 1.

    Args:
        values_N: d in [-1, 1], one row per run and test clip: correctness with frame order minus that without.
        clips_N: Id of the clip.
        groups_N: Id of the clip's group.
    Raises:
        VideomemError: If a clip is in two groups, lengths differ, or a value is outside [-1, 1].
    References:
        Efron & Morris 1975, "Data analysis using Stein's estimator and its generalizations", section 2;
        Searle, Casella & McCulloch 1992, "Variance components", section 3.6.
    """
    values, clips, groups = rows(values_N, clips_N, groups_N)
    clips_M, first_M, codes_N, tests_M = np.unique(clips, return_index=True, return_inverse=True, return_counts=True)
    groups_M = groups[first_M]
    if (astray := np.flatnonzero(groups != groups_M[codes_N])).size:
        raise VideomemError(f"clip {clips[astray[0]]} is in more than one group; give each clip the id of one group")
    raw_M = np.bincount(codes_N, weights=values) / tests_M
    mean = float(values.mean())
    between, within = _variances(values - raw_M[codes_N], raw_M - mean, tests_M)
    if np.isnan(within):
        scores_M = np.full(len(clips_M), mean)
        error_M = np.full(len(clips_M), values.std(ddof=min(1, len(values) - 1)))
    else:
        weight_M = between / (between + within / tests_M) if between > 0 else np.zeros(len(clips_M))
        sums_G1, counts_G1 = group_by_run(values, groups, np.zeros_like(groups))
        mean_variance = cr2((sums_G1 - mean * counts_G1)[:, 0], counts_G1[:, 0])
        scores_M = mean + weight_M * (raw_M - mean)
        error_M = np.sqrt(weight_M * within / tests_M + (1 - weight_M) ** 2 * mean_variance)
    return ClipScores(clips_M, groups_M, tests_M, raw_M, scores_M, error_M, mean, between, within)


def _variances(within_N: Floats, between_M: Floats, tests_M: Ints) -> tuple[float, float]:
    """tau^2 and sigma^2 from deviations within and between clips; both NaN if no clip is tested twice."""
    num_rows, num_clips = len(within_N), len(between_M)
    if num_rows == num_clips:
        return np.nan, np.nan
    within = float((within_N**2).sum() / (num_rows - num_clips))
    if num_clips == 1:
        return 0.0, within
    mean_tests = (num_rows - (tests_M**2).sum() / num_rows) / (num_clips - 1)
    between = float((tests_M * between_M**2).sum() / (num_clips - 1))
    return max(0.0, (between - within) / mean_tests), within
