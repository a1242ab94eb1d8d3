"""The report of an order test: one HTML page that needs nothing beside it, and the files that go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from videomem.experiments.drawing import png, shorten
from videomem.experiments.frame_strips import Example, Strip, strip_image
from videomem.experiments.html import Picture, environment
from videomem.experiments.order_test import order_tables as tables
from videomem.experiments.order_test.figures import (
    arms_figure,
    perturbations_towards_shuffle,
    pictured_cells,
    sizes_figure,
    suite_figure,
    value_figure,
)
from videomem.experiments.order_test.figures_by_class import (
    classes_figure,
    confusions_figure,
    controls_figure,
    lead_memory,
)
from videomem.experiments.order_test.methods import methods_paragraph, methods_text, used_references
from videomem.experiments.order_test.result import MemoryResult, OrderCard, card_to_json
from videomem.experiments.tables import Table, csv_text, points
from videomem.utils.atomic import write_atomic

if TYPE_CHECKING:
    pass

__all__ = ["Example", "Picture", "Strip", "pictures", "render", "strip_image", "write_report"]


def render(card: OrderCard, examples: Sequence[Example] = ()) -> str:
    """The page as HTML; whatever comes from data is escaped.

    Args:
        examples: Clips of chiral pairs as video strips, with the class that each memory names.
    """
    methods = methods_text(card)
    page = (
        environment()
        .get_template("order_test/report.html.jinja")
        .render(
            card=card,
            t=tables,
            lead=lead_memory(card),
            pictured=pictured_cells(card),
            pictures={picture.name: picture for picture in pictures(card)},
            examples=examples,
            strip_image=strip_image,
            shorten=shorten,
            table_of=partial(_table_of, card),
            methods=methods,
            references=used_references(methods),
        )
    )
    return page.encode("utf-8", "replace").decode()


def pictures(card: OrderCard) -> list[Picture]:
    """Every figure for which the card has something to show."""
    return [
        *_pictures_of_all(card),
        *(picture for n, one in enumerate(card.memories) for picture in _of_one(card, n, one)),
    ]


def _pictures_of_all(card: OrderCard) -> Iterator[Picture]:
    values = "; ".join(f"{one.label} {points(one.value_of_order.value)}" for one in card.memories)
    yield Picture("value", value_figure(card), f"Value of order in points, with intervals: {values}")
    yield Picture("arms", arms_figure(card), "Accuracy of each cell of each memory; numbers in the table below")
    learners = [one for one in card.memories if not one.is_control]
    if any(perturbations_towards_shuffle(one, kind) for one in learners for kind in ("windows", "blocks")):
        yield Picture("suite", suite_figure(card), "Reliance under growing damage; numbers in the table below")
    if card.controls is not None:
        yield Picture("controls", controls_figure(card), "Accuracy of the controls; numbers in the table below")
    if any(one.sizes for one in card.memories):
        yield Picture("sizes", sizes_figure(card), "Value of order against training size; numbers in the table below")


def _of_one(card: OrderCard, place: int, one: MemoryResult) -> Iterator[Picture]:
    if one.classes:
        yield Picture(f"classes-{place}", classes_figure(one), f"Gain of each class with {one.label}")
    for cell, counts in (("ordered", one.confusion_ordered), ("shuffled", one.confusion_shuffled)):
        if counts:
            alt = f"Confusion matrix of {one.label}, tested {'in order' if cell == 'ordered' else 'shuffled'}"
            figure = confusions_figure(counts, card.data.class_names, "")
            yield Picture(f"confusion-{cell}-{place}", figure, alt)


def _table_of(card: OrderCard, table: Callable[[OrderCard], Table], one: MemoryResult) -> Table:
    """The rows of one memory, without its name."""
    whole = table(replace(card, memories=(one,)))
    return Table(whole.name, whole.columns[1:], tuple(row[1:] for row in whole.rows))


def write_report(card: OrderCard, folder: Path, examples: Sequence[Example] = ()) -> Mapping[str, Path]:
    """Write `order.json`, `report.html`, `methods.txt`, `tables/*.csv` and `figures/*.png` into a folder.

    Returns:
        The PNG of each figure by its name, as `log_card` takes them.
    Raises:
        VideomemError: If something cannot be written.
    """
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    texts = {
        "order.json": card_to_json(card),
        "report.html": render(card, examples),
        "methods.txt": methods_paragraph(card),
    }
    texts |= {f"tables/{one.name}.csv": csv_text(one) for one in tables.all_tables(card) if one.rows}
    for name, text in texts.items():
        write_atomic(folder / name, text.encode("utf-8", "replace"))
    written = {}
    for picture in pictures(card):
        written[picture.name] = folder / "figures" / f"{picture.name}.png"
        write_atomic(written[picture.name], png(picture.figure))
    return written
