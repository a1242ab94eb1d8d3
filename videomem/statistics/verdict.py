"""Verdicts in one sentence: on one learner, and on the data."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, sqrt

from videomem.errors import VideomemError
from videomem.statistics.planning import (
    MIN_GROUPS,
    MIN_RUNS,
    Design,
    groups_for,
    groups_for_equivalence,
    groups_to_decide,
    lacking_for_verdict,
    runs_to_decide,
)
from videomem.statistics.results import Estimate, Verdict, VerdictKind
from videomem.utils.text import p_text

EQUIVALENT = ("negligible", "does not matter")


def judge(estimate: Estimate, margin: float, name: str, accuracy: Estimate, chance: float, hint: str = "") -> Verdict:
    """The verdict on the value of order to one learner.

    | kind | when |
    |---|---|
    | `no verdict` | fewer than `MIN_GROUPS` groups or `MIN_RUNS` runs |
    | `not learned` | the interval of the balanced accuracy in order does not lie above chance |
    | `undetermined` | 90 % interval within the margin, fewer than `groups_for_equivalence` groups |
    | `negligible` | 90 % interval within the margin, 95 % interval above 0 |
    | `does not matter` | 90 % interval within the margin |
    | `matters` | 95 % interval above 0 |
    | `hurts` | 95 % interval below 0 |
    | `undetermined` | else |

    The first line that applies counts. The 90 % interval within (-margin, margin) is the two one-sided tests at 5 % of
    Schuirmann (1987). The levels are adjusted if the estimate is one of several (`Estimate.comparisons`).

    Args:
        estimate: Value of order.
        margin: Largest negligible difference, a share of 1.
        name: Name of the learner.
        accuracy: Balanced accuracy of the learner, trained and tested in order.
        chance: Balanced accuracy of a constant prediction, 1 / C.
        hint: Why the learner may not have learned, for the remedy of `not learned`.
    Raises:
        VideomemError: If the margin is not in (0, 1).
    """
    _check(margin)
    short = _too_few(estimate, margin)
    if short:
        words = f"{name}: no verdict; the difference was {points(estimate.value)} ({interval(estimate)})"
        return Verdict("no verdict", words, short)
    if accuracy.low <= chance:
        return Verdict("not learned", f"{name}: not learned; {_accuracy(accuracy, chance)}", hint)
    kind = _kind(estimate, margin)
    remedy = _remedy(estimate, margin) if kind == "undetermined" else ""
    return Verdict(kind, f"{name}: {_worth(kind, estimate, margin)}", remedy)


def judge_data(
    information: Estimate,
    margin: float,
    learners: tuple[str, str],
    accuracy: Estimate,
    chance: float,
    hint: str = "",
    rotated: Estimate | None = None,
) -> Verdict:
    """The verdict on the data: does frame order carry information that the set of frames does not?

    | kind | when |
    |---|---|
    | `no verdict` | fewer than `MIN_GROUPS` groups or `MIN_RUNS` runs |
    | `not learned` | the balanced accuracy of neither learner lies above chance |
    | `negligible` | 95 % interval above 0, 90 % interval below the margin |
    | `matters` | 95 % interval above 0, also with rotated clips |
    | `order or position` | 95 % interval above 0 |
    | `does not matter` | 90 % interval below the margin |
    | `undetermined` | else |

    If what decides is in frames at certain positions, such as the last one, an ordered learner needs fewer clips to
    learn it than an order-blind one. A rotation by a random offset hides positions and keeps neighbors, so a
    difference that remains with rotated clips is one of order. One that does not remain may be of either.

    Below the margin means: the upper end, with at least `groups_for_equivalence` groups. The lower end does not count,
    because an ordered learner that is less accurate than an order-blind one shows no information either.

    Args:
        information: Accuracy of the best ordered learner minus that of the best order-blind learner.
        margin: Largest negligible difference, a share of 1.
        learners: Names of the two learners.
        accuracy: Balanced accuracy of the better one.
        chance: Balanced accuracy of a constant prediction, 1 / C.
        hint: Why the learners may not have learned, for the remedy of `not learned`.
        rotated: The same as `information`, with clips rotated by random offsets; None if not measured.
    Raises:
        VideomemError: If the margin is not in (0, 1).
    """
    _check(margin)
    ordered, blind = learners
    more = "more" if information.value >= 0 else "less"
    compared = (
        f"the best ordered learner ({ordered}) is {more} accurate than the best order-blind one ({blind}) by "
        f"{points(abs(information.value))}"
    )
    if short := _too_few(information, margin):
        return Verdict("no verdict", f"No verdict; {compared} ({interval(information)})", short)
    if accuracy.low <= chance:
        return Verdict("not learned", f"Not learned: {_accuracy(accuracy, chance)}", hint)
    small = information.high90 < margin and _lacking_groups(information, margin) == 0
    kind: VerdictKind = "undetermined"
    if information.low > 0:
        order = rotated is not None and rotated.low > 0
        kind = "negligible" if small else "matters" if order else "order or position"
    elif small:
        kind = "does not matter"
    start = {
        "matters": "Frame order carries information in these data that the set of frames does not",
        "order or position": "Frame order, or the position of frames in the clip, carries information in these data",
        "negligible": f"Frame order carries information in these data, worth less than {points(margin)}",
        "does not matter": f"Frame order carries no information in these data worth {points(margin)} or more",
        "undetermined": "Undetermined whether frame order carries information in these data",
    }[kind]
    at, end, remedy = interval(information, equivalence=kind in EQUIVALENT), "", ""
    if kind == "undetermined":
        remedy = _remedy(information, margin, one_sided=True)
    elif kind == "order or position" and rotated is None:
        remedy = "add rotated to order.training_conditions, which tells order from position"
    elif kind in ("matters", "order or position") and rotated is not None:
        if kind == "order or position":
            remedy = f"whether it is order: {_remedy(rotated, margin, one_sided=True)}"
        end = f"; with clips rotated by random offsets, the difference is {points(rotated.value)} ({interval(rotated)})"
    return Verdict(kind, f"{start}: at this training size, {compared} ({at}){end}", remedy)


def _check(margin: float) -> None:
    if not 0 < margin < 1:
        raise VideomemError(
            f"margin is {margin:g}, but must be in (0, 1); give a share of 1, such as 0.02 for 2 points"
        )


def _kind(estimate: Estimate, margin: float) -> VerdictKind:
    if -margin < estimate.low90 and estimate.high90 < margin:
        if _lacking_groups(estimate, margin):
            return "undetermined"
        return "negligible" if estimate.low > 0 else "does not matter"
    if estimate.low > 0:
        return "matters"
    return "hurts" if estimate.high < 0 else "undetermined"


def _worth(kind: VerdictKind, estimate: Estimate, margin: float) -> str:
    at = f"({interval(estimate, equivalence=kind in EQUIVALENT)})"
    worth = points(estimate.value)
    if kind == "matters":
        return f"order is worth {worth} to this learner at this training size {at}"
    if kind == "hurts":
        return f"training in order hurts this learner at this training size, by {points(-estimate.value)} {at}"
    if kind == "negligible":
        return f"order helps this learner at this training size, by a negligible {worth}, within {points(margin)} {at}"
    if kind == "does not matter":
        return f"order does not matter to this learner at this training size, within {points(margin)}: {worth} {at}"
    return f"undetermined whether order matters to this learner at this training size: {worth} {at}"


def _accuracy(accuracy: Estimate, chance: float) -> str:
    low, value, high = (_tenths(one) for one in (accuracy.low, accuracy.value, accuracy.high))
    return f"balanced accuracy {value} % (95 % interval {low} to {high}), and chance is {_tenths(chance)} %"


def reliance_sentence(name: str, reliance: Estimate) -> str:
    """The accuracy that a trained model loses if its test clips are shuffled, with the interval and p."""
    loss = points(reliance.value)
    loses = f"loses {loss}" if reliance.value >= 0 else f"does not lose accuracy (difference {loss})"
    return f"{name} {loses} if its test clips are shuffled ({interval(reliance)})"


def interval(estimate: Estimate, equivalence: bool = False) -> str:
    """The 95 % interval, the 90 % interval if asked for, and p, in words."""
    low, high, low90, high90 = (_tenths(getattr(estimate, end)) for end in ("low", "high", "low90", "high90"))
    ninety = f"90 % interval {low90} to {high90}, " if equivalence else ""
    adjusted = f" for {estimate.comparisons} comparisons" if estimate.comparisons > 1 else ""
    return f"95 % interval{adjusted} {low} to {high}, {ninety}{p_text(estimate.p)}"


def points(share: float) -> str:
    return f"{_tenths(share)} points"


def _tenths(share: float) -> str:
    number = f"{100 * share:.1f}"
    return "0.0" if number == "-0.0" else number


def design_of(estimate: Estimate) -> Design:
    """The variances that were observed, for the numbers of groups and runs that a remedy names."""
    groups = estimate.num_groups
    return Design(
        of_one_group=estimate.variance_groups * groups,
        noise_of_one_group=estimate.run_noise * groups,
        run_sd=estimate.run_sd * sqrt(1 + estimate.overlap),  # Runs differ by 1 - rho = 1 / (1 + overlap) of sigma^2.
        num_runs=estimate.num_runs,
        overlap=estimate.overlap,
        df_share=min(1.0, estimate.df / (groups - 1)),
        comparisons=estimate.comparisons,
        effective_share=_effective_groups(estimate) / groups,
    )


def _effective_groups(estimate: Estimate) -> float:
    return estimate.num_groups if estimate.effective_groups is None else estimate.effective_groups


def _lacking_groups(estimate: Estimate, margin: float) -> int:
    """How many more groups an equivalence needs even if no group differs."""
    needed = groups_for_equivalence(margin, estimate.comparisons)
    share = _effective_groups(estimate) / estimate.num_groups
    return max(0, ceil(needed / share - 1e-9) - estimate.num_groups)


def _too_few(estimate: Estimate, margin: float) -> str:
    """The remedy if there are too few groups or runs for a verdict; else empty."""
    lacks = lacking_for_verdict(estimate.num_groups, estimate.num_runs)
    if not lacks:
        return ""
    start = f"a verdict needs at least {lacks}"
    if estimate.num_groups >= MIN_GROUPS or estimate.se == 0:
        return start
    groups = groups_for(margin, replace(design_of(estimate), num_runs=max(estimate.num_runs, MIN_RUNS)))
    if groups is None:
        return f"{start}; no number of groups shows a difference of {points(margin)}, because runs differ"
    return f"{start}; about {groups} groups show a difference of {points(margin)} (with the variance observed here)"


def _remedy(estimate: Estimate, margin: float, one_sided: bool = False) -> str:
    """The groups or runs that would decide the question if the estimated value is the true one."""
    now, design, lacking = estimate.num_groups, design_of(estimate), _lacking_groups(estimate, margin)
    if lacking and (one_sided or -margin < estimate.low90) and estimate.high90 < margin:
        return (
            f"{now + lacking} test groups (now {now}): with fewer, groups in which order matters could be missed by "
            "chance"
        )
    if_true = "if the true difference equals the estimate"
    groups = groups_to_decide(estimate.value, margin, design, one_sided)
    if groups is not None and groups > now:
        return f"about {groups} test groups would decide it (now {now}), {if_true}"
    if groups is not None:
        return f"about {2 * now} test groups (now {now}): the present number decides it in most tests, {if_true}"
    for many in (10 * now, 100 * now):
        runs = runs_to_decide(estimate.value, margin, many, design, one_sided)
        if runs is not None:
            return (
                f"more test groups alone cannot decide it, because runs differ: about {runs} runs (now "
                f"{estimate.num_runs}) with {many} test groups would, {if_true}"
            )
    if estimate.overlap:
        return (
            "neither more test groups nor more runs can decide it, because training sets overlap: test a smaller share "
            "of the clips"
        )
    return "a larger margin: the estimate is too close to it for any feasible number of test groups and runs"
