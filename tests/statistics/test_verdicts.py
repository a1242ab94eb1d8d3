"""Classes, chiral pairs, verdicts and planning: hand-computed values, enumeration, and generated data."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from videomem.errors import VideomemError
from videomem.statistics.chiral import chiral_pairs
from videomem.statistics.classes import class_gains
from videomem.statistics.contrasts import class_weights, estimate_mean, zero_bound
from videomem.statistics.planning import (
    MIN_RUNS,
    Assumptions,
    Design,
    detectable_effect,
    groups_for,
    groups_for_equivalence,
    groups_to_decide,
    runs_to_decide,
)
from videomem.statistics.randomization import holm
from videomem.statistics.results import Estimate, Verdict
from videomem.statistics.variance import two_way
from videomem.statistics.verdict import design_of, judge, judge_data

MARGIN = 0.02


def an_estimate(
    low: float, high: float, *, groups: int = 200, runs: int = 10, p: float = 0.01, shrink: float = 0.84
) -> Estimate:
    """An estimate whose 90 % interval is `shrink` times the 95 % interval."""
    value, half = (low + high) / 2, (high - low) / 2
    ends = (value - shrink * half, value + shrink * half)
    variance = (half / 2) ** 2
    return Estimate(value, half / 2, groups - 1, low, high, *ends, p, groups, runs, 0.9 * variance, 0.01, variance)


LEARNED, GUESSED, ORDERED = an_estimate(0.7, 0.8), an_estimate(0.4, 0.6), an_estimate(0.01, 0.05)


def verdict_on(estimate: Estimate, margin: float = MARGIN, accuracy: Estimate = LEARNED) -> Verdict:
    return judge(estimate, margin, "gru", accuracy, 0.5, "train for longer")


def verdict_on_data(
    information: Estimate, margin: float = MARGIN, accuracy: Estimate = LEARNED, rotated: Estimate | None = ORDERED
) -> Verdict:
    return judge_data(information, margin, ("gru", "average"), accuracy, 0.5, "train for longer", rotated)


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

SHARED = [
    (0.08, 0.16, 200, 10, "matters"),
    (0.001, 0.05, 200, 10, "matters"),
    (0.001, 0.018, 200, 10, "negligible"),
    (-0.01, 0.015, 200, 10, "does not matter"),
    (-0.018, -0.001, 200, 10, "does not matter"),
    (-0.05, 0.05, 200, 10, "undetermined"),
    (-0.01, 0.06, 200, 10, "undetermined"),
    (-0.01, 0.015, 113, 10, "undetermined"),
    (0.08, 0.16, 20, 6, "matters"),
    (0.08, 0.16, 19, 10, "no verdict"),
    (0.08, 0.16, 200, 5, "no verdict"),
    (-0.01, 0.01, 19, 1, "no verdict"),
]


@pytest.mark.parametrize(
    ("low", "high", "groups", "runs", "kind"),
    [*SHARED, (-0.16, -0.08, 200, 10, "hurts"), (0.001, 0.018, 40, 10, "undetermined")],
)
def test_the_table_of_verdicts_on_a_learner(low: float, high: float, groups: int, runs: int, kind: str) -> None:
    verdict = verdict_on(an_estimate(low, high, groups=groups, runs=runs))
    assert verdict.kind == kind
    assert bool(verdict.remedy) == (kind in ("undetermined", "no verdict"))


@pytest.mark.parametrize(
    ("low", "high", "groups", "runs", "kind"),
    [*SHARED, (-0.16, -0.08, 200, 10, "does not matter"), (0.001, 0.018, 40, 10, "matters"),
     (-0.16, -0.08, 40, 10, "undetermined")],
)  # fmt: skip
def test_the_table_of_verdicts_on_the_data(low: float, high: float, groups: int, runs: int, kind: str) -> None:
    verdict = verdict_on_data(an_estimate(low, high, groups=groups, runs=runs))
    assert verdict.kind == kind
    assert bool(verdict.remedy) == (kind in ("undetermined", "no verdict"))


def test_information_that_is_lost_with_rotated_clips_may_be_that_of_position() -> None:
    gain, lost = an_estimate(0.08, 0.16), an_estimate(-0.01, 0.05)
    assert verdict_on_data(gain).kind == "matters"
    kept, either, unknown = (verdict_on_data(gain, rotated=rotated) for rotated in (ORDERED, lost, None))
    assert (kept.kind, either.kind, unknown.kind) == ("matters", "order or position", "order or position")
    assert (
        "with clips rotated by random offsets, the difference is 2.0 points (95 % interval -1.0 to 5.0"
        in either.sentence
    )
    ((needed, now),) = named_numbers(either.remedy)
    assert needed > now and either.remedy.startswith("whether it is order: about ")
    assert not kept.remedy and "order.training_conditions" in unknown.remedy
    assert verdict_on_data(an_estimate(0.001, 0.018), rotated=lost).kind == "negligible"


@pytest.mark.parametrize("judged", [verdict_on, verdict_on_data])
def test_a_learner_that_guesses_supports_no_sentence_about_order(judged) -> None:  # type: ignore[no-untyped-def]
    for estimate in (an_estimate(0.08, 0.16), an_estimate(-0.01, 0.01)):
        verdict = judged(estimate, accuracy=GUESSED)
        assert verdict.kind == "not learned" and verdict.remedy == "train for longer"
        assert "balanced accuracy 50.0 % (95 % interval 40.0 to 60.0), and chance is 50.0 %" in verdict.sentence
    assert judged(an_estimate(0.08, 0.16, runs=5), accuracy=GUESSED).kind == "no verdict"


def test_balanced_accuracy_decides_whether_a_learner_has_learned() -> None:
    """Always the majority class: not learned. Always right on a rare class, below half on the other: learned."""
    ids = np.tile(np.arange(100), 6), np.repeat(np.arange(6), 100)
    labels = ids[0] % 10 == 0
    rare = labels | (ids[0] % 3 == 0)
    for right, plain, kind in ((~labels, 0.9, "not learned"), (rare, 0.4, "matters")):
        accuracy = estimate_mean(right, *ids, limits=(0, 1), weights_N=class_weights(labels))
        assert right.mean() == pytest.approx(plain)
        assert verdict_on(an_estimate(0.08, 0.16), accuracy=accuracy).kind == kind


def test_the_margin_is_judged_by_the_90_percent_interval() -> None:
    for judged in (verdict_on, verdict_on_data):
        assert judged(an_estimate(-0.022, 0.022, shrink=0.84)).kind == "does not matter"
        assert judged(an_estimate(-0.022, 0.022, shrink=0.95)).kind == "undetermined"
        several = replace(an_estimate(-0.01, 0.015, groups=150), comparisons=5)
        assert judged(several).kind == "undetermined"
        assert named_numbers(judged(several).remedy) == [(groups_for_equivalence(MARGIN, 5), 150)]


def test_verdicts_are_sentences_in_points_about_learner_or_data() -> None:
    assert verdict_on(an_estimate(0.081, 0.165, p=1e-9)).sentence == (
        "gru: order is worth 12.3 points to this learner at this training size (95 % interval 8.1 to 16.5, p < 0.001)"
    )
    assert verdict_on_data(an_estimate(0.081, 0.165, p=1e-9)).sentence == (
        "Frame order carries information in these data that the set of frames does not: at this training size, the "
        "best ordered learner (gru) is more accurate than the best order-blind one (average) by 12.3 points (95 % "
        "interval 8.1 to 16.5, p < 0.001); with clips rotated by random offsets, the difference is 3.0 points (95 % "
        "interval 1.0 to 5.0, p = 0.010)"
    )


def test_equivalence_needs_as_many_groups_as_no_difference_at_all() -> None:
    for comparisons in (1, 7):
        needed = groups_for_equivalence(MARGIN, comparisons)
        level = 1 - 0.1 / comparisons
        assert zero_bound(needed, level) < MARGIN <= zero_bound(needed - 1, level)
        kinds = []
        for n in (needed - 1, needed):
            ids = np.tile(np.arange(n), MIN_RUNS), np.repeat(np.arange(MIN_RUNS), n)
            kinds.append(verdict_on(estimate_mean(np.zeros(n * MIN_RUNS), *ids, comparisons=comparisons)).kind)
        assert kinds == ["undetermined", "does not matter"]


def named_numbers(remedy: str) -> list[tuple[int, int]]:
    """(needed, now) for each number of groups or runs that a remedy names."""
    named = re.findall(r"(\d+) (?:test )?(?:groups|runs)[^,:;]*? ?\(now (\d+)\)", remedy)
    return [(int(needed), int(now)) for needed, now in named]


@settings(max_examples=25, deadline=None)
@given(
    st.floats(-0.2, 0.2), st.floats(0.001, 0.2), st.integers(5, 400), st.integers(1, 12), st.sampled_from([1, 5]),
    st.floats(0.2, 1), st.sampled_from([0.0, 0.25]), st.sampled_from([0.01, 0.05]), st.floats(0, 0.1),
)  # fmt: skip
def test_remedies_name_more_groups_or_runs_than_there_are(
    value: float, half: float, groups: int, runs: int, comparisons: int, share: float, overlap: float, margin: float,
    run_sd: float,
) -> None:  # fmt: skip
    one = replace(
        an_estimate(value - half, value + half, groups=groups, runs=runs),
        comparisons=comparisons, effective_groups=share * groups, overlap=overlap, run_sd=run_sd,
    )  # fmt: skip
    for judged in (verdict_on, verdict_on_data):
        verdict = judged(one, margin)
        numbers = named_numbers(verdict.remedy)
        if verdict.kind in ("undetermined", "no verdict"):
            assert numbers or "neither" in verdict.remedy or "larger margin" in verdict.remedy
        assert all(needed > now for needed, now in numbers), verdict.remedy


def test_a_constant_difference_is_decided_by_more_groups() -> None:
    ids = np.tile(np.arange(200), 6), np.repeat(np.arange(6), 200)
    verdict = verdict_on(estimate_mean(np.full(1200, 0.014), *ids))
    ((needed, now),) = named_numbers(verdict.remedy)
    assert verdict.kind == "undetermined" and now == 200 and zero_bound(needed) < 0.014 <= zero_bound(needed - 1)


def test_no_verdict_names_everything_that_lacks() -> None:
    remedy = verdict_on(an_estimate(0.08, 0.16, groups=10, runs=3)).remedy
    assert "at least 20 groups (now 10) and 6 runs (now 3); about" in remedy


def test_undetermined_says_how_many_groups_would_decide() -> None:
    estimate = replace(an_estimate(-0.01, 0.06), run_sd=0.0, run_noise=1e-4)
    ((needed, _),) = named_numbers(verdict_on(estimate).remedy)
    reach = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert needed == pytest.approx(200 * estimate.variance_groups / (0.025 / reach) ** 2, rel=0.2)


def test_a_test_that_should_have_decided_is_advised_to_double_its_groups() -> None:
    widened = replace(an_estimate(-0.005, 0.005, shrink=5), run_sd=0.0)
    assert named_numbers(verdict_on(widened).remedy) == [(400, 200)]


def test_undetermined_says_how_many_runs_would_decide_if_groups_cannot() -> None:
    noisy = replace(an_estimate(-0.03, 0.05), variance_groups=1e-6, run_sd=0.06, run_noise=1e-6)
    assert "runs (now 10)" in verdict_on(noisy).remedy
    assert "neither" in verdict_on(replace(noisy, overlap=0.3)).remedy


def test_margins_that_are_points_are_refused() -> None:
    for judged in (verdict_on, verdict_on_data):
        with pytest.raises(VideomemError, match="share of 1"):
            judged(an_estimate(0.1, 0.2), 2.0)


# Planning

PLAN = Assumptions().design()


def test_planned_groups_give_the_effect_they_were_asked_for() -> None:
    groups = groups_for(0.05, PLAN)
    assert groups is not None and detectable_effect(groups, PLAN) <= 0.05 < detectable_effect(groups - 2, PLAN)


@pytest.mark.parametrize(("num_runs", "run_sd"), [(6, 0.0), (6, 0.04), (10, 0.02)])
def test_the_effect_called_detectable_is_detected_as_often_as_planned(num_runs: int, run_sd: float) -> None:
    design = Design(0.09 + 0.09 / num_runs, 0.09, run_sd, num_runs)
    effect, rng = detectable_effect(40, design), np.random.default_rng(0)
    of_groups, of_runs = rng.normal(size=(2000, 40, 1)), rng.normal(size=(2000, 1, num_runs))
    sums = effect + 0.3 * of_groups + run_sd * of_runs + 0.3 * rng.normal(size=(2000, 40, num_runs))
    fit = two_way(sums, np.ones((40, num_runs)))
    assert 0.75 < (fit.value > fit.half(0.95)).mean() < 0.85


def test_no_number_of_groups_is_returned_if_runs_vary_too_much() -> None:
    noisy = replace(PLAN, run_sd=0.05)
    assert groups_for(0.02, noisy) is None
    only_runs = replace(noisy, of_one_group=0.0, noise_of_one_group=0.0, num_runs=6)
    reach = stats.t.ppf(0.975, 5) + stats.t.ppf(0.8, 5)
    assert detectable_effect(20, only_runs) == pytest.approx(reach * 0.05 / sqrt(6), rel=0.1)
    assert groups_to_decide(0.02, 0.01, noisy) is None and runs_to_decide(0.02, 0.01, 10**5, noisy) is not None


def test_several_comparisons_and_unequal_groups_need_more_groups() -> None:
    plain, several = groups_for(0.05, PLAN), groups_for(0.05, replace(PLAN, comparisons=6))
    assert plain is not None and several is not None and several > plain
    equal, unequal = (
        groups_to_decide(0.0, 0.05, Assumptions(size_cv=cv, accuracy=1, run_sd=0).design()) for cv in (0, 1)
    )
    assert equal == groups_for_equivalence(0.05) and unequal == 2 * equal


def test_the_variance_of_a_design_equals_that_of_simulated_data() -> None:
    design = Assumptions(size_cv=0.0, run_sd=0.03, num_runs=4).design()
    rng, values = np.random.default_rng(0), []
    of_d = np.sqrt(2 * 0.8 * 0.2 * 0.5)
    for _ in range(1500):
        d = of_d * (np.sqrt(0.2) * rng.normal(size=(40, 1)) + np.sqrt(0.8) * rng.normal(size=(40, 5)))
        values.append(d.mean() + 0.03 * rng.normal(size=4).mean())
    assert np.var(values) == pytest.approx(design.variance(40), rel=0.12)


@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_the_observed_design_has_the_observed_standard_error(overlap: float) -> None:
    rng = np.random.default_rng(0)
    values = 0.1 * rng.normal(size=(40, 1)) + 0.05 * rng.normal(size=8) + 0.1 * rng.normal(size=(40, 8))
    rows = values.ravel().clip(-1, 1), np.repeat(np.arange(40), 8), np.tile(np.arange(8), 40)
    estimate = estimate_mean(*rows, overlap=overlap, comparisons=3)
    design = design_of(estimate)
    assert sqrt(design.variance(40)) == pytest.approx(estimate.se) and estimate.run_sd > 0.01
    assert (design.num_runs, design.comparisons, design.effective_share) == (8, 3, 1)


def test_invalid_assumptions_are_refused() -> None:
    with pytest.raises(VideomemError, match="accuracy is 80"):
        Assumptions(accuracy=80)
    with pytest.raises(VideomemError, match="effect"):
        groups_for(0.0, PLAN)


def test_no_interval_of_a_class_exceeds_what_a_gain_can_be() -> None:
    groups = np.arange(6)
    gains = class_gains(np.array([1.0, 1.0, 1.0, -1.0, -1.0, 0.5]), groups, groups * 0, groups // 3, ["a", "b"])
    assert all(-1 <= gain.low <= gain.pooled <= gain.high <= 1 for gain in gains)
    assert max(gain.high for gain in gains) == 1
