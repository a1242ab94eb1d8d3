"""Decoding that never returns a wrong frame: the one module that opens videos.

A clip is read in separate steps: `probe` lists the stream's packets without decoding, the sampling chooses indices, a
backend decodes exactly those. PyAV decodes forwards from the first frame, which is right everywhere. decord seeks, and
returns wrong frames without a word for many common encodings; it serves only the streams on an allow-list
(`why_not_decord`), which tests hold it to with frames that carry their own number.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from videomem.errors import DecodingError
from videomem.video.catalog import file_problem
from videomem.video.sampling import Sampling

Decoder = Literal["auto", "decord", "pyav"]

# Containers and raw streams; no playlists (hls, concat, dash), which name further files or addresses.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,gif,apng,h264,hevc,av1,obu,ivf,m4v,nut"
)
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
_DECORD_PIXEL_FORMATS = frozenset({"yuv420p", "gbrp"})


@dataclass(frozen=True)
class StreamProbe:
    """What the packets of a file's first video stream say, before any but the first frame is decoded.

    Attributes:
        times_s: Presentation time of each packet (N,) in seconds from the first: a claim, which decoding checks.
        reordered: Some packet is decoded at another place than it is shown (B-frames).
        clean_key_frames: Every key frame is an H.264 IDR picture, behind which nothing refers to what came before.
        plain_timeline: Starts at zero, ticks evenly, has no discarded packet, and the header's frame count agrees.
    """

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    times_s: NDArray[np.float64]
    reordered: bool
    plain_timeline: bool
    clean_key_frames: bool
    num_video_streams: int
    rotation_deg: int
    interlaced: bool


@dataclass(frozen=True)
class DecodedClip:
    """Chosen frames of a clip.

    Shape:
        frames_THWC: (T, height, width, 3) uint8 RGB
        indices_T: (T,) place of each within the clip
    """

    frames_THWC: NDArray[np.uint8]
    indices_T: NDArray[np.int64]
    num_available: int
    fps: float
    decoder: str


def decoder_versions(decoder: Decoder) -> dict[str, str]:
    """Versions of the decoders that may serve: a cause of the features, so part of the store's key."""
    names = ("av",) if decoder == "pyav" else ("av", "decord")
    return {name: version(name) for name in names if importlib.util.find_spec(name)}


def decode_clip(
    path: Path | str,
    sampling: Sampling,
    interval: tuple[float | None, float | None] = (None, None),
    decoder: Decoder = "auto",
) -> DecodedClip:
    """Decode the frames of a clip that `sampling` chooses.

    Args:
        path: A local video file.
        sampling: Chooses indices among the frames of the clip.
        interval: Start and end of the clip in seconds from the file's first frame, start <= time < end.
        decoder: `auto` takes decord where it is exact and PyAV elsewhere; `decord` refuses where it is not.
    Raises:
        DecodingError: If the file is damaged, is not a video, or cannot be decoded exactly.
    """
    path = str(path)
    if problem := file_problem(path):
        raise DecodingError(problem)
    stream = probe(path)
    objection = why_not_decord(stream) if decoder != "pyav" else "PyAV was asked for"
    if objection is None:
        chosen = _within(stream.times_s, interval)
        indices = _choose(path, sampling, stream.times_s[chosen], interval)
        frames = _read_decord(path, chosen[indices], len(stream.times_s))
        if frames is not None:
            return _clip(frames, indices, stream.times_s[chosen], "decord")
        objection = "it counts another number of frames than the file has"
    if decoder == "decord":
        raise DecodingError(f"{path}: decord is not exact here ({objection}); set data.decoder to auto")
    return _decode_with_pyav(path, stream, sampling, interval)


class _Packet(NamedTuple):
    """What `probe` keeps of a packet; its payload would be the whole file."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_flawed: bool
    is_idr: bool

    @classmethod
    def of(cls, packet: av.Packet[Any], extradata: bytes | None) -> _Packet:
        is_idr = packet.is_keyframe and _holds_idr(bytes(packet), extradata or b"")
        return cls(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard or packet.is_corrupt, is_idr)


def _holds_idr(payload: bytes, extradata: bytes) -> bool:
    """Whether a packet of H.264 in mp4 has a NAL unit of type 5; units follow their length (ISO/IEC 14496-15, 5.3)."""
    length_bytes = (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 4
    place = 0
    while place + length_bytes < len(payload):
        start = place + length_bytes
        if payload[start] & 31 == 5:
            return True
        place = start + int.from_bytes(payload[place:start], "big")
    return False


def probe(path: str) -> StreamProbe:
    """List the packets of the first video stream and decode its first frame."""
    with _open(path) as container:
        streams = container.streams.video
        if not streams:
            raise DecodingError(f"{path}: holds no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise DecodingError(f"{path}: its codec has no decoder here")
        context, name = stream.codec_context, container.format.name
        packets = [_Packet.of(packet, context.extradata) for packet in container.demux(stream) if packet.size]
        if not packets or stream.time_base is None:
            raise DecodingError(f"{path}: its video stream is empty")
        pts = [packet.pts for packet in packets]
        ticks = np.sort(np.array([p for p in pts if p is not None], dtype=np.int64))
        timed = len(ticks) == len(packets) and (len(ticks) < 2 or np.diff(ticks).min() > 0)
        rate = stream.average_rate or stream.guessed_rate
        if timed:
            times_s = (ticks - ticks[0]) * float(stream.time_base)
        elif rate:
            times_s = np.arange(len(packets)) / float(rate)
        else:
            raise DecodingError(f"{path}: has neither time stamps nor a frame rate")
        plain = (
            timed
            and ticks[0] == 0
            and len(np.unique(np.diff(ticks))) <= 1
            and len(packets) == stream.frames
            and packets[0].is_key
            and not any(packet.is_flawed for packet in packets)
        )
        reordered = bool(context.has_b_frames) or any(packet.pts != packet.dts for packet in packets)
    first = next(_decoded(path), None)
    if first is None:
        raise DecodingError(f"{path}: no frame of it can be decoded")
    return StreamProbe(
        container=name,
        codec=context.name,
        pixel_format=first.format.name,
        width=first.width,
        height=first.height,
        times_s=times_s,
        reordered=reordered,
        plain_timeline=plain,
        clean_key_frames=all(packet.is_idr for packet in packets if packet.is_key),
        num_video_streams=len(streams),
        rotation_deg=first.rotation,
        interlaced=first.interlaced_frame,
    )


def why_not_decord(stream: StreamProbe) -> str | None:
    """The first condition of decord's allow-list that a stream fails, or None where decord is exact."""
    if importlib.util.find_spec("decord") is None:
        return "decord is not installed"
    conditions = {
        f"the container is {stream.container}": "mp4" in stream.container.split(","),
        f"the codec is {stream.codec}": stream.codec == "h264",
        f"the pixel format is {stream.pixel_format}": stream.pixel_format in _DECORD_PIXEL_FORMATS,
        "there are B-frames": not stream.reordered,
        "the time stamps are not plain": stream.plain_timeline,
        "some key frames are not IDR pictures": stream.clean_key_frames,
        "there are several video streams": stream.num_video_streams == 1,
        "the frames are rotated": stream.rotation_deg == 0,
        "the frames are interlaced": not stream.interlaced,
        f"frames of {stream.width}x{stream.height} are too small or odd": min(stream.width, stream.height) >= 64
        and stream.width % 2 == stream.height % 2 == 0,
    }
    return next((objection for objection, holds in conditions.items() if not holds), None)


def _decode_with_pyav(
    path: str, stream: StreamProbe, sampling: Sampling, interval: tuple[float | None, float | None]
) -> DecodedClip:
    """Decode forwards and check the packets' claim; where the decoder gives other frames, believe it and read again."""
    assumed_s = stream.times_s
    for _ in range(2):
        chosen = _within(assumed_s, interval)
        indices = _choose(path, sampling, assumed_s[chosen], interval)
        frames, decoded_s = _read_pyav(path, chosen[indices], assumed_s, interval[1])
        end_s = np.inf if interval[1] is None else interval[1]
        before_s, expected_s = decoded_s[decoded_s < end_s], assumed_s[assumed_s < end_s]
        agreed = len(before_s) == len(expected_s) and np.allclose(before_s, expected_s, atol=1e-3)
        if agreed and frames is not None:
            return _clip(frames, indices, assumed_s[chosen], "pyav")
        assumed_s = decoded_s
    raise DecodingError(f"{path}: decodes to another number of frames each time ({len(decoded_s)} the last)")


def _read_pyav(
    path: str, wanted: NDArray[np.int64], assumed_s: NDArray[np.float64], end_s: float | None
) -> tuple[NDArray[np.uint8] | None, NDArray[np.float64]]:
    """Frames at ascending indices from the file's start, and the times of all frames decoded on the way.

    The frames are None where there are fewer than the packets promised; the caller reads again with the true times.
    """
    distinct, repeats = np.unique(wanted, return_inverse=True)
    keep, kept = set(distinct.tolist()), []
    pts: list[int | None] = []
    time_base = 0.0
    for number, frame in enumerate(_decoded(path)):
        time_base = float(frame.time_base or 0)
        pts.append(frame.pts)
        if number in keep:
            kept.append(np.rot90(frame.to_ndarray(format="rgb24"), k=round(frame.rotation / 90)))
        known = end_s is not None and pts[0] is not None and frame.pts is not None
        if known and (frame.pts - pts[0]) * time_base >= end_s:  # type: ignore[operator]
            break
    times_s = _frame_times(pts, time_base, assumed_s)
    if len(kept) != len(distinct):
        return None, times_s
    if len({image.shape for image in kept}) > 1:
        raise DecodingError(f"{path}: the frame size changes within the video")
    return np.ascontiguousarray(np.stack(kept)[repeats]), times_s


def _frame_times(pts: Sequence[int | None], time_base: float, assumed_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times in seconds from the first frame; frames without usable stamps keep the assumed spacing."""
    stamps = [p for p in pts if p is not None]
    if len(stamps) == len(pts) and all(a < b for a, b in pairwise(stamps)):
        return (np.array(stamps, dtype=np.float64) - stamps[0]) * time_base
    spacing_s = assumed_s[-1] / max(len(assumed_s) - 1, 1)
    return np.arange(len(pts)) * spacing_s


def _read_decord(path: str, wanted: NDArray[np.int64], num_frames: int) -> NDArray[np.uint8] | None:
    """Frames at the given indices, or None where decord disagrees on how many there are."""
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    distinct, repeats = np.unique(wanted, return_inverse=True)
    try:
        # A reader made before a fork hangs its workers, so each call opens its own; 0 threads fail on some codecs.
        reader = decord.VideoReader(path, num_threads=1)
        if len(reader) != num_frames:
            return None
        frames: NDArray[np.uint8] = reader.get_batch(distinct.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        raise DecodingError(f"{path}: decord: {_one_line(error)}") from error
    return np.ascontiguousarray(frames[repeats])


def _within(times_s: NDArray[np.float64], interval: tuple[float | None, float | None]) -> NDArray[np.int64]:
    start_s, end_s = interval
    inside = (times_s >= (start_s or 0.0)) & (times_s < (np.inf if end_s is None else end_s))
    return np.flatnonzero(inside).astype(np.int64)


def _choose(
    path: str, sampling: Sampling, times_s: NDArray[np.float64], interval: tuple[float | None, float | None]
) -> NDArray[np.int64]:
    if len(times_s) == 0:
        raise DecodingError(f"{path}: no frame between {interval[0] or 0.0} s and {interval[1]} s; mend the catalog")
    return sampling.indices(times_s - times_s[0])


def _clip(
    frames: NDArray[np.uint8], indices: NDArray[np.int64], times_s: NDArray[np.float64], decoder: str
) -> DecodedClip:
    span_s = times_s[-1] - times_s[0]
    fps = (len(times_s) - 1) / span_s if span_s > 0 else 0.0
    return DecodedClip(frames, indices, len(times_s), float(fps), decoder)


def _decoded(path: str) -> Iterator[VideoFrame]:
    """Frames of the first video stream in the order they are shown."""
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # Workers decode side by side; threads within would only contend.
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise DecodingError(f"{path}: frame at {frame.time} s is damaged")
            yield frame


@contextmanager
def _open(path: str) -> Iterator[InputContainer]:
    """Open with FFmpeg held to this one local file; real files carry tags that are not UTF-8."""
    try:
        with av.open(f"file:{os.path.abspath(path)}", options=_OPEN_OPTIONS, metadata_errors="ignore") as container:
            yield container
    except av.FFmpegError as error:
        raise DecodingError(f"{path}: not decodable: {error.strerror or _one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
