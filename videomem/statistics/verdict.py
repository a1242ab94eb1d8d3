"""Verdicts in one sentence, from an estimate and a margin, for one learner and for all learners."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist

from videomem.errors import VideomemError
from videomem.statistics.planning import MIN_GROUPS, groups_for, groups_for_equivalence, runs_for
from videomem.statistics.results import Estimate, Verdict, VerdictKind

LEVEL = 0.05
EQUIVALENT = ("negligible", "does not matter")
LEADING: dict[VerdictKind, tuple[str, str]] = {
    "matters": ("Order matters", "to "),
    "hurts": ("Training in order hurts", ""),
}
POWER = 0.8
Z_975, Z_95, Z_POWER = (NormalDist().inv_cdf(level) for level in (0.975, 0.95, POWER))


def judge(estimate: Estimate, margin: float, name: str) -> Verdict:
    """The verdict on the value of order of one learner.

    | kind | when |
    |---|---|
    | `no verdict` | fewer than `MIN_GROUPS` groups |
    | `undetermined` | 90 % interval within the margin, fewer than `groups_for_equivalence` groups |
    | `negligible` | 90 % interval within the margin, 95 % interval above 0 |
    | `does not matter` | 90 % interval within the margin |
    | `matters` | 95 % interval above 0 |
    | `hurts` | 95 % interval below 0 |
    | `undetermined` | else |

    The first line that applies counts. The 90 % interval within (-margin, margin) is the two one-sided tests at 5 % of
    Schuirmann (1987).

    Raises:
        VideomemError: If the margin is not in (0, 1).
    """
    if not 0 < margin < 1:
        raise VideomemError(
            f"margin is {margin:g}, but must be in (0, 1); give a share of 1, such as 0.02 for 2 points"
        )
    kind = _kind(estimate, margin)
    remedy = {"no verdict": _remedy_groups, "undetermined": _remedy}.get(kind)
    words = f"{name}: {_words(kind, estimate, margin)}"
    if estimate.num_runs == 1:
        words += "; from one run, so the interval excludes the variation between trainings"
    return Verdict(kind, words, remedy(estimate, margin) if remedy else "")


def _kind(estimate: Estimate, margin: float) -> VerdictKind:
    if estimate.num_groups < MIN_GROUPS:
        return "no verdict"
    if -margin < estimate.low90 and estimate.high90 < margin:
        if estimate.num_groups < groups_for_equivalence(margin):
            return "undetermined"
        return "negligible" if estimate.low > 0 else "does not matter"
    if estimate.low > 0:
        return "matters"
    return "hurts" if estimate.high < 0 else "undetermined"


def _words(kind: VerdictKind, estimate: Estimate, margin: float) -> str:
    at = f"({_interval(estimate, equivalence=kind in EQUIVALENT)})"
    worth, within, few = _points(estimate.value), f"within {_points(margin)}", estimate.num_groups
    learner = "this learner at this training size"
    return {
        "no verdict": f"no verdict from {few} groups, fewer than {MIN_GROUPS}; the difference was {worth}",
        "matters": f"order is worth {worth} to {learner}",
        "hurts": f"training in order hurts {learner}, by {_points(-estimate.value)}",
        "negligible": f"order helps {learner}, by a negligible {worth}, {within}",
        "does not matter": f"order does not matter to {learner}, {within}: {worth}",
        "undetermined": f"undetermined whether order matters to {learner}: {worth}",
    }[kind] + f" {at}"


def _interval(estimate: Estimate, equivalence: bool = False) -> str:
    ends = (estimate.low, estimate.high, estimate.low90, estimate.high90)
    low, high, low90, high90 = (_tenths(end) for end in ends)
    ninety = f"90 % interval {low90} to {high90}, " if equivalence else ""
    return f"95 % interval {low} to {high}, {ninety}{_p(estimate.p)}"


def _points(share: float) -> str:
    return f"{_tenths(share)} points"


def _tenths(share: float) -> str:
    number = f"{100 * share:.1f}"
    return "0.0" if number == "-0.0" else number


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _remedy_groups(estimate: Estimate, margin: float) -> str:
    """The minimum number of groups, and the number that the margin needs for the observed variance."""
    lacking = MIN_GROUPS - estimate.num_groups
    start = f"at least {MIN_GROUPS} groups are needed for a verdict, {lacking} more than now"
    if estimate.variance_groups == 0:
        return start
    needed = groups_for(margin, estimate.variance_groups * estimate.num_groups, estimate.variance_runs, POWER)
    if needed is None:
        return f"{start}; a difference of {_points(margin)} also needs more runs, or splits with less overlap"
    return f"{start}; about {needed} to detect a difference of {_points(margin)} (with the variance observed here)"


def _remedy(estimate: Estimate, margin: float) -> str:
    """The groups or runs that would decide the question if the estimated value is the true one."""
    if estimate.se == 0 or (-margin < estimate.low90 and estimate.high90 < margin):
        return (
            f"{groups_for_equivalence(margin)} test groups (now {estimate.num_groups}): with fewer, groups in which "
            "order matters could be missed by chance"
        )
    # From 0 or from the margin, whichever needs less precision: for the same distance, the one-sided tests need less.
    distance = abs(estimate.value)
    effect = max(distance, (margin - distance) * (Z_975 + Z_POWER) / (Z_95 + Z_POWER))
    if_true = ", if the true difference equals the estimate"
    of_one = estimate.variance_groups * estimate.num_groups
    groups = groups_for(effect, of_one, estimate.variance_runs, POWER)
    if groups is not None:
        least = groups_for_equivalence(margin) if effect > distance else estimate.num_groups + 1
        return f"about {max(groups, least)} test groups would decide it (now {estimate.num_groups}){if_true}"
    share = estimate.variance_runs / (1 / estimate.num_runs + estimate.overlap)
    many = 10 * estimate.num_groups
    runs = runs_for(effect, many, of_one / many + share * estimate.overlap, share, POWER)
    if runs is not None:
        return (
            f"more test groups alone cannot decide it, because runs differ: about {runs} runs (now "
            f"{estimate.num_runs}) with {many} test groups would{if_true}"
        )
    return (
        "neither more test groups nor more runs can decide it, because training sets overlap: test a smaller share of "
        "the clips"
    )


def judge_data_set(
    verdicts: Mapping[str, Verdict], holm_p: Mapping[str, float], estimates: Mapping[str, Estimate], margin: float
) -> Verdict:
    """The verdict on all tested learners; the keys are their names.

    `matters` if any learner has that verdict with a Holm-adjusted p below 0.05; otherwise `hurts` by the same rule.
    `no verdict` or `does not matter` if all learners have that verdict, `negligible` if all have `negligible` or
    `does not matter`; otherwise `undetermined`.

    Raises:
        VideomemError: If there are no verdicts or the names differ.
    """
    if not verdicts or not set(verdicts) == set(holm_p) == set(estimates):
        raise VideomemError(
            f"verdicts of {sorted(verdicts)}, p-values of {sorted(holm_p)}, estimates of {sorted(estimates)}: "
            "one of each per learner is needed, and at least one learner"
        )
    kinds = {verdict.kind for verdict in verdicts.values()}
    for kind, (start, to) in LEADING.items():
        names = [name for name, one in verdicts.items() if one.kind == kind and holm_p[name] < LEVEL]
        if names:
            best = min(names, key=lambda name: holm_p[name])
            others = ", ".join(name for name in names if name != best)
            who = f"{to}{best} at this training size" + (f", and also {to}{others}" if others else "")
            at = f"{_interval(estimates[best])}; over all learners {_p(holm_p[best])}"
            return Verdict(kind, f"{start} {who}: {_points(estimates[best].value)} ({at})")
    listed = "; ".join(f"{name} {_points(one.value)} ({_interval(one)})" for name, one in estimates.items())
    learners = f"the tested learners ({', '.join(verdicts)}) at this training size"
    if kinds == {"no verdict"}:
        return Verdict("no verdict", f"No verdict: {listed}", next(iter(verdicts.values())).remedy)
    if kinds == {"does not matter"}:
        return Verdict("does not matter", f"Order does not matter to {learners}, within {_points(margin)}: {listed}")
    if kinds <= set(EQUIVALENT):
        return Verdict("negligible", f"Order is worth no more than {_points(margin)} to {learners}: {listed}")
    remedies = "; ".join(f"{name}: {one.remedy}" for name, one in verdicts.items() if one.remedy)
    return Verdict(
        "undetermined",
        f"Undetermined whether order matters to {learners}: {listed}",
        remedies or "more test groups: no learner has p below 0.05 after Holm's adjustment",
    )
