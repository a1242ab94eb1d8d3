"""What HTML reports share: the template environment, and figures within a page."""

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
    """A figure with its name and its alternative text."""

    name: str
    figure: Figure
    alt: str

    def svg(self) -> Markup:
        # matplotlib escapes the text of the figure, and `svg` escapes `alt`.
        return Markup(svg(self.figure, self.name, self.alt))


def environment() -> Environment:
    """The template environment of this package; all values are escaped."""
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
