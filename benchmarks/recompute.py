"""Recompute the numbers in folders of results from the raw tables in these folders, without importing videomem.

    python benchmarks/recompute.py FOLDER [FOLDER ...] [--catalog CSV] [--training-results FOLDER] [--store FOLDER]
                                   [--model FOLDER]

FOLDER is a folder of `order`, `shuffle`, `sensitivity`, `memory`, `test` or `inspect`, or has the output of `predict
--format jsonl --over-time` or `stream` in files `*.jsonl`; that of `stream` is named after its video. The formulas are
those of docs/, written again here, so that an error in those of the package is noticed. `--training-results` (of
`order`) has the predicted classes, `--catalog` the order of groups, from which random draws are repeated exactly,
`--model` (an exported folder) the weights and `--store` the features of frames, from which heads are computed again.

The table has one row per folder and quantity. The exit status is 1 if a difference exceeds its limit. A quantity that
cannot be recomputed is listed with the reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from recompute_heads import inspect_folder, outputs_folder, test_folder
from recompute_memory import recall_folder, trained_heads_folder
from recompute_order import order_test
from recompute_statistics import EXACT, ROOTS, Report, Rows, codes, read_csv, read_json, reliance_p


def shuffle_folder(folder: Path, given: argparse.Namespace, report: Report) -> None:
    clips, rows = read_csv(folder / "shuffle_clips.csv"), read_csv(folder / "shuffle.csv")
    for one in read_csv(folder / "shuffle_summary.csv"):
        own = [row for row in clips if (row["head"], row["checkpoint"]) == (one["head"], one["checkpoint"])]
        of = Rows(codes([row["group"] for row in own]), np.zeros(len(own)), np.zeros(len(own), int), 0.0, False)
        right = {name: np.array([float(row[name]) for row in own]) for name in ("ordered", "shuffled", "reversed")}
        wanted = {name: of.accuracy(values) for name, values in right.items()}
        wanted["reliance"] = of.difference(right["ordered"] - right["shuffled"])
        for name, estimate in wanted.items():
            report.compare("accuracies and reliance", estimate["value"], one[name])
            if name == "reliance" and float(one["max_logit_change"]) == 0:  # order-blind
                continue
            ends = {f"{name}: {end}": estimate[end] for end in ("low", "high")}
            report.compare("intervals over groups", ends, one, ROOTS)
        check_permutations(one, [row for row in rows if (row["head"], row["checkpoint"])
                                 == (one["head"], one["checkpoint"])], report)  # fmt: skip
    report.skip("flip rates, divergences and logit changes of a permutation", "logits of clips are not stored")


def check_permutations(one: dict[str, str], rows: list[dict[str, str]], report: Report) -> None:
    """The summary is the mean over the shuffles, or the largest change."""
    for condition in ("ordered", "shuffled", "reversed"):
        of = [float(row["accuracy"]) for row in rows if row["condition"] == condition]
        report.compare("accuracies, over permutations", np.mean(of), one[condition])
    shuffled = [row for row in rows if row["condition"] == "shuffled"]
    for name, combine in (("flip_rate", np.mean), ("js_divergence", np.mean), ("max_logit_change", np.max),
                          ("max_logit_change_forward", np.max)):  # fmt: skip
        values = [float(row[name]) for row in shuffled if row[name]]
        report.compare("changes by shuffling, over permutations", combine(values) if values else None, one[name])


def sensitivity_folder(folder: Path, given: argparse.Namespace, report: Report) -> None:
    result, table = read_json(folder / "sensitivity.json"), read_csv(folder / "sensitivity.csv")
    clips = read_csv(folder / "sensitivity_clips.csv")
    by_label = {
        one["label"]: [row for row in clips if row["perturbation"] == one["label"]] for one in result["conditions"]
    }
    first = by_label["in order"]
    labels, groups = codes([row["label"] for row in first]), codes([row["group"] for row in first])
    of = Rows(groups, np.zeros(len(groups)), labels, 0.0, False)
    right = {name: [[int(one) for one in row["correct"].split()] for row in rows] for name, rows in by_label.items()}
    share = {name: np.array([np.mean(one) for one in values]) for name, values in right.items()}
    for one, row in zip(result["conditions"], table, strict=True):
        name, own = one["label"], by_label[one["label"]]
        accuracy, lost = of.accuracy(share[name]), of.difference(share["in order"] - share[name])
        ours = {"accuracy": accuracy, "reliance": None if name == "in order" else lost}
        report.compare("accuracies, reliance and intervals", ours, one, ROOTS)
        taus = [float(clip["kendall_tau"]) for clip in own if clip["kendall_tau"]]
        means = {
            part: np.mean([float(clip[part]) for clip in own]) for part in ("flip_rate", "displacement", "adjacency")
        }
        means |= {"kendall_tau": np.mean(taus) if taus else None,
                  "max_logit_change": max(float(clip["max_logit_change"]) for clip in own)}  # fmt: skip
        report.compare("flip rates, logit changes, distances of frame orders", means, one)
        ends = {f"accuracy_{end}": accuracy[end] for end in ("low", "high")} | {"accuracy": accuracy["value"]}
        ends |= {f"reliance_{end}": None if name == "in order" else lost[end] for end in ("low", "high")}
        report.compare("sensitivity.csv", {**ends, **means, "reliance": lost["value"]}, row, ROOTS)
    orders = np.array([a + b for a, b in zip(right["in order"], right["shuffle"], strict=True)], float)
    report.monte_carlo("p of reliance", reliance_p(orders, groups, seed=result["seed"]), result["reliance_test"]["p"],
                       9999, exact=True)  # fmt: skip
    names = [row["label"] for row in first]
    classes = []
    for one in result["classes"]:
        clips_of = np.array(names) == one["name"]
        shares = {"accuracy": share["in order"][clips_of].mean(), "shuffled": share["shuffle"][clips_of].mean()}
        classes.append({"num_clips": clips_of.sum(), **shares})
    whole = {"classes": classes, "majority": np.bincount(labels).max() / len(labels), "num_clips": len(labels),
             "num_groups": len(set(groups.tolist()))}  # fmt: skip
    report.compare("classes and counts", whole, result, EXACT)


def memory_folder(folder: Path, given: argparse.Namespace, report: Report) -> None:
    is_recall = "plan" in read_json(folder / "memory.json")
    (recall_folder if is_recall else trained_heads_folder)(folder, given, report)


KINDS = {
    "order.json": ("order", order_test),
    "shuffle_summary.csv": ("shuffle", shuffle_folder),
    "sensitivity.json": ("sensitivity", sensitivity_folder),
    "memory.json": ("memory", memory_folder),
    "inspect.json": ("inspect", inspect_folder),
    "metrics.json": ("test", test_folder),
    "*.jsonl": ("predict, stream", outputs_folder),
}


def main(arguments: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    for name in ("--catalog", "--training-results", "--store", "--model"):
        options.add_argument(name, type=Path)
    given = options.parse_args(arguments)
    report = Report()
    for folder in given.folders:
        found = [kind for name, kind in KINDS.items() if any(folder.glob(name))]
        if not found:
            options.error(f"{folder}: none of {', '.join(KINDS)} is in it; name a folder that a command has written")
        name, check = found[0]
        report.folder = f"{folder.name} ({name})"
        check(folder, given, report)
    return report.print()


if __name__ == "__main__":
    sys.exit(main())
