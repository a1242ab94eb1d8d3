"""The statistics of the order test: definitions, exact enumeration, invariances and hand-computed values."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from videomem.errors import VideomemError
from videomem.statistics.contrasts import class_weights, estimate_mean, zero_bound
from videomem.statistics.group_tables import Floats, group_by_run
from videomem.statistics.randomization import holm, mcnemar_p, reliance_test
from videomem.statistics.results import Estimate
from videomem.statistics.variance import RunSpread, TwoWay, cr2, cr2_df, independent, run_excess, two_way

SIZES = (1, 2, 3, 4, 6, 9)


def some_rows(num_runs: int = 4, sizes: tuple[int, ...] = SIZES * 4, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Values, groups and runs with effects of groups and of runs; every run tests all clips."""
    rng = np.random.default_rng(seed)
    groups = np.tile(np.repeat(np.arange(len(sizes)), sizes), num_runs)
    runs = np.repeat(np.arange(num_runs), sum(sizes))
    values = 0.1 + 0.1 * rng.normal(size=len(sizes))[groups] + 0.02 * rng.normal(size=num_runs)[runs]
    return np.clip(values + 0.1 * rng.normal(size=len(groups)), -1, 1), groups, runs


def numbers(estimate: Estimate) -> dict[str, float]:
    return {name: value for name, value in asdict(estimate).items() if value is not None}


# Two-way standard errors


def inverse_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**-0.5) @ vectors.T


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), SIZES, (1, 1, 20)])
def test_cr2_equals_its_matrix_definition(sizes: tuple[int, ...]) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    values = np.random.default_rng(1).normal(size=len(groups))
    x = np.ones((len(groups), 1))
    bread = np.linalg.inv(x.T @ x)
    hat, residuals, meat = x @ bread @ x.T, values - values.mean(), np.zeros((1, 1))
    for group in range(len(sizes)):
        rows = groups == group
        adjusted = inverse_root(np.eye(rows.sum()) - hat[np.ix_(rows, rows)]) @ residuals[rows]
        meat += x[rows].T @ np.outer(adjusted, adjusted) @ x[rows]
    errors = np.bincount(groups, weights=residuals)
    assert cr2(errors, np.array(sizes, dtype=float)) == pytest.approx((bread @ meat @ bread).item(), rel=1e-9)


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), SIZES, (1, 1, 20)])
def test_degrees_of_freedom_equal_their_matrix_definition(sizes: tuple[int, ...]) -> None:
    weights = np.array(sizes) / sum(sizes)
    center = np.eye(len(sizes)) - np.outer(weights, np.ones(len(sizes)))
    root = np.diag((1 - weights) ** -0.5)
    form = root @ center @ np.diag(weights**2) @ center.T @ root
    expected = np.trace(form) ** 2 / np.trace(form @ form)
    assert cr2_df(np.array(sizes, dtype=float)) == pytest.approx(max(expected, 1), rel=1e-9)


def test_one_run_of_equal_groups_gives_the_t_interval_of_their_means() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.2, size=(30, 4)).clip(-1, 1)
    one = estimate_mean(values.ravel(), np.repeat(np.arange(30), 4), np.zeros(120, dtype=int))
    expected = stats.ttest_1samp(values.mean(1), 0)
    assert one.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (one.low, one.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-6)
    assert one.run_sd == 0 and one.df == pytest.approx(29)


def test_runs_with_equal_means_give_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.2, size=30).clip(-1, 1)
    rows = np.tile(values, 6), np.tile(np.arange(30), 6), np.repeat(np.arange(6), 30)
    one = estimate_mean(*rows)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert one.run_sd == pytest.approx(0, abs=1e-9) and (one.low, one.high) == pytest.approx((low, high), rel=1e-6)


def test_run_excess_of_a_balanced_table_is_the_anova_component() -> None:
    table = np.random.default_rng(0).normal(size=(12, 5)) + np.random.default_rng(1).normal(size=5)
    errors, counts = table - table.mean(), np.ones_like(table)
    between = 12 * np.var(errors.mean(0), ddof=1)
    rest = errors - errors.mean(0) - errors.mean(1, keepdims=True)
    component = (between - (rest**2).sum() / (11 * 4)) / 12
    assert run_excess(errors, counts)[0] == pytest.approx(component, rel=1e-9)


def test_overlapping_training_sets_widen_the_interval_by_the_variance_of_runs() -> None:
    rows = some_rows()
    apart, overlapping = (estimate_mean(*rows, overlap=o) for o in (0.0, 0.25))
    assert apart.run_sd > 0 and apart.run_sd == overlapping.run_sd
    assert apart.se**2 == pytest.approx(apart.variance_groups + apart.run_sd**2 / 4)
    assert overlapping.se**2 == pytest.approx(apart.variance_groups + apart.run_sd**2 * (1 / 4 + 0.25))
    assert overlapping.high - overlapping.low > apart.high - apart.low


def interval_of(groups: float, mean_square: float, noise: float, num_runs: int = 6, num_groups: int = 40) -> TwoWay:
    parts = (np.array(x) for x in (mean_square, noise, num_runs - 1.0, 1 / num_runs))
    return TwoWay(np.array(0.0), np.array(groups), np.array(num_groups - 1.0), RunSpread(*parts), np.array(0.0))


def test_the_interval_does_not_jump_where_the_excess_of_runs_crosses_zero() -> None:
    for num_runs in (2, 6, 10):
        halves = [
            float(interval_of(4e-4, 1e-3 + excess, 1e-3, num_runs).half(0.95))
            for excess in np.linspace(-5e-4, 1e-3, 61)
        ]
        steps = np.diff(halves)
        assert (steps > 0).all() and steps.max() < 0.02 * halves[0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 8), st.floats(0, 0.05))
def test_estimates_are_continuous_in_the_data(seed: int, num_runs: int, run_sd: float) -> None:
    rng = np.random.default_rng(seed)
    values, groups, runs = some_rows(num_runs, seed=seed)
    values = 0.8 * values + run_sd * rng.normal(size=num_runs)[runs].clip(-2, 2)
    nudged = values + 1e-6 * rng.choice([-1, 1], size=len(values))
    one, other = estimate_mean(values, groups, runs), estimate_mean(nudged, groups, runs)
    assert numbers(other) == pytest.approx(numbers(one), rel=2e-3, abs=1e-4)


def test_intervals_of_data_with_equal_standard_errors_have_about_equal_widths() -> None:
    without = interval_of(9.2e-4, 1e-3, 1.2e-3)
    halves = {}
    for share in (0.6, 0.8):  # of the variance is that of groups
        groups = share * float(without.se) ** 2
        scales = np.geomspace(1e-4, 1e-2, 200)
        fits = [interval_of(groups, 1.2e-3 + scale, 1.2e-3) for scale in scales]
        halves[share] = min(fits, key=lambda fit: abs(fit.se - without.se)).half(0.95)
    for half in halves.values():
        assert half == pytest.approx(float(without.half(0.95)), rel=0.15)


def test_the_posterior_finds_the_spread_of_many_runs() -> None:
    for sigma in (0.0, 0.02, 0.1, 0.3):
        noise = 1e-4
        spread = RunSpread(*(np.array(x) for x in (sigma**2 + noise, noise, 199.0, 1 / 200)))
        assert np.sqrt(spread.variance) == pytest.approx(sigma, rel=0.05, abs=0.004)


def simulated(num: int, num_runs: int, run_sd: float, effect: float = 0.0, seed: int = 0) -> tuple[Floats, Floats]:
    """Sums (num, 40, R) and counts of 40 groups of one clip that is tested in every run."""
    rng = np.random.default_rng(seed)
    tables = effect + 0.3 * rng.normal(size=(num, 40, 1)) + 0.3 * rng.normal(size=(num, 40, num_runs))
    return tables + run_sd * rng.normal(size=(num, 1, num_runs)), np.ones((40, num_runs))


@pytest.mark.parametrize("run_sd", [0.0, 0.03])
@pytest.mark.parametrize("num_runs", [6, 10])
def test_intervals_cover_whether_runs_appear_equal_or_not(num_runs: int, run_sd: float) -> None:
    sums, counts = simulated(1500, num_runs, run_sd)
    fit = two_way(sums, counts)
    covered = np.abs(fit.value) <= fit.half(0.95)
    differ = run_excess(sums - fit.value[:, None, None], counts)[0] > 0
    assert 100 < differ.sum() < 1450
    assert covered.mean() >= 0.93 and covered[differ].mean() >= 0.90 and covered[~differ].mean() >= 0.90
    assert (covered == (fit.tail_probability(fit.value) >= 0.05)).all()


def test_clips_are_not_counted_as_independent() -> None:
    values, groups, runs = some_rows(num_runs=1)
    repeated = [np.repeat(part, 5) for part in (values, groups, runs)]
    once, five_times = (estimate_mean(*rows) for rows in ((values, groups, runs), repeated))
    assert five_times.se == pytest.approx(once.se) and five_times.df == pytest.approx(once.df)


def test_large_groups_that_agree_by_chance_do_not_narrow_the_interval() -> None:
    errors, counts = np.array([1.0, -1, 1, -1, 0, 0]), np.array([1.0, 1, 1, 1, 40, 40])
    assert independent(errors, counts) > 10 * cr2(errors, counts)
    sums = errors[:, None]
    assert two_way(sums, counts[:, None]).groups == pytest.approx(independent(errors, counts))


def test_rare_large_differences_widen_the_interval_for_equivalence() -> None:
    rare = np.zeros(200)
    rare[:3] = 0.2
    even = np.tile([0.02, -0.02], 100)
    for values, widened in ((rare, True), (even, False)):
        one = estimate_mean(values, np.arange(200), np.zeros(200, dtype=int))
        plain = stats.t.ppf(0.95, one.df) * one.se
        assert (one.high90 - one.value > 1.1 * plain) == widened
        assert one.high90 <= one.high


def test_few_groups_that_carry_the_difference_cost_degrees_of_freedom() -> None:
    spread, concentrated = np.tile([0.1, -0.1, 0.2, 0.0], 10), np.zeros(40)
    concentrated[:2] = 1
    one, other = (estimate_mean(v, np.arange(40), np.zeros(40, dtype=int)) for v in (spread, concentrated))
    assert one.df == pytest.approx(39) and other.df < 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(-0.2, 0.2), st.floats(0.1, 0.9))
def test_estimates_follow_shift_and_scale_and_ignore_row_order_and_ids(seed: int, shift: float, scale: float) -> None:
    values, groups, runs = some_rows(seed=seed)
    values = values * 0.7
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(values))
    renamed = rng.permutation(100)
    one = estimate_mean(values, groups, runs, 0.2)
    same = estimate_mean(values[order], renamed[groups[order]], renamed[runs[order]] - 50, 0.2)
    assert numbers(same) == pytest.approx(numbers(one), rel=1e-6, abs=1e-12)
    moved = estimate_mean(values + shift, groups, runs, 0.2)
    assert (moved.value, moved.se, moved.df) == pytest.approx((one.value + shift, one.se, one.df), rel=1e-6, abs=1e-9)
    turned = estimate_mean(-values, groups, runs, 0.2)
    assert (turned.low, turned.high, turned.p) == pytest.approx((-one.high, -one.low, one.p), rel=1e-6)
    once = runs == runs[0]
    one, scaled = (estimate_mean(factor * values[once], groups[once], runs[once]) for factor in (1, scale))
    assert (scaled.low, scaled.high, scaled.p) == pytest.approx((scale * one.low, scale * one.high, one.p), rel=1e-6)


def test_batched_data_sets_give_the_results_of_single_ones() -> None:
    tables = [group_by_run(*some_rows(seed=seed)) for seed in range(5)]
    together = two_way(np.stack([sums for sums, _ in tables]), tables[0][1], 0.25)
    for i, (sums, counts) in enumerate(tables):
        alone = two_way(sums, counts, 0.25)
        for part in ("value", "se", "df"):
            assert getattr(together, part)[i] == pytest.approx(float(getattr(alone, part)))
        assert together.half(0.95)[i] == pytest.approx(float(alone.half(0.95)))


def test_intervals_end_at_what_is_possible() -> None:
    values = np.where(np.arange(30) == 0, 0.9, 1.0)
    one = estimate_mean(values, np.arange(30), np.zeros(30, dtype=int), limits=(0, 1))
    assert one.low < one.value < one.high == one.high90 == 1


def test_intervals_of_several_comparisons_hold_together() -> None:
    one, two = (estimate_mean(*some_rows(num_runs=1), comparisons=m) for m in (1, 2))
    assert two.p == pytest.approx(2 * one.p) and two.se == one.se
    for m, estimate in ((1, one), (2, two)):
        expected = stats.t.ppf(1 - 0.025 / m, one.df) * one.se
        assert estimate.high - estimate.value == pytest.approx(expected, rel=1e-6)
    assert two.low90 < one.low90 and estimate_mean(np.zeros(9), np.arange(9), np.zeros(9, int), comparisons=2).p == 1


# Weights


def test_class_weights_give_the_mean_of_class_means() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [12, 4, 24])
    values, groups, runs = rng.random(40), np.arange(40) % 20, np.repeat([0, 1], 20)
    one = estimate_mean(values, groups, runs, limits=(0, 1), weights_N=class_weights(labels))
    assert one.value == pytest.approx(np.mean([values[labels == label].mean() for label in range(3)]))


def test_weights_equal_repeated_rows_and_have_no_scale() -> None:
    values, groups, runs = some_rows(num_runs=1)
    repeated = estimate_mean(*(np.repeat(part, 1 + groups % 3) for part in (values, groups, runs)))
    weights = 1.0 + groups % 3
    for scale in (1.0, 1e-3):
        weighted = estimate_mean(values, groups, runs, weights_N=scale * weights)
        assert numbers(weighted) == pytest.approx(numbers(repeated), rel=1e-6)


def test_one_weight_for_all_rows_changes_nothing() -> None:
    rows = some_rows()
    equal = estimate_mean(*rows, weights_N=np.full(len(rows[0]), 0.25))
    assert numbers(equal) == pytest.approx(numbers(estimate_mean(*rows)), rel=1e-6)


def test_the_majority_class_alone_is_no_balanced_accuracy() -> None:
    labels = np.tile(np.repeat([0, 1], [27, 3]), 2)
    rows = labels == 0, np.tile(np.arange(30), 2), np.repeat([0, 1], 30)
    plain, balanced = (estimate_mean(*rows, limits=(0, 1), weights_N=w) for w in (None, class_weights(labels)))
    assert plain.low > 0.5 and balanced.value == pytest.approx(0.5) and balanced.low < 0.5


def test_the_bound_without_any_difference_counts_groups_by_their_weight() -> None:
    groups = np.repeat(np.arange(20), [81] + [1] * 19)
    one = estimate_mean(np.zeros(100), groups, np.zeros(100, dtype=int))
    effective = 100**2 / (81**2 + 19)
    assert one.effective_groups == pytest.approx(effective) and one.num_groups == 20
    assert one.high == pytest.approx(zero_bound(effective)) and one.high > 0.8


# Nothing differs


def test_no_difference_at_all_has_an_interval_of_the_exact_bound() -> None:
    groups = np.repeat(np.arange(40), 5)
    one = estimate_mean(np.zeros(200), groups, np.zeros(200, dtype=int))
    assert (one.se, one.p, one.value) == (0, 1, 0)
    assert one.high == pytest.approx(1 - 0.05 ** (1 / 40)) and one.low == -one.high and one.effective_groups is None
    assert one.high90 == pytest.approx(1 - 0.10 ** (1 / 40))


def test_a_constant_difference_is_bounded_alike_and_within_what_is_possible() -> None:
    ids = np.arange(30)
    one = estimate_mean(np.full(30, 0.95), ids, ids % 3)
    assert (
        one.se == one.run_sd == one.variance_groups == 0
        and one.high == 1
        and one.low == pytest.approx(0.95 - zero_bound(30))
        and one.p == pytest.approx(2.0**-29)
    )


@pytest.mark.parametrize(
    ("values", "groups", "runs"),
    [
        ([0.0, 0.0, 0.5, 0.5], [0, 1, 0, 1], [0, 0, 1, 1]),  # no variance of groups, but of runs
        ([0.5, -0.5], [0, 1], [0, 1]),  # no run has two groups
        ([0.5, -0.5, 0.5, -0.5], [0, 1, 0, 1], [0, 0, 1, 1]),  # no variance of runs
        ([1.0, -1.0], [0, 1], [0, 0]),
        ([1.0, 1.0, -1.0, -1.0, 1.0, 1.0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2]),
        ([0.1, 0.1, 0.1, 0.1 + 1e-9], [0, 1, 0, 1], [0, 0, 1, 1]),
        ([1e-9, 0.0, 0.0], [0, 1, 1], [0, 1, 2]),
    ],
)
def test_extreme_data_give_finite_ordered_numbers(values, groups, runs) -> None:  # type: ignore[no-untyped-def]
    for comparisons in (1, 9):
        one = estimate_mean(values, np.array(groups), np.array(runs), 0.25, comparisons=comparisons)
        assert all(np.isfinite(number) for number in numbers(one).values())
        assert -1 <= one.low <= one.low90 <= one.value <= one.high90 <= one.high <= 1 and 0 <= one.p <= 1


@pytest.mark.parametrize(
    ("values", "groups", "runs", "overlap", "words"),
    [
        ([0.1, 0.2], [0, 0], [0, 0], 0.0, "1 group"),
        ([0.1, 0.2], [0, 1, 2], [0, 0], 0.0, "lengths"),
        ([0.1, np.nan], [0, 1], [0, 0], 0.0, "not a finite"),
        ([10.0, 2.0], [0, 1], [0, 0], 0.0, "points"),
        ([0.1, 0.2], [0.5, 1], [0, 0], 0.0, "integers"),
        ([0.1, 0.2], [0, 1], [0, 0], -1.0, "overlap"),
        ([], [], [], 0.0, "0 rows"),
    ],
)
def test_invalid_data_are_refused(values, groups, runs, overlap, words) -> None:  # type: ignore[no-untyped-def]
    ids = [np.array(x, dtype=None if len(x) else int) for x in (groups, runs)]
    with pytest.raises(VideomemError, match=words):
        estimate_mean(values, *ids, overlap=overlap)


@pytest.mark.parametrize(
    ("weights", "words"), [([1.0], "one per row"), ([1.0, 0.0], "above 0"), ([1, np.inf], "above")]
)
def test_invalid_weights_are_refused(weights: list[float], words: str) -> None:
    with pytest.raises(VideomemError, match=words):
        estimate_mean([0.1, 0.2], np.array([0, 1]), np.array([0, 0]), weights_N=weights)


# Randomization


def test_reliance_draws_whole_groups_as_enumeration_does() -> None:
    rng = np.random.default_rng(0)
    correct, groups = (rng.random((20, 3)) < [0.75, 0.6, 0.5]).astype(float), np.repeat(np.arange(5), 4)
    sums = np.stack([correct[groups == g].sum(0) for g in range(5)])
    gain = (3 * sums - sums.sum(1, keepdims=True)) / 2
    every = np.array([sum(gain[g, a] for g, a in enumerate(draw)) for draw in product(range(3), repeat=5)])
    exact = (np.abs(every) >= abs(gain[:, 0].sum()) - 1e-9).mean()
    test = reliance_test(correct, groups, num_draws=20000)
    assert test.p == pytest.approx(exact, abs=0.01) and 0.01 < exact < 0.5
    assert test.smallest_p == pytest.approx(3.0**-5)


def test_the_reliance_test_has_its_size_if_clips_of_a_group_are_similar() -> None:
    rng, rejected = np.random.default_rng(0), 0
    groups = np.repeat(np.arange(25), 8)
    for seed in range(300):
        easy = rng.normal(size=(25, 6))[groups]
        correct = easy + rng.normal(size=(200, 6)) > -0.5
        rejected += reliance_test(correct, groups, 199, seed).p <= 0.05
    assert stats.binomtest(rejected, 300, 0.05).pvalue > 0.01
    assert rejected > 0


def test_reliance_is_two_sided_and_never_zero() -> None:
    groups = np.arange(30)
    worse = np.concatenate([np.zeros((30, 1)), np.ones((30, 4))], 1)
    for correct in (worse, 1 - worse):
        assert reliance_test(correct, groups, 999).p == 1 / 1000
    assert reliance_test(np.ones((30, 5)), groups, 999).p == 1


@settings(max_examples=10, deadline=None)  # statsmodels collects garbage at each call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_equals_its_definition(p_values: list[float]) -> None:
    order, running = np.argsort(p_values, kind="stable"), 0.0
    expected = [0.0] * len(p_values)
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        expected[i] = running
    assert holm(p_values) == pytest.approx(expected)


def test_mcnemar_is_the_binomial_of_the_clips_that_differ() -> None:
    one, other = [1] * 8 + [0] * 2 + [1] * 5, [0] * 8 + [1] * 2 + [1] * 5
    expected = 2 * sum(comb(10, k) for k in range(3)) / 2**10
    assert mcnemar_p(one, other, np.arange(15)) == pytest.approx(expected)


def test_mcnemar_refuses_groups_of_several_clips() -> None:
    with pytest.raises(VideomemError, match="group 3 has 2 clips"):
        mcnemar_p([1, 0, 1], [0, 0, 1], [3, 3, 4])
