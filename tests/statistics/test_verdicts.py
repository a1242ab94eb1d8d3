"""Classes, chiral pairs, verdicts and planning: hand-computed values, enumeration, and generated data."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pytest
from scipy import stats

from videomem.errors import VideomemError
from videomem.statistics.chiral import chiral_pairs
from videomem.statistics.classes import class_gains
from videomem.statistics.contrasts import estimate_mean, zero_bound
from videomem.statistics.planning import (
    Assumptions,
    detectable_effect,
    expected_se,
    groups_for_equivalence,
    groups_needed,
    runs_needed,
    variance_parts,
)
from videomem.statistics.randomization import holm
from videomem.statistics.results import Estimate
from videomem.statistics.verdict import judge, judge_data_set

MARGIN = 0.02


def an_estimate(low: float, high: float, *, groups: int = 200, p: float = 0.01, shrink: float = 0.84) -> Estimate:
    """An estimate whose 90 % interval is `shrink` times the 95 % interval."""
    value, half = (low + high) / 2, (high - low) / 2
    ends = (value - shrink * half, value + shrink * half)
    return Estimate(value, half / 2, 100, low, high, *ends, p, groups, 10, None, None, (half / 2) ** 2, 1e-6)


# Classes


def class_rows(gains: tuple[float, ...], num_groups: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Groups with one clip of every class, in two runs."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(len(gains)), num_groups * 2)
    groups = np.repeat(np.tile(np.arange(num_groups), 2), len(gains))
    runs = np.repeat([0, 1], num_groups * len(gains))
    values = np.array(gains)[labels] + 0.1 * rng.normal(size=len(labels))
    return values.clip(-1, 1), groups, runs, labels


def test_class_gains_are_shrunk_towards_their_mean_in_order() -> None:
    raw = class_gains(*class_rows((0.0, 0.1, 0.2, 0.6), 6), ["a", "b", "c", "d"])
    mean = np.mean([one.value for one in raw])
    for one in raw:
        assert abs(one.pooled - mean) < abs(one.value - mean)
        assert one.low < one.pooled < one.high
    assert [one.name for one in sorted(raw, key=lambda one: one.pooled)] == ["a", "b", "c", "d"]


def test_equal_classes_are_pooled_to_one_gain() -> None:
    left = []
    for seed in range(6):
        gains = class_gains(*class_rows((0.1,) * 8, 4, seed), [str(i) for i in range(8)])
        left.append(np.ptp([one.pooled for one in gains]) / np.ptp([one.value for one in gains]))
    assert np.median(left) < 0.3 and max(left) < 0.9


def test_sign_flips_are_exact_for_few_groups_and_return_the_smallest_p() -> None:
    values = np.array([0.3, 0.2, 0.4, -0.1])
    one = class_gains(values, np.arange(4), np.zeros(4, dtype=int), np.zeros(4, dtype=int), ["a"])[0]
    every = [abs(np.dot(signs, values)) for signs in product((1, -1), repeat=4)]
    assert one.p == np.mean(np.array(every) >= 0.8 - 1e-9) == 0.25
    assert one.smallest_p == 2 / 16
    many = class_gains(np.full(40, 0.1), np.arange(40), np.zeros(40, dtype=int), np.zeros(40, dtype=int), ["a"])[0]
    assert many.p == many.smallest_p == 1 / 10000


def test_class_p_values_are_adjusted_over_classes() -> None:
    gains = class_gains(*class_rows((0.0, 0.3, 0.5), 8), ["a", "b", "c"])
    assert [one.p_holm for one in gains] == holm([one.p for one in gains])


def test_classes_of_one_group_or_no_variance_give_finite_numbers() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2])
    values, groups = np.array([0.1, 0.3, 0.2, 0.5, 0.0, 0.0]), np.array([0, 1, 2, 3, 4, 5])
    for v in (values, np.zeros(6)):
        gains = class_gains(v, groups, np.zeros(6, dtype=int), labels, ["a", "b", "c", "absent"])
        assert [one.num_groups for one in gains] == [3, 1, 2] and all(one.se > 0 for one in gains)
        json.dumps([asdict(one) for one in gains], allow_nan=False)


# Chiral pairs


def chiral_rows(
    num_groups: int, num_classes: int, turned: float, seed: int = 0, wrong: float = 0.2
) -> tuple[np.ndarray, ...]:
    """Reversal exchanges classes 0 and 1 in a share `turned` of the groups, with some random errors."""
    rng = np.random.default_rng(seed)
    labels, groups = np.tile(np.arange(num_classes), num_groups), np.repeat(np.arange(num_groups), num_classes)
    ordered, backwards = (np.where(rng.random(len(labels)) < wrong, rng.integers(num_classes, size=len(labels)), labels)
                          for _ in range(2))  # fmt: skip
    turning = (rng.random(num_groups) < turned)[groups] & (labels < 2)
    return labels, ordered, np.where(turning, 1 - labels, backwards), groups


def test_a_pair_that_time_reversal_exchanges_is_found_among_many_classes() -> None:
    names = [f"class {i}" for i in range(174)]
    found = chiral_pairs(*chiral_rows(40, 174, 0.8), names, num_draws=499)
    assert (found.pairs[0].first, found.pairs[0].second) == ("class 0", "class 1")
    assert found.pairs[0].p == 1 / 500 and found.pairs[0].excess > 0.5
    assert found.num_groups_found_on + found.num_groups_tested_on == 40 and len(found.pairs) <= 10
    json.dumps(asdict(found), allow_nan=False)


def test_pairs_that_reversal_does_not_exchange_are_rarely_called_chiral() -> None:
    hits = 0
    for seed in range(200):
        pairs = chiral_pairs(*chiral_rows(40, 5, 0.0, seed, wrong=0.7), list("abcde"), num_draws=99, seed=seed).pairs
        hits += any(pair.p <= 0.05 for pair in pairs)
    assert hits <= stats.binom.ppf(0.99, 200, 0.05)


def test_confusion_in_one_direction_only_is_not_mutual() -> None:
    labels, groups = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    assert chiral_pairs(labels, labels, np.zeros(40, dtype=int), groups, ["a", "b"], num_draws=99).pairs == ()


# Verdicts


@pytest.mark.parametrize(
    ("low", "high", "groups", "kind"),
    [
        (0.08, 0.16, 200, "matters"),
        (0.001, 0.05, 200, "matters"),
        (0.001, 0.018, 200, "negligible"),
        (-0.01, 0.015, 200, "does not matter"),
        (-0.018, -0.001, 200, "does not matter"),
        (-0.16, -0.08, 200, "hurts"),
        (-0.05, 0.05, 200, "undetermined"),
        (-0.01, 0.06, 200, "undetermined"),
        (-0.01, 0.015, 113, "undetermined"),
        (0.001, 0.018, 40, "undetermined"),
        (0.08, 0.16, 20, "matters"),
        (0.08, 0.16, 19, "no verdict"),
        (-0.01, 0.01, 19, "no verdict"),
    ],
)
def test_verdicts_follow_their_table(low: float, high: float, groups: int, kind: str) -> None:
    verdict = judge(an_estimate(low, high, groups=groups), MARGIN, "gru")
    assert verdict.kind == kind
    assert bool(verdict.remedy) == (kind in ("undetermined", "no verdict"))


def test_the_margin_is_judged_by_the_90_percent_interval() -> None:
    assert judge(an_estimate(-0.022, 0.022, shrink=0.84), MARGIN, "gru").kind == "does not matter"
    assert judge(an_estimate(-0.022, 0.022, shrink=0.95), MARGIN, "gru").kind == "undetermined"


def test_verdicts_are_sentences_in_points_about_the_learner() -> None:
    sentence = judge(an_estimate(0.081, 0.165, p=1e-9), MARGIN, "gru").sentence
    assert sentence == (
        "gru: order is worth 12.3 points to this learner at this training size (95 % interval 8.1 to 16.5, p < 0.001)"
    )


def test_equivalence_needs_as_many_groups_as_no_difference_at_all() -> None:
    needed = groups_for_equivalence(MARGIN)
    assert zero_bound(needed, 0.9) < MARGIN <= zero_bound(needed - 1, 0.9)
    ids = np.arange(needed)
    kinds = [judge(estimate_mean(np.zeros(n), ids[:n], ids[:n] * 0), MARGIN, "gru").kind for n in (needed - 1, needed)]
    assert kinds == ["undetermined", "does not matter"]


def test_undetermined_says_how_many_groups_would_decide() -> None:
    verdict = judge(an_estimate(-0.01, 0.06), MARGIN, "gru")
    needed = int(verdict.remedy.split()[1])
    reach = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert needed == pytest.approx(200 * 0.0175**2 / ((0.025 / reach) ** 2 - 1e-6), rel=0.03)


def test_undetermined_says_how_many_runs_would_decide_if_groups_cannot() -> None:
    noisy = replace(an_estimate(-0.03, 0.05), variance_groups=1e-6, variance_runs=4e-4)
    assert "runs (now 10)" in judge(noisy, MARGIN, "gru").remedy
    assert "neither" in judge(replace(noisy, overlap=0.3), MARGIN, "gru").remedy


def test_a_verdict_from_one_run_says_so() -> None:
    one, ten = (judge(replace(an_estimate(0.08, 0.16), num_runs=n), MARGIN, "gru").sentence for n in (1, 10))
    assert "one run" in one and "one run" not in ten


def test_margins_that_are_points_are_refused() -> None:
    with pytest.raises(VideomemError, match="share of 1"):
        judge(an_estimate(0.1, 0.2), 2.0, "gru")


def the_whole(*learners: tuple[Estimate, float]) -> str:
    estimates = {f"learner {i}": one for i, (one, _) in enumerate(learners)}
    verdicts = {name: judge(one, MARGIN, name) for name, one in estimates.items()}
    holm_p = dict(zip(estimates, (p for _, p in learners), strict=True))
    whole = judge_data_set(verdicts, holm_p, estimates, MARGIN)
    assert bool(whole.remedy) == (whole.kind in ("undetermined", "no verdict"))
    return whole.kind


def test_the_table_of_verdicts_on_a_data_set() -> None:
    yes, no, small = an_estimate(0.08, 0.16), an_estimate(-0.01, 0.01), an_estimate(0.001, 0.018)
    open_, worse, few = an_estimate(-0.05, 0.05), an_estimate(-0.16, -0.08), an_estimate(0.1, 0.2, groups=10)
    assert the_whole((yes, 0.001), (no, 1.0), (open_, 1.0)) == "matters"
    assert the_whole((yes, 0.06), (no, 1.0)) == "undetermined"
    assert the_whole((no, 1.0), (no, 1.0)) == "does not matter"
    assert the_whole((no, 1.0), (open_, 1.0)) == "undetermined"
    assert the_whole((no, 1.0), (small, 0.01)) == "negligible"
    assert the_whole((worse, 0.001), (no, 1.0)) == "hurts"
    assert the_whole((worse, 0.001), (yes, 0.001)) == "matters"
    assert the_whole((few, 0.001), (few, 0.001)) == "no verdict"


# Planning


def test_planned_groups_and_runs_give_the_effect_they_were_asked_for() -> None:
    plan = Assumptions()
    groups = groups_needed(0.05, plan)
    assert groups is not None and detectable_effect(groups, plan) <= 0.05 < detectable_effect(groups - 2, plan)
    noisy = replace(plan, run_sd=0.05)
    runs = runs_needed(0.05, 400, noisy)
    assert runs is not None and detectable_effect(400, replace(noisy, num_runs=runs)) <= 0.05
    assert detectable_effect(400, replace(noisy, num_runs=runs - 1)) > 0.05


def test_no_number_of_groups_is_returned_if_runs_vary_too_much() -> None:
    noisy = Assumptions(run_sd=0.05)
    assert groups_needed(0.02, noisy) is None and runs_needed(0.02, 10**5, noisy) is not None
    assert runs_needed(0.02, 10**5, replace(noisy, overlap=0.25)) is None


def test_expected_se_equals_that_of_simulated_data() -> None:
    plan = Assumptions(size_cv=0.0, run_sd=0.03, num_runs=4)
    rng, values = np.random.default_rng(0), []
    of_d = np.sqrt(2 * 0.8 * 0.2 * 0.5)
    for _ in range(1500):
        d = of_d * (np.sqrt(0.2) * rng.normal(size=(40, 1)) + np.sqrt(0.8) * rng.normal(size=(40, 5)))
        values.append(d.mean() + 0.03 * rng.normal(size=4).mean())
    assert np.std(values) == pytest.approx(expected_se(40, plan), rel=0.06)
    assert sum(variance_parts(40, plan)) == pytest.approx(expected_se(40, plan) ** 2)


def test_invalid_assumptions_are_refused() -> None:
    with pytest.raises(VideomemError, match="accuracy is 80"):
        Assumptions(accuracy=80)
    with pytest.raises(VideomemError, match="effect"):
        groups_needed(0.0)
