"""The part of `recompute.py` for folders of `order`."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from recompute_statistics import (
    ROOTS,
    Report,
    Rows,
    chiral_pairs,
    class_gains,
    codes,
    cr2_of,
    holm,
    read_csv,
    read_json,
    reliance_p,
    verdict_kind,
    verdict_on_data,
)
from scipy import stats

LETTERS = {"ordered": "O", "fixed_permutation": "F", "reshuffled": "S", "shuffled": "S", "rotated": "T", "windows": "W",
           "common_permutation": "C", "blocks": "B", "reversed": "R"}  # fmt: skip


class OrderFolder:
    """The data of an order test: its tables, and the predictions of its training jobs if they are given."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self.result, self.tables = read_json(folder / "order.json"), folder / "tables"
        self.names, settings = self.result["data"]["class_names"], self.result["plan"]["settings"]
        self.settings, self.chance = settings, 1 / len(self.names)
        table = read_csv(self.tables / "tested_clips.csv")
        self.heads = list(dict.fromkeys(row["head"] for row in table))
        first = [row for row in table if row["head"] == self.heads[0]]
        self.clips = [(row["path"], row["start_s"], row["end_s"]) for row in first]
        self.jobs = read_csv(self.tables / "training_jobs.csv")
        order = group_order(first, given.catalog)
        self.is_exact = order is not None
        labels = codes([row["label"] for row in first], self.names)
        runs = np.array([int(row["run"]) for row in first])
        balanced = self.result["metric"] == "balanced"
        self.rows = Rows(codes([row["group"] for row in first], order), runs, labels, self.overlap("primary"), balanced)
        self.right = {
            head: {code: np.array([float(row[code]) for row in of_head]) for code in table[0] if code.isupper()
                   and of_head[0][code] != ""}
            for head in self.heads for of_head in [[row for row in table if row["head"] == head]]
        }  # fmt: skip
        self.blind = {one["label"]: one["is_order_blind"] for one in self.result["heads"]}
        self.cache: Path | None = given.training_results

    def overlap(self, analysis: str) -> float:
        """Mean n_test / n_train over runs; 0 with a fixed split, where all runs share one training set."""
        of_runs = {row["run"]: int(row["test clips"]) / int(row["training clips"]) for row in self.jobs
                   if row["analysis"] == analysis}  # fmt: skip
        return 0.0 if self.settings["split"] == "fixed" else float(np.mean(list(of_runs.values())))

    def files(self, head: str, condition: str, analysis: str = "primary") -> list[Any]:
        rows = [row for row in self.jobs if (row["head"], row["training condition"], row["analysis"])
                == (head, condition, analysis)]  # fmt: skip
        return [training_result(self.cache / row["file"]) for row in sorted(rows, key=lambda row: int(row["run"]))]

    def predicted(self, head: str, condition: str, order: str, analysis: str = "primary") -> np.ndarray:
        """Predicted classes (K, N)."""
        return np.concatenate([one[f"predicted {order}"] for one in self.files(head, condition, analysis)], 1)

    def share(self, head: str, condition: str, order: str, analysis: str = "primary") -> np.ndarray:
        return (self.predicted(head, condition, order, analysis) == self.rows.labels).mean(0)

    def best(self, learners: dict[str, np.ndarray]) -> tuple[np.ndarray, list[str]]:
        """For each run (or one of 5 parts of the groups of a fixed split) the best learner on other groups."""
        rows, parts = self.rows, self.rows.runs
        if self.settings["split"] == "fixed":
            group = np.unique(rows.groups, return_inverse=True)[1]
            parts = np.random.default_rng(0).permutation(group.max() + 1)[group] % 5
        weights, values, chosen = rows.by_class if rows.balanced else np.ones(len(parts)), np.zeros(len(parts)), []
        for part in np.unique(parts):
            here = parts == part
            others = ~np.isin(rows.groups, rows.groups[here])
            others = others if others.any() else here
            means = {name: np.average(d[others], weights=weights[others]) for name, d in learners.items()}
            chosen.append(max(means, key=lambda name: means[name]))
            values[here] = learners[chosen[-1]][here]
        return values, chosen

    def learners(self, code: str, blind: bool) -> dict[str, np.ndarray]:
        """Values by the name of the learner, such as `gru reshuffled/shuffled`."""
        pair = {"OO": "", "FS": " fixed_permutation/shuffled", "SS": " reshuffled/shuffled", "TT": " rotated/rotated"}
        return {name_of(self, head) + pair[code]: right[code] for head, right in self.right.items()
                if self.blind[head] == blind and code in right}  # fmt: skip


def group_order(rows: list[dict[str, str]], catalog: Path | None) -> list[str] | None:
    """Groups in order of their first clip in the catalog."""
    if catalog is None:
        return None
    group = {(row["path"], row["start_s"], row["end_s"]): row["group"] for row in rows}
    paths = [((str(catalog.parent / row["path"])), row.get("start_s") or "", row.get("end_s") or "")
             for row in read_csv(catalog)]  # fmt: skip
    found = [group[path] for path in paths if path in group]
    return found if set(found) == set(group.values()) else None


def name_of(test: OrderFolder, label: str) -> str:
    return next(one["name"] for one in test.result["heads"] if one["label"] == label)


@cache
def training_result(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return {**json.loads(str(arrays.pop("facts"))), **arrays}


def order_test(folder: Path, given: argparse.Namespace, report: Report) -> None:
    test = OrderFolder(folder, given)
    result, rows, num_learners = test.result, test.rows, max(sum(not blind for blind in test.blind.values()), 1)
    blind = test.learners("OO", True) | test.learners("FS", False) | test.learners("SS", False)
    ordered, rotated = test.learners("OO", False), test.learners("TT", False)
    margin, baseline = check_margin(test, {**ordered, **blind}, report)
    without, chosen_blind = test.best(blind) if test.learners("OO", True) else (None, [])
    ours: dict[str, dict[str, Any]] = {}
    for one in result["heads"]:
        right, head = test.right[one["label"]], {}
        pairs = {pair: "".join(LETTERS[part] for part in pair.split("/")) for pair in one["accuracies"]}
        head["accuracies"] = {pair: rows.accuracy(right[code]) for pair, code in pairs.items()}
        head["balanced_accuracy"] = rows.accuracy(right["OO"], balanced=True)
        head["value_of_order"] = value = rows.difference(right["OO"] - right["FS"], num_learners)
        for name, a, b in (
            ("augmentation", "SS", "FS"),
            ("shift", "SS", "OS"),
            ("rotated", "TT", "FS"),
            ("common", "OO", "CC"),
        ):
            head[name] = rows.difference(right[a] - right[b]) if {a, b} <= set(right) else None
        is_blind = one["is_order_blind"]
        head["reliance"] = None if is_blind else rows.difference(right["OO"] - right["OS"])
        head["practical_gain"] = None if is_blind or without is None else rows.difference(right["OO"] - without)
        room = head["accuracies"]["ordered/ordered"]["value"] - baseline
        learned = head["balanced_accuracy"]["low"] > test.chance and room > 0
        head["normalized"] = min(max(value["value"] / room, 0), 1) if learned else None
        kind = verdict_kind(value, margin, head["balanced_accuracy"], test.chance)
        report.compare("accuracies, contrasts and intervals", head, one, ROOTS)
        report.compare("verdicts", None if is_blind else kind, one["verdict"] and one["verdict"]["kind"])
        gains = class_gains(right["OO"] - right["FS"], rows, test.names)
        check_classes(gains, one["classes"], test, report)
        ours[one["label"]] = {**head, "classes": one["classes"], "verdict": "order-blind" if is_blind else kind,
                              "name": one["name"]}  # fmt: skip
    check_integral(test, report)
    if result["information"]:
        check_information(test, ordered, without, chosen_blind, rotated, margin, report)
        check_clip_scores(test, test.best(ordered)[0] - without, report)
    first_blind = next((ours[label]["value_of_order"] for label, is_blind in test.blind.items() if is_blind), None)
    report.compare("noise floor", first_blind, result["noise_floor"], ROOTS)
    check_predictions(test, ours, report)
    check_tables(test, ours, report)
    check_facts(test, folder, report)
    check_methods(ours, folder / "methods.txt", report)
    report.skip("displacement, Kendall's tau, adjacency", "frame orders are not stored")
    report.skip("data checks", "they need the features of the clips")


def check_facts(test: OrderFolder, folder: Path, report: Report) -> None:
    """Counts, and the hash of the plan."""
    groups, data = len(np.unique(test.rows.groups)), test.result["data"]
    primary = [row for row in test.jobs if row["analysis"] == "primary"]
    counts = {f"num_{part}_clips": round(float(np.mean([int(row[name]) for row in primary])))
              for part, name in (("train", "training clips"), ("test", "test clips"))}  # fmt: skip
    report.compare("counts", {**counts, "num_test_groups": groups}, data)
    report.compare("counts", {"num_runs": test.rows.runs.max() + 1, "num_trainings": len(test.jobs)}, test.result)
    for one in test.result["heads"]:
        for size in one["sizes"]:
            name = "primary" if size["fraction"] == 1 else str(size["fraction"])
            clips = [int(row["training clips"]) for row in test.jobs if row["analysis"] == name]
            report.compare("counts", round(float(np.mean(clips))), size["num_clips"])
        if one["is_order_blind"]:
            continue
        k, half = test.result["num_permutations"], groups // 2
        smallest = max(1e-4, (2 if k == 1 else 1) * (k + 1.0) ** -groups)
        report.compare("smallest p", {"smallest_p": smallest, "num_draws": 9999}, one["reliance_test"])
        halves = {"num_groups_found_on": half, "num_groups_tested_on": groups - half}
        report.compare("smallest p", {**halves, "smallest_p": max(1 / 5000, 2.0 ** (half - groups))}, one["chiral"])
    if (folder / "plan.json").is_file():
        report.compare(
            "hash of the plan", sha256((folder / "plan.json").read_bytes()).hexdigest(), test.result["plan_sha256"]
        )


def check_methods(ours: dict[str, dict[str, Any]], path: Path, report: Report) -> None:
    """The values in the paragraph for a methods section, in points with one decimal."""
    if not path.is_file():
        return

    def shown(share: float) -> str:
        text = f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")
        return "0.0" if text[1:] == "0.0" else text

    text = path.read_text()
    for one in ours.values():
        for estimate in (one["value_of_order"], one["reliance"]) if one["reliance"] else ():
            low, value, high = (shown(estimate[name]) for name in ("low", "value", "high"))
            report.compare("methods.txt", f"was {value} points [{low}, {high}]" in text, True)


def check_margin(test: OrderFolder, learners: dict[str, np.ndarray], report: Report) -> tuple[float, float]:
    """The margin, and the accuracy without features."""
    settings, controls = test.settings, test.result["controls"]
    majority = majority_of(test)
    if controls and majority is not None:
        report.compare("controls", majority, controls["majority"])
    elif controls:
        majority = controls["majority"]
        report.skip("accuracy of the majority class", "the labels of the training clips are not in the tables")
    baseline = test.chance if test.rows.balanced else max(test.chance, majority or 0.0)
    best = max(test.rows.mean(d).value for d in learners.values())
    margin = settings["margin"] * (max(best - baseline, 0.01) if settings["margin_of"] == "attainable" else 1)
    report.compare("margin", margin, test.result["margin"])
    return margin, baseline


def majority_of(test: OrderFolder) -> float | None:
    """Accuracy of the most frequent training class, if every clip is tested in some run: others are training clips."""
    label = dict(zip(test.clips, test.rows.labels.tolist(), strict=True))
    if test.settings["split"] == "fixed" or len(label) < test.result["data"]["num_clips"]:
        return None
    right = []
    for run in np.unique(test.rows.runs):
        tested = [clip for clip, of in zip(test.clips, test.rows.runs, strict=True) if of == run]
        train = Counter(dict.fromkeys(range(len(test.names)), 0))
        train.update(value for clip, value in label.items() if clip not in set(tested))
        right += [label[clip] == max(train, key=lambda c: (train[c], -c)) for clip in tested]
    return float(np.mean(right))


def check_integral(test: OrderFolder, report: Report) -> None:
    """The half width by the sum over sigma is that by the integral within 0.1 points, or 1 % if above 30 points."""
    x, w = np.polynomial.legendre.leggauss(1000)
    sigma = (x + 1) / 2
    for head, one in zip(test.heads, test.result["heads"], strict=True):
        mean = test.rows.mean(test.right[head]["OO"] - test.right[head]["FS"])
        theirs = one["value_of_order"]
        if mean.se > 1e-12 and len(mean.sigma) > 1 and theirs["low"] > -1:
            ours = mean.half(
                0.05 / theirs["comparisons"], *mean.posterior(sigma, w * stats.halfnorm.pdf(sigma, scale=0.1))
            )
            limit = 1e-3 if ours < 0.3 else 0.01 * ours
            report.compare("intervals by numerical integration", ours, theirs["value"] - theirs["low"], limit)


def check_information(
    test: OrderFolder, ordered: Any, without: Any, chosen_blind: list[str], rotated: Any, margin: float, report: Report
) -> None:
    theirs, rows = test.result["information"], test.rows
    best, chosen = test.best(ordered)
    gain = rows.difference(best - without)
    both = [rows.accuracy(values, balanced=True) for values in (best, without)]
    accuracy = max(both, key=lambda one: one["low"])
    of_rotated = rows.difference(test.best(rotated)[0] - without) if rotated else None
    ours = {"gain": gain, "accuracy": accuracy, "rotated": of_rotated, "chosen": dict(Counter(chosen + chosen_blind)),
            "ordered": Counter(chosen).most_common(1)[0][0],
            "order_blind": Counter(chosen_blind).most_common(1)[0][0]}  # fmt: skip
    report.compare("information", ours, theirs, ROOTS)
    if test.result["verdict"]["kind"] != "nothing to order":
        report.compare(
            "verdicts", verdict_on_data(gain, margin, accuracy, of_rotated, test.chance), test.result["verdict"]["kind"]
        )
    sentence = f"95 % interval {100 * gain['low']:.1f} to {100 * gain['high']:.1f}"
    if gain["num_groups"] >= 20 and gain["num_runs"] >= 6 and accuracy["low"] > test.chance:
        report.compare("verdicts", sentence.replace("-0.0", "0.0") in test.result["verdict"]["sentence"], True)


def check_classes(ours: list[dict[str, Any]], theirs: list[Any], test: OrderFolder, report: Report) -> None:
    exact = {name for name, one in ((one["name"], one) for one in ours) if test.is_exact or one["num_groups"] <= 12}
    report.compare("classes", [{k: v for k, v in one.items() if k != "p"} for one in ours], theirs, ROOTS)
    for one, other in zip(ours, theirs, strict=True):
        report.monte_carlo("p of classes", one["p"], other["p"], 9999, one["name"] in exact)
    report.compare("Holm's adjustment", holm([one["p"] for one in theirs]), [one["p_holm"] for one in theirs])


def check_clip_scores(test: OrderFolder, d: np.ndarray, report: Report) -> None:
    """Empirical Bayes (docs/order_subset.md)."""
    clips, code, n = np.unique([repr(clip) for clip in test.clips], return_inverse=True, return_counts=True)
    raw, mean, num = np.bincount(code, d) / n, d.mean(), len(clips)
    if len(d) == num:
        score, se = np.full(num, mean), np.full(num, d.std(ddof=1))
    else:
        within = ((d - raw[code]) ** 2).sum() / (len(d) - num)
        n0 = (len(d) - (n**2).sum() / len(d)) / (num - 1)
        tau2 = max(0.0, ((n * (raw - mean) ** 2).sum() / (num - 1) - within) / n0)
        b = tau2 / (tau2 + within / n) if tau2 > 0 else np.zeros(num)
        score = mean + b * (raw - mean)
        se = np.sqrt(b * within / n + (1 - b) ** 2 * cr2_of(d, test.rows.groups))
    place = {clip: i for i, clip in enumerate(clips)}
    table = read_csv(test.tables / "clip_scores.csv")
    report.compare("clip scores", num, len(table))
    for row in table:
        i = place[repr((row["path"], row["start_s"], row["end_s"]))]
        ours = {"tests": n[i], "raw": raw[i], "score": score[i], "standard_error": se[i]}
        report.compare("clip scores", ours, row)


def check_predictions(test: OrderFolder, ours: dict[str, Any], report: Report) -> None:
    """What needs the predicted class in every frame order."""
    if test.cache is None:
        report.skip(
            "confusions, suite, reliance test, chiral pairs, controls, sizes, losses", "needs --training-results"
        )
        return
    rows, sizes = test.rows, test.settings
    orders = {"S": "shuffle", "O": "ordered", "R": "reverse", "T": "rotate", "C": "common_permutation",
              "W": f"windows of {sizes['windows']}", "B": f"blocks of {sizes['blocks']}"}  # fmt: skip
    for one in test.result["heads"]:
        label, right, head = one["label"], test.right[one["label"]], ours[one["label"]]
        for pair in one["accuracies"]:
            condition, (a, b) = pair.split("/")[0], (LETTERS[part] for part in pair.split("/"))
            report.compare("tested_clips.csv", test.share(label, condition, orders[b]), right[a + b])
        in_order, shuffled, backward = (test.predicted(label, "ordered", orders[b]) for b in "OSR")
        for name, predicted in (("confusion_ordered", in_order), ("confusion_shuffled", shuffled)):
            counts = np.zeros((len(test.names),) * 2)
            for of_order in predicted:
                np.add.at(counts, (rows.labels, of_order), 1 / len(predicted))
            report.compare("confusions", counts, one[name], 1e-6)
        check_suite(test, one, head, orders, report)
        files = test.files(label, "ordered")
        facts = {name: max(file[name] for file in files) for name in ("max_logit_change", "max_logit_change_forward")}
        facts |= {
            "losses": np.mean([file["losses"] for file in files], 0),
            "num_parameters": files[0]["num_parameters"],
        }
        report.compare("losses, parameters, logit changes", facts, one)
        if one["is_order_blind"]:
            continue
        correct = rows.labels[:, None] == np.concatenate([in_order, shuffled]).T
        p = reliance_p(correct.astype(float), rows.groups)
        report.monte_carlo("p of reliance", p, one["reliance_test"]["p"], 9999, test.is_exact)
        first = rows.runs == 0
        if len(np.unique(rows.groups[first])) == first.sum():
            b, c = (int((correct[first, i] & ~correct[first, 1 - i]).sum()) for i in (0, 1))
            report.compare("p of McNemar", stats.binomtest(b, b + c).pvalue if b + c else 1.0, one["mcnemar_p"])
        else:
            report.compare("p of McNemar", None, one["mcnemar_p"])
        if test.is_exact:
            pairs = chiral_pairs(rows.labels, in_order[0], backward[0], rows.groups, len(test.names))
            found = {f"{test.names[a]}, {test.names[b]}": [x, p] for a, b, x, p in pairs}
            theirs = {
                f"{pair['first']}, {pair['second']}": [pair["excess"], pair["p"]] for pair in one["chiral"]["pairs"]
            }
            report.compare("chiral pairs", sorted(found), sorted(theirs))
            report.compare("chiral pairs", found, theirs)
        else:
            report.skip("chiral pairs", "the halves of the groups need --catalog")
        for size in one["sizes"]:
            name = "primary" if size["fraction"] == 1 else str(size["fraction"])
            a, b = (
                test.share(label, "ordered", "ordered", name),
                test.share(label, "fixed_permutation", "shuffle", name),
            )
            overlap = test.overlap(name)
            found = {"accuracy": rows.accuracy(a, overlap), "value_of_order": rows.difference(a - b, 1, overlap)}
            report.compare("training sizes", found, size, ROOTS)
        for name, theirs in one["sensitivity"].items():
            a, b = (
                test.share(label, "ordered", "ordered", name),
                test.share(label, "fixed_permutation", "shuffle", name),
            )
            report.compare("analysis of sensitivity", rows.difference(a - b), theirs, ROOTS)
    check_controls(test, report)


def check_suite(test: OrderFolder, one: dict[str, Any], head: dict[str, Any], orders: Any, report: Report) -> None:
    right, head["suite"] = test.right[one["label"]], []
    retrained = {orders[code[1]]: code for code in ("FS", "WW", "BB") if code in right}
    for theirs in one["suite"]:
        d, label = test.share(one["label"], "ordered", theirs["label"]), theirs["label"]
        by_construction = one["is_order_blind"] and theirs["name"] not in ("frozen", "subsample")
        code = retrained.get(label)
        ours = {
            "accuracy": test.rows.accuracy(d),
            "reliance": None if by_construction else test.rows.difference(right["OO"] - d),
            "retrained": test.rows.difference(right["OO"] - right[code]) if code else None,
        }
        report.compare("perturbation suite", ours, theirs, ROOTS)
        head["suite"].append({**theirs, **ours})


def check_controls(test: OrderFolder, report: Report) -> None:
    """Single frames, from the first head that averages over frames; padding is never correct."""
    label = next((head for head in test.heads if "frame_right" in test.files(head, "ordered")[0]), None)
    if label is None:
        return
    files, controls = test.files(label, "ordered"), test.result["controls"]
    ours = {"oracle_frame": np.concatenate([file["frame_right"].any(1) for file in files]).mean(),
            "average": test.right[label]["OO"].mean(), "chance": test.chance,
            "best_frame_position": files[0]["best_position"]}  # fmt: skip
    if test.result["data"]["num_frames"].isdigit():  # clips of one length
        ours["random_frame"] = np.concatenate([file["frame_right"] for file in files]).mean()
        ours["best_frame"] = np.concatenate([file["frame_right"][:, file["best_position"]] for file in files]).mean()
    else:
        report.skip("random and best frame", "clips differ in length, which no file states")
    report.compare("controls", ours, controls)
    names = {"majority class": "majority", "chance": "chance", "random single frame": "random_frame",
             "best single frame": "best_frame", "mean over frames": "average",
             "any single frame": "oracle_frame"}  # fmt: skip
    table = {row["control"]: row["accuracy"] for row in read_csv(test.tables / "controls.csv")}
    report.compare("tables/controls.csv", {name: {**controls, **ours}[field] for name, field in names.items()}, table)


def cells(name: str, estimate: Any, with_p: bool = True) -> dict[str, Any]:
    """The columns of an estimate in a CSV table."""
    if not isinstance(estimate, dict):
        return {name: estimate}
    ends = ("low", "high", "p") if with_p else ("low", "high")
    return {name: estimate["value"], **{f"{name}: {end}": estimate[end] for end in ends}}


def check_tables(test: OrderFolder, ours: dict[str, Any], report: Report) -> None:
    """Every cell of the CSV tables, from recomputed numbers (and from order.json what these are compared with)."""
    theirs = {one["label"]: one for one in test.result["heads"]}
    spelled = {"ordered": "frames in order", "shuffled": "frames shuffled"}
    names = ("heads", "accuracies", "contrasts", "suite", "classes", "confusions", "chiral_pairs", "sizes",
             "sensitivity")  # fmt: skip
    wanted: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for label, own in ours.items():
        one, blind = theirs[label], test.blind[label]
        wanted["heads"].append({
            **cells("accuracy", own["accuracies"]["ordered/ordered"], False), **cells("worth", own["value_of_order"]),
            **cells("relies", 0.0 if blind else own["reliance"]), "verdict": own["verdict"],
            **cells("information", own["practical_gain"])})  # fmt: skip
        wanted["accuracies"] += [
            {
                "head": label,
                "code": "".join(LETTERS[part] for part in pair.split("/")),
                **cells("accuracy", estimate, False),
            }
            for pair, estimate in own["accuracies"].items()
        ]
        test_of = one["reliance_test"]
        wanted["contrasts"].append({
            "parameters": one["num_parameters"], **cells("augmentation (SS - FS)", own["augmentation"]),
            **cells("shift (SS - OS)", own["shift"]), **cells("smoothness (OO - CC)", own["common"]),
            **cells("with rotated clips (TT - FS)", own["rotated"]), "normalized value": own["normalized"],
            **cells("balanced accuracy", own["balanced_accuracy"], False), "p (reliance)": test_of and test_of["p"],
            "p (McNemar)": one["mcnemar_p"], "logit change": one["max_logit_change"],
            "logit change, plain forward": one["max_logit_change_forward"]})  # fmt: skip
        wanted["suite"] += [
            {"perturbation": row["label"], **cells("accuracy", row["accuracy"], False), "adjacency": row["adjacency"],
             "displacement": row["displacement"], "Kendall's tau": row["kendall_tau"],
             **cells("reliance", 0.0 if row["reliance"] is None else row["reliance"]),
             **cells("retrained", row["retrained"])} for row in own.get("suite", one["suite"])]  # fmt: skip
        wanted["classes"] += [
            {"class": row["name"], "groups": row["num_groups"], "gain, pooled": row["pooled"], "low": row["low"],
             "high": row["high"], "gain, class alone": row["value"], "standard error": row["se"], "p": row["p"],
             "p (Holm)": row["p_holm"], "smallest p": row["smallest_p"]}
            for row in sorted(own["classes"], key=lambda row: -row["pooled"])]  # fmt: skip
        for name, tested_on in spelled.items():
            wanted["confusions"] += [
                {"tested on": tested_on, "true": true, "predicted": predicted, "clips": clips}
                for true, row in zip(test.names, one[f"confusion_{name}"], strict=True)
                for predicted, clips in zip(test.names, row, strict=True) if clips
            ]  # fmt: skip
        wanted["chiral_pairs"] += [
            {"class": pair["first"], "partner": pair["second"], "excess confusion": pair["excess"],
             "p (maximum statistic)": pair["p"]} for pair in (one["chiral"] or {"pairs": []})["pairs"]]  # fmt: skip
        wanted["sizes"] += [
            {"share of training groups": size["fraction"], "training clips": size["num_clips"],
             **cells("accuracy", size["accuracy"], False), **cells("value of order", size["value_of_order"])}
            for size in one["sizes"]]  # fmt: skip
        wanted["sensitivity"] += [cells("value of order", value) for value in one["sensitivity"].values()]
    for name, rows in wanted.items():
        table = read_csv(test.tables / f"{name}.csv")
        if name == "accuracies":  # in another order than in order.json
            rows.sort(key=lambda row: (row["head"], row["code"]))
            table.sort(key=lambda row: (row["head"], row["code"]))
        report.compare(f"tables/{name}.csv", len(rows), len(table))
        for row, other in zip(rows, table, strict=False):
            report.compare(
                f"tables/{name}.csv", {k: v for k, v in row.items() if k in other or v is not None}, other, ROOTS
            )
