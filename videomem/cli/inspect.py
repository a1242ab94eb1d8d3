"""`videomem inspect`: show the state and the predictions of a trained head on one video."""

from __future__ import annotations

from collections.abc import Sequence

from videomem.cli.options import add_out, add_shared, at_least, parser, usable_device
from videomem.cli.terminal import say
from videomem.experiments.inspect.inspection import Inspection, Prediction, Video, inspect_frames, read_video
from videomem.experiments.inspect.inspection_report import write_inspection
from videomem.experiments.inspect.inspection_tables import digits, frames, moment, quantiles, title
from videomem.inference.model import load
from videomem.utils.atomic import locked_folder


def main(command: str, arguments: Sequence[str]) -> int:
    """Run a head on a video, ordered, shuffled and reversed; write `inspect.html`, `inspect.png`, `inspect.json`."""
    options = parser(command, __doc__)
    options.add_argument("video", metavar="VIDEO", help="video file or folder of numbered images")
    add_shared(options, "--model", "--source-fps", "--seed", "--device", "--trust")
    add_out(options, command)
    options.add_argument(
        "--frames",
        type=at_least(2),
        default=None,
        help="number of frames, spread evenly over the video (default: as in training)",
    )
    options.add_argument("--layer", type=at_least(1), default=1, help="memory layer to show")
    given = options.parse_args(arguments)
    model = load(given.model, given.trust).to(usable_device(given.device))
    video = read_video(model, given.video, given.frames, given.source_fps)
    with locked_folder(given.out):
        inside = inspect_frames(model, video.frames_TCHW, given.seed, given.layer)
        written = write_inspection(video, inside, given.out)
    say(*_lines(video, inside))
    say(", ".join(map(str, written.values())))
    return 0


def _lines(video: Video, inside: Inspection) -> list[str]:
    """Returns the predictions, the time constants, and the frame that changed the state most, as lines of text."""

    def shown(prediction: Prediction) -> str:
        return f"{inside.class_names[prediction.answer]}  {digits(prediction.probability)}"

    layer = f", layer {inside.layer} of {inside.num_layers}" if inside.num_layers > 1 else ""
    num_seen, num_there = len(set(video.places_T.tolist())), video.num_available
    again = f", shown as {len(video.places_T)}" if num_seen < len(video.places_T) else ""
    lines = [f"{title(video, inside)}{layer}: {num_seen} of its {num_there} frames{again}"]
    for one in inside.traces:
        without = "" if inside.is_memoryless else f"  (without memory: {shown(one.without_memory)})"
        lines.append(f"  {one.order:<8}  {shown(one.prediction)}{without}")
    times = "none, because no state is kept unprocessed"
    if inside.keeps:
        taus = (
            f"{name} {frames(tau, video.step_s)}" for name, tau in quantiles(inside).items() if name != "nine tenths"
        )
        times = ", ".join(taus)
    return [
        *lines,
        f"time constants: {times}",
        f"the state changed most at {moment(video, inside.in_order.most_changed)}",
    ]
