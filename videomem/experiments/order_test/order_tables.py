"""The tables of an order card, once for the page, for CSV and for W&B; and how its numbers are written."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.table import Table as RichTable
from rich.text import Text

from videomem.experiments.order_test.result import MemoryResult, OrderCard
from videomem.experiments.tables import Cell, Column, Plain, Table, flat, interval, p_value, percent, points

ARMS = {
    "O": "frames in order",
    "F": "one fixed shuffle per clip",
    "S": "reshuffled at every epoch",
    "C": "one shuffle common to all clips",
    "W": "shuffled within windows, fixed per clip",
    "B": "blocks of frames shuffled, fixed per clip",
}
CONDITIONS = {
    "O": "in order",
    "S": "shuffled",
    "R": "reversed",
    "C": "the common shuffle",
    "W": "windows",
    "B": "blocks",
}
CELLS = ("OO", "OS", "OR", "SS", "SO", "FS", "FO", "CC", "WW", "BB")


def card_tables(card: OrderCard) -> list[tuple[str, list[str], list[list[Plain]]]]:
    """Every table as (name, columns, rows), those without rows left out."""
    return [(table.name, *flat(table)) for table in all_tables(card) if table.rows]


def card_summary(card: OrderCard) -> dict[str, float | str]:
    """The verdict, and of each memory what its table shows, by name; for W&B."""
    numbers: dict[str, float | str] = {"verdict": card.verdict.kind, "sentence": card.verdict.sentence}
    for one in card.memories:
        numbers |= {f"{one.name}/{cell}": accuracy.value for cell, accuracy in one.cells.items()}
        numbers[f"{one.name}/value_of_order"] = one.value_of_order.value
        numbers[f"{one.name}/reliance"] = one.reliance.value
        if one.p_holm is not None:
            numbers[f"{one.name}/p_holm"] = one.p_holm
    return numbers


def all_tables(card: OrderCard) -> list[Table]:
    return [
        *(memories_table(card), cells_table(card), contrasts_table(card), suite_table(card), controls_table(card)),
        *(classes_table(card), chiral_table(card), confusion_table(card), sizes_table(card)),
        *(sensitivity_table(card), failures_table(card), plan_table(card)),
    ]


def memories_table(card: OrderCard) -> Table:
    """What each memory gives, in short."""
    columns = (Column("memory"), Column("value of order", "gain"), Column("p (Holm)", "p"), Column("verdict"),
               Column("reliance", "gain"), Column("practical gain", "gain"))  # fmt: skip
    rows = tuple(
        (one.label, one.value_of_order, one.p_holm, verdict_word(one), one.reliance, one.practical_gain)
        for one in card.memories
    )
    return Table("memories", columns, rows)


def verdict_word(one: MemoryResult) -> str:
    return one.verdict.kind if one.verdict else "control" if one.is_control else "no verdict"


def cells_table(card: OrderCard) -> Table:
    columns = (Column("memory"), Column("cell"), Column("trained on"), Column("tested on"), Column("accuracy", "share"))
    rows = tuple(
        (one.label, cell, ARMS.get(cell[:1], cell), CONDITIONS.get(cell[1:], cell), one.cells[cell])
        for one in card.memories
        for cell in sorted(one.cells, key=lambda name: CELLS.index(name) if name in CELLS else len(CELLS))
    )
    return Table("cells", columns, rows)


def contrasts_table(card: OrderCard) -> Table:
    """What the table of memories leaves out."""
    columns = (Column("memory"), Column("parameters", "count"), Column("augmentation (SS less FS)", "gain"),
               Column("shift (SS less OS)", "gain"), Column("OO less CC", "gain"), Column("best order-blind arm"),
               Column("normalised value", "number"), Column("p of reliance", "p"), Column("p (McNemar)", "p"),
               Column("logit change", "number"), Column("by plain forward", "number"))  # fmt: skip
    rows = tuple(
        (one.label, one.num_parameters, one.augmentation, one.shift, one.common, one.best_order_blind, one.normalized,
         one.reliance_test.p if one.reliance_test else None, one.mcnemar_p, one.max_logit_change,
         one.max_logit_change_forward)
        for one in card.memories
    )  # fmt: skip
    return Table("contrasts", columns, rows)


def suite_table(card: OrderCard) -> Table:
    columns = (Column("memory"), Column("perturbation"), Column("displacement", "number"),
               Column("Kendall's tau", "number"), Column("adjacency kept", "number"), Column("accuracy", "share"),
               Column("reliance", "gain"), Column("retrained", "gain"))  # fmt: skip
    rows = tuple(
        (one.label, perturbation.label, perturbation.displacement, perturbation.kendall_tau, perturbation.adjacency,
         perturbation.accuracy, perturbation.reliance,
         perturbation.retrained)
        for one in card.memories
        for perturbation in one.suite
    )  # fmt: skip
    return Table("suite", columns, rows)


def controls_table(card: OrderCard) -> Table:
    columns = (Column("control"), Column("accuracy", "share"), Column("meaning"))
    if card.controls is None:
        return Table("controls", columns, ())
    own = card.controls
    rows = (
        ("majority", own.majority, "always the most frequent class of the training clips"),
        ("random frame", own.random_frame, "one frame, mean over its position"),
        ("best frame", own.best_frame, f"the position best on training clips (frame {own.best_frame_position})"),
        ("average", own.average, "the mean over all frames, trained in order"),
        ("oracle frame", own.oracle_frame, "any frame that is classified rightly: an upper bound, it uses the label"),
    )
    return Table("controls", columns, rows)


def classes_table(card: OrderCard) -> Table:
    columns = (Column("memory"), Column("class"), Column("groups", "count"), Column("gain, pooled", "gain"),
               Column("low", "gain"), Column("high", "gain"), Column("alone", "gain"), Column("standard error", "gain"),
               Column("p", "p"), Column("p (Holm)", "p"), Column("smallest p", "p"))  # fmt: skip
    rows = tuple(
        (one.label, c.name, c.num_groups, c.pooled, c.low, c.high, c.value, c.se, c.p, c.p_holm, c.smallest_p)
        for one in card.memories
        for c in sorted(one.classes, key=lambda gain: -gain.pooled)
    )
    return Table("classes", columns, rows)


def chiral_table(card: OrderCard) -> Table:
    columns = (Column("memory"), Column("class"), Column("its mirror image"), Column("excess confusion", "gain"),
               Column("p (max-statistic)", "p"))  # fmt: skip
    rows = tuple(
        (one.label, pair.first, pair.second, pair.excess, pair.p)
        for one in card.memories
        for pair in (one.chiral.pairs if one.chiral else ())
    )
    return Table("chiral_pairs", columns, rows)


def confusion_table(card: OrderCard) -> Table:
    """One row per true class and named class that occur together."""
    columns = (Column("memory"), Column("cell"), Column("true"), Column("named"), Column("clips", "number"))
    return Table("confusions", columns, tuple(_confusions(card)))


def sizes_table(card: OrderCard) -> Table:
    columns = (Column("memory"), Column("share of training groups", "share"), Column("training clips", "count"),
               Column("accuracy", "share"), Column("value of order", "gain"))  # fmt: skip
    rows = tuple(
        (one.label, size.fraction, size.num_clips, size.accuracy, size.value_of_order)
        for one in card.memories
        for size in one.sizes
    )
    return Table("sizes", columns, rows)


def sensitivity_table(card: OrderCard) -> Table:
    columns = (Column("memory"), Column("changed"), Column("value of order", "gain"))
    rows = tuple((one.label, name, value) for one in card.memories for name, value in one.sensitivity.items())
    return Table("sensitivity", columns, rows)


def failures_table(card: OrderCard) -> Table:
    return Table("failures", (Column("path"), Column("reason")), card.failures)


def plan_table(card: OrderCard) -> Table:
    rows = tuple((name, value if isinstance(value, str) else json.dumps(value)) for name, value in _leaves(card.plan))
    return Table("plan", (Column("setting"), Column("value")), rows)


def summary_table(card: OrderCard) -> RichTable:
    """The memories, for a terminal of 80 columns."""
    rich = RichTable(
        title=f"accuracy in %, differences in points; margin {percent(card.margin)} points, {card.num_runs} runs",
        box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold underline",
    )  # fmt: skip
    for name in ("memory", "OO", "OO - FS", "95 % interval", "p (Holm)", "verdict", "OO - OS"):
        rich.add_column(name, justify="left" if name in ("memory", "verdict") else "right", no_wrap=True)
    for one in card.memories:
        value, words = one.value_of_order, [p_value(one.p_holm), verdict_word(one), points(one.reliance.value)]
        numbers = [percent(one.cells["OO"].value), points(value.value), interval(value)]
        rich.add_row(*(Text(text) for text in (one.label, *numbers, *words)))
    return rich


def _confusions(card: OrderCard) -> Iterator[tuple[Cell, ...]]:
    for one in card.memories:
        for cell, counts in (("OO", one.confusion_ordered), ("OS", one.confusion_shuffled)):
            for true, row in zip(card.data.class_names, counts, strict=False):
                for named, clips in zip(card.data.class_names, row, strict=False):
                    if clips:
                        yield one.label, cell, true, named, clips


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
