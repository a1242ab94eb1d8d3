"""Two-way standard errors of a mean over (clip, run), from tables of sums and counts; vectorized over `...`.

With e_i the residual of row i from the mean of all N rows, E_g, E_r and E_gr its sums over a group, a run and a group
in a run, and n the numbers of rows:

    groups   V_G = 1/N^2 sum_g E_g^2 / (1 - n_g/N)                        CR2, intercept only
             V_I = 1/N mean_g E_g^2 / (n_g (1 - n_g/N))                   as if clips were independent
    runs     s^2 = A / #A - B / #B
    sum      V(sigma) = max(V_G, V_I) + sigma^2 (sum_r n_r^2 / N^2 + overlap)

Clips of a group are at least as similar as clips of different groups, so V_I is at most V_G in expectation, and equal
to it for groups of equal size. It is a lower bound in case the few large groups agree by chance.

A sums the products of residuals over pairs of rows of the same run and different groups, B over pairs of different runs
and different groups; #A and #B count them. Their difference estimates sigma^2, the variance of run effects. Pairs
within a group are excluded, so neither the similarity within groups nor repeated tests of a clip affect it. It is the
excess V_R - V_GR of the two-way formula of Cameron, Gelbach & Miller (2011, eq. 2.10) with its bias of order V_G / R
removed: where all runs test the same clips, group effects cancel in E_r but not in E_gr.

Few runs determine sigma poorly, and s^2 is often negative. The interval therefore averages over the posterior of sigma,
given the mean square M of the R run means, of which tau^2 = M - s^2 is not due to runs:

    sigma ~ half-normal(`PRIOR_SCALE`)      (R - 1) M / (sigma^2 + tau^2) ~ chi^2(R - 1)
    P(|mean - theta| > h) = E_sigma P(|t(df)| > h / sqrt(V(sigma))),  df = df_G (V(sigma) / V(0))^2

with the degrees of freedom of Satterthwaite for a known sigma. The interval is continuous in the data.

`overlap` = n_test / n_train is the correction of Nadeau & Bengio (2003, eq. 9), 1/R -> 1/R + n_test/n_train, for runs
whose training sets overlap; here it applies to the variance between runs, since V_G includes resampled test groups.

References:
    Bell & McCaffrey 2002, Bias reduction in standard errors for linear regression with multi-stage samples.
    Pustejovsky & Tipton 2018, Small-sample methods for cluster-robust variance estimation, eqs. 8-11.
    Cameron, Gelbach & Miller 2011, Robust inference with multiway clustering.
    Nadeau & Bengio 2003, Inference for the generalization error.
    Gelman 2006, Prior distributions for variance parameters in hierarchical models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import stdtr

from videomem.statistics.group_tables import Floats

PRIOR_SCALE = 0.10  # 10 points, chosen by simulation (docs/order_statistics.md)
SIGMA_S = np.concatenate([[0.0], np.geomspace(0.002, 1.0, 40)])
_EDGES = np.concatenate([[0.0], (SIGMA_S[1:] + SIGMA_S[:-1]) / 2, [1.1]])
PRIOR_S = -np.diff(stats.halfnorm.sf(_EDGES / PRIOR_SCALE))  # Differences of cdf would be 0 for large sigma.
LEAST_NOISE = 0.02  # tau^2 is at least this share of M; its estimate can be negative if groups are few.
ROUNDING = 1e-24  # A mean square up to this one is 0 but for rounding.
BISECTIONS = 26


@dataclass(frozen=True)
class RunSpread:
    """What the data say about the standard deviation sigma of run effects; arrays of shape (...).

    Attributes:
        mean_square: M, the mean square of the deviations of run means.
        noise: tau^2, the expected part of M that is not due to runs.
        df: R - 1. If it or M is 0, so is sigma.
        factor: sum_r n_r^2 / N^2 + overlap, by which sigma^2 adds to the variance of the mean.
    """

    mean_square: Floats
    noise: Floats
    df: Floats
    factor: Floats

    def posterior(self) -> Floats:
        """Posterior probabilities of `SIGMA_S`, (..., S)."""
        total = self.noise[..., None] + SIGMA_S**2
        known = ((self.df > 0) & (self.mean_square > ROUNDING))[..., None]
        with np.errstate(divide="ignore", invalid="ignore"):
            log = -self.df[..., None] / 2 * (np.log(total) + self.mean_square[..., None] / total)
        log = np.where(known, log, np.where(SIGMA_S > 0, -np.inf, 0.0))
        weights = np.exp(log - log.max(-1, keepdims=True)) * PRIOR_S
        return np.asarray(weights / weights.sum(-1, keepdims=True))

    @property
    def variance(self) -> Floats:
        """Posterior mean of sigma^2."""
        return np.asarray((self.posterior() * SIGMA_S**2).sum(-1))


@dataclass(frozen=True)
class TwoWay:
    """A mean and the parts of its variance, arrays of shape (...).

    Attributes:
        value: Mean over all rows.
        groups: max(V_G, V_I).
        df: Degrees of freedom of `groups`, see `cr2_df` and `skewness_df`.
        spread: The spread of runs.
        skewness: k^(1/2), the absolute skewness of the groups' sums divided by the root of their number.
    """

    value: Floats
    groups: Floats
    df: Floats
    spread: RunSpread
    skewness: Floats

    @property
    def runs(self) -> Floats:
        """The part of the variance due to runs, with the posterior mean of sigma^2."""
        return self.spread.factor * self.spread.variance

    @property
    def se(self) -> Floats:
        return np.sqrt(self.groups + self.runs)

    def half(self, level: float) -> Floats:
        """Half width of the two-sided interval, by bisection of `tail_probability`."""
        weights, root, df = self._parts()
        low = np.zeros_like(self.groups)
        high = root.max(-1) * stats.t.ppf(0.5 + level / 2, df.min())
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            outside = _tail(middle, weights, root, df) > 1 - level
            low, high = np.where(outside, middle, low), np.where(outside, high, middle)
        return np.asarray(high)

    def tail_probability(self, distance: Floats) -> Floats:
        """P(|mean - theta| > distance), the two-sided p-value if theta is that far from the mean."""
        return _tail(np.abs(distance), *self._parts())

    def _parts(self) -> tuple[Floats, Floats, Floats]:
        """Posterior probabilities, standard errors and degrees of freedom for each sigma, (..., S)."""
        variance = self.groups[..., None] + self.spread.factor[..., None] * SIGMA_S**2
        with np.errstate(divide="ignore", invalid="ignore"):
            df = self.df[..., None] * (variance / self.groups[..., None]) ** 2
        return self.spread.posterior(), np.sqrt(variance), np.where(np.isfinite(df), df, 1e9)

    def half_for_equivalence(self, level: float = 0.90, widest: float = 0.95) -> Floats:
        """Half width of the interval for equivalence: h + 4 k^(1/2) (1 + 2 t^2) / 6 se, at most that at level `widest`.

        h is the half width at `level`, and t = h / se. Without its factor 4, the second term is Johnson's (1978)
        correction for skewness, here on both sides. If rare large differences are absent from a sample, then value, se
        and skewness are all too small, and equivalence would be declared too easily. The factor 4 was chosen by
        simulation (wrong equivalence in docs/order_statistics.md).
        """
        half, se = self.half(level), self.se
        with np.errstate(divide="ignore", invalid="ignore"):
            widened = half + 4 * self.skewness * (1 + 2 * (half / se) ** 2) / 6 * se
        return np.fmin(widened, self.half(widest))


def _tail(distance: Floats, weights_S: Floats, root_S: Floats, df_S: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(root_S > 0, distance[..., None] / root_S, np.where(distance[..., None] > 0, np.inf, 0.0))
    return np.asarray((weights_S * 2 * stdtr(df_S, -t)).sum(-1))


def two_way(sums_XGR: Floats, counts_XGR: Floats, overlap: float = 0.0) -> TwoWay:
    """Mean, variance of groups, and spread of runs.

    Shape:
        sums (..., G, R), counts (..., G, R) or (G, R) -> (...)
    """
    rows_X = counts_XGR.sum((-2, -1))
    value_X = sums_XGR.sum((-2, -1)) / rows_X
    errors_XGR = sums_XGR - value_X[..., None, None] * counts_XGR
    errors_XG, counts_XG = errors_XGR.sum(-1), counts_XGR.sum(-1)
    groups_X = np.maximum(cr2(errors_XG, counts_XG), independent(errors_XG, counts_XG))
    skewness_X = skewness(errors_XG, counts_XG)
    df_X = np.minimum(cr2_df(counts_XG), skewness_df(skewness_X))
    zero_X = np.zeros_like(groups_X)
    if counts_XGR.shape[-1] == 1:
        return TwoWay(value_X, groups_X, df_X, RunSpread(zero_X, zero_X, zero_X, zero_X), skewness_X)
    excess_X, mean_square_X, df_runs_X = run_excess(errors_XGR, counts_XGR)
    factor_X = (counts_XGR.sum(-2) ** 2).sum(-1) / rows_X**2 + overlap
    noise_X = np.maximum(mean_square_X - excess_X, LEAST_NOISE * mean_square_X)
    spread = RunSpread(mean_square_X + zero_X, noise_X + zero_X, df_runs_X + zero_X, factor_X + zero_X)
    return TwoWay(value_X, groups_X, df_X, spread, skewness_X)


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
    within = _mean_product(same_run - same_entry, n_run - n_entry, total)
    across = _mean_product(same_entry - same_run - same_group, total - n_run - n_group + n_entry, total)
    df = np.maximum((counts_XGR.sum(-2) > 0).sum(-1) - 1.0, 1.0)
    return within - across, same_run / n_run * (df + 1) / df, df


def _mean_product(products: Floats, pairs: Floats, total: Floats) -> Floats:
    """Products divided by the number of pairs; 0 if there are none, but for rounding."""
    some = pairs > 1e-9 * total
    return np.where(some, products, 0.0) / np.where(some, pairs, 1.0)


def _square_sums(table_XGR: Floats) -> tuple[Floats, Floats, Floats]:
    """Sums of squares of the column sums of runs, of the row sums of groups, and of all entries."""
    by_run, by_group = table_XGR.sum(-2), table_XGR.sum(-1)
    return (by_run**2).sum(-1), (by_group**2).sum(-1), (table_XGR**2).sum((-2, -1))
