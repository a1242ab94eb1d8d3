"""What the statistics give: plain numbers, accuracies and their differences as shares of 1 (0.02 is 2 points)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

VerdictKind = Literal["matters", "negligible", "does not matter", "hurts", "undetermined", "no verdict"]


@dataclass(frozen=True)
class Estimate:
    """A mean over groups and runs with its uncertainty.

    Attributes:
        value: The estimate.
        se: Standard error, two-way (groups x runs) with CR2, runs inflated where training sets overlap.
        df: Satterthwaite degrees of freedom of `se`.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        low90: Lower end of the 90 % interval, which equivalence is judged by, widened for skewness.
        high90: Upper end of the 90 % interval.
        p: Two-sided p-value of no difference (of a value of 0).
        num_groups: Groups among the tested clips.
        num_runs: Runs (split and seed).
        boot_low: Lower end of the 95 % interval by symmetric cluster bootstrap-t, a check; None where not run.
        boot_high: Its upper end.
        variance_groups: The part of se^2 that falls as 1 / groups.
        variance_runs: The part of se^2 that falls as 1 / runs + `overlap`.
        overlap: n_test / n_train where training sets of runs overlap, else 0.
    """

    value: float
    se: float
    df: float
    low: float
    high: float
    low90: float
    high90: float
    p: float
    num_groups: int
    num_runs: int
    boot_low: float | None = None
    boot_high: float | None = None
    variance_groups: float = 0.0
    variance_runs: float = 0.0
    overlap: float = 0.0


@dataclass(frozen=True)
class Randomization:
    """A randomisation test: `p` = (b + 1) / (m + 1), b of m draws at least as extreme as what was observed.

    Attributes:
        p: The p-value.
        num_draws: Draws m.
        smallest_p: The smallest p that this test can give with these data.
    """

    p: float
    num_draws: int
    smallest_p: float


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one memory, or of the whole.

    Attributes:
        kind: One word for it.
        sentence: One plain sentence with effect, interval and p.
        remedy: What would decide it, where `kind` is `undetermined` or `no verdict`; else empty.
    """

    kind: VerdictKind
    sentence: str
    remedy: str = ""


@dataclass(frozen=True)
class ClassGain:
    """What order was worth to one class.

    Attributes:
        name: The class.
        num_groups: Groups with tested clips of it.
        value: Mean gain of the class alone.
        se: Its standard error by groups; with one group or no variance, what the other classes show (`class_gains`).
        pooled: The gain partially pooled towards the mean of all classes.
        low: Lower end of the 95 % interval of `pooled`.
        high: Its upper end.
        p: Group-wise sign-flip p-value of the class alone.
        p_holm: The same, Holm-adjusted over classes.
        smallest_p: The smallest p that so few groups can give.
    """

    name: str
    num_groups: int
    value: float
    se: float
    pooled: float
    low: float
    high: float
    p: float
    p_holm: float
    smallest_p: float


@dataclass(frozen=True)
class ChiralPair:
    """Two classes of which each is taken for the other when time is reversed.

    Attributes:
        first: Class a.
        second: Class b.
        excess: Mutual excess confusion in the testing folds: the lesser of both directions of
            P(named b | true a, reversed) - P(named b | true a, in order).
        p: Max-statistic corrected p-value over all candidates.
    """

    first: str
    second: str
    excess: float
    p: float


@dataclass(frozen=True)
class ChiralPairs:
    """Candidates found on one half of the groups and tested on the other, strongest first.

    Attributes:
        pairs: Those found, with what the other half says of them.
        num_groups_found_on: Groups of the finding half.
        num_groups_tested_on: Groups of the testing half.
        smallest_p: The smallest p that so few groups can give.
    """

    pairs: tuple[ChiralPair, ...]
    num_groups_found_on: int
    num_groups_tested_on: int
    smallest_p: float
