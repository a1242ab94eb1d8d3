"""The formulas and the table of `recompute.py`: videomem's statistics, written again from docs/ without its code."""

from __future__ import annotations

import csv
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, special, stats

EXACT, ROOTS, FLOAT32 = 1e-9, 1e-6, 2e-4  # for sums, roots found iteratively, and networks in single precision
SIGMA = np.r_[0, np.geomspace(0.002, 1, 40)]
PRIOR = np.diff(special.erf(np.r_[0, (SIGMA[1:] + SIGMA[:-1]) / 2, 1.1] / 0.1 / math.sqrt(2)))


class Report:
    """Differences by folder and quantity."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[Any]] = {}
        self.skipped: list[tuple[str, str, str]] = []
        self.folder = ""

    def compare(self, quantity: str, ours: Any, theirs: Any, limit: float = EXACT) -> None:
        """Compare numbers, texts or None, also in lists and dictionaries; only keys of `ours` are compared."""
        if isinstance(ours, dict):
            for key, value in ours.items():
                self.compare(quantity, value, theirs[key], limit)
        elif isinstance(ours, list | tuple | np.ndarray):
            for one, other in zip(ours, theirs, strict=True):
                self.compare(quantity, one, other, limit)
        else:
            row = self.found.setdefault((self.folder, quantity), [0, 0.0, 0.0])
            row[0], row[1], row[2] = row[0] + 1, max(row[1], difference(ours, theirs)), max(row[2], limit)

    def monte_carlo(self, quantity: str, p: float, theirs: float, draws: int, exact: bool) -> None:
        """Compare p-values of random draws; within their Monte Carlo error if the draws are not the same."""
        self.compare(quantity, p, theirs, EXACT if exact else 4 * math.sqrt(p * (1 - p) / draws) + 2 / draws)

    def skip(self, quantity: str, reason: str) -> None:
        self.skipped.append((self.folder, quantity, reason))

    def print(self) -> int:
        print("| folder | quantity | numbers | largest difference | limit | |\n|---|---|---|---|---|---|")
        for (folder, quantity), (number, worst, limit) in self.found.items():
            print(f"| {folder} | {quantity} | {number} | {worst:.1e} | {limit:.0e} | {verdict(worst <= limit)} |")
        for folder, quantity, reason in self.skipped:
            print(f"| {folder} | {quantity} | 0 | | | not recomputed: {reason} |")
        bad = sum(worst > limit for _, worst, limit in self.found.values())
        total = sum(number for number, _, _ in self.found.values())
        print(f"\n{total} numbers compared; {bad} of {len(self.found)} quantities beyond the limit")
        return 1 if bad or not total else 0


def verdict(is_ok: bool) -> str:
    return "ok" if is_ok else "DIFFERS"


def difference(ours: Any, theirs: Any) -> float:
    """0 for equal texts, None and non-finite numbers; infinite for unequal ones."""
    if isinstance(theirs, str) and not isinstance(ours, str):
        theirs = None if theirs == "" else float(theirs)
    if ours is None or theirs is None or isinstance(ours, str):
        return 0.0 if ours == theirs else math.inf
    if not math.isfinite(ours) or not math.isfinite(theirs):
        return 0.0 if ours == theirs or (math.isnan(ours) and math.isnan(theirs)) else math.inf
    return abs(float(ours) - float(theirs))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows; the apostrophe that keeps a spreadsheet from executing a cell is removed (docs/command_line.md)."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = [[cell[1:] if cell[:1] == "'" else cell for cell in row] for row in csv.reader(file)]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]


def read_json(path: Path) -> Any:
    words = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list) else (
            words.get(value, value) if isinstance(value, str) else value)  # fmt: skip

    return plain(json.loads(path.read_text()))


def codes(names: Any, order: list[str] | None = None) -> np.ndarray:
    """Names as integers, in this order; else in order of first occurrence."""
    number = {name: place for place, name in enumerate(dict.fromkeys(order or names))}
    return np.array([number[name] for name in names])


# The mean over groups and runs (docs/order_statistics.md, Method).


@lru_cache
def satterthwaite(sizes: tuple[float, ...]) -> float:
    """tr(Q)^2 / tr(Q^2) of V_G as a quadratic form of independent effects of groups."""
    share = np.array(sizes) / sum(sizes)
    errors = np.diag(share) - np.outer(share, share)  # E_g / N = share_g (b_g - sum_h share_h b_h)
    form = errors.T @ (errors / np.maximum(1 - share, 1e-12)[:, None])
    return max(np.trace(form) ** 2 / (form**2).sum(), 1.0) if len(sizes) > 1 else 1.0


class Mean:
    """The mean of d over rows, and all parts of its variance."""

    def __init__(self, d: Any, groups: Any, runs: Any, overlap: float = 0.0, weights: Any = None) -> None:
        weights = np.ones(len(d)) if weights is None else weights
        group, run = np.unique(groups, return_inverse=True)[1], np.unique(runs, return_inverse=True)[1]
        n, e = (np.zeros((group.max() + 1, run.max() + 1)) for _ in range(2))
        self.value = float(np.average(d, weights=weights))
        np.add.at(n, (group, run), weights)
        np.add.at(e, (group, run), weights * (np.asarray(d) - self.value))
        self.n, self.overlap, self.num_runs, total = n.sum(1), overlap, n.shape[1], n.sum()
        E, left = e.sum(1), np.maximum(1 - self.n / total, 1e-12)
        v_g, v_i = (E**2 / left).sum() / total**2, (E**2 / (self.n * left)).mean() / total
        z = E / np.sqrt(left)
        self.k = float((z**3).sum() ** 2 / (z**2).sum() ** 3) if (z**2).sum() > 0 else 0.0
        self.groups, self.df = max(v_g, v_i), min(satterthwaite(tuple(self.n)), 1 / max(min(2 * self.k, 1), 1e-9))
        e_r, n_r = e.sum(0), n.sum(0)
        same = ((e_r**2).sum() - (e**2).sum(), (n_r**2).sum() - (n**2).sum())  # pairs of one run, different groups
        other = (-(e_r**2).sum() - (E**2).sum() + (e**2).sum(),
                 total**2 - (n_r**2).sum() - (self.n**2).sum() + (n**2).sum())  # fmt: skip
        s2 = sum(sign * a / b for sign, (a, b) in ((1, same), (-1, other)) if b > 1e-9 * total**2)
        self.m2 = (e_r**2).sum() / (n_r**2).sum() * self.num_runs / max(self.num_runs - 1, 1)
        self.tau2 = max(self.m2 - s2, 0.02 * self.m2) if self.num_runs > 1 else 0.0
        self.factor = (n_r**2).sum() / total**2 + overlap
        self.sigma, self.weight = self.posterior(SIGMA, PRIOR)
        self.se = math.sqrt(self.groups + self.factor * (self.weight * self.sigma**2).sum())

    def posterior(self, sigma: Any, prior: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.num_runs == 1 or self.m2 <= 1e-24:
            return np.zeros(1), np.ones(1)
        log = stats.chi2.logpdf((self.num_runs - 1) * self.m2 / (sigma**2 + self.tau2), self.num_runs - 1)
        log = log - np.log(sigma**2 + self.tau2)  # the density of M, not of the ratio
        weight = np.exp(log - log.max()) * prior
        return sigma, weight / weight.sum()

    def tail(self, h: float, sigma: Any = None, weight: Any = None) -> float:
        sigma, weight = (self.sigma, self.weight) if sigma is None else (sigma, weight)
        variance = self.groups + self.factor * sigma**2
        with np.errstate(divide="ignore", invalid="ignore"):
            df = np.where(self.groups > 0, self.df * (variance / self.groups) ** 2, 1e9)
            t = np.where(variance > 0, h / np.sqrt(variance), math.inf if h > 0 else 0.0)
        return float((weight * 2 * special.stdtr(df, -t)).sum())

    def half(self, alpha: float, *posterior: Any) -> float:
        top = self.se
        while self.tail(top, *posterior) > alpha:
            top *= 2
        return float(optimize.brentq(lambda h: self.tail(h, *posterior) - alpha, 0, top, xtol=1e-13))

    def estimate(self, m: int = 1, low: float = -1.0, high: float = 1.0) -> dict[str, float | int | None]:
        """All fields of an `Estimate` (docs/order_result.md)."""
        num, alpha, effective = len(self.n), 0.05 / m, float(self.n.sum() ** 2 / (self.n**2).sum())
        differs = self.se > 1e-12
        if differs:
            h, h90, p = self.half(alpha), self.half(2 * alpha), self.tail(abs(self.value))
            h90 = min(h, h90 + 4 * math.sqrt(self.k) * (1 + 2 * (h90 / self.se) ** 2) / 6 * self.se)
        else:
            h, h90 = (1 - a ** (1 / effective) for a in (alpha, 2 * alpha))
            p = 1.0 if abs(self.value) <= 1e-12 else 2.0 ** (1 - num)
        ends = np.clip([self.value - h, self.value + h, self.value - h90, self.value + h90], low, high).tolist()
        fields = dict(zip(("low", "high", "low90", "high90"), ends, strict=True))
        unequal = np.ptp(self.n) > 1e-12 * self.n.max()
        parts = (self.se, self.df, self.groups, math.sqrt((self.weight * self.sigma**2).sum()), self.tau2)
        names = ("se", "df", "variance_groups", "run_sd", "run_noise")
        fields |= dict(zip(names, parts if differs else (0, num - 1, 0, 0, 0), strict=True))
        fields |= {"value": self.value, "p": min(1.0, m * p), "effective_groups": effective if unequal else None}
        return {**fields, "num_groups": num, "num_runs": self.num_runs, "overlap": self.overlap, "comparisons": m}


class Rows:
    """Rows (run, clip) of one test: groups, runs, and the weights of a balanced accuracy."""

    def __init__(self, groups: Any, runs: Any, labels: Any, overlap: float, balanced: bool) -> None:
        self.groups, self.runs, self.labels = np.asarray(groups), np.asarray(runs), np.asarray(labels)
        self.overlap, self.balanced = overlap, balanced
        self.by_class = 1 / np.bincount(self.labels)[self.labels]

    def mean(self, d: Any, overlap: float | None = None, balanced: bool = False) -> Mean:
        weights = self.by_class if balanced or self.balanced else None
        return Mean(d, self.groups, self.runs, self.overlap if overlap is None else overlap, weights)

    def accuracy(self, d: Any, overlap: float | None = None, balanced: bool = False) -> dict[str, Any]:
        return self.mean(d, overlap, balanced).estimate(1, 0.0, 1.0)

    def difference(self, d: Any, m: int = 1, overlap: float | None = None) -> dict[str, Any]:
        return self.mean(d, overlap).estimate(m)


def reliance_p(right: np.ndarray, groups: np.ndarray, draws: int = 9999, seed: int = 0) -> float:
    """Each draw selects one of the K + 1 frame orders (columns) per group as the ordered one."""
    sums, k = np.stack([np.bincount(groups, column) for column in right.T], 1), right.shape[1] - 1
    advantage = sums - (sums.sum(1, keepdims=True) - sums) / k
    drawn = np.random.default_rng(seed).integers(k + 1, size=(draws, len(sums)))
    t = np.abs(np.take_along_axis(advantage, drawn.T, 1).sum(0))
    return float(((t >= abs(advantage[:, 0].sum()) - 1e-9).sum() + 1) / (draws + 1))


def class_gains(d: np.ndarray, rows: Rows, names: list[str]) -> list[dict[str, Any]]:
    """Gains of classes: variances moderated over classes, random effects, sign flips of groups, Holm."""
    present = [label for label in range(len(names)) if (rows.labels == label).any()]
    means = [Mean(d[rows.labels == c], rows.groups[rows.labels == c], np.zeros((rows.labels == c).sum()))
             for c in present]  # fmt: skip
    value, num = np.array([one.value for one in means]), np.array([len(one.n) for one in means], float)
    v = np.array([cr2_of(d[rows.labels == c], rows.groups[rows.labels == c]) for c in present])
    spread, df = num * v, num - 1
    if (common := (df * spread).sum() / max(df.sum(), 1)) > 0:
        se = np.sqrt((df * spread + 4 * common) / (df + 4) / num)
    else:
        se = (1 - 0.05 ** (1 / num)) / 1.96
    tau2, mu, of_mu = paule_mandel(value, se**2) if len(value) > 1 else (math.inf, 0.0, 0.0)
    b = tau2 / (tau2 + se**2) if tau2 < math.inf else np.ones(1)
    pooled, half = b * value + (1 - b) * mu, 1.959963984540054 * np.sqrt(b * se**2 + (1 - b) ** 2 * of_mu)
    flips = [sign_flips(np.bincount(rows.groups[rows.labels == c], d[rows.labels == c]), rows.groups[rows.labels == c])
             for c in present]  # fmt: skip
    return [
        {"name": names[c], "num_groups": int(num[i]), "value": value[i], "se": math.sqrt(v[i]) if v[i] > 0 else se[i],
         "pooled": pooled[i], "low": max(pooled[i] - half[i], -1), "high": min(pooled[i] + half[i], 1),
         "p": flips[i][0], "smallest_p": flips[i][1]}
        for i, c in enumerate(present)
    ]  # fmt: skip


def cr2_of(d: np.ndarray, groups: np.ndarray) -> float:
    code = np.unique(groups, return_inverse=True)[1]
    n, e = np.bincount(code).astype(float), np.bincount(code, d - d.mean())
    v = float((e**2 / np.maximum(1 - n / n.sum(), 1e-12)).sum() / n.sum() ** 2) if len(n) > 1 else 0.0
    return v if v > 1e-20 else 0.0


def paule_mandel(value: np.ndarray, variance: np.ndarray) -> tuple[float, float, float]:
    """tau^2 with sum (value - mu)^2 / (variance + tau^2) = C - 1, the mean mu, and its variance."""

    def mean(tau2: float) -> tuple[float, np.ndarray]:
        w = 1 / (variance + tau2)
        return float(np.average(value, weights=w)), w

    def excess(tau2: float) -> float:
        mu, w = mean(tau2)
        return float((w * (value - mu) ** 2).sum() - (len(value) - 1))

    tau2 = optimize.brentq(excess, 0, 10.0, xtol=1e-14) if excess(0) > 0 else 0.0
    mu, w = mean(tau2)
    return tau2, mu, 1 / w.sum()


def sign_flips(sums: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    sums = sums[np.unique(groups)]
    num, observed = len(sums), abs(sums.sum()) - 1e-9
    if num <= 12:
        signs = np.array([[1 - 2 * (i >> g & 1) for g in range(num)] for i in range(2**num)])
        return float((np.abs(signs @ sums) >= observed).mean()), 2.0 ** (1 - num)
    signs = 1 - 2 * np.random.default_rng(0).integers(2, size=(9999, num))
    p = float(((np.abs(signs @ sums) >= observed).sum() + 1) / 10000)
    return p, max(1e-4, 2.0 ** (1 - num))


def holm(p: list[float]) -> list[float]:
    order, adjusted, top = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        top = max(top, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = top
    return adjusted


def chiral_pairs(labels: Any, ordered: Any, backward: Any, groups: Any, num: int, draws: int = 4999) -> list[Any]:
    """(a, b, excess, p): found on one half of the groups, tested on the other by the maximum statistic."""
    rng, group = np.random.default_rng(0), np.unique(groups, return_inverse=True)[1]
    finding = np.isin(group, rng.permutation(group.max() + 1)[: (group.max() + 1) // 2])

    def excess(of: np.ndarray, a: int, b: int) -> np.ndarray:
        change = (of & (labels == a)) * ((backward == b) * 1.0 - (ordered == b))
        return np.bincount(group, change) / max((of & (labels == a)).sum(), 1)

    pairs = [(a, b) for a in range(num) for b in range(a + 1, num)]
    mutual = [min(excess(finding, a, b).sum(), excess(finding, b, a).sum()) for a, b in pairs]
    best = [pairs[i] for i in np.argsort(-np.array(mutual), kind="stable")[:10] if mutual[i] > 0]
    if not best:
        return []
    tested = np.unique(group[~finding])
    parts = np.array([[excess(~finding, a, b)[tested], excess(~finding, b, a)[tested]] for a, b in best])  # (P, 2, G)
    signs = 1.0 - 2 * rng.integers(2, size=(draws, len(tested)))
    greatest = (parts @ signs.T).min(1).max(0)
    observed = parts.sum(2).min(1)
    found = [
        (*pair, x, ((greatest >= x - 1e-9).sum() + 1) / (draws + 1)) for pair, x in zip(best, observed, strict=True)
    ]
    return sorted(found, key=lambda one: -one[2])


# Verdicts (the docstrings of `judge` and `judge_data` as tables in docs/order_test.md).


def lacks_groups(estimate: dict[str, Any], margin: float) -> bool:
    effective = estimate["effective_groups"] or estimate["num_groups"]
    return bool(1 - (0.1 / estimate["comparisons"]) ** (1 / effective) >= margin + 1e-12)


def verdict_kind(d: dict[str, Any], margin: float, accuracy: dict[str, Any], chance: float) -> str:
    if d["num_groups"] < 20 or d["num_runs"] < 6:
        return "no verdict"
    if accuracy["low"] <= chance:
        return "not learned"
    if -margin < d["low90"] and d["high90"] < margin:
        return "undetermined" if lacks_groups(d, margin) else "negligible" if d["low"] > 0 else "does not matter"
    return "matters" if d["low"] > 0 else "hurts" if d["high"] < 0 else "undetermined"


def verdict_on_data(d: dict[str, Any], margin: float, best: dict[str, Any], rotated: Any, chance: float) -> str:
    if d["num_groups"] < 20 or d["num_runs"] < 6:
        return "no verdict"
    if best["low"] <= chance:
        return "not learned"
    is_small = d["high90"] < margin and not lacks_groups(d, margin)
    if d["low"] > 0:
        return "negligible" if is_small else "matters" if rotated and rotated["low"] > 0 else "order or position"
    return "does not matter" if is_small else "undetermined"
