"""What `videomem inspect` writes: a figure, the page that explains it, and the numbers of both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from videomem.experiments.drawing import png
from videomem.experiments.html import Picture, environment
from videomem.experiments.inspect.inspection import Inside, Passage, Video
from videomem.experiments.inspect.inspection_figure import inside_figure
from videomem.experiments.inspect.inspection_words import Words, inside_words, title
from videomem.utils.atomic import write_atomic

SCHEMA_VERSION = 1


class Shown(NamedTuple):
    """The inside of a head on a video, ready for a page."""

    picture: Picture
    words: Words


def show_inside(video: Video, inside: Inside, name: str = "inside") -> Shown:
    """The figure, named so that several fit on one page, and the words that explain it."""
    words = inside_words(video, inside)
    return Shown(Picture(name, inside_figure(video, inside), f"{title(video, inside)}. {words.headline}."), words)


def write_inside(video: Video, inside: Inside, folder: Path) -> Mapping[str, Path]:
    """Write `inspect.html`, `inspect.png` and `inspect.json` into a folder, and say where they are.

    Raises:
        VideomemError: If something cannot be written.
    """
    shown = show_inside(video, inside)
    numbers = json.dumps(as_plain(video, inside), indent=1, allow_nan=False)
    contents = {
        "inspect.html": render(video, inside, shown).encode("utf-8", "replace"),
        "inspect.png": png(shown.picture.figure),
        "inspect.json": f"{numbers}\n".encode("utf-8", "replace"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return {name: folder / name for name in contents}


def render(video: Video, inside: Inside, shown: Shown) -> str:
    """The page as HTML; whatever comes from data is escaped."""
    page = environment().get_template("inspect/inspection.html.jinja")
    return page.render(video=video, inside=inside, shown=shown, title=title(video, inside))


def as_plain(video: Video, inside: Inside) -> dict[str, Any]:
    """The numbers of the figure; a time constant of null is infinite, times of null are not known."""
    times_s = [None] * len(video.places_T) if video.times_s_T is None else _rounded(video.times_s_T)
    most = inside.in_order.most_changed
    return {
        "schema_version": SCHEMA_VERSION,
        "video": video.path,
        "num_frames_of_video": video.num_available,
        "frames": [
            {"frame": number + 1, "frame_of_video": int(place), "time_s": time_s}
            for number, (place, time_s) in enumerate(zip(video.places_T, times_s, strict=True))
        ],
        "head": inside.label,
        "layer": inside.layer,
        "num_layers": inside.num_layers,
        "seed": inside.seed,
        "class_names": list(inside.class_names),
        "time_constants_frames": [None if math.isinf(tau) else round(float(tau), 4) for tau in inside.tau_H],
        "seconds_per_frame": video.step_s,
        "changed_most": {"frame": most + 1, "time_s": times_s[most], "change": float(inside.in_order.change_T[most])},
        "orders": {one.order.replace(" ", "_"): _passage(inside, one) for one in inside.passages},
    }


def _passage(inside: Inside, passage: Passage) -> dict[str, Any]:
    return {
        "answer": inside.class_names[passage.answer],
        "probability": passage.probability,
        "without_memory": {
            "answer": inside.class_names[int(passage.emptied_C.argmax())],
            "probability": float(passage.emptied_C.max()),
        },
        "settled_at_place": passage.settled + 1,
        "frames": [int(frame) + 1 for frame in passage.frames_T],
        "probabilities": _rounded(passage.probabilities_TC),
        "change": _rounded(passage.change_T),
        "retention": _rounded(passage.keep_TH) if inside.keeps else None,
    }


def _rounded(values: NDArray[Any]) -> Any:
    return values.round(6).tolist()
