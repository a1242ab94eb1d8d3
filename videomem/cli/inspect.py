"""`videomem inspect`: the inside of one trained head on one video: what it keeps, what it answers, and when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from videomem.cli.options import above_zero, at_least, parser, usable_device
from videomem.experiments.inspect.inspection import Inspection, Video, inspect_frames, read_video
from videomem.experiments.inspect.inspection_report import write_inspection
from videomem.experiments.inspect.inspection_tables import digits, frames, moment, quantiles, title
from videomem.inference.model import load


def main(command: str, arguments: Sequence[str]) -> int:
    """Show a video to a head in order, shuffled and reversed; write `inspect.html`, `inspect.png`, `inspect.json`."""
    options = parser(command, __doc__)
    options.add_argument("video", metavar="VIDEO", help="a video file, or a folder of numbered images")
    options.add_argument(
        "--model", type=Path, required=True, help="a folder of `videomem export`, or a checkpoint of `videomem fit`"
    )
    options.add_argument("--out", type=Path, default=Path("runs/inspect"), help="folder of the results")
    options.add_argument(
        "--frames",
        type=at_least(2),
        default=None,
        help="frames, spread evenly over the video (default: as in training)",
    )
    options.add_argument("--fps", type=above_zero, default=None, help="frames per second of a folder of images")
    options.add_argument("--layer", type=at_least(1), default=1, help="layer of memory to show")
    options.add_argument("--seed", type=at_least(0), default=0, help="seed of the shuffle")
    options.add_argument("--device", default="cpu", help="where the model runs: auto, cpu, cuda, ...")
    options.add_argument("--trust", action="store_true", help="let a checkpoint name classes of other packages")
    given = options.parse_args(arguments)
    model = load(given.model, given.trust).to(usable_device(given.device))
    video = read_video(model, given.video, given.frames, given.fps)
    inside = inspect_frames(model, video.frames_TCHW, given.seed, given.layer)
    written = write_inspection(video, inside, given.out)
    print("\n".join(_lines(video, inside)))
    print(", ".join(map(str, written.values())))
    return 0


def _lines(video: Video, inside: Inspection) -> list[str]:
    """The answers, the time constants, and which frame moved the state most."""
    layer = f", layer {inside.layer} of {inside.num_layers}" if inside.num_layers > 1 else ""
    num_seen, num_there = len(set(video.places_T.tolist())), video.num_available
    again = f", shown as {len(video.places_T)}" if num_seen < len(video.places_T) else ""
    lines = [f"{title(video, inside)}{layer}: {num_seen} of its {num_there} frames{again}"]
    for one in inside.traces:
        alone = f"{inside.class_names[int(one.emptied_C.argmax())]}  {digits(float(one.emptied_C.max()))}"
        without = "" if inside.is_memoryless else f"  (without memory: {alone})"
        lines.append(f"  {one.order:<8}  {inside.class_names[one.answer]}  {digits(one.probability)}{without}")
    if inside.keeps:
        of = {name: frames(tau, video.step_s) for name, tau in quantiles(inside).items()}
        parts = [f"{name} {of[name]}" for name in ("shortest", "quarter", "half", "three quarters", "longest")]
        lines.append(f"time constants: {', '.join(parts)}")
    else:
        lines.append("time constants: none, nothing is kept unprocessed")
    lines.append(f"the state changed most at {moment(video, inside.in_order.most_changed)}")
    return lines
