"""`videomem predict`: what videos show, by a trained model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from videomem.cli.options import above_zero, at_least, parser, printable, usable_device
from videomem.errors import VideomemError
from videomem.features.failures import Failure
from videomem.inference.model import Prediction, load, top_classes
from videomem.inference.prediction import predict_each
from videomem.utils.workers import TIME_LIMIT_S
from videomem.video.catalog import Clip
from videomem.video.files import videos_named

_WIDEST = 60  # characters of a path, before columns are no longer aligned


def main(command: str, arguments: Sequence[str]) -> int:
    """Print the most probable classes of each video; one that fails is an error line. Status 1 if one did, 2 if all."""
    options = parser(command, __doc__)
    options.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEO",
        help="a video, a folder of videos or of numbered images, a pattern such as 'videos/*.mp4', or - for paths on "
        "standard input, a line each; a video that is named twice is answered once",
    )
    options.add_argument(
        "--model", type=Path, required=True, help="a folder of `videomem export`, or a checkpoint of `videomem fit`"
    )
    options.add_argument("--top", type=at_least(1), default=5, help="classes to print, the most probable first")
    options.add_argument("--over-time", action="store_true", help="also the answer after each frame")
    options.add_argument(
        "--format", choices=("table", "jsonl"), default="table", help="a line of words or of JSON for each video"
    )
    options.add_argument("--fps", type=above_zero, default=None, help="frames per second of folders of images")
    options.add_argument("--workers", type=at_least(0), default=1, help="processes that decode; 0 decodes in this one")
    options.add_argument("--time-limit", type=above_zero, default=TIME_LIMIT_S, help="seconds that a video may take")
    options.add_argument("--device", default="auto", help="where the model runs: auto, cpu, cuda, ...")
    options.add_argument("--trust", action="store_true", help="let a checkpoint name classes of other packages")
    given = options.parse_args(arguments)
    paths = videos_named(given.videos, map(os.fsdecode, sys.stdin.buffer) if "-" in given.videos else ())
    if not paths:
        raise VideomemError("no video to look at: standard input named none")
    model = load(given.model, given.trust).to(usable_device(given.device))
    clips = [Clip(path, "", "", "", fps=given.fps) for path in paths]
    console, num_failed = Console(stderr=True), 0
    answers = predict_each(model, clips, given.workers, given.time_limit)
    hidden = not console.is_terminal or sys.stdout.isatty()  # Lines that appear tell as much.
    width = min(max(len(printable(path)) for path in paths), _WIDEST)
    for clip, answer in zip(
        clips, track(answers, "predicting", len(clips), console=console, transient=True, disable=hidden), strict=True
    ):
        num_failed += isinstance(answer, Failure)
        if isinstance(answer, Failure):
            line = f"videomem: error: {printable(answer.message)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if given.format == "jsonl":
            print(json.dumps(_record(clip, answer, given.top, given.over_time)), flush=True)
        elif isinstance(answer, Prediction):
            print("\n".join(_lines(answer, given.top, given.over_time, width)), flush=True)
    if num_failed:
        print(f"videomem: {num_failed} of {len(clips)} videos failed", file=sys.stderr)
    if num_failed == len(clips):
        return 2
    return 1 if num_failed else 0


def _lines(answer: Prediction, num_top: int, over_time: bool, width: int) -> Iterator[str]:
    """A line for a video, and one for each of its frames."""
    widest = max(map(len, answer.class_names))
    yield f"{printable(answer.path):<{width}}  {_words(answer.top(num_top), widest)}"
    for place, probabilities_C in enumerate(answer.probabilities_TC if over_time else ()):
        when = f"frame {answer.indices_T[place]}"
        when += "" if answer.times_s_T is None else f", {answer.times_s_T[place]:.2f} s"
        best = top_classes(answer.class_names, probabilities_C, num_top)
        yield f"{when:>{width}}  {_words(best, widest)}"


def _words(best: Sequence[tuple[str, float]], widest: int) -> str:
    return "  ".join(f"{name:<{widest}} {probability:.3f}" for name, probability in best)


def _record(clip: Clip, answer: Prediction | Failure, num_top: int, over_time: bool) -> dict[str, object]:
    """What a line of JSON says of a video."""
    if isinstance(answer, Failure):
        return {"path": clip.path, "error": answer.message}
    record = {
        "path": clip.path,
        "label": answer.label,
        "top": top_record(answer.top(num_top)),
        "num_frames": len(answer.indices_T),
    }
    if not over_time:
        return record
    times: Sequence[float | None] = answer.times_s_T or [None] * len(answer.indices_T)
    frames = [
        {"frame": place, "time_s": time_s, "top": top_record(top_classes(answer.class_names, probabilities_C, num_top))}
        for place, time_s, probabilities_C in zip(answer.indices_T, times, answer.probabilities_TC, strict=True)
    ]
    return {**record, "over_time": frames}


def top_record(best: Sequence[tuple[str, float]]) -> list[dict[str, object]]:
    """The most probable classes as JSON has them."""
    return [{"label": name, "probability": probability} for name, probability in best]
