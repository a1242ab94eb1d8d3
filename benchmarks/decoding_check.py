"""Compare decoding with the command-line tool `ffmpeg` on all videos below a folder.

python benchmarks/decoding_check.py FOLDER [--workers 2]

A file is *right* if videomem gives as many frames as ffmpeg, and the sampled ones show the same pictures, upright.
Files without a video stream are left out. Every file that is not right needs a look by hand: ffmpeg conceals damage,
reports errors of other streams, and does not compare a file with its header.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from videomem.errors import DecodingError
from videomem.video.decoding import DecodedClip, decode_clip
from videomem.video.sampling import Uniform

SAMPLING = Uniform(num_frames=8)
# Mean absolute difference of pictures, of 255; conversions from YUV differ by about 1, other pictures by far more.
MOST_DIFFERENT = 6.0
TIME_LIMIT_S = 120


class Checked(NamedTuple):
    """How videomem and ffmpeg read a file: an empty verdict means that there is no video."""

    path: Path
    verdict: str
    detail: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    verdicts: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for path, verdict, detail in pool.imap_unordered(check, list(distinct_files(args.folder))):
            verdicts[verdict] += bool(verdict)
            if verdict and verdict != "right":
                print(f"{verdict}: {path.relative_to(args.folder)}: {detail}", flush=True)
    print("\n| files | number |\n|---|---|")
    for verdict, number in [*verdicts.most_common(), ("all", verdicts.total())]:
        print(f"| {verdict} | {number} |" if verdict else "", end="\n" if verdict else "")


def distinct_files(folder: Path) -> Iterator[Path]:
    """Files of different content, small ones first."""
    seen = set()
    for path in sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size):
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest not in seen:
            seen.add(digest)
            yield path


def check(path: Path) -> Checked:
    if not has_video(path):
        return Checked(path, "", "")
    refusal, clip = "", None
    try:
        clip = decode_clip(path, SAMPLING)
    except DecodingError as error:
        refusal = str(error).removeprefix(f"{path}: ")
    try:
        num_frames, pictures, complaint = decode_with_ffmpeg(path, clip)
    except subprocess.TimeoutExpired:
        return Checked(path, "ffmpeg takes too long", refusal)
    return Checked(path, *judge(clip, refusal, num_frames, pictures, complaint))


def judge(
    clip: DecodedClip | None, refusal: str, num_frames: int, pictures: NDArray[np.uint8] | None, complaint: str
) -> tuple[str, str]:
    if clip is None and not num_frames:
        return "refused, and ffmpeg gives no frame", refusal
    if clip is None:
        verdict = "refused, and ffmpeg reports an error" if complaint else "refused, but ffmpeg reports no error"
        return verdict, f"{refusal} ({num_frames} frames by ffmpeg; {complaint})"
    if clip.num_available != num_frames:
        return "other number of frames", f"{clip.num_available}, {num_frames} by ffmpeg ({complaint})"
    if pictures is None or pictures.shape != clip.frames_THWC.shape:
        return "other size", f"{clip.frames_THWC.shape}, {pictures if pictures is None else pictures.shape} by ffmpeg"
    different = np.abs(clip.frames_THWC.astype(np.int16) - pictures).mean(axis=(1, 2, 3))
    if different.max() > MOST_DIFFERENT:
        return "other pictures", f"mean absolute difference {different.round(1)}, {clip.decoder} ({complaint})"
    if complaint:
        return "right, but ffmpeg reports an error", complaint
    return "right", ""


def has_video(path: Path) -> bool:
    command = ["ffprobe", "-v", "quiet", "-select_streams", "V:0", "-show_entries", "stream=width:format=format_name"]
    shown = subprocess.run([*command, "-of", "json", path], capture_output=True, text=True, check=False).stdout
    found = json.loads(shown or "{}")
    is_picture = found.get("format", {}).get("format_name", "").endswith(("_pipe", "image2"))
    return not is_picture and any(stream.get("width") for stream in found.get("streams", []))


def decode_with_ffmpeg(path: Path, clip: DecodedClip | None) -> tuple[int, NDArray[np.uint8] | None, str]:
    """The number of frames, the pictures at the clip's indices if there are as many, and ffmpeg's first error."""
    stream = ["-map", "0:V:0", "-vsync", "passthrough"]
    command = ["ffmpeg", "-nostdin", "-y", "-v", "error", "-threads", "1", "-i", path, *stream, "-f", "framecrc", "-"]
    distinct, repeats = np.unique([] if clip is None else clip.indices_T, return_inverse=True)
    with tempfile.NamedTemporaryFile() as file:
        if clip is not None:
            picked = "select=" + "+".join(f"eq(n\\,{index})" for index in distinct)
            command += [*stream, "-vf", picked, "-f", "rawvideo", "-pix_fmt", "rgb24", file.name]
        done = subprocess.run(command, capture_output=True, check=False, timeout=TIME_LIMIT_S)
        pictures = np.fromfile(file.name, np.uint8)
    num_frames = sum(line[:1] != b"#" for line in done.stdout.splitlines())
    messages = done.stderr.decode(errors="replace").splitlines()
    complaint = next((line for line in messages if not line.startswith(("[framecrc", "[rawvideo"))), "")
    if clip is None or pictures.size != len(distinct) * clip.frames_THWC[0].size:
        return num_frames, None, complaint
    return num_frames, pictures.reshape(len(distinct), *clip.frames_THWC.shape[1:])[repeats], complaint


if __name__ == "__main__":
    main()
