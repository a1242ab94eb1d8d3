"""The files that `videomem inspect` writes: a figure, a page with tables, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from videomem.experiments.drawing import png
from videomem.experiments.html import Picture, environment
from videomem.experiments.inspect.inspection import Inspection, OrderTrace, Video
from videomem.experiments.inspect.inspection_figure import draw_inspection
from videomem.experiments.inspect.inspection_tables import InspectionText, inspection_text, title
from videomem.experiments.reports import finite, json_bytes
from videomem.utils.atomic import write_atomic

SCHEMA_VERSION = 1


class InspectionView(NamedTuple):
    """The figure and the text about a head on a video, for a page."""

    picture: Picture
    text: InspectionText


def view_inspection(video: Video, inspection: Inspection, name: str = "inside") -> InspectionView:
    """Draws the figure and writes the text. `name` distinguishes several figures on one page."""
    text = inspection_text(video, inspection)
    alt = f"{title(video, inspection)}. {text.headline}."
    return InspectionView(Picture(name, draw_inspection(video, inspection), alt), text)


def write_inspection(video: Video, inspection: Inspection, folder: Path) -> Mapping[str, Path]:
    """Writes `inspect.html`, `inspect.png` and `inspect.json` into a folder, and returns their paths by name.

    Raises:
        VideomemError: If a file cannot be written.
    """
    view = view_inspection(video, inspection)
    contents = {
        "inspect.html": render(video, inspection, view).encode("utf-8", "replace"),
        "inspect.png": png(view.picture.figure),
        "inspect.json": json_bytes(as_plain(video, inspection)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return {name: folder / name for name in contents}


def render(video: Video, inspection: Inspection, view: InspectionView) -> str:
    """Returns the page as HTML. All text from the data is escaped."""
    page = environment().get_template("inspect/inspection.html.jinja")
    return page.render(inspection=inspection, view=view, title=title(video, inspection))


def as_plain(video: Video, inspection: Inspection) -> dict[str, Any]:
    """Returns the numbers of the figure. A time constant of None is infinite; a time of None is not known."""
    times_s = [None] * len(video.places_T) if video.times_s_T is None else _rounded(video.times_s_T)
    most = inspection.in_order.most_changed
    plain: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "video": video.path,
        "num_frames_of_video": video.num_available,
        "frames": [
            {"frame": number + 1, "frame_of_video": int(place), "time_s": time_s}
            for number, (place, time_s) in enumerate(zip(video.places_T, times_s, strict=True))
        ],
        "head": inspection.label,
        "layer": inspection.layer,
        "num_layers": inspection.num_layers,
        "seed": inspection.seed,
        "class_names": list(inspection.class_names),
        "time_constants_frames": [round(float(tau), 4) for tau in inspection.tau_H],
        "seconds_per_frame": video.step_s,
        "changed_most": {
            "frame": most + 1,
            "time_s": times_s[most],
            "change": float(inspection.in_order.change_T[most]),
        },
        "orders": {one.order.replace(" ", "_"): _trace(inspection, one) for one in inspection.traces},
    }
    return {key: finite(value) for key, value in plain.items()}


def _trace(inspection: Inspection, traced: OrderTrace) -> dict[str, Any]:
    return {
        "answer": inspection.class_names[traced.answer],
        "probability": traced.probability,
        "without_memory": {
            "answer": inspection.class_names[int(traced.emptied_C.argmax())],
            "probability": float(traced.emptied_C.max()),
        },
        "settled_at_place": traced.settled + 1,
        "frames": [int(frame) + 1 for frame in traced.frames_T],
        "probabilities": _rounded(traced.probabilities_TC),
        "change": _rounded(traced.change_T),
        "retention": _rounded(traced.keep_TH) if inspection.keeps else None,
    }


def _rounded(values: NDArray[Any]) -> Any:
    return values.round(6).tolist()
