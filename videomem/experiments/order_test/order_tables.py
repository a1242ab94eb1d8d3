"""The tables of an order test, for the report, for CSV files and for W&B."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.table import Table as RichTable
from rich.text import Text

from videomem.experiments.order_test.conditions import ORDERED, PAIRS, SHUFFLED, described, letters
from videomem.experiments.order_test.result import MemoryResult, OrderTestResult
from videomem.experiments.tables import Cell, Column, Plain, Table, flat, interval, p_value, percent, points


def result_tables(result: OrderTestResult) -> list[tuple[str, list[str], list[list[Plain]]]]:
    """All tables that have rows, as (name, columns, rows)."""
    return [(table.name, *flat(table)) for table in all_tables(result) if table.rows]


def result_summary(result: OrderTestResult) -> dict[str, float | str]:
    """The verdict, and the main numbers of each memory by name, for the summary of a W&B run."""
    numbers: dict[str, float | str] = {"verdict": result.verdict.kind, "sentence": result.verdict.sentence}
    for one in result.memories:
        numbers |= {f"{one.name}/{pair}": accuracy.value for pair, accuracy in one.accuracies.items()}
        numbers[f"{one.name}/value_of_order"] = one.value_of_order.value
        numbers[f"{one.name}/reliance"] = one.reliance.value
        if one.p_holm is not None:
            numbers[f"{one.name}/p_holm"] = one.p_holm
    return numbers


def all_tables(result: OrderTestResult) -> list[Table]:
    return [
        *(
            memories_table(result),
            accuracies_table(result),
            contrasts_table(result),
            suite_table(result),
            controls_table(result),
        ),
        *(classes_table(result), chiral_table(result), confusion_table(result), sizes_table(result)),
        *(sensitivity_table(result), failures_table(result), plan_table(result)),
    ]


def memories_table(result: OrderTestResult) -> Table:
    """The main results of each memory."""
    columns = (Column("memory"), Column("value of order", "gain"), Column("p (Holm)", "p"), Column("verdict"),
               Column("reliance", "gain"), Column("practical gain", "gain"))  # fmt: skip
    rows = tuple(
        (one.label, one.value_of_order, one.p_holm, verdict_word(one), one.reliance, one.practical_gain)
        for one in result.memories
    )
    return Table("memories", columns, rows)


def verdict_word(one: MemoryResult) -> str:
    return one.verdict.kind if one.verdict else "control" if one.is_control else "no verdict"


def accuracies_table(result: OrderTestResult) -> Table:
    """Accuracy for each pair of training and test condition; `code` abbreviates the pair by its letters."""
    columns = (Column("memory"), Column("code"), Column("trained on"), Column("tested on"), Column("accuracy", "share"))
    rows = tuple(
        (one.label, letters(pair), *described(pair), one.accuracies[pair])
        for one in result.memories
        for pair in PAIRS
        if pair in one.accuracies
    )
    return Table("accuracies", columns, rows)


def contrasts_table(result: OrderTestResult) -> Table:
    """Contrasts that are not in the table of memories."""
    columns = (Column("memory"), Column("parameters", "count"), Column("augmentation (SS - FS)", "gain"),
               Column("shift (SS - OS)", "gain"), Column("smoothness (OO - CC)", "gain"),
               Column("best order-blind learner"), Column("normalized value", "number"), Column("p (reliance)", "p"),
               Column("p (McNemar)", "p"), Column("logit change", "number"),
               Column("logit change, plain forward", "number"))  # fmt: skip
    rows = tuple(
        (one.label, one.num_parameters, one.augmentation, one.shift, one.common, one.best_order_blind, one.normalized,
         one.reliance_test.p if one.reliance_test else None, one.mcnemar_p, one.max_logit_change,
         one.max_logit_change_forward)
        for one in result.memories
    )  # fmt: skip
    return Table("contrasts", columns, rows)


def suite_table(result: OrderTestResult) -> Table:
    columns = (Column("memory"), Column("perturbation"), Column("displacement", "number"),
               Column("Kendall's tau", "number"), Column("adjacency", "number"), Column("accuracy", "share"),
               Column("reliance", "gain"), Column("retrained", "gain"))  # fmt: skip
    rows = tuple(
        (one.label, perturbation.label, perturbation.displacement, perturbation.kendall_tau, perturbation.adjacency,
         perturbation.accuracy, perturbation.reliance,
         perturbation.retrained)
        for one in result.memories
        for perturbation in one.suite
    )  # fmt: skip
    return Table("suite", columns, rows)


def controls_table(result: OrderTestResult) -> Table:
    columns = (Column("control"), Column("accuracy", "share"), Column("meaning"))
    if result.controls is None:
        return Table("controls", columns, ())
    own = result.controls
    rows = (
        ("majority class", own.majority, "always predict the most frequent class of the training clips"),
        ("random frame", own.random_frame, "a single frame, mean over its position"),
        (
            "best frame",
            own.best_frame,
            f"the frame position that is best on the training clips (frame {own.best_frame_position})",
        ),
        ("mean over frames", own.average, "the mean over all frames, trained in order"),
        (
            "oracle frame",
            own.oracle_frame,
            "at least one frame is classified correctly; an upper bound that uses the label",
        ),
    )
    return Table("controls", columns, rows)


def classes_table(result: OrderTestResult) -> Table:
    columns = (Column("memory"), Column("class"), Column("groups", "count"), Column("gain, pooled", "gain"),
               Column("low", "gain"), Column("high", "gain"), Column("gain, class alone", "gain"),
               Column("standard error", "gain"), Column("p", "p"), Column("p (Holm)", "p"),
               Column("smallest p", "p"))  # fmt: skip
    rows = tuple(
        (one.label, c.name, c.num_groups, c.pooled, c.low, c.high, c.value, c.se, c.p, c.p_holm, c.smallest_p)
        for one in result.memories
        for c in sorted(one.classes, key=lambda gain: -gain.pooled)
    )
    return Table("classes", columns, rows)


def chiral_table(result: OrderTestResult) -> Table:
    columns = (Column("memory"), Column("class"), Column("partner"), Column("excess confusion", "gain"),
               Column("p (maximum statistic)", "p"))  # fmt: skip
    rows = tuple(
        (one.label, pair.first, pair.second, pair.excess, pair.p)
        for one in result.memories
        for pair in (one.chiral.pairs if one.chiral else ())
    )
    return Table("chiral_pairs", columns, rows)


def confusion_table(result: OrderTestResult) -> Table:
    """Number of clips for each pair of true and predicted class that occurs."""
    columns = (Column("memory"), Column("tested on"), Column("true"), Column("predicted"), Column("clips", "number"))
    return Table("confusions", columns, tuple(_confusions(result)))


def sizes_table(result: OrderTestResult) -> Table:
    columns = (Column("memory"), Column("share of training groups", "share"), Column("training clips", "count"),
               Column("accuracy", "share"), Column("value of order", "gain"))  # fmt: skip
    rows = tuple(
        (one.label, size.fraction, size.num_clips, size.accuracy, size.value_of_order)
        for one in result.memories
        for size in one.sizes
    )
    return Table("sizes", columns, rows)


def sensitivity_table(result: OrderTestResult) -> Table:
    columns = (Column("memory"), Column("change"), Column("value of order", "gain"))
    rows = tuple((one.label, name, value) for one in result.memories for name, value in one.sensitivity.items())
    return Table("sensitivity", columns, rows)


def failures_table(result: OrderTestResult) -> Table:
    return Table("failures", (Column("path"), Column("reason")), result.failures)


def plan_table(result: OrderTestResult) -> Table:
    rows = tuple((name, value if isinstance(value, str) else json.dumps(value)) for name, value in _leaves(result.plan))
    return Table("plan", (Column("setting"), Column("value")), rows)


def summary_table(result: OrderTestResult) -> RichTable:
    """The main results of each memory, for a terminal of 80 columns."""
    rich = RichTable(
        title="accuracy in order, in %; value of order and reliance, in points\n"
        f"margin {percent(result.margin)} points, {result.num_runs} runs",
        box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold underline",
    )  # fmt: skip
    for name in ("memory", "accuracy", "value", "95 % interval", "p (Holm)", "verdict", "reliance"):
        rich.add_column(name, justify="left" if name in ("memory", "verdict") else "right", no_wrap=True)
    for one in result.memories:
        value, words = one.value_of_order, [p_value(one.p_holm), verdict_word(one), points(one.reliance.value)]
        numbers = [percent(one.accuracies[ORDERED].value), points(value.value), interval(value)]
        rich.add_row(*(Text(text) for text in (one.label, *numbers, *words)))
    return rich


def _confusions(result: OrderTestResult) -> Iterator[tuple[Cell, ...]]:
    for one in result.memories:
        for pair, counts in ((ORDERED, one.confusion_ordered), (SHUFFLED, one.confusion_shuffled)):
            for true, row in zip(result.data.class_names, counts, strict=False):
                for predicted, clips in zip(result.data.class_names, row, strict=False):
                    if clips:
                        yield one.label, described(pair)[1], true, predicted, clips


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
