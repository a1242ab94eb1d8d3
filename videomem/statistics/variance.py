"""Two-way standard errors of a mean over (clip, run), from tables of sums and counts; vectorised over `...`.

With e_i the residual of row i from the mean of all N rows, E_g, E_r and E_gr its sums over a group, a run and a group
in a run, and n the numbers of rows:

    groups   V_G = 1/N^2 sum_g E_g^2 / (1 - n_g/N)                        CR2, intercept only
             V_I = 1/N mean_g E_g^2 / (n_g (1 - n_g/N))                   as if clips were independent
    runs     s^2 = A / #A - B / #B,  U = max(s^2, 0) (sum_r n_r^2 / N^2 + overlap)
    V        = max(V_G, V_I) + U

Clips of a group are at least as similar as clips of different groups, so V_I is at most V_G in expectation, and equal
to it for groups of equal size. It is a lower bound in case the few large groups agree by chance.

A sums the products of residuals over pairs of rows of the same run and different groups, B over pairs of different runs
and different groups; #A and #B count them. Their difference is the covariance of the clips of a run. Pairs within a
group are excluded, so neither the similarity within groups nor repeated tests of a clip affect it. It is the excess
V_R - V_GR of the two-way formula of Cameron, Gelbach & Miller (2011, eq. 2.10) with its bias of order V_G / R removed:
where all runs test the same clips, group effects cancel in E_r but not in E_gr.

`overlap` = n_test / n_train is the correction of Nadeau & Bengio (2003, eq. 9), 1/R -> 1/R + n_test/n_train, for runs
whose training sets overlap; here it applies to the variance between runs, since V_G includes resampled test groups.

References:
    Bell & McCaffrey 2002, Bias reduction in standard errors for linear regression with multi-stage samples.
    Pustejovsky & Tipton 2018, Small-sample methods for cluster-robust variance estimation, eqs. 8-11.
    Cameron, Gelbach & Miller 2011, Robust inference with multiway clustering.
    Nadeau & Bengio 2003, Inference for the generalization error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from videomem.statistics.group_tables import Floats


@dataclass(frozen=True)
class TwoWay:
    """A mean and the parts of its variance, arrays of shape (...).

    Attributes:
        value: Mean over all rows.
        groups: max(V_G, V_I).
        runs: U, never below 0.
        df: Satterthwaite degrees of freedom of the sum, see `cr2_df`, `skewness_df` and `satterthwaite`.
        skewness: k^(1/2), the absolute skewness of the groups' sums divided by the root of their number.
    """

    value: Floats
    groups: Floats
    runs: Floats
    df: Floats
    skewness: Floats

    @property
    def se(self) -> Floats:
        return np.sqrt(self.groups + self.runs)

    def half(self, level: float) -> Floats:
        """Half width of the two-sided interval: t(df) se."""
        return quantile(level, self.df) * self.se

    def half_for_equivalence(self) -> Floats:
        """Half width of the 90 % interval for equivalence: (t + 4 k^(1/2) (1 + 2 t^2) / 6) se, at most that at 95 %.

        Without its factor 4, the second term is Johnson's (1978) correction for skewness, here on both sides. If rare
        large differences are absent from a sample, then value, se and skewness are all too small, and equivalence would
        be declared too easily. The factor 4 was chosen by simulation (wrong equivalence in docs/order_statistics.md).
        """
        t = quantile(0.90, self.df)
        return np.minimum((t + 4 * self.skewness * (1 + 2 * t**2) / 6) * self.se, self.half(0.95))


def two_way(sums_XGR: Floats, counts_XGR: Floats, overlap: float = 0.0) -> TwoWay:
    """Mean, variances of groups and of runs, and degrees of freedom.

    Shape:
        sums (..., G, R), counts (..., G, R) or (G, R) -> (...)
    """
    rows_X = counts_XGR.sum((-2, -1))
    value_X = sums_XGR.sum((-2, -1)) / rows_X
    errors_XGR = sums_XGR - value_X[..., None, None] * counts_XGR
    errors_XG, counts_XG = errors_XGR.sum(-1), counts_XGR.sum(-1)
    groups_X = np.maximum(cr2(errors_XG, counts_XG), independent(errors_XG, counts_XG))
    skewness_X = skewness(errors_XG, counts_XG)
    df_groups_X = np.minimum(cr2_df(counts_XG), skewness_df(skewness_X))
    if counts_XGR.shape[-1] == 1:
        return TwoWay(value_X, groups_X, np.zeros_like(groups_X), df_groups_X, skewness_X)
    excess_X, noise_X, df_runs_X = run_excess(errors_XGR, counts_XGR)
    factor_X = (counts_XGR.sum(-2) ** 2).sum(-1) / rows_X**2 + overlap
    runs_X = factor_X * np.maximum(excess_X, 0)
    df_X = satterthwaite(groups_X, df_groups_X, runs_X, factor_X * noise_X, df_runs_X)
    return TwoWay(value_X, groups_X, runs_X, df_X, skewness_X)


def cr2(errors_XG: Floats, counts_XG: Floats) -> Floats:
    """V_G = 1/N^2 sum_g E_g^2 / (1 - n_g/N): CR2 with A_g = (I - H_gg)^(-1/2) in closed form.

    H_gg = 1 1'/N has the eigenvector 1 with eigenvalue n_g/N, so 1' A_g e_g = E_g / sqrt(1 - n_g/N).

    Shape:
        errors (..., G), counts (..., G) -> (...)
    """
    rows_X1 = counts_XG.sum(-1, keepdims=True)
    return (errors_XG**2 / np.maximum(1 - counts_XG / rows_X1, 1e-12)).sum(-1) / rows_X1[..., 0] ** 2


def independent(errors_XG: Floats, counts_XG: Floats) -> Floats:
    """V_I = 1/N mean_g E_g^2 / (n_g (1 - n_g/N)): unbiased for independent clips and any group sizes.

    Shape:
        errors (..., G), counts (..., G) -> (...)
    """
    rows_X1, there_XG = counts_XG.sum(-1, keepdims=True), counts_XG > 0
    scale_XG = np.where(there_XG, counts_XG * np.maximum(1 - counts_XG / rows_X1, 1e-12), 1)
    return np.where(there_XG, errors_XG**2 / scale_XG, 0).sum(-1) / there_XG.sum(-1) / rows_X1[..., 0]


def skewness(errors_XG: Floats, counts_XG: Floats) -> Floats:
    """k^(1/2) with k = (sum z^3)^2 / (sum z^2)^3, z_g = E_g / sqrt(1 - n_g/N); 0 without any variance.

    k is the squared skewness of the groups' sums divided by their number: the order of the error of t due to skewness.

    Shape:
        errors (..., G), counts (..., G) -> (...)
    """
    z = errors_XG / np.sqrt(np.maximum(1 - counts_XG / counts_XG.sum(-1, keepdims=True), 1e-12))
    square = (z**2).sum(-1)
    z = z / np.sqrt(np.where(square > 0, square, 1.0))[..., None]
    return np.abs((z**3).sum(-1))


def skewness_df(skewness_X: Floats) -> Floats:
    """Upper limit of the degrees of freedom due to skewness: 1 / (2 k), at least 1.

    If few groups carry the difference, a small standard error goes with a small estimate, and t with G - 1 degrees of
    freedom has too little coverage (Hall 1992). The factor 2 was chosen by simulation (docs/order_statistics.md).
    """
    return 1 / np.clip(2 * skewness_X**2, 1e-9, 1.0)


def cr2_df(counts_XG: Floats) -> Floats:
    """Satterthwaite degrees of freedom of V_G, tr(Q)^2 / tr(Q^2), for groups with one common effect each.

    V_G is the quadratic form sum_g D_g E_g^2 with D_g = 1 / (1 - w_g), w_g = n_g/N, and Cov(E) = C =
    L - w v' - v w' + (sum v) w w', where L = diag(v) is the working covariance of the groups' sums. v_g = n_g^2 (clips
    of a group alike) gives fewer degrees of freedom than v_g = n_g (clips independent) where groups are unequal, and
    the same where they are equal. tr(Q) = sum_g D_g C_gg and tr(Q^2) = sum_gh D_g D_h C_gh^2, multiplied out.

    Shape:
        counts (..., G) -> (...)
    """
    w = counts_XG / counts_XG.sum(-1, keepdims=True)
    d, v = 1 / np.maximum(1 - w, 1e-12), w**2
    s = v.sum(-1)
    own = -2 * w * v + s[..., None] * w**2
    dww, dvv, dwv = (d * w * w).sum(-1), (d * v * v).sum(-1), (d * w * v).sum(-1)
    trace = (d * (v + own)).sum(-1)
    square = (d**2 * v * (v + 2 * own)).sum(-1) + 2 * dww * dvv + 2 * dwv**2 + s**2 * dww**2 - 4 * s * dww * dwv
    return np.maximum(trace**2 / np.where(square > 0, square, np.inf), 1.0)  # A single group has no spread.


def run_excess(errors_XGR: Floats, counts_XGR: Floats) -> tuple[Floats, Floats, Floats]:
    """The covariance s^2 of the clips of a run, the estimated variance of a run's mean, and its degrees of freedom.

    Shape:
        errors (..., G, R), counts (..., G, R) -> three of (...)
    """
    (same_run, same_group, same_entry), (n_run, n_group, n_entry) = _square_sums(errors_XGR), _square_sums(counts_XGR)
    total = counts_XGR.sum((-2, -1)) ** 2
    pairs_within = np.maximum(n_run - n_entry, 1e-12)
    pairs_across = np.maximum(total - n_run - n_group + n_entry, 1e-12)
    excess = (same_run - same_entry) / pairs_within - (same_entry - same_run - same_group) / pairs_across
    df = np.maximum((counts_XGR.sum(-2) > 0).sum(-1) - 1.0, 1.0)
    return excess, same_run / n_run * (df + 1) / df, df


def _square_sums(table_XGR: Floats) -> tuple[Floats, Floats, Floats]:
    """Sums of squares of the column sums of runs, of the row sums of groups, and of all entries."""
    by_run, by_group = table_XGR.sum(-2), table_XGR.sum(-1)
    return (by_run**2).sum(-1), (by_group**2).sum(-1), (table_XGR**2).sum((-2, -1))


def satterthwaite(groups_X: Floats, df_groups_X: Floats, runs_X: Floats, noise_X: Floats, df_runs_X: Floats) -> Floats:
    """Degrees of freedom of V_G + U: (V_G + U)^2 / (V_G^2 / df_G + W^2 / df_R).

    W is the mean square from which U is computed. If U is 0, returns the degrees of freedom of V_G.
    """
    spread = groups_X**2 / df_groups_X + np.where(runs_X > 0, noise_X, 0) ** 2 / df_runs_X
    with np.errstate(invalid="ignore", divide="ignore"):
        df = (groups_X + runs_X) ** 2 / spread
    return np.where(spread > 0, np.maximum(df, 1.0), df_groups_X)


def quantile(level: float, df: Floats) -> Floats:
    """Two-sided critical value of Student's t: |t| is below it with probability `level`."""
    return np.asarray(stats.t.ppf(0.5 + level / 2, df))


def two_way_p(fit: TwoWay) -> Floats:
    """Two-sided p of a value of 0: P(|t(df)| >= |value| / se); NaN if se and value are 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(2 * stats.t.sf(np.abs(fit.value) / fit.se, fit.df))
