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
from videomem.statistics.contrasts import bootstrap_t, estimate_mean, zero_bound
from videomem.statistics.group_tables import group_by_run
from videomem.statistics.randomization import holm, mcnemar_p, reliance_test
from videomem.statistics.results import Estimate
from videomem.statistics.variance import cr2, cr2_df, independent, run_excess, two_way

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
    centre = np.eye(len(sizes)) - np.outer(weights, np.ones(len(sizes)))
    root = np.diag((1 - weights) ** -0.5)
    form = root @ centre @ np.diag(weights**2) @ centre.T @ root
    expected = np.trace(form) ** 2 / np.trace(form @ form)
    assert cr2_df(np.array(sizes, dtype=float)) == pytest.approx(max(expected, 1), rel=1e-9)


def test_equal_groups_without_runs_give_the_t_test_of_their_means() -> None:
    values = np.random.default_rng(0).normal(0.1, 0.2, size=(30, 4)).clip(-1, 1)
    one = estimate_mean(values.ravel(), np.repeat(np.arange(30), 4), np.zeros(120, dtype=int), bootstrap=0)
    assert one.p == pytest.approx(stats.ttest_1samp(values.mean(1), 0).pvalue, rel=1e-6)
    assert one.variance_runs == 0 and one.df == pytest.approx(29)


def test_run_excess_of_a_balanced_table_is_the_anova_component() -> None:
    table = np.random.default_rng(0).normal(size=(12, 5)) + np.random.default_rng(1).normal(size=5)
    errors, counts = table - table.mean(), np.ones_like(table)
    between = 12 * np.var(errors.mean(0), ddof=1)
    rest = errors - errors.mean(0) - errors.mean(1, keepdims=True)
    component = (between - (rest**2).sum() / (11 * 4)) / 12
    assert run_excess(errors, counts)[0] == pytest.approx(component, rel=1e-9)


def test_overlapping_training_sets_increase_the_variance_of_runs() -> None:
    rows = some_rows()
    apart, overlapping = (estimate_mean(*rows, overlap=o, bootstrap=0) for o in (0.0, 0.25))
    assert apart.variance_runs > 0
    assert overlapping.variance_runs == pytest.approx(apart.variance_runs * (1 + 4 * 0.25))
    assert overlapping.variance_groups == apart.variance_groups


def test_clips_are_not_counted_as_independent() -> None:
    values, groups, runs = some_rows(num_runs=1)
    repeated = [np.repeat(part, 5) for part in (values, groups, runs)]
    once, five_times = (estimate_mean(*rows, bootstrap=0) for rows in ((values, groups, runs), repeated))
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
        one = estimate_mean(values, np.arange(200), np.zeros(200, dtype=int), bootstrap=0)
        plain = stats.t.ppf(0.95, one.df) * one.se
        assert (one.high90 - one.value > 1.1 * plain) == widened
        assert one.high90 <= one.high


def test_few_groups_that_carry_the_difference_cost_degrees_of_freedom() -> None:
    spread, concentrated = np.tile([0.1, -0.1, 0.2, 0.0], 10), np.zeros(40)
    concentrated[:2] = 1
    one, other = (estimate_mean(v, np.arange(40), np.zeros(40, dtype=int), bootstrap=0) for v in (spread, concentrated))
    assert one.df == pytest.approx(39) and other.df < 2


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(-0.2, 0.2), st.floats(0.1, 0.9))
def test_estimates_follow_shift_and_scale_and_ignore_row_order_and_ids(seed: int, shift: float, scale: float) -> None:
    values, groups, runs = some_rows(seed=seed)
    values = values * 0.7
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(values))
    renamed = rng.permutation(100)
    one = estimate_mean(values, groups, runs, 0.2, bootstrap=0)
    same = estimate_mean(values[order], renamed[groups[order]], renamed[runs[order]] - 50, 0.2, bootstrap=0)
    assert numbers(same) == pytest.approx(numbers(one), rel=1e-6, abs=1e-12)
    moved = estimate_mean(values + shift, groups, runs, 0.2, bootstrap=0)
    assert (moved.value, moved.se, moved.df) == pytest.approx((one.value + shift, one.se, one.df), rel=1e-6, abs=1e-9)
    scaled = estimate_mean(-scale * values, groups, runs, 0.2, bootstrap=0)
    assert (scaled.low, scaled.high, scaled.p) == pytest.approx((-scale * one.high, -scale * one.low, one.p), rel=1e-6)


def test_batched_data_sets_give_the_results_of_single_ones() -> None:
    tables = [group_by_run(*some_rows(seed=seed)) for seed in range(5)]
    together = two_way(np.stack([sums for sums, _ in tables]), tables[0][1], 0.25)
    for i, (sums, counts) in enumerate(tables):
        alone = two_way(sums, counts, 0.25)
        parts = ("value", "se", "df")
        assert [getattr(together, x)[i] for x in parts] == pytest.approx([float(getattr(alone, x)) for x in parts])


def test_bootstrap_t_agrees_with_t_and_repeats_with_its_seed() -> None:
    one, again, other = (estimate_mean(*some_rows(), seed=seed) for seed in (3, 3, 4))
    assert one == again and one.boot_low != other.boot_low
    assert one.boot_low is not None and one.boot_high is not None
    assert (one.boot_high - one.boot_low) / (one.high - one.low) == pytest.approx(1, abs=0.4)
    assert one.boot_high - one.value == pytest.approx(one.value - one.boot_low)


def test_bootstrap_t_is_none_if_its_draws_have_no_variance() -> None:
    sums = np.array([[1.0, 0.0, 0.0, 0.0]]).T
    assert bootstrap_t(sums, np.ones((4, 1))) is None


# Nothing differs


def test_no_difference_at_all_has_an_interval_of_the_exact_bound() -> None:
    groups = np.repeat(np.arange(40), 5)
    one = estimate_mean(np.zeros(200), groups, np.zeros(200, dtype=int))
    assert (one.se, one.p, one.value) == (0, 1, 0)
    assert one.high == pytest.approx(1 - 0.05 ** (1 / 40)) and one.low == -one.high
    assert one.high90 == pytest.approx(1 - 0.10 ** (1 / 40))


def test_a_constant_difference_is_bounded_alike_and_within_what_is_possible() -> None:
    ids = np.arange(30)
    one = estimate_mean(np.full(30, 0.95), ids, ids * 0)
    assert one.high == 1 and one.low == pytest.approx(0.95 - zero_bound(30)) and one.p == pytest.approx(2.0**-29)


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


# Randomisation


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
