"""Results of the statistics: plain numbers, with accuracies and their differences as shares of 1 (0.02 is 2 points)."""

from __future__ import annotations

from typing import Literal

from videomem.utils.result_models import Number, Text, result_model

VerdictKind = Literal[
    "matters", "order or position", "negligible", "does not matter", "hurts", "undetermined", "not learned",
    "nothing to order", "no verdict",
]  # fmt: skip


@result_model
class Estimate:
    """A mean over groups and runs, with its uncertainty.

    Attributes:
        value: The estimate.
        se: Standard error: root of the variance of groups (CR2) and of runs (posterior mean), the latter inflated for
            overlapping training sets.
        df: Degrees of freedom of the variance of groups.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        low90: Lower end of the 90 % interval for equivalence, widened for skewness.
        high90: Upper end of the 90 % interval for equivalence.
        p: Two-sided p-value of a value of 0, times `comparisons`.
        num_groups: Groups of the tested clips.
        num_runs: Runs, each with its own split and seed.
        variance_groups: The part of se^2 that decreases as 1 / groups.
        run_sd: Standard deviation of run effects: root of the posterior mean of its square.
        run_noise: Expected mean square of run means that is not due to run effects.
        overlap: n_test / n_train if training sets of runs overlap, else 0.
        comparisons: Number m of estimates whose intervals hold together; the levels are 1 - 0.05/m and 1 - 0.1/m.
        effective_groups: (sum_g n_g)^2 / sum_g n_g^2 (Kish 1965), the number of groups of equal size that counts for
            the bound where no group differs; None if all groups are of equal size.
    """

    value: Number
    se: Number
    df: Number
    low: Number
    high: Number
    low90: Number
    high90: Number
    p: Number
    num_groups: int
    num_runs: int
    variance_groups: Number = 0.0
    run_sd: Number = 0.0
    run_noise: Number = 0.0
    overlap: Number = 0.0
    comparisons: int = 1
    effective_groups: Number | None = None


@result_model
class Randomization:
    """A randomization test: `p` = (b + 1) / (m + 1), where b of m draws are at least as extreme as the observation.

    Attributes:
        p: The p-value.
        num_draws: Number of draws, m.
        smallest_p: Smallest p-value that this test can give with these data.
    """

    p: Number
    num_draws: int
    smallest_p: Number


@result_model
class Verdict:
    """The verdict on one learner, or on the data.

    Attributes:
        kind: The verdict in a word or two.
        sentence: One sentence with the effect, its interval and p.
        remedy: How to decide the question if `kind` is `undetermined`, `order or position`, `no verdict` or
            `not learned`; else empty.
    """

    kind: VerdictKind
    sentence: Text
    remedy: Text = ""


@result_model
class ClassGain:
    """The value of order for one class.

    Attributes:
        name: Name of the class.
        num_groups: Groups with tested clips of the class.
        value: Mean gain of the class alone.
        se: Standard error of `value` by groups; moderated by the other classes if the class has one group or no
            variance (see `class_gains`).
        pooled: The gain, partially pooled towards the mean of all classes.
        low: Lower end of the 95 % interval of `pooled`.
        high: Upper end of the 95 % interval of `pooled`.
        p: p-value of `value`, by flipping the signs of whole groups.
        p_holm: The same, Holm-adjusted over classes.
        smallest_p: Smallest p-value that is possible with so few groups.
    """

    name: Text
    num_groups: int
    value: Number
    se: Number
    pooled: Number
    low: Number
    high: Number
    p: Number
    p_holm: Number
    smallest_p: Number


@result_model
class ChiralPair:
    """Two classes that are confused with each other when time is reversed.

    Attributes:
        first: Class a.
        second: Class b.
        excess: Mutual excess confusion on the test half: the smaller one, over both directions, of
            P(predicted b | true a, reversed) - P(predicted b | true a, in order).
        p: p-value, corrected over all candidates by the maximum statistic.
    """

    first: Text
    second: Text
    excess: Number
    p: Number


@result_model
class ChiralPairs:
    """Candidates found on one half of the groups and tested on the other, strongest first.

    Attributes:
        pairs: The candidates, with the results on the test half.
        num_groups_found_on: Groups of the half that the candidates were found on.
        num_groups_tested_on: Groups of the half that they were tested on.
        smallest_p: Smallest p-value that is possible with so few groups.
    """

    pairs: tuple[ChiralPair, ...]
    num_groups_found_on: int
    num_groups_tested_on: int
    smallest_p: Number
