"""Videos whose frames have their index as a barcode, in many file formats, intact and damaged.

The number read from a decoded frame shows whether it is the requested frame.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

BITS = 8
Image = NDArray[np.uint8]


def barcode(number: int, height: int = 96, width: int = 160) -> Image:
    """A frame with `number` in black and white blocks, over a gray gradient."""
    image = np.broadcast_to(np.linspace(60, 190, width).astype(np.uint8)[None, :, None], (height, width, 3)).copy()
    block = width // BITS
    for bit in range(BITS):
        image[height // 4 : 3 * height // 4, bit * block : (bit + 1) * block] = 235 if number >> bit & 1 else 20
    return image


def read_barcode(image: Image) -> int:
    height, width, _ = image.shape
    block, margin = width // BITS, width // BITS // 4
    middle = image[height // 2 - height // 12 : height // 2 + height // 12]
    blocks = (middle[:, bit * block + margin : (bit + 1) * block - margin] for bit in range(BITS))
    return sum(1 << bit for bit, pixels in enumerate(blocks) if pixels.mean() > 128)


@dataclass(frozen=True)
class Kind:
    """A kind of file: how its frames are encoded and written, and how the file is changed afterwards.

    Attributes:
        pts: Presentation time of each frame in ticks of 1/fps; by default 0, 1, 2, ...
        beside: Another stream in the file: "sound", "second video" (all frames have number 0), or "cover" (an image).
        cut_at: Copy packets from the key frame before this frame, and hide earlier frames with an edit list.
        after: Changes the bytes of the finished file.
        shown: Numbers of the displayed frames; default: all.
        decord: Whether decord may be used for it.
    """

    suffix: str
    codec: str
    options: Mapping[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    num_frames: int = 60
    height: int = 96
    width: int = 160
    fps: int | Fraction = 25
    pts: Sequence[int] | None = None
    container: Mapping[str, str] = field(default_factory=dict)
    beside: str = ""
    cut_at: int = 0
    after: Callable[[bytes], bytes] | None = None
    shown: Sequence[int] | None = None
    decord: bool = False

    @property
    def expected(self) -> list[int]:
        return list(range(self.num_frames) if self.shown is None else self.shown)

    def write(self, path: Path) -> Path:
        """Write the file unless it exists."""
        if not os.path.exists(path):
            target = path.with_name("unchanged-" + path.name) if self.after or self.cut_at else path
            with av.open(os.fspath(target), "w", options=dict(self.container)) as container:
                encode(container, self)
            if self.codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
                # SVT-AV1 makes its caller a real-time process: a test that hangs on purpose would starve the machine.
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            if self.after:
                path.write_bytes(self.after(target.read_bytes()))
            if self.cut_at:
                copy_from(target, path, self.cut_at)
        return path


def encode(container: OutputContainer, kind: Kind) -> None:
    streams = [_video(container, kind)]
    if kind.beside == "second video":
        streams.append(_video(container, kind))
    elif kind.beside == "sound":
        sound = container.add_stream("aac", rate=16000, layout="mono")
    elif kind.beside == "cover":
        cover = container.add_stream("mjpeg", options={"q:v": "3"})
        assert isinstance(cover, VideoStream)
        cover.pix_fmt, cover.height, cover.width = "yuvj420p", kind.height, kind.width
        cover.disposition = Disposition.attached_pic
    for place in range(kind.num_frames):
        for stream in streams:
            image = barcode(place if stream is streams[0] else 0, kind.height, kind.width)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = place if kind.pts is None else kind.pts[place]
            frame.time_base = 1 / Fraction(kind.fps)
            container.mux(stream.encode(frame))
        if kind.beside == "sound":
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 640), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 16000, 640 * place
            container.mux(sound.encode(samples))
        if kind.beside == "cover" and place == 0:
            still = av.VideoFrame.from_ndarray(barcode(99, kind.height, kind.width), format="rgb24")
            container.mux(cover.encode(still.reformat(format="yuvj420p")))
    for stream in streams:
        container.mux(stream.encode())


def _video(container: OutputContainer, kind: Kind) -> VideoStream:
    stream = container.add_stream(kind.codec, rate=kind.fps, options=dict(kind.options))
    assert isinstance(stream, VideoStream)
    stream.codec_context.thread_count = 1
    stream.pix_fmt, stream.height, stream.width = kind.pixel_format, kind.height, kind.width
    stream.codec_context.time_base = 1 / Fraction(kind.fps)
    return stream


def copy_from(source: Path, target: Path, number: int) -> None:
    """Cut without re-encoding, as editors do: frames before `number` remain, hidden by an edit list."""
    with av.open(os.fspath(source)) as whole, av.open(
        os.fspath(target), "w", options={"avoid_negative_ts": "disabled", "movflags": "use_metadata_tags"}
    ) as cut:  # fmt: skip
        stream = whole.streams.video[0]
        copied = cut.add_stream_from_template(stream)
        packets = [packet for packet in whole.demux(stream) if packet.size]
        shown = sorted(packet.pts for packet in packets)
        start = max(place for place, packet in enumerate(packets) if packet.is_keyframe and packet.pts <= shown[number])
        for packet in packets[start:]:
            packet.pts, packet.dts = packet.pts - shown[number], packet.dts - shown[number]
            packet.stream = copied
            cut.mux(packet)


def with_matrix(a: float, b: float, c: float, d: float) -> Callable[[bytes], bytes]:
    """Sets the display matrix of an mp4's track, which maps a point (x, y) to (a x + c y, b x + d y)."""

    def change(content: bytes) -> bytes:
        changed, one = bytearray(content), 1 << 16
        matrix = changed.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
        numbers = (round(number * one) for number in (a, b, 0, c, d, 0, 0, 0, 1 << 14))
        changed[matrix : matrix + 36] = struct.pack(">9i", *numbers)
        return bytes(changed)

    return change


def without_sample_lengths(content: bytes) -> bytes:
    """An mp4 whose samples have a length of zero, so that all are displayed at the same time."""
    changed = bytearray(content)
    table = changed.index(b"stts") + 8
    for entry in range(int.from_bytes(changed[table : table + 4], "big")):
        changed[table + 8 + 8 * entry : table + 12 + 8 * entry] = bytes(4)
    return bytes(changed)


def without_gif_extensions(content: bytes) -> bytes:
    """A GIF87a without the extensions that announce the delay before each image."""
    place = 13 + (3 << (content[10] & 7) + 1 if content[10] & 0x80 else 0)
    kept = b"GIF87a" + content[6:place]
    while content[place] != 0x3B:
        start, is_image = place, content[place] == 0x2C
        flags = content[place + 9] if is_image else 0
        place += 2 if not is_image else 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        while content[place]:
            place += content[place] + 1
        place += 1
        kept += content[start:place] if is_image else b""
    return kept + b";"


def from_the_middle(content: bytes) -> bytes:
    """An MPEG-TS recording that starts between key frames; the first packets, which have the tables, are kept."""
    return content[: 188 * 3] + content[len(content) // 5 // 188 * 188 :]


X264, LOSSLESS = {"bf": "0"}, {"bf": "0", "qp": "0"}
QUIET = {"x265-params": "log-level=none"}
GOOD = {"q:v": "3"}
VARIABLE = tuple(int(t) for t in np.cumsum(np.tile([1, 3, 1, 2, 5], 12)))

KINDS: dict[str, Kind] = {
    # H.264, the most common codec; `decord=True` where decord may be used.
    "h264 without B-frames": Kind("mp4", "libx264", X264, decord=True),
    "h264, every frame a key frame": Kind("mp4", "libx264", {"g": "1"}, decord=True),
    "h264, key frame every 12": Kind("mp4", "libx264", X264 | {"g": "12"}, decord=True),
    "h264, one key frame": Kind("mp4", "libx264", X264 | {"g": "999"}, num_frames=250, decord=True),
    "h264 lossless RGB": Kind("mp4", "libx264rgb", LOSSLESS, "rgb24", decord=True),
    "h264 in mov": Kind("mov", "libx264", X264, decord=True),
    "h264 at 29.97 frames a second": Kind("mp4", "libx264", X264, fps=Fraction(30000, 1001), decord=True),
    "h264 with several slices": Kind("mp4", "libx264", X264 | {"slices": "4"}, decord=True),
    "h264 with the index in front": Kind("mp4", "libx264", X264, container={"movflags": "faststart"}, decord=True),
    "h264 baseline profile": Kind("mp4", "libx264", {"profile": "baseline"}, decord=True),
    "h264 with two references": Kind("mp4", "libx264", X264 | {"refs": "5"}, decord=True),
    "h264 of two frames": Kind("mp4", "libx264", X264, num_frames=2, decord=True),
    "h264 of one frame": Kind("mp4", "libx264", X264, num_frames=1),
    "h264 full range": Kind("mp4", "libx264", X264, "yuvj420p"),
    "h264 with B-frames": Kind("mp4", "libx264", {"bf": "3"}),
    "h264 with a pyramid of B-frames": Kind("mp4", "libx264", {"bf": "8", "x264-params": "b-pyramid=normal:b-adapt=0"}),
    "h264 open GOP": Kind("mp4", "libx264", {"bf": "3", "g": "12", "x264-params": "open-gop=1"}),
    "h264 intra refresh": Kind("mp4", "libx264", X264 | {"g": "30", "intra-refresh": "1"}),
    "h264 interlaced": Kind("mp4", "libx264", {"flags": "+ildct+ilme", "x264-params": "tff=1"}),
    "h264 4:4:4": Kind("mp4", "libx264", X264, "yuv444p"),
    "h264 4:2:2": Kind("mp4", "libx264", X264, "yuv422p"),
    "h264 gray": Kind("mp4", "libx264", X264, "gray"),
    "h264 10 bit": Kind("mp4", "libx264", X264, "yuv420p10le"),
    "h264 fragmented": Kind("mp4", "libx264", X264 | {"g": "12"}, container={"movflags": "frag_keyframe+empty_moov"}),
    "h264 variable frame rate": Kind("mp4", "libx264", {"bf": "2"}, pts=VARIABLE),
    "h264 variable frame rate in mkv": Kind("mkv", "libx264", {"bf": "2"}, pts=VARIABLE),
    "h264 that starts late": Kind("mp4", "libx264", X264, pts=range(40, 100)),
    "h264 that starts before zero": Kind(
        "mp4", "libx264", X264, pts=range(-10, 50), container={"avoid_negative_ts": "disabled"}, shown=range(10, 60)
    ),
    "h264 cut at a key frame": Kind("mp4", "libx264", X264 | {"g": "12"}, cut_at=24, shown=range(24, 60)),
    "h264 cut between key frames": Kind("mp4", "libx264", X264 | {"g": "12"}, cut_at=31, shown=range(31, 60)),
    "h264 with B-frames cut between key frames": Kind("mp4", "libx264", {"g": "12"}, cut_at=31, shown=range(31, 60)),
    "h264 with sound": Kind("mp4", "libx264", X264, beside="sound", decord=True),
    "h264 before a second video": Kind("mp4", "libx264", X264, beside="second video"),
    "h264 with a cover picture": Kind("mp4", "libx264", X264, beside="cover"),
    "h264 rotated": Kind("mp4", "libx264", X264, after=with_matrix(0, 1, -1, 0)),
    "h264 mirrored": Kind("mp4", "libx264", X264, after=with_matrix(-1, 0, 0, 1)),
    "h264 with a display matrix of zeros": Kind("mp4", "libx264", X264, after=with_matrix(0, 0, 0, 0)),
    "h264 without sample lengths": Kind("mp4", "libx264", X264, after=without_sample_lengths),
    "h264 small": Kind("mp4", "libx264", LOSSLESS, height=16, width=16),
    "h264 odd size": Kind("mp4", "libx264", X264, "yuv444p", height=97, width=163),
    "h264 very wide": Kind("mp4", "libx264rgb", LOSSLESS, "rgb24", height=32, width=640),
    "h264 in avi": Kind("avi", "libx264", {"bf": "2"}),
    "h264 in mkv": Kind("mkv", "libx264", X264),
    "h264 in mpegts": Kind("ts", "libx264", {"bf": "2"}),
    "h264 in flv": Kind("flv", "libx264", {"bf": "2"}),
    "h264 in 3gp": Kind("3gp", "libx264", {"bf": "2"}),
    "h264 in nut": Kind("nut", "libx264", {"bf": "2"}),
    "h264 raw": Kind("h264", "libx264", {"bf": "2"}),
    # Other current codecs.
    "hevc": Kind("mp4", "libx265", QUIET),
    "hevc without B-frames": Kind("mp4", "libx265", {"x265-params": "log-level=none:bframes=0"}),
    "hevc closed GOP": Kind("mp4", "libx265", {"x265-params": "log-level=none:open-gop=0:keyint=12"}),
    "hevc open GOP": Kind("mp4", "libx265", {"x265-params": "log-level=none:open-gop=1:keyint=12"}),
    "hevc 10 bit": Kind("mp4", "libx265", QUIET, "yuv420p10le"),
    "hevc in mkv": Kind("mkv", "libx265", QUIET),
    "hevc in mpegts": Kind("ts", "libx265", QUIET),
    "hevc raw": Kind("hevc", "libx265", QUIET),
    "vp8 in webm": Kind("webm", "libvpx", {"b:v": "1M"}),
    "vp8 with hidden frames": Kind("webm", "libvpx", {"b:v": "1M", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9 in webm": Kind("webm", "libvpx-vp9", {"b:v": "1M"}),
    "vp9 with hidden frames": Kind("webm", "libvpx-vp9", {"b:v": "1M", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9 odd size": Kind("webm", "libvpx-vp9", {"b:v": "1M"}, height=97, width=163),
    "vp9 in mp4": Kind("mp4", "libvpx-vp9", {"b:v": "1M"}),
    "vp9 in ivf": Kind("ivf", "libvpx-vp9", {"b:v": "1M"}),
    "av1 in mp4": Kind("mp4", "libsvtav1", {"preset": "8", "crf": "15"}),
    "av1 10 bit": Kind("mp4", "libsvtav1", {"preset": "8", "crf": "15"}, "yuv420p10le"),
    "av1 in webm": Kind("webm", "libsvtav1", {"preset": "8", "crf": "15"}),
    "av1 in ivf": Kind("ivf", "libsvtav1", {"preset": "8", "crf": "15"}),
    # Older codecs, found in data sets of the last twenty years.
    "mpeg4 in avi": Kind("avi", "mpeg4", GOOD),
    "mpeg4 in avi with B-frames": Kind("avi", "mpeg4", GOOD | {"bf": "2"}),
    "mpeg4 in mp4 with B-frames": Kind("mp4", "mpeg4", GOOD | {"bf": "2"}),
    "mpeg4 in mkv": Kind("mkv", "mpeg4", GOOD | {"bf": "1"}),
    "mpeg4 with a quarter-pixel and four vectors": Kind("avi", "mpeg4", GOOD | {"flags": "+qpel+mv4"}),
    "mpeg2 in mpg": Kind("mpg", "mpeg2video", GOOD | {"bf": "2"}),
    "mpeg2 in vob": Kind("vob", "mpeg2video", GOOD),
    "mpeg2 in mpegts": Kind("ts", "mpeg2video", GOOD),
    "mpeg2 interlaced": Kind("mpg", "mpeg2video", GOOD | {"flags": "+ildct+ilme"}),
    "mpeg2 in mxf": Kind("mxf", "mpeg2video", GOOD | {"g": "1"}),
    "mpeg1 in mpg": Kind("mpg", "mpeg1video", GOOD | {"bf": "2"}),
    "wmv1": Kind("wmv", "wmv1", GOOD),
    "wmv2": Kind("wmv", "wmv2", GOOD),
    "msmpeg4v2 in avi": Kind("avi", "msmpeg4v2", GOOD),
    "msmpeg4v3 in avi": Kind("avi", "msmpeg4", GOOD),
    "sorenson h263 in flv": Kind("flv", "flv", GOOD),
    "h263 in 3gp": Kind("3gp", "h263", GOOD, height=144, width=176),
    "h263+ in avi": Kind("avi", "h263p", GOOD),
    "realvideo 1": Kind("rm", "rv10", GOOD, height=144, width=176),
    "realvideo 2": Kind("rm", "rv20", GOOD, height=144, width=176),
    "mjpeg in avi": Kind("avi", "mjpeg", GOOD, "yuvj420p"),
    "mjpeg in mov": Kind("mov", "mjpeg", GOOD, "yuvj420p"),
    "cinepak in avi": Kind("avi", "cinepak", {}, "rgb24", num_frames=12),
    "svq1 in mov": Kind("mov", "svq1", GOOD, "yuv410p"),
    "asv1 in avi": Kind("avi", "asv1", GOOD),
    "dv in avi": Kind("avi", "dvvideo", {}, height=576, width=720, num_frames=12),
    "dv raw": Kind("dv", "dvvideo", {}, height=576, width=720, num_frames=12),
    # Codecs of editing and recording programs.
    "prores in mov": Kind("mov", "prores_ks", {}, "yuv422p10le"),
    "prores with alpha": Kind("mov", "prores_ks", {"profile": "4"}, "yuva444p10le"),
    "dnxhr in mov": Kind("mov", "dnxhd", {"profile": "dnxhr_sq"}, "yuv422p", height=256, width=256),
    "cineform in mov": Kind("mov", "cfhd", {}, "yuv422p10le"),
    "jpeg2000 in mov": Kind("mov", "jpeg2000", {}, "rgb24", num_frames=12),
    "ffv1 in mkv": Kind("mkv", "ffv1", {}, "yuv420p"),
    "ffv1 in avi": Kind("avi", "ffv1", {}, "bgr0"),
    "huffyuv in avi": Kind("avi", "huffyuv", {}, "yuv422p"),
    "ffvhuff in avi": Kind("avi", "ffvhuff", {}, "yuv420p"),
    "utvideo in avi": Kind("avi", "utvideo", {}, "gbrp"),
    "magicyuv in avi": Kind("avi", "magicyuv", {}, "yuv444p"),
    "qtrle in mov": Kind("mov", "qtrle", {}, "rgb24"),
    "qtrle with alpha": Kind("mov", "qtrle", {}, "argb"),
    "png in mov": Kind("mov", "png", {}, "rgba"),
    "flashsv in flv": Kind("flv", "flashsv", {}, "bgr24"),
    "zmbv in avi": Kind("avi", "zmbv", {}, "bgr0"),
    "snow in avi": Kind("avi", "snow", {"strict": "-2", **GOOD}),
    "raw video in avi": Kind("avi", "rawvideo", {}, "bgr24"),
    "raw video in nut": Kind("nut", "rawvideo", {}, "yuv420p"),
    "yuv4mpeg": Kind("y4m", "wrapped_avframe", {}, "yuv420p"),
    "gif": Kind("gif", "gif", {}, "rgb8"),
    "gif without extensions": Kind("gif", "gif", {"gifflags": "0"}, "rgb8", after=without_gif_extensions),
    "gif with a comment at its end": Kind(
        "gif", "gif", {}, "rgb8", after=lambda content: content[:-1] + b"\x21\xfe\x05hello\0;"
    ),
    "animated png": Kind("apng", "apng", {}, "rgb24"),
    # A recording that starts between key frames; the frames before the first key frame cannot be decoded.
    "mpegts from the middle": Kind(
        "ts", "libx264", X264 | {"g": "20"}, num_frames=100, after=from_the_middle, shown=range(32, 100)
    ),
}


def file_of(folder: Path, name: str) -> Path:
    """The file of a kind, created on first use."""
    kind = KINDS[name]
    stem = "".join(letter if letter.isalnum() else "_" for letter in name)
    return kind.write(folder / f"{stem}.{kind.suffix}")
