"""The files that `videomem inspect` writes: a figure, a page with tables, and the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from videomem.experiments.drawing import png
from videomem.experiments.html import Picture, page
from videomem.experiments.inspect.inspection import Inspection, Matrix, OrderTrace, Prediction, Video
from videomem.experiments.inspect.inspection_figure import draw_inspection
from videomem.experiments.inspect.inspection_tables import InspectionText, inspection_text, title
from videomem.utils.atomic import write_atomic
from videomem.utils.result_models import Number, SharedPath, Text, dump, result_model

SCHEMA_VERSION = 1


@result_model
class ShownFrame:
    """A frame that the head sees.

    Attributes:
        frame: Number of the frame among those shown, from 1.
        frame_of_video: Index of the frame in the video, from 0.
        time_s: Seconds since the first frame of the video; None for images without a frame rate.
    """

    frame: int
    frame_of_video: int
    time_s: Number | None


@result_model
class LargestChange:
    """The largest change of the state in order, without the first frame, which starts from an empty state.

    Attributes:
        frame: Number of the frame, from 1.
        time_s: Seconds since the first frame of the video; None if not known.
        change: Norm of the change, relative to the RMS norm of the states.
    """

    frame: int
    time_s: Number | None
    change: Number


@result_model
class Answer:
    """A prediction of the head.

    Attributes:
        answer: The most probable class.
        probability: Its probability.
    """

    answer: Text
    probability: Number


@result_model
class OrderResult(Answer):
    """The prediction and the states for the frames in one order.

    Attributes:
        without_memory: The prediction if the state is reset before every frame.
        settled_at_place: First position from which the most probable class no longer changes, from 1.
        frames: Number of the frame shown at each position.
        probabilities: Class probabilities (T, C) after each frame.
        change: Change of the state (T,) at each frame, relative to the RMS norm of the states in order.
        retention: Share of the previous state that each hidden unit keeps at each frame (T, H); None if none is kept.
    """

    without_memory: Answer
    settled_at_place: int
    frames: tuple[int, ...]
    probabilities: tuple[tuple[Number, ...], ...]
    change: tuple[Number, ...]
    retention: tuple[tuple[Number, ...], ...] | None


@result_model
class InspectionResult:
    """The numbers of the figure, as in `inspect.json`.

    Attributes:
        schema_version: Version of this schema; other versions are refused.
        video: Path of the video.
        num_frames_of_video: Number of frames of the video.
        frames: The frames that the head sees.
        head: Label of the head.
        layer: Number of the inspected layer of memory, from 1.
        num_layers: Number of layers of memory.
        seed: Seed of the shuffle.
        class_names: Names of the classes.
        time_constants_frames: Time constant of each hidden unit in frames; infinite if it keeps everything.
        seconds_per_frame: Mean time between frames; None for images without a frame rate.
        changed_most: The largest change of the state.
        orders: Results by frame order: `in_order`, `shuffled` and `reversed`.
    """

    schema_version: int
    video: SharedPath
    num_frames_of_video: int
    frames: tuple[ShownFrame, ...]
    head: Text
    layer: int
    num_layers: int
    seed: int
    class_names: tuple[Text, ...]
    time_constants_frames: tuple[Number, ...]
    seconds_per_frame: Number | None
    changed_most: LargestChange
    orders: dict[str, OrderResult]


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
        "inspect.html": render(video, inspection, view).encode(),
        "inspect.png": png(view.picture.figure),
        "inspect.json": f"{dump(inspection_result(video, inspection))}\n".encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return {name: folder / name for name in contents}


def render(video: Video, inspection: Inspection, view: InspectionView) -> str:
    """Returns the page as HTML. All text from the data is escaped."""
    return page(
        "inspect/inspection.html.jinja",
        inspection=inspection,
        view=view,
        title=title(video, inspection),
        num_frames=len(video.frames_TCHW),
    )


def inspection_result(video: Video, inspection: Inspection) -> InspectionResult:
    """Returns the numbers of the figure, rounded to digits that are the same on all machines."""
    times_s = [None] * len(video.places_T) if video.times_s_T is None else video.times_s_T.round(6).tolist()
    places, most = video.places_T.tolist(), inspection.in_order.most_changed
    return InspectionResult(
        schema_version=SCHEMA_VERSION,
        video=video.path,
        num_frames_of_video=video.num_available,
        frames=tuple(ShownFrame(place + 1, *row) for place, row in enumerate(zip(places, times_s, strict=True))),
        head=inspection.label,
        layer=inspection.layer,
        num_layers=inspection.num_layers,
        seed=inspection.seed,
        class_names=inspection.class_names,
        time_constants_frames=tuple(inspection.tau_H.round(4).tolist()),
        seconds_per_frame=video.step_s,
        changed_most=LargestChange(most + 1, times_s[most], float(inspection.in_order.change_T[most])),
        orders={one.order.replace(" ", "_"): _order_result(inspection, one) for one in inspection.traces},
    )


def _order_result(inspection: Inspection, traced: OrderTrace) -> OrderResult:
    def named(prediction: Prediction) -> tuple[str, float]:
        return inspection.class_names[prediction.answer], prediction.probability

    return OrderResult(
        *named(traced.prediction),
        Answer(*named(traced.without_memory)),
        traced.settled + 1,
        frames=tuple((traced.frames_T + 1).tolist()),
        probabilities=_rows(traced.probabilities_TC),
        change=tuple(traced.change_T.round(6).tolist()),
        retention=_rows(traced.keep_TH) if inspection.keeps else None,
    )


def _rows(matrix: Matrix) -> tuple[tuple[float, ...], ...]:
    return tuple(map(tuple, matrix.round(6).tolist()))
