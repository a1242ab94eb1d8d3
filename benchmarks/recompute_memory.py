"""The part of `recompute.py` for folders of `memory`, on recall tasks and on trained heads."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from recompute_heads import catalog_rows, tools
from recompute_statistics import FLOAT32, Report, read_csv, read_json
from scipy import stats

CHANCE = 1 / 8


def curve(seeds: Any, is_geometric: bool = False, low: float = -math.inf, high: float = math.inf) -> dict[str, Any]:
    """Mean over seeds with a 95 % interval of Student's t; a geometric mean ignores zeros, but is 0 if all are."""
    points: list[list[float]] = [[], [], []]
    for values in np.array(seeds, float).T:
        is_zero = is_geometric and (values == 0).all()
        used = np.log(values[values > 0]) if is_geometric else values[np.isfinite(values)]
        mean = used.mean() if len(used) else math.nan
        half = stats.t.ppf(0.975, len(used) - 1) * used.std(ddof=1) / math.sqrt(len(used)) if len(used) > 1 else 0.0
        ends = [mean, max(mean - half, low), min(mean + half, high)]
        for point, end in zip(points, ends, strict=True):
            point.append(0.0 if is_zero else math.exp(end) if is_geometric else end)
    return dict(zip(("value", "low", "high"), points, strict=True))


def corrected(accuracy: Any) -> np.ndarray:
    return (np.asarray(accuracy, float) - CHANCE) / (1 - CHANCE)


def decreasing(values: Iterable[float]) -> np.ndarray:
    """The decreasing fit of least squares: neighbors that increase are pooled."""
    pools: list[list[float]] = []
    for value in values:
        pools.append([value, 1])
        while len(pools) > 1 and pools[-2][0] < pools[-1][0]:
            (a, m), (b, n) = pools[-2:]
            pools[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    return np.repeat([value for value, _ in pools], [int(num) for _, num in pools])


def horizon(delays: list[int], accuracy: Any) -> dict[str, Any]:
    fit = decreasing(corrected(accuracy))
    if fit[0] < 0.5:
        return {"frames": None, "kind": "not learned"}
    if fit[-1] >= 0.5:
        return {"frames": delays[-1], "kind": "beyond"}
    i = int(np.flatnonzero(fit < 0.5)[0])
    share = (fit[i - 1] - 0.5) / (fit[i - 1] - fit[i])
    return {"frames": delays[i - 1] * (delays[i] / delays[i - 1]) ** share, "kind": "crossed"}


def held_out(training: dict[str, Any], budgets: list[int]) -> np.ndarray:
    """Held-out accuracy (S, X) of the weights with the lowest loss so far, for each budget of steps."""
    of, rows = training["curve"], []
    for budget in budgets:
        num = sum(step <= budget for step in of["steps"])
        rows.append(of["accuracy"][int(np.argmin(of["loss"][:num]))])
    return np.array(rows)


def steps_to_learn(budgets: list[int], accuracy: np.ndarray) -> int | None:
    below = np.flatnonzero(corrected(accuracy) < 0.5)
    place = below[-1] + 1 if len(below) else 0
    return None if place == len(budgets) else budgets[place]


def task_result(trainings: list[dict[str, Any]], plan: dict[str, Any]) -> dict[str, Any]:
    delays = [delay for delay in plan["delays"] if delay <= plan["recipe"]["max_delay"]]
    x, accuracy = len(delays), np.array([one["accuracy"] for one in trainings])
    budgets = max((one["curve"]["steps"] for one in trainings), key=len)
    learned = np.array([held_out(one, budgets) for one in trainings])
    steps = [[steps_to_learn(budgets, one[:, place]) for one in learned] for place in range(x)]
    medians = [float(np.median([math.inf if one is None else one for one in of])) for of in steps]
    return {
        "accuracy": curve(accuracy[:, :x], low=0, high=1),
        "extrapolated": curve(accuracy[:, x:], low=0, high=1),
        "followed": curve([one["followed"] for one in trainings], low=0, high=1),
        "horizon": horizon(delays, accuracy[:, :x].mean(0)),
        "horizons": [horizon(delays, one[:x]) for one in accuracy],
        "trained_steps": [one["curve"]["steps"][-1] for one in trainings],
        "converged": [converged(one["curve"], plan["recipe"]) for one in trainings],
        "steps_to_learn": [{"delay": delay, "seeds": of, "median": median if median < math.inf else None}
                           for delay, of, median in zip(delays, steps, medians, strict=True)],
        "budgets": budgets,
        "horizons_by_budget": [horizon(delays, one) for one in learned.mean(0)],
    }  # fmt: skip


def converged(of: dict[str, Any], recipe: dict[str, Any]) -> bool:
    """Lowest loss below 1 % of that of guessing, or, from the least number of steps on, little improved since half."""
    limit, best = recipe["tolerance"] * math.log(1 / CHANCE), min(of["loss"])
    half = [loss for step, loss in zip(of["steps"], of["loss"], strict=True) if step <= of["steps"][-1] / 2]
    return best < limit or (of["steps"][-1] >= recipe["min_steps"] and bool(half) and min(half) - best < limit)


def digits(frames: float) -> str:
    return f"{frames:.0f}" if frames >= 100 else f"{frames:.3g}"


def horizon_text(one: dict[str, Any], is_converged: bool = True) -> str:
    if one["frames"] is None:
        return "not learned" if is_converged else "not learned yet"
    if one["kind"] == "beyond":
        return f">= {one['frames']:.0f}"
    return digits(one["frames"]) if is_converged else f">= {digits(one['frames'])}"


def over_seeds_text(of: dict[str, Any]) -> str:
    """The horizon of the mean over seeds, and the range over seeds if they differ."""
    mean = horizon_text(of["horizon"], all(of["converged"]))
    pairs = sorted(zip(of["horizons"], of["converged"], strict=True), key=lambda one: one[0]["frames"] or 0)
    low, high = horizon_text(*pairs[0]), horizon_text(*pairs[-1])
    return mean if low == high == mean else f"{mean} ({low} to {high})"


def time_text(frames: float, limit: float, seconds: float | None = None) -> str:
    if frames <= 0:
        return "–"  # noqa: RUF001
    text = f">= {limit:.0f}" if frames >= limit else digits(frames)
    return text if seconds is None else f"{text} ({min(frames, limit) * seconds:.2g} s)"


def lyapunov_text(exponent: float, limit: float) -> str:
    if exponent > 1 / limit:
        return "grows"
    return time_text(-1 / exponent if exponent < 0 else math.inf, limit)


def check_curves(path: Path, place: str, wanted: dict[tuple[str, str], Any], report: Report) -> None:
    table = read_csv(path)
    found = {(row["memory"], row["curve"], row[place]): row for row in table}
    for (memory, name), (places, own) in wanted.items():
        for i, delay in enumerate(places):
            ours = {end: own[end][i] for end in ("value", "low", "high")}
            report.compare(f"tables/{path.name}", ours, found[memory, name, str(delay)])


def recall_folder(folder: Path, given: argparse.Namespace, report: Report) -> None:
    result = read_json(folder / "memory.json")
    plan, curves = result["plan"], {}
    trainings = [read_json(path)["content"] for path in sorted((folder / "trainings").glob("*.json"))]
    tables = {name: read_csv(folder / "tables" / f"{name}.csv") for name in ("horizons", "steps", "gradients")}
    for one in result["memories"]:
        row = next(row for row in tables["horizons"] if row["memory"] == one["label"])
        for task, theirs in one["tasks"].items():
            of = sorted(
                (t for t in trainings if (t["memory"], t["task"]) == (one["name"], task)), key=lambda t: t["seed"]
            )
            ours = task_result(of, plan)
            report.compare("recall: curves, horizons, steps to learn", ours, theirs)
            texts = {f"{task} horizon": over_seeds_text(ours)}
            for name in (name for name in row if name.startswith(f"{task} after ")):
                budget = int(name.split()[2])
                last = [i for i, step in enumerate(ours["budgets"]) if step <= budget] or [0]
                texts[name] = horizon_text(ours["horizons_by_budget"][last[-1]])
            for i, delay in enumerate(delay for delay in plan["delays"] if delay > plan["recipe"]["max_delay"]):
                texts[f"{task} at {delay}"] = ours["extrapolated"]["value"][i]
            report.compare("tables/horizons.csv", texts, row)
            of_steps = next(row for row in tables["steps"] if (row["memory"], row["task"]) == (one["label"], task))
            report.compare("tables/steps.csv", steps_texts(ours), of_steps)
            for kind in ("accuracy", "extrapolated", "followed"):
                curves[one["name"], f"{task} {kind}"] = (theirs[kind]["places"], ours[kind])
        check_heads_of_recall(one, trainings, curves, row, tables["gradients"], result["num_frames"], report)
    check_curves(folder / "tables" / "curves.csv", "frames", curves, report)
    report.skip("gradients, Lyapunov exponents and time constants of a seed", "trained weights are not in the folder")


def steps_texts(ours: dict[str, Any]) -> dict[str, str]:
    texts = {"trained steps": " to ".join(map(str, sorted({min(ours["trained_steps"]), max(ours["trained_steps"])}))),
             "converged": f"{sum(ours['converged'])} of {len(ours['converged'])}"}  # fmt: skip
    for of in ours["steps_to_learn"]:
        if of["median"] is not None:
            text = f"{of['median']:.0f}"
        else:
            below = [done for one, done in zip(of["seeds"], ours["converged"], strict=True) if one is None]
            text = "–" if all(below) else f"> {max(ours['trained_steps'])}"  # noqa: RUF001
        texts[f"delay {of['delay']}"] = text
    return texts


def check_heads_of_recall(
    one: Any, trainings: Any, curves: Any, row: Any, gradients: Any, num_frames: int, report: Report
) -> None:
    of = [
        t["measures"]
        for t in sorted(trainings, key=lambda t: t["seed"])
        if t["memory"] == one["name"] and t["measures"]
    ]
    own = {
        kind: curve([m[kind] for m in of], is_geometric=True) for kind in ("gradient", "direct", "gradient_untrained")
    }
    tau, exponent = sorted(value for m in of for value in m["tau"]), float(np.mean([m["lyapunov"] for m in of]))
    report.compare(
        "recall: gradients, time constants, Lyapunov, over seeds", {**own, "tau": tau, "lyapunov": exponent}, one
    )
    curves |= {(one["name"], kind): (one[kind]["places"], value) for kind, value in own.items()}
    times = [time_text(float(np.quantile(tau, q)), num_frames) for q in (0.5, 0.9)]
    texts = {"tau, median": times[0], "tau, top tenth": times[1], "-1 / Lyapunov": lyapunov_text(exponent, num_frames)}
    report.compare("tables/horizons.csv", texts, row)
    names = {"untrained": "gradient_untrained", "trained": "gradient", "along the retention alone": "direct"}
    texts = {name: f"{own[kind]['value'][-1]:.2g}" for name, kind in names.items()}
    report.compare("tables/gradients.csv", texts, next(row for row in gradients if row["memory"] == one["label"]))


def trained_heads_folder(folder: Path, given: argparse.Namespace, report: Report) -> None:
    result, curves = read_json(folder / "memory.json"), {}
    limit, seconds = result["num_frames"], result["seconds_per_frame"]
    layers, table = (read_csv(folder / "tables" / f"{name}.csv") for name in ("layers", "memory"))
    for one in result["memories"]:
        for kind in ("gradient", "direct", "gradient_untrained", "swap", "probe"):
            if kind == "probe" and one["num_heads"] == 1:
                report.skip(
                    "interval of the probe", "one checkpoint: its interval is over groups, which are not stored"
                )
                curves[one["label"], kind] = (one[kind]["places"], one[kind])
                continue
            own = curve(
                one[kind]["seeds"], kind.startswith(("gradient", "direct")), high=1 if kind == "probe" else math.inf
            )
            report.compare("curves over checkpoints", own, one[kind])
            curves[one["label"], kind] = (one[kind]["places"], own)
        for number, (taus, exponent) in enumerate(zip(one["taus"], one["lyapunovs"], strict=True), start=1):
            row = next(row for row in layers if (row["memory"], row["layer"]) == (one["label"], str(number)))
            names = {"tau, lower quarter": 0.25, "median": 0.5, "upper quarter": 0.75, "longest": 1}
            texts = {name: time_text(float(np.quantile(taus, q)), limit, seconds) for name, q in names.items()}
            report.compare(
                "tables/layers.csv",
                {**texts, "hidden units": len(taus), "-1 / Lyapunov": lyapunov_text(exponent, limit)},
                row,
            )
        row = next(row for row in table if row["memory"] == one["label"])
        check_reach(one, row, limit, seconds, report)
    check_curves(folder / "tables" / "curves.csv", "lag", curves, report)
    check_time_constants(result, given, report)
    report.skip(
        "gradients, swaps, probes and Lyapunov exponents of a head", "needs its derivatives, which are not stored"
    )


def check_reach(one: Any, row: Any, limit: int, seconds: float | None, report: Report) -> None:
    middle = min(one["gradient"]["places"], key=lambda lag: abs(lag - limit / 2))
    texts = {"tau, median": time_text(float(np.quantile(one["taus"][-1], 0.5)), limit, seconds),
             "tau, top tenth": time_text(float(np.quantile(one["taus"][-1], 0.9)), limit, seconds),
             "-1 / Lyapunov": lyapunov_text(one["lyapunovs"][-1], limit)}  # fmt: skip
    names = {"gradient": "gradient", "untrained": "gradient_untrained", "swap": "swap", "partial R²": "probe"}
    for name, kind in names.items():
        value = one[kind]["value"][one[kind]["places"].index(middle)]
        texts[f"{name} at {middle}"] = f"{value:.2g}" if math.isfinite(value) else "–"  # noqa: RUF001
    report.compare("tables/memory.csv", texts, row)


def check_time_constants(result: Any, given: argparse.Namespace, report: Report) -> None:
    """-1 / mean(log retention) over clips and frames, without the first one; at most T."""
    if (found := tools(given, report, "time constants, from the weights")) is None:
        return
    head, features = found
    clips = [row for row in catalog_rows(given.catalog) if row["split"] == result["data"].rsplit(", ", 1)[1]]
    one = next((one for one in result["memories"] if one["label"] == head.config["label"]), None)
    if one is None or one["num_heads"] > 1 or len(clips) > 64:
        return report.skip(
            "time constants, from the weights", "needs one checkpoint, that of --model, and at most 64 clips"
        )
    with np.errstate(divide="ignore"):
        logs = [np.log(head.states(features.of(row["path"])[0])[1][1:]) for row in clips]
        tau = np.sort(np.minimum(np.abs(-1 / np.concatenate(logs).mean(0)), result["num_frames"]))
    report.compare("time constants, from the weights", tau, one["taus"][0], FLOAT32)
