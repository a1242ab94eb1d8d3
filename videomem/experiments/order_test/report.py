"""The report of an order test: a self-contained HTML page, and the files that accompany it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from videomem.experiments.drawing import png, shorten
from videomem.experiments.html import Example, Picture, environment, strip_image
from videomem.experiments.order_test import order_tables as tables
from videomem.experiments.order_test.conditions import letters
from videomem.experiments.order_test.figures import (
    accuracies_figure,
    perturbations_towards_shuffle,
    pictured_pairs,
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
from videomem.experiments.order_test.result import MemoryResult, OrderTestResult, to_json
from videomem.experiments.tables import Table, csv_text, points
from videomem.utils.atomic import write_atomic


def render(result: OrderTestResult, examples: Sequence[Example] = ()) -> str:
    """The report as HTML. All values are escaped.

    Args:
        result: The result.
        examples: Clips of chiral pairs as video strips, with the prediction of each memory.
    """
    methods = methods_text(result)
    page = (
        environment()
        .get_template("order_test/report.html.jinja")
        .render(
            result=result,
            t=tables,
            lead=lead_memory(result),
            pictured={letters(pair) for pair in pictured_pairs(result)},
            pictures={picture.name: picture for picture in pictures(result)},
            examples=examples,
            strip_image=strip_image,
            shorten=shorten,
            table_of=partial(_table_of, result),
            methods=methods,
            references=used_references(methods),
        )
    )
    return page.encode("utf-8", "replace").decode()


def pictures(result: OrderTestResult) -> list[Picture]:
    """All figures that the result has data for."""
    return [
        *_pictures_of_all(result),
        *(picture for n, one in enumerate(result.memories) for picture in _of_one(result, n, one)),
    ]


def _pictures_of_all(result: OrderTestResult) -> Iterator[Picture]:
    values = "; ".join(f"{one.label} {points(one.value_of_order.value)}" for one in result.memories)
    yield Picture("value", value_figure(result), f"Value of order in points, with intervals: {values}")
    yield Picture("accuracies", accuracies_figure(result), "Accuracies of each memory; numbers in the table below")
    learners = [one for one in result.memories if not one.is_control]
    if any(perturbations_towards_shuffle(one, kind) for one in learners for kind in ("windows", "blocks")):
        yield Picture(
            "suite", suite_figure(result), "Reliance under increasing perturbation; numbers in the table below"
        )
    if result.controls is not None:
        yield Picture("controls", controls_figure(result), "Accuracy of the controls; numbers in the table below")
    if any(one.sizes for one in result.memories):
        yield Picture("sizes", sizes_figure(result), "Value of order by training size; numbers in the table below")


def _of_one(result: OrderTestResult, place: int, one: MemoryResult) -> Iterator[Picture]:
    if one.classes:
        yield Picture(f"classes-{place}", classes_figure(one), f"Value of order of each class with {one.label}")
    for name, counts in (("ordered", one.confusion_ordered), ("shuffled", one.confusion_shuffled)):
        if counts:
            alt = f"Confusion matrix of {one.label}, tested {'in order' if name == 'ordered' else 'shuffled'}"
            figure = confusions_figure(counts, result.data.class_names, "")
            yield Picture(f"confusion-{name}-{place}", figure, alt)


def _table_of(result: OrderTestResult, table: Callable[[OrderTestResult], Table], one: MemoryResult) -> Table:
    """The rows of one memory, without the column of its name."""
    full = table(replace(result, memories=(one,)))
    return Table(full.name, full.columns[1:], tuple(row[1:] for row in full.rows))


def write_report(result: OrderTestResult, folder: Path, examples: Sequence[Example] = ()) -> Mapping[str, Path]:
    """Write `order.json`, `report.html`, `methods.txt`, `tables/*.csv` and `figures/*.png` to a folder.

    Returns:
        Path of the PNG of each figure by name, for `log_result`.
    Raises:
        VideomemError: If a file cannot be written.
    """
    for part in ("tables", "figures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    texts = {
        "order.json": to_json(result),
        "report.html": render(result, examples),
        "methods.txt": methods_paragraph(result),
    }
    texts |= {f"tables/{one.name}.csv": csv_text(one) for one in tables.all_tables(result) if one.rows}
    for name, text in texts.items():
        write_atomic(folder / name, text.encode("utf-8", "replace"))
    written = {}
    for picture in pictures(result):
        written[picture.name] = folder / "figures" / f"{picture.name}.png"
        write_atomic(written[picture.name], png(picture.figure))
    return written
