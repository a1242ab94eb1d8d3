"""`videomem stream`: classify a video stream frame by frame with a trained model."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from videomem.cli.options import above_zero, add_shared, at_least, parser, usable_device
from videomem.cli.terminal import say
from videomem.errors import DecodingError, VideomemError
from videomem.inference.model import Classifier, load
from videomem.inference.prediction import top_record
from videomem.inference.streaming import SCENE_CHANGE, Stream
from videomem.video.live import LiveFrame, at_rate, frames_of_file, frames_of_pipe, telling_of_gaps
from videomem.video.sampling import FixedRate

_MOST_PX = 2**15  # largest height or width of a frame


def main(command: str, arguments: Sequence[str]) -> int:
    """Print a line of JSON after each frame, with the most probable classes."""
    given = _parser(command).parse_args(arguments)
    model = load(given.model, given.trust).to(usable_device(given.device))
    stream = model.stream(given.reset_on_scene_change)
    if given.state is not None and given.state.exists():
        stream.load_state(given.state)
    try:
        with _opened(given) as pipe:
            fps = _rate(given.fps, model)
            return _run(stream, _frames(given, fps, pipe), given.top, takes_all=fps is None)
    finally:
        if given.state is not None and stream.state is not None:
            stream.save_state(given.state)


def _parser(command: str) -> argparse.ArgumentParser:
    options = parser(command, __doc__)
    options.add_argument("source", metavar="SOURCE", help="video file or folder of images; with --size, raw frames "
                         "from a file, a pipe or - for standard input")  # fmt: skip
    add_shared(options, "--model", "--source-fps", "--device", "--trust")
    options.add_argument("--size", type=_size, default=None, help="WIDTHxHEIGHT of raw frames, as `ffmpeg -f rawvideo "
                         "-pix_fmt rgb24` writes them")  # fmt: skip
    options.add_argument("--fps", type=above_zero, default=None, help="sampling rate in frames per second (default: "
                         "the rate of training if it was fixed, or else every frame)")  # fmt: skip
    options.add_argument("--top", type=at_least(1), default=5, help="number of classes to print for each frame")
    reset = ("reset the state before a frame whose pixels differ from the previous frame by more than LEVELS of 255 on "
             f"average; LEVELS is {SCENE_CHANGE:g} if omitted (default: no reset)")  # fmt: skip
    options.add_argument("--reset-on-scene-change", type=above_zero, nargs="?", const=SCENE_CHANGE, default=None,
                         metavar="LEVELS", help=reset)  # fmt: skip
    options.add_argument("--state", type=Path, default=None, help="file of the state, which is read at the start if it "
                         "exists, and written at the end")  # fmt: skip
    return options


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if match is None or not all(1 <= int(side) <= _MOST_PX for side in match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT within 1..{_MOST_PX}, such as 640x480")
    return int(match[1]), int(match[2])


def _opened(given: Any) -> AbstractContextManager[BinaryIO | None]:
    """Returns the source of raw frames; None for a video file."""
    if given.size is None:
        if given.source == "-":
            raise VideomemError("standard input contains raw frames, whose size is needed; pass --size WIDTHxHEIGHT")
        if given.source_fps is not None and Path(given.source).is_file():
            raise VideomemError(
                "--source-fps has no effect on a video file, which has its own frame times; leave it out"
            )
        return nullcontext()
    return nullcontext(sys.stdin.buffer) if given.source == "-" else Path(given.source).open("rb")


def _rate(asked: float | None, model: Classifier) -> float | None:
    """Returns the sampling rate in frames per second; None for every frame."""
    sampling = model.settings.sampling
    return sampling.fps if asked is None and isinstance(sampling, FixedRate) else asked


def _frames(given: Any, fps: float | None, pipe: BinaryIO | None) -> Iterator[LiveFrame]:
    if pipe is None:
        frames = frames_of_file(given.source, given.source_fps)
    else:
        frames = frames_of_pipe(pipe, given.size, given.source_fps)
    used = "the frames are used as if evenly spaced" if fps is None else "the last frame is used for the time between"
    frames = telling_of_gaps(frames, lambda text: say(f"videomem: warning: {text}; {used}", to_stderr=True))
    return frames if fps is None else at_rate(frames, fps)


def _run(stream: Stream, frames: Iterator[LiveFrame], num_top: int, takes_all: bool) -> int:
    class_names, num_frames = stream.class_names, 0
    try:
        for live in frames:
            started = time.perf_counter()
            answer = stream.step(live.frame_HWC)
            record = {
                "frame": live.place,
                "time_s": live.time_s,
                "top": top_record(class_names, answer.probabilities_C, num_top),
                "frames_in_memory": answer.num_frames,
                "is_new_scene": answer.is_new_scene,
                "latency_ms": round(1000 * (time.perf_counter() - started), 3),
            }
            say(json.dumps(record))
            if num_frames == 0 and takes_all:
                say("videomem: every frame is used, but in training frames were spread over the clip; --fps may "
                    "match training better", to_stderr=True)  # fmt: skip
            num_frames += 1
    except DecodingError as error:
        if not num_frames:
            raise
        say(f"videomem: error: {error}", to_stderr=True)  # Predictions that were printed remain valid.
        return 1
    if not num_frames:
        raise VideomemError("the source has no frames")
    return 0
