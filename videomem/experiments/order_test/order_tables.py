"""The tables of an order test, for the report, for CSV files and for W&B."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from videomem.experiments.order_test.jobs import TrainingJob
from videomem.experiments.order_test.plan import ORDERED, PAIRS, SHUFFLED, described, letters, spelled_out
from videomem.experiments.order_test.result import HeadResult, OrderTestResult
from videomem.experiments.order_test.run_splits import RunSplit
from videomem.experiments.order_test.scores import Scores
from videomem.experiments.tables import Cell, Column, Kind, Plain, Table, TerminalTable, flat, interval, percent, points
from videomem.statistics.results import Estimate
from videomem.video.catalog import Clip

# Columns that are not text, by the kind of their values.
_NAMES: dict[Kind, tuple[str, ...]] = {
    "gain": ("value of order", "reliance", "relies", "worth",
             "information", "with rotated clips (TT - FS)", "augmentation (SS - FS)",
             "shift (SS - OS)", "smoothness (OO - CC)", "retrained", "gain, pooled", "low", "high", "gain, class alone",
             "standard error", "excess confusion"),
    "share": ("accuracy", "balanced accuracy", "share of training groups"),
    "p": ("p (Holm)", "p (reliance)", "p (McNemar)", "p", "smallest p", "p (maximum statistic)"),
    "count": ("parameters", "groups", "training clips"),
    "number": ("normalized value", "logit change", "logit change, plain forward", "displacement", "Kendall's tau",
               "adjacency", "clips"),
}  # fmt: skip
KINDS = {name: kind for kind, names in _NAMES.items() for name in names}


# The label of each control, by the field of its accuracy.
CONTROLS = {"majority": "majority class", "random_frame": "random single frame", "best_frame": "best single frame",
            "average": "mean over frames", "oracle_frame": "any single frame"}  # fmt: skip

Rows = list[dict[str, Cell]]  # the value of each column by its name


def _reliance(reliance: Estimate | None) -> Cell:
    """The reliance with its interval; that of an order-blind head is 0 by construction and has none."""
    return 0.0 if reliance is None else reliance


# Rows of each head, to which the table adds its label as the first column.
_OF_HEAD: dict[str, Callable[[HeadResult, OrderTestResult], Rows]] = {
    "heads": lambda one, _: [
        {"accuracy": one.accuracies[ORDERED], "relies": _reliance(one.reliance), "worth": one.value_of_order,
         "verdict": verdict_word(one), "information": one.practical_gain}
    ],
    "accuracies": lambda one, _: [
        {"code": letters(pair), "trained on": described(pair)[0], "tested on": described(pair)[1],
         "accuracy": one.accuracies[pair]}
        for pair in PAIRS
        if pair in one.accuracies
    ],
    "contrasts": lambda one, _: [
        {"parameters": one.num_parameters, "augmentation (SS - FS)": one.augmentation, "shift (SS - OS)": one.shift,
         "smoothness (OO - CC)": one.common,
         "with rotated clips (TT - FS)": one.rotated, "balanced accuracy": one.balanced_accuracy,
         "normalized value": one.normalized, "p (reliance)": one.reliance_test.p if one.reliance_test else None,
         "p (McNemar)": one.mcnemar_p, "logit change": one.max_logit_change,
         "logit change, plain forward": one.max_logit_change_forward}
    ],
    "suite": lambda one, _: [
        {"perturbation": effect.label, "displacement": effect.displacement, "Kendall's tau": effect.kendall_tau,
         "adjacency": effect.adjacency, "accuracy": effect.accuracy, "reliance": _reliance(effect.reliance),
         "retrained": effect.retrained}
        for effect in one.suite
    ],
    "classes": lambda one, _: [
        {"class": gain.name, "groups": gain.num_groups, "gain, pooled": gain.pooled, "low": gain.low,
         "high": gain.high, "gain, class alone": gain.value, "standard error": gain.se, "p": gain.p,
         "p (Holm)": gain.p_holm, "smallest p": gain.smallest_p}
        for gain in sorted(one.classes, key=lambda gain: -gain.pooled)
    ],
    "chiral_pairs": lambda one, _: [
        {"class": pair.first, "partner": pair.second, "excess confusion": pair.excess, "p (maximum statistic)": pair.p}
        for pair in (one.chiral.pairs if one.chiral else ())
    ],
    # Number of clips for each pair of true and predicted class that occurs.
    "confusions": lambda one, result: [
        {"tested on": described(pair)[1], "true": true, "predicted": predicted, "clips": clips}
        for pair, counts in ((ORDERED, one.confusion_ordered), (SHUFFLED, one.confusion_shuffled))
        for true, row in zip(result.data.class_names, counts, strict=False)
        for predicted, clips in zip(result.data.class_names, row, strict=False)
        if clips
    ],
    "sizes": lambda one, _: [
        {"share of training groups": size.fraction, "training clips": size.num_clips, "accuracy": size.accuracy,
         "value of order": size.value_of_order}
        for size in one.sizes
    ],
    "sensitivity": lambda one, _: [
        {"change": spelled_out(name), "value of order": value} for name, value in one.sensitivity.items()
    ],
}  # fmt: skip
NAMES = ("heads", "accuracies", "contrasts", "suite", "controls", "classes", "chiral_pairs", "confusions", "sizes",
         "sensitivity", "failures", "plan")  # fmt: skip


def table(result: OrderTestResult, name: str) -> Table:
    """The table of this name, one of `NAMES`; without rows, it has no columns."""
    if name in _OF_HEAD:
        return _table(name, [
            {"head": one.label, **row} for one in result.heads for row in _OF_HEAD[name](one, result)
        ])  # fmt: skip
    return _table(name, {"controls": _controls, "failures": _failures, "plan": _plan}[name](result))


def table_of(result: OrderTestResult, name: str, one: HeadResult) -> Table:
    """The rows of one head, without the column of its label."""
    return _table(name, _OF_HEAD[name](one, result))


def _table(name: str, rows: Rows) -> Table:
    columns = tuple(Column(column, KINDS.get(column, "text")) for column in (rows[0] if rows else ()))
    return Table(name, columns, tuple(tuple(row.values()) for row in rows))


def all_tables(result: OrderTestResult) -> list[Table]:
    """All tables that have rows."""
    return [found for name in NAMES if (found := table(result, name)).rows]


def group_names(scores: Scores, clips: Sequence[Clip]) -> dict[int, str]:
    """The name of each group by its index. Joined groups have the name of the first of them in the catalog."""
    names: dict[int, str] = {}
    for clip, group in zip(clips, scores.clips.groups.tolist(), strict=True):
        names.setdefault(group, clip.group)
    return names


def tested_clips(result: OrderTestResult, scores: Scores, clips: Sequence[Clip]) -> Table:
    """The data behind all estimates: for each head, run and test clip the share of correct predictions.

    It has a column for each training condition and test condition, named by their letters, and is empty for conditions
    without training. The shares are means over the frame orders of a clip. Groups have the names of
    `group_names`.
    """
    rows = [row for split in scores.splits for row in split.test.tolist()]
    groups = group_names(scores, clips)
    by_head = {one.label: scores.all_right(one.name) for one in result.heads}
    pairs = [pair for pair in PAIRS if any(pair in right for right in by_head.values())]
    names = ("head", "run", "path", "start_s", "end_s", "label", "group", *map(letters, pairs))
    table_rows = [
        (head, int(scores.runs[n]), *clips[row].location, clips[row].label, groups[int(scores.groups[n])],
         *(float(right[pair][n]) if pair in right else None for pair in pairs))
        for head, right in by_head.items() for n, row in enumerate(rows)
    ]  # fmt: skip
    return Table("tested_clips", tuple(map(Column, names)), tuple(table_rows))


def training_jobs(result: OrderTestResult, jobs: Mapping[TrainingJob, tuple[RunSplit, Path]]) -> Table:
    """The training jobs, with the files of their results in the cache, which hold the predictions of every clip.

    The predictions of a run are in the order of its rows in `tested_clips`.

    Args:
        jobs: The split and the file of each job, as `in_cache` returns them.
    """
    labels = {one.name: one.label for one in result.heads}
    names = ("head", "run", "training condition", "analysis", "training clips", "test clips", "file")
    rows = [
        (labels[job.name], job.run, job.condition, job.analysis, len(split.train), len(split.test), path.name)
        for job, (split, path) in jobs.items()
    ]
    return Table("training_jobs", tuple(map(Column, names)), tuple(rows))


def result_tables(result: OrderTestResult) -> list[tuple[str, list[str], list[list[Plain]]]]:
    """All tables that have rows, as (name, columns, rows)."""
    return [(one.name, *flat(one)) for one in all_tables(result)]


def verdict_word(one: HeadResult) -> str:
    return one.verdict.kind if one.verdict else "order-blind"


def _controls(result: OrderTestResult) -> Rows:
    if (own := result.controls) is None:
        return []
    best = f"the frame position that is best on the training clips (frame {own.best_frame_position})"
    rows = (
        (CONTROLS["majority"], own.majority, "always predict the most frequent class of the training clips"),
        ("chance", own.chance, "balanced accuracy of any constant prediction"),
        (CONTROLS["random_frame"], own.random_frame, "mean over the position of the frame"),
        (CONTROLS["best_frame"], own.best_frame, best),
        (CONTROLS["average"], own.average, "the mean over all frames, trained in order"),
        (CONTROLS["oracle_frame"], own.oracle_frame, "at least one is classified correctly; an upper bound "
         "that uses the label"),
    )  # fmt: skip
    return [{"control": control, "accuracy": accuracy, "meaning": meaning} for control, accuracy, meaning in rows]


def _failures(result: OrderTestResult) -> Rows:
    return [{"path": path, "reason": reason} for path, reason in result.failures]


def _plan(result: OrderTestResult) -> Rows:
    leaves = _leaves(result.plan)
    return [
        {"setting": name, "value": value if isinstance(value, str) else json.dumps(value)} for name, value in leaves
    ]


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def summary_table(result: OrderTestResult) -> TerminalTable:
    """The main results of each head, for a terminal of 80 columns."""
    title = (
        "accuracy in order, in %; reliance and value of order, in points\n"
        f"margin {percent(result.margin)} points, {result.num_runs} runs"
    )
    rows = [
        (
            one.label,
            percent(one.accuracies[ORDERED].value),
            points(one.reliance.value if one.reliance else 0.0),
            points(one.value_of_order.value),
            interval(one.value_of_order),
            verdict_word(one),
        )
        for one in result.heads
    ]
    return TerminalTable(title, ("head", "accuracy", "relies", "worth", "95 % interval", "verdict"), rows)
