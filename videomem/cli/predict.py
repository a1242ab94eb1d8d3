"""`videomem predict`: classify videos with a trained model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence

from rich.progress import track

from videomem.cli.options import Parser, add_shared, at_least, parser, refuse_time_limit, usable_device
from videomem.cli.terminal import console, say
from videomem.errors import VideomemError
from videomem.features.failures import Failure
from videomem.inference.model import Prediction, load, top_classes
from videomem.inference.prediction import predict_each, top_record
from videomem.utils.text import printable
from videomem.video.catalog import Clip
from videomem.video.files import videos_named

_WIDEST = 60  # largest number of characters of a path for which columns are aligned


def main(command: str, arguments: Sequence[str]) -> int:
    """Print the most probable classes of each video. The status is 1 if a video failed, 2 if all failed."""
    options = _parser(command)
    given = options.parse_args(arguments)
    refuse_time_limit(options, given)
    paths = videos_named(given.videos, map(os.fsdecode, sys.stdin.buffer) if "-" in given.videos else ())
    if not paths:
        raise VideomemError("no video to classify: standard input is empty")
    model = load(given.model, given.trust).to(usable_device(given.device))
    clips = [Clip(path, "", "", "", fps=given.source_fps) for path in paths]
    progress, num_failed = console(to_stderr=True), 0
    answers = predict_each(model, clips, given.workers, given.time_limit)
    hidden = not progress.is_terminal or sys.stdout.isatty()  # The printed lines show the progress.
    width = min(max(len(printable(path)) for path in paths), _WIDEST)
    for clip, answer in zip(
        clips, track(answers, "predicting", len(clips), console=progress, transient=True, disable=hidden), strict=True
    ):
        num_failed += isinstance(answer, Failure)
        if isinstance(answer, Failure):
            progress.print(f"videomem: error: {answer.message}", soft_wrap=True)
        if given.format == "jsonl":
            say(json.dumps(_record(clip, answer, given.top, given.over_time)))
        elif isinstance(answer, Prediction):
            say(*_lines(answer, given.top, given.over_time, width))
    if num_failed:
        say(f"videomem: {num_failed} of {len(clips)} videos failed", to_stderr=True)
    return 2 if num_failed == len(clips) else int(num_failed > 0)


def _parser(command: str) -> Parser:
    options = parser(command, __doc__)
    options.add_argument("videos", nargs="+", metavar="VIDEO",
                         help="video file, folder of videos or of numbered images, pattern such as 'videos/*.mp4', or "
                         "- to read paths from standard input, one per line; duplicates are removed")  # fmt: skip
    add_shared(options, "--model", "--source-fps", "--workers", "--time-limit", "--device", "--trust")
    options.add_argument("--top", type=at_least(1), default=5, help="number of classes to print for each video")
    options.add_argument("--over-time", action="store_true", help="also print the prediction after each frame")
    options.add_argument("--format", choices=("table", "jsonl"), default="table", help="output format: table, or one "
                         "line of JSON per video")  # fmt: skip
    return options


def _lines(answer: Prediction, num_top: int, over_time: bool, width: int) -> Iterator[str]:
    """Yields a line for a video, and one for each of its frames if asked for."""
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
    """Returns the JSON record of a video."""
    if isinstance(answer, Failure):
        return {"path": clip.path, "error": answer.message}
    names = answer.class_names
    record = {"path": clip.path, "label": answer.label, "top": top_record(names, answer.probabilities_C, num_top),
              "num_frames": len(answer.indices_T)}  # fmt: skip
    if not over_time:
        return record
    times: Sequence[float | None] = answer.times_s_T or [None] * len(answer.indices_T)
    frames = [
        {"frame": place, "time_s": time_s, "top": top_record(names, probabilities_C, num_top)}
        for place, time_s, probabilities_C in zip(answer.indices_T, times, answer.probabilities_TC, strict=True)
    ]
    return {**record, "over_time": frames}
