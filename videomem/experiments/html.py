"""What HTML reports share: their template environment and files, and pictures: figures, and strips of frames."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from videomem.experiments import tables
from videomem.experiments.drawing import png, svg
from videomem.utils.atomic import make_folders, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(template: str, **values: object) -> str:
    """A template of this package as HTML. All values are escaped, and what UTF-8 cannot encode is replaced."""
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
    return templates.get_template(template).render(values).encode("utf-8", "replace").decode()


def write_report(
    folder: Path, texts: Mapping[str, str], data: Sequence[tables.Table], pictures: Iterable[Picture]
) -> dict[str, Path]:
    """Write texts by the names of their files, `tables/*.csv` and `figures/*.png` to a folder.

    Returns:
        Path of the PNG of each figure by name, for `log_result`.
    Raises:
        VideomemError: If a file cannot be written.
    """
    make_folders(folder, "tables", "figures")
    for name, text in {**texts, **{f"tables/{one.name}.csv": tables.csv_text(one) for one in data}}.items():
        write_atomic(folder / name, text.encode("utf-8", "replace"))
    written = {}
    for picture in pictures:
        written[picture.name] = folder / "figures" / f"{picture.name}.png"
        write_atomic(written[picture.name], png(picture.figure))
    return written


@dataclass(frozen=True)
class Picture:
    """A figure with its name and its alternative text."""

    name: str
    figure: Figure
    alt: str

    def svg(self) -> Markup:
        # matplotlib escapes the text of the figure, and `svg` escapes `alt`.
        return Markup(svg(self.figure, self.name, self.alt))


@dataclass(frozen=True)
class Strip:
    """The frames of a clip in one order, with the prediction of each head.

    Attributes:
        condition: `ordered`, `shuffled` or `reversed`.
        frames_THWC: Frames in that order, (T, height, width, 3) uint8.
        predictions: Class predicted by each head, by its name.
    """

    condition: str
    frames_THWC: NDArray[np.uint8]
    predictions: Mapping[str, str]

    def jpeg(self) -> bytes:
        """The frames from left to right."""
        buffer = BytesIO()
        gap = np.full((self.frames_THWC.shape[1], 3, 3), 255, np.uint8)
        row = [part for frame in self.frames_THWC for part in (frame, gap)][:-1]
        Image.fromarray(np.concatenate(row, axis=1)).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


@dataclass(frozen=True)
class Example:
    """A clip of a class and its strips. Time reversal turns the class into its partner."""

    label: str
    partner: str
    strips: Sequence[Strip]


@dataclass(frozen=True)
class ScoredExample:
    """A clip with its order score, a share of 1, and its frames in order if the video is available."""

    name: str
    label: str
    score: float
    standard_error: float
    strip: Strip | None


def strip_image(strip: Strip) -> str:
    """The strip as a JPEG in a data URL."""
    return f"data:image/jpeg;base64,{b64encode(strip.jpeg()).decode()}"


def write_strips(examples: Sequence[Example], folder: Path) -> list[tuple[Path, str]]:
    """Write each strip as a JPEG file.

    Returns:
        Path and caption of each file. The caption has the class, the frame order and the predictions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, example in enumerate(examples):
        for strip in example.strips:
            path = folder / f"strip-{number}-{strip.condition}.jpg"
            write_atomic(path, strip.jpeg())
            predictions = ", ".join(f"{head}: {answer}" for head, answer in strip.predictions.items())
            written.append((path, f"{example.label}, {strip.condition}; {predictions}"))
    return written
