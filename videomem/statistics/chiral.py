"""Chiral pairs: classes that time reversal exchanges, found on one half of the groups and tested on the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from videomem.errors import VideomemError
from videomem.statistics.group_tables import Floats, Ints, chunks, codes, rows
from videomem.statistics.results import ChiralPair, ChiralPairs


def chiral_pairs(
    labels_N: ArrayLike,
    ordered_N: ArrayLike,
    reversed_N: ArrayLike,
    groups_N: ArrayLike,
    class_names: Sequence[str],
    num_draws: int = 4999,
    seed: int = 0,
    max_candidates: int = 10,
) -> ChiralPairs:
    """Find pairs (a, b) of classes that are each predicted as the other more often when frames are reversed.

    The excess of a -> b is P(predicted b | true a, reversed) - P(predicted b | true a, in order). The mutual excess is
    the smaller one of a -> b and b -> a. `seed` divides the groups into halves. Candidates are the pairs with the
    largest positive mutual excess in one half. In the other half, each draw exchanges ordered and reversed for whole
    groups, and the largest mutual excess over all candidates is compared with that of each pair:
    p = (b + 1) / (m + 1) (maximum statistic, Westfall & Young 1993).

    Args:
        labels_N: True class, one row per run and clip.
        ordered_N: Predicted class for frames in order.
        reversed_N: Predicted class for the same frames reversed.
        groups_N: Id of the clip's group.
        class_names: Names of the classes.
        num_draws: Number of draws, m.
        seed: Seed of the halves and of the draws.
        max_candidates: Maximum number of candidates.
    Raises:
        VideomemError: If a class has no name, there are fewer than 2 groups, or lengths differ.
    """
    named, groups = rows(np.stack([np.asarray(x) for x in (labels_N, ordered_N, reversed_N)], 1), groups_N, limit=None)
    classes_N3 = named.astype(np.int64)
    if classes_N3.min() < 0 or classes_N3.max() >= len(class_names):
        raise VideomemError(
            f"classes run from {classes_N3.min()} to {classes_N3.max()}, but there are {len(class_names)} names"
        )
    group_codes, num_groups = codes(groups)
    if num_groups < 2:
        raise VideomemError(
            "chiral pairs need at least 2 groups, one to find them and one to test them, but there is 1"
        )
    rng = np.random.default_rng(seed)
    finding_G = np.zeros(num_groups, dtype=bool)
    finding_G[rng.permutation(num_groups)[: num_groups // 2]] = True
    finding_N = finding_G[group_codes]
    candidates_P2 = _find(classes_N3[finding_N], len(class_names), max_candidates)
    num_tested = num_groups - num_groups // 2
    found: tuple[ChiralPair, ...] = ()
    if len(candidates_P2):
        excess_P, p_P = _test(classes_N3[~finding_N], group_codes[~finding_N], candidates_P2, num_draws, rng)
        found = tuple(
            ChiralPair(class_names[candidates_P2[i, 0]], class_names[candidates_P2[i, 1]], float(excess_P[i]), p_P[i])
            for i in np.argsort(-excess_P, kind="stable")
        )
    return ChiralPairs(found, num_groups // 2, num_tested, max(1 / (num_draws + 1), 2.0**-num_tested))


def _find(classes_N3: Ints, num_classes: int, max_candidates: int) -> Ints:
    """Pairs with the largest positive mutual excess, (P, 2), from the confusion matrices (C, C)."""
    true_N, ordered_N, reversed_N = classes_N3.T

    def confusion(named_N: Ints) -> Floats:
        entry_N = true_N * num_classes + named_N
        return np.bincount(entry_N, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.float64)

    counts_C1 = np.maximum(np.bincount(true_N, minlength=num_classes), 1)[:, None]
    excess_CC = (confusion(reversed_N) - confusion(ordered_N)) / counts_C1
    mutual_CC = np.triu(np.minimum(excess_CC, excess_CC.T), 1)
    strongest = np.argsort(-mutual_CC, axis=None, kind="stable")[:max_candidates]
    kept = strongest[mutual_CC.flat[strongest] > 0]
    return np.stack([kept // num_classes, kept % num_classes], 1)


def _test(
    classes_N3: Ints, groups_N: Ints, candidates_P2: Ints, num_draws: int, rng: np.random.Generator
) -> tuple[Floats, list[float]]:
    """Mutual excess of each candidate and its p by the maximum statistic, on the test half."""
    excess_G2P = _excess_by_group(classes_N3, groups_N, candidates_P2)
    num_groups, num_pairs = excess_G2P.shape[0], len(candidates_P2)
    flat = excess_G2P.reshape(num_groups, -1)
    observed_P = flat.sum(0).reshape(2, num_pairs).min(0)
    found_P = np.zeros(num_pairs)
    for chunk in chunks(num_draws, num_groups):
        signs_BG = 1.0 - 2 * rng.integers(2, size=(chunk, num_groups))
        greatest_B = (signs_BG @ flat).reshape(-1, 2, num_pairs).min(1).max(1)
        found_P += (greatest_B[:, None] >= observed_P - 1e-9).sum(0)
    return observed_P, [float(found + 1) / (num_draws + 1) for found in found_P]


def _excess_by_group(classes_N3: Ints, groups_N: Ints, candidates_P2: Ints) -> Floats:
    """Contribution of each group to the excess of both directions of each pair, (G, 2, P)."""
    group_codes, num_groups = codes(groups_N)
    true_N, ordered_N, reversed_N = classes_N3.T
    excess_G2P = np.zeros((num_groups, 2, len(candidates_P2)))
    for i, pair in enumerate(candidates_P2):
        for way, (a, b) in enumerate((pair, pair[::-1])):
            is_a = true_N == a
            change_N = is_a * ((reversed_N == b).astype(np.float64) - (ordered_N == b))
            change_G = np.bincount(group_codes, weights=change_N, minlength=num_groups)
            excess_G2P[:, way, i] = change_G / max(int(is_a.sum()), 1)
    return excess_G2P
