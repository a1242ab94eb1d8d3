"""What the HTML reports of all experiments share: the templates' environment, and figures within a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from videomem.experiments import tables
from videomem.experiments.drawing import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with its name, and what it shows for those who cannot see it."""

    name: str
    figure: Figure
    alt: str

    def svg(self) -> Markup:
        # Text of a figure is escaped by matplotlib, and `alt` by `svg`, so nothing in it can be markup.
        return Markup(svg(self.figure, self.name, self.alt))


def environment() -> Environment:
    """The templates of this package; whatever they are filled with is escaped."""
    templates = Environment(
        loader=PackageLoader("videomem.experiments", "."),
        autoescape=select_autoescape(["html", "jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals.update(
        show=tables.show, interval=tables.interval, points=tables.points, percent=tables.percent, p_value=tables.p_value
    )
    return templates
