"""The report of a demo: one HTML file that needs nothing beside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from videomem.evaluation.plots import accuracy_figure, as_svg, confusion_figure, curves_figure
from videomem.evaluation.shuffle import CONDITIONS, Summary, change_text


@dataclass(frozen=True)
class Strip:
    """A clip as a film strip in one order of its frames, and what each head takes it for.

    Attributes:
        condition: `ordered`, `shuffled` or `reversed`.
        frames_THWC: Frames in that order, (T, height, width, 3) uint8.
        predictions: Class named by each head.
    """

    condition: str
    frames_THWC: NDArray[np.uint8]
    predictions: Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """A clip of a class, whose reversal is a clip of its partner."""

    label: str
    partner: str
    strips: Sequence[Strip]


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


def strip_image(strip: Strip) -> str:
    """The frames side by side as a data address of a JPEG."""
    buffer = BytesIO()
    gap = np.full((strip.frames_THWC.shape[1], 3, 3), 255, np.uint8)
    row = [part for frame in strip.frames_THWC for part in (frame, gap)][:-1]
    Image.fromarray(np.concatenate(row, axis=1)).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"
