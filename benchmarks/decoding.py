"""Measure the speed of exact decoding: `auto` compared with decord, torchcodec and PyAV used directly.

    python benchmarks/decoding.py                 # about 6 minutes on 2 cores
    python benchmarks/decoding.py --sizes 320x240 --repeats 3

Videos of 300 frames with a moving texture are written to a temporary folder. The methods are timed in turns, and the
minimum time of each counts. `wrong` marks frames that differ by more than 2/255 from those of a forward pass. The ratio
of `auto` is relative to the fastest method whose frames are correct for both choices of frames.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from extraction import moving_texture
from numpy.typing import NDArray

from videomem.video.decoders import by_decord, by_torchcodec
from videomem.video.decoders.seeking import ffmpeg_messages
from videomem.video.decoding import decode_clip
from videomem.video.sampling import Uniform, uniform_indices
from videomem.video.synthetic import write_video

NUM_FRAMES = 300
TOLERANCE = 2
Frames = NDArray[np.uint8]
Read = Callable[[str, NDArray[np.int64]], Frames]

# name: suffix, codec, options
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264, as x264 makes it": ("mp4", "libx264", {"crf": "23"}),
    "h264 without B-frames": ("mp4", "libx264", {"crf": "23", "bf": "0"}),
    "h264, key frame every 12": ("mp4", "libx264", {"crf": "23", "g": "12"}),
    "h264 without B-frames, key frame every 12": ("mp4", "libx264", {"crf": "23", "bf": "0", "g": "12"}),
    "vp9 in webm": ("webm", "libvpx-vp9", {"b:v": "1M", "cpu-used": "8", "deadline": "realtime"}),
    "mpeg4 in avi with B-frames": ("avi", "mpeg4", {"q:v": "4", "bf": "2"}),
}


def by_bare_decord(path: str, wanted: NDArray[np.int64]) -> Frames:
    import decord

    return np.asarray(decord.VideoReader(path, num_threads=1).get_batch(wanted.tolist()).asnumpy())


def by_bare_torchcodec(path: str, wanted: NDArray[np.int64]) -> Frames:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
    return np.asarray(decoder.get_frames_at(wanted.tolist()).data.numpy())


def by_bare_pyav(path: str, wanted: NDArray[np.int64]) -> Frames:
    keep = set(wanted.tolist())
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = enumerate(container.decode(stream))
        return np.stack([frame.to_ndarray(format="rgb24") for number, frame in frames if number in keep])


def by_videomem(path: str, wanted: NDArray[np.int64]) -> Frames:
    return decode_clip(path, Uniform(len(wanted))).frames_THWC


def by_videomem_without_torchcodec(path: str, wanted: NDArray[np.int64]) -> Frames:
    versions, by_torchcodec.versions = by_torchcodec.versions, dict  # type: ignore[assignment]
    try:
        return by_videomem(path, wanted)
    finally:
        by_torchcodec.versions = versions


def write(path: Path, kind: str, height: int, width: int) -> None:
    _, codec, options = KINDS[kind]
    write_video(path, moving_texture(NUM_FRAMES, height, width, 0), 25, codec, "yuv420p", options)


def measure(path: str, wanted: NDArray[np.int64], repeats: int) -> tuple[dict[str, float], set[str]]:
    """Minimum time of each method in seconds, and the methods whose frames are correct."""
    ways: dict[str, Read] = {"PyAV": by_bare_pyav}
    if by_decord.is_installed():
        ways["decord"] = by_bare_decord
    if by_torchcodec.versions():
        ways |= {"torchcodec": by_bare_torchcodec, "auto": by_videomem}
    ways["auto without torchcodec"] = by_videomem_without_torchcodec
    seconds: dict[str, float] = {}
    right, reference = set(), by_bare_pyav(path, wanted).astype(np.int16)
    for turn in range(repeats):
        for name, read in ways.items():
            started = time.perf_counter()
            try:
                with ffmpeg_messages():
                    frames = read(path, wanted)
            except RuntimeError:  # A decoder that cannot read this file.
                continue
            took = time.perf_counter() - started
            seconds[name] = min(took, seconds.get(name, took))
            if turn == 0 and frames.shape == reference.shape and np.abs(frames - reference).max() <= TOLERANCE:
                right.add(name)
    return seconds, right


def row(kind: str, size: str, num_frames: int, seconds: dict[str, float], right: set[str], exact: set[str]) -> str:
    cells = [kind, size, str(num_frames)]
    unit_s = seconds["PyAV"]
    for name in ("PyAV", "decord", "torchcodec", "auto without torchcodec", "auto"):
        ratio = f"{seconds[name] / unit_s:.2f}" if name in seconds else "-"
        cells.append(ratio if name in right or name not in seconds else f"{ratio} wrong")
    bare = {name: s for name, s in seconds.items() if name in exact and not name.startswith("auto")}
    without = min(s for name, s in bare.items() if name != "torchcodec")
    cells.append(f"{seconds['auto without torchcodec'] / without:.2f}")
    cells.append(f"{seconds['auto'] / min(bare.values()):.2f}" if "auto" in seconds else "-")
    return " | ".join(cells)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", nargs="+", default=["320x240", "1280x720"], help="width x height")
    options.add_argument("--repeats", type=int, default=7)
    given = options.parse_args()
    print(f"{os.cpu_count()} cores; seconds relative to PyAV's; last two: auto relative to the fastest correct method")
    print("kind | size | frames | PyAV | decord | torchcodec | auto without torchcodec | auto | without | with")
    print("|".join(["---"] * 10))
    with tempfile.TemporaryDirectory() as folder:
        for size in given.sizes:
            width, height = map(int, size.split("x"))
            for number, (kind, (suffix, _, _)) in enumerate(KINDS.items()):
                path = Path(folder) / f"{size}-{number}.{suffix}"
                write(path, kind, height, width)
                choices = {n: uniform_indices(NUM_FRAMES, n) for n in (16, NUM_FRAMES)}
                measured = {n: measure(str(path), wanted, given.repeats) for n, wanted in choices.items()}
                exact = set.intersection(*(right for _, right in measured.values()))
                for num_frames, (seconds, right) in measured.items():
                    print(row(kind, size, num_frames, seconds, right, exact), flush=True)


if __name__ == "__main__":
    main()
