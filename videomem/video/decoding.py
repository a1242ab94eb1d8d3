"""Exact decoding: `decode_clip` returns the requested frames or raises an error, never wrong frames.

A clip is read in three steps: the packets of the stream are listed without decoding, the sampling selects frame
indices, and a decoder decodes these frames. decord and torchcodec are used only for streams on their allow-lists, which
are tested on videos whose frames encode their own index. In case of doubt, PyAV decodes all frames from the first one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from videomem.errors import DecodingError, one_line
from videomem.video.decoders import by_decord, by_pyav, by_torchcodec
from videomem.video.decoders.frame_folder import FrameFolder, unchanged_folder
from videomem.video.decoders.limits import check_size
from videomem.video.decoders.video_stream import VideoStream, open_stream
from videomem.video.files import file_problem, file_state, is_image_folder
from videomem.video.sampling import Interval, Sampling, frames_within

Decoder = Literal["auto", "decord", "pyav", "torchcodec"]
OnDamage = Literal["exclude", "prefix"]

# Decoders that do not decode all frames: each gives the frames at ascending indices, or the reason why the stream is
# unsuitable or the frames cannot be trusted.
_SEEKING = {"torchcodec": by_torchcodec.read, "decord": by_decord.read, "pyav": by_pyav.read_groups}
# Fastest first, as measured by benchmarks/decoding.py. decord is slower than PyAV wherever it is exact.
_ORDER = {"auto": ("torchcodec", "pyav"), "pyav": ("pyav",)}
# If a larger fraction of the packets is needed, decoding all of them is as fast, and checks them all.
_MAX_FRACTION_NEEDED = 0.8


@dataclass(frozen=True)
class DecodedClip:
    """The sampled frames of a clip.

    Attributes:
        num_available: N, the number of decodable frames of the clip.
        fps: Average frames per second; 0 if unknown.
        decoder: Name of the decoder that was used.
        codec: Name of the codec of the video.
        damage: With `on_damage: prefix`, the damage at which the clip ends; empty if there is none.
        times_s_T: Seconds from the clip's first frame; None without a frame rate.
    Shape:
        frames_THWC: (T, height, width, 3) uint8 RGB
        indices_T: (T,) index of each frame within the clip
        times_s_T: (T,)
    """

    frames_THWC: NDArray[np.uint8]
    indices_T: NDArray[np.int64]
    num_available: int
    fps: float
    decoder: str
    codec: str
    damage: str = ""
    times_s_T: NDArray[np.float64] | None = None


def decoder_versions(decoder: Decoder) -> dict[str, str]:
    """Versions of the decoders that may be used. They affect the features, so they are part of the store's key."""
    versions = {"av": version("av"), "pillow": version("pillow")}
    if decoder == "decord" and by_decord.is_installed():
        versions["decord"] = version("decord")
    return versions | (by_torchcodec.versions() if decoder in ("auto", "torchcodec") else {})


def decode_clip(
    path: Path | str,
    sampling: Sampling,
    interval: Interval = (None, None),
    decoder: Decoder = "auto",
    fps: float | None = None,
    on_damage: OnDamage = "exclude",
) -> DecodedClip:
    """Decode the sampled frames of a clip.

    Args:
        path: A local video file, a folder of numbered images, or a template of their names.
        sampling: Selects the frames of the clip.
        interval: Start and end of the clip in seconds from the file's first frame, start <= time < end.
        decoder: `auto` selects the fastest decoder that is exact for the stream. A named decoder raises if it is not.
        fps: Frames per second of a folder of images; ignored for video files.
        on_damage: `exclude` raises for a damaged file; `prefix` uses the frames before the damage.
    Raises:
        DecodingError: If the file is damaged, is not a video, or cannot be decoded exactly.
    """
    path = str(path)
    if problem := file_problem(path):
        raise DecodingError(problem)
    if is_image_folder(path):
        return _decode_folder(path, sampling, interval, fps, on_damage)
    is_part = interval != (None, None)
    with open_stream(path, is_part) as stream:
        listing = stream.listing
        if not listing.has_times:
            _check_needs_no_times(path, sampling, interval, "copy it into a file with a frame rate, such as mp4")
        chosen, indices = _sample(path, sampling, listing.times_s, interval, listing.damage)
        exact = _decode_exactly(stream, chosen[indices], decoder)
        if not isinstance(exact, str):
            times_s = listing.times_s[chosen] if listing.has_times else None
            return _clip(exact[0], indices, times_s, exact[1], listing.codec, len(chosen))
        if decoder not in ("auto", "pyav"):
            remedy = "set data.features.decoder to auto"
            raise DecodingError(f"{path}: {decoder} is not exact here ({exact}); {remedy}")
        answer = _decode_forwards(stream, listing.times_s, sampling, interval, on_damage)
    if isinstance(answer, DecodedClip):
        return answer
    # The times of the packets were wrong: read again, with the times of the frames.
    with open_stream(path, is_part) as stream:
        again = _decode_forwards(stream, answer, sampling, interval, on_damage)
    if isinstance(again, DecodedClip):
        return again
    raise DecodingError(f"{path}: decodes to {len(answer)} frames, but to {len(again)} when decoded again")


def _decode_exactly(
    stream: VideoStream, wanted: NDArray[np.int64], decoder: Decoder
) -> tuple[NDArray[np.uint8], str] | str:
    """Frames and name of the fastest decoder that is exact for the stream, or why the last one is not exact."""
    distinct, repeats = np.unique(wanted, return_inverse=True)
    check_size(stream.path, len(wanted), *stream.listing.size)
    order: Sequence[str] = (decoder,)
    if decoder in _ORDER:
        order = _ORDER[decoder] if stream.listing.share_needed(distinct) <= _MAX_FRACTION_NEEDED else ()
    objection = ""
    for name in order:
        answer = _SEEKING[name](stream, distinct)
        if not isinstance(answer, str):
            return by_pyav.repeated(answer, repeats), name
        objection = one_line(answer)
    return objection


def _decode_forwards(
    stream: VideoStream, assumed_s: NDArray[np.float64], sampling: Sampling, interval: Interval, on_damage: OnDamage
) -> DecodedClip | NDArray[np.float64]:
    """Decode all frames: returns the clip if the frames have the assumed times, else their actual times."""
    chosen, indices = _sample(stream.path, sampling, assumed_s, interval)
    done = by_pyav.read_forward(stream, chosen[indices], assumed_s, interval[1])
    if done.damage and (on_damage == "exclude" or not len(done.times_s)):
        raise DecodingError(f"{stream.path}: damaged after {len(done.times_s)} frames: {done.damage}")
    if done.frames_THWC is None or not _agree(done.times_s, assumed_s, interval[1]):
        return done.times_s
    listing = stream.listing
    times_s = assumed_s[chosen] if listing.has_times else None
    return _clip(done.frames_THWC, indices, times_s, "pyav", listing.codec, len(chosen), done.damage or "")


def _agree(decoded_s: NDArray[np.float64], assumed_s: NDArray[np.float64], end_s: float | None) -> bool:
    decoded_s, assumed_s = (times_s[frames_within(times_s, (None, end_s))] for times_s in (decoded_s, assumed_s))
    return len(decoded_s) == len(assumed_s) and np.allclose(decoded_s, assumed_s, rtol=0, atol=1e-3)


def _decode_folder(
    path: str, sampling: Sampling, interval: Interval, fps: float | None, on_damage: OnDamage
) -> DecodedClip:
    if fps is None:
        _check_needs_no_times(path, sampling, interval, "give the catalog a column fps")
    state = file_state(path) if interval != (None, None) else None
    folder = FrameFolder(path) if state is None else unchanged_folder(path, state)
    num_images, damage = len(folder.images), folder.damage
    while True:
        if damage and (on_damage == "exclude" or not num_images):
            raise DecodingError(f"{path}: damaged after {num_images} images: {damage}")
        times_s = np.arange(num_images) / (fps or 1.0)
        chosen, indices = _sample(path, sampling, times_s, interval)
        frames, place, wrong = folder.read(chosen[indices])
        if frames is not None:
            times_s = times_s[chosen]
            return _clip(frames, indices, times_s if fps else None, "pillow", "images", len(chosen), damage or "")
        num_images, damage = place, wrong


def _check_needs_no_times(path: str, sampling: Sampling, interval: Interval, remedy: str) -> None:
    if sampling.needs_times or interval != (None, None):
        raise DecodingError(f"{path}: has no times, but {type(sampling).__name__} and trims need them; {remedy}")


def _sample(
    path: str, sampling: Sampling, times_s: NDArray[np.float64], interval: Interval, damage: str | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The frames within the interval (N,), and the indices (T,) of the sampled ones among them."""
    chosen = frames_within(times_s, interval)
    if len(chosen) == 0 and damage:
        raise DecodingError(f"{path}: damaged after {len(times_s)} frames: {damage}")
    if len(chosen) == 0:
        raise DecodingError(f"{path}: no frame between {interval[0] or 0.0} s and {interval[1]} s; fix the catalog")
    return chosen, sampling.indices(times_s[chosen] - times_s[chosen[0]])


def _clip(
    frames: NDArray[np.uint8],
    indices: NDArray[np.int64],
    times_s: NDArray[np.float64] | None,
    decoder: str,
    codec: str,
    num_available: int,
    damage: str = "",
) -> DecodedClip:
    span_s = 0.0 if times_s is None else times_s[-1] - times_s[0]
    fps = (num_available - 1) / span_s if span_s > 0 else 0.0
    times_s_T = None if times_s is None else times_s[indices] - times_s[0]
    return DecodedClip(frames, indices, num_available, float(fps), decoder, codec, damage, times_s_T)
