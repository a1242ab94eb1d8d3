"""`videomem stream`: run a trained model over a video frame by frame, as it comes."""

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

from videomem.cli.options import above_zero, at_least, parser, usable_device
from videomem.cli.predict import top_record
from videomem.errors import DecodingError, VideomemError
from videomem.inference.model import Classifier, load, top_classes
from videomem.inference.streaming import SCENE_CHANGE, Stream
from videomem.video.live import LiveFrame, at_rate, frames_of_file, frames_of_pipe
from videomem.video.sampling import FixedRate

_MOST_PX = 2**15  # a side of a frame


def main(command: str, arguments: Sequence[str]) -> int:
    """Print a line of JSON for each frame: the most probable classes after it."""
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
    options.add_argument(
        "source",
        metavar="SOURCE",
        help="a video file or a folder of images; or with --size raw frames: - for standard input, a pipe, a file",
    )
    options.add_argument(
        "--model", type=Path, required=True, help="a folder of `videomem export`, or a checkpoint of `videomem fit`"
    )
    options.add_argument(
        "--size", type=_size, default=None, help="WIDTHxHEIGHT of raw frames, as `ffmpeg -f rawvideo -pix_fmt rgb24`"
    )
    options.add_argument("--rate", type=above_zero, default=None, help="frames per second of raw frames, or of images")
    options.add_argument(
        "--fps",
        type=above_zero,
        default=None,
        help="frames to look at per second (default: as in training where that had a rate, else every frame)",
    )
    options.add_argument("--top", type=at_least(1), default=5, help="classes to print, the most probable first")
    options.add_argument(
        "--reset-on-scene-change",
        type=above_zero,
        nargs="?",
        const=SCENE_CHANGE,
        default=None,
        metavar="LEVELS",
        help="forget everything before a frame that differs from the one before by more than so many of 255 levels, on "
        f"average ({SCENE_CHANGE:g} where no number is given)",
    )
    options.add_argument(
        "--state", type=Path, default=None, help="file of the state: read at the start if there, written at the end"
    )
    options.add_argument("--device", default="auto", help="where the model runs: auto, cpu, cuda, ...")
    options.add_argument("--trust", action="store_true", help="let a checkpoint name classes of other packages")
    return options


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if match is None or not all(1 <= int(side) <= _MOST_PX for side in match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is no WIDTHxHEIGHT within 1..{_MOST_PX}, such as 640x480")
    return int(match[1]), int(match[2])


def _opened(given: Any) -> AbstractContextManager[BinaryIO | None]:
    """Where raw frames come from; None for a video file."""
    if given.size is None:
        if given.source == "-":
            raise VideomemError("standard input has raw frames, so their size must be given: --size WIDTHxHEIGHT")
        if given.rate is not None and Path(given.source).is_file():
            raise VideomemError("--rate is of raw frames and of images, but a video has its own times; leave it out")
        return nullcontext()
    return nullcontext(sys.stdin.buffer) if given.source == "-" else Path(given.source).open("rb")


def _rate(asked: float | None, model: Classifier) -> float | None:
    """Frames to look at per second; None for every frame."""
    sampling = model.settings.sampling
    return sampling.fps if asked is None and isinstance(sampling, FixedRate) else asked


def _frames(given: Any, fps: float | None, pipe: BinaryIO | None) -> Iterator[LiveFrame]:
    frames = frames_of_file(given.source, given.rate) if pipe is None else frames_of_pipe(pipe, given.size, given.rate)
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
                "top": top_record(top_classes(class_names, answer.probabilities_C, num_top)),
                "frames_in_memory": answer.num_frames,
                "is_new_scene": answer.is_new_scene,
                "latency_ms": round(1000 * (time.perf_counter() - started), 3),
            }
            print(json.dumps(record), flush=True)
            if num_frames == 0 and takes_all:
                print("videomem: every frame is looked at; in training they were spread over a clip, so --fps may be "
                      "nearer to it", file=sys.stderr)  # fmt: skip
            num_frames += 1
    except DecodingError as error:
        if not num_frames:
            raise
        print(f"videomem: error: {error}", file=sys.stderr)  # What was answered stands.
        return 1
    if not num_frames:
        raise VideomemError("no frame came; is the source empty?")
    return 0
