"""The report of a demo: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from numpy.typing import NDArray

from videomem.evaluation.plots import accuracy_figure, as_svg, confusion_figure, curves_figure
from videomem.evaluation.shuffle import CONDITIONS, Summary, change_text
from videomem.evaluation.strips import Example, Strip, strip_image

__all__ = ["Example", "Report", "Strip", "render", "strip_image"]


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        facts: What was done, a name and a value each.
        curves: Training accuracy per head, (epoch, value).
        confusions: Counts (C, C) per head, summed over seeds.
        ceiling: The most that an order-blind classifier can reach.
    """

    facts: Mapping[str, str]
    summaries: Sequence[Summary]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    confusions: Mapping[str, NDArray[np.int64]]
    class_names: Sequence[str]
    examples: Sequence[Example]
    chance: float
    ceiling: float


def render(report: Report) -> str:
    """The page as HTML; whatever comes from data is escaped."""
    environment = Environment(
        loader=PackageLoader("videomem.evaluation", "."), autoescape=select_autoescape(["html", "jinja"])
    )
    confusions = {
        head: _svg(confusion_figure(counts, report.class_names, head)) for head, counts in report.confusions.items()
    }
    return environment.get_template("report.html.jinja").render(
        report=report,
        conditions=CONDITIONS,
        accuracy=_svg(accuracy_figure(report.summaries, report.chance, report.ceiling)),
        curves=_svg(curves_figure(report.curves, "training accuracy")),
        confusions=confusions,
        strip_image=strip_image,
        change=change_text,
    )


def _svg(figure: object) -> Markup:
    # Text of a figure is drawn as outlines by matplotlib, so nothing in it can be markup.
    return Markup(as_svg(figure))  # type: ignore[arg-type]
