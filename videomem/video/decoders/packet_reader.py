"""Read and decode the packets of a file with PyAV, one at a time, up to the first sign of damage.

FFmpeg conceals damage: it fills or skips a damaged picture and continues. Decoding therefore stops at errors
(`err_detect=explode`) and at every other sign of damage: a packet or frame flagged as corrupt, an error logged by
FFmpeg, or a packet that gives no frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import av
import av.logging
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream as AvStream

from videomem.errors import DecodingError, one_line
from videomem.video.decoders.bitstreams import gif_images, holds_idr, shows_frame
from videomem.video.decoders.limits import MOST_PIXELS
from videomem.video.decoders.packets import PacketInfo, what_an_avi_lacks, what_the_header_misses, where_flv_breaks
from videomem.video.files import ffmpeg_url

# Containers and raw streams. Excludes playlists (hls, concat, dash), which refer to other files or addresses.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,gif,apng,h264,hevc,av1,obu,ivf,m4v,nut,"
    "mxf,rm,dv,yuv4mpegpipe"
)
# The options are also those of the decoders that look for the size and the rate of a video.
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS, "max_pixels": str(MOST_PIXELS)}
# Containers whose header has the duration; a truncated copy of a file still has the original duration.
_HEADER_TELLS_DURATION = frozenset({"matroska,webm", "asf", "flv"})
# Streams without a container. Their packets have no time stamps; FFmpeg assumes 25 frames per second.
_RAW = frozenset({"h264", "hevc", "m4v", "mpegvideo", "obu"})
# Without usable time stamps, the average and other rates of FFmpeg, which it computes from them, differ.
_RATE_TOLERANCE = 0.01
# Frames closer than this have no times of their own, such as those of a file that gives each frame a length of zero.
LEAST_STEP_S = 0.9e-3
# The "packed bitstream" of XviD has two frames in one packet and a placeholder of a few bytes in the next.
_PLACEHOLDER_BYTES = 16
# A message of the ASF demuxer on the interleaving of sound, whatever is demuxed.
_ON_SOUND = "pkt.size != ds_packet_size"


class PacketReader:
    """Reads the first video stream of a file that is not a cover picture. Creating it reads the header only.

    Attributes:
        time_base: Seconds per tick of the time stamps.
        container: FFmpeg's names for the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
        codec: FFmpeg's name for the codec, such as `h264`.
        rate: Frames per second according to the headers; None if unknown.
        has_stamps: Time stamps are those of the file and plausible. FFmpeg invents them for raw streams.
        damage: The damage at which reading or decoding ended, if any.
    """

    def __init__(self, path: str, opened: InputContainer, complaints: list[Any]) -> None:
        self.path = path
        self._opened, self._complaints = opened, complaints
        self.stream = _video(path, opened)
        self.context = self.stream.codec_context
        self.context.thread_count = 1  # Workers decode in parallel; more threads would compete for the same cores.
        self.context.options = {"err_detect": "explode", "max_pixels": str(MOST_PIXELS)}
        self.container = opened.format.name
        self.codec = self.context.codec.canonical_name
        self.num_streams = len(opened.streams.video)
        self.time_base = float(self.stream.time_base or 0)
        is_raw = self.container in _RAW
        self.rate = _rate(self.stream, is_raw)
        self.has_stamps = not is_raw and (self.stream.average_rate or 0) * LEAST_STEP_S <= 1
        self.damage: str | None = None
        self.forget_complaints()  # Messages of opening; relevant ones are repeated in decoding.
        self._last_ticks = self._end_ticks = self._late_ticks = 0

    def forget_complaints(self) -> None:
        self._complaints.clear()

    def packets(self) -> Iterator[tuple[av.Packet[Any], PacketInfo]]:
        """All non-empty packets up to the first sign of damage."""
        extradata = self.context.extradata or b""
        has_frame, num_packets, reached = shows_frame(self.codec, extradata), 0, 0
        for packet in self._demuxed():
            payload = memoryview(packet)
            is_idr = self.codec == "h264" and packet.is_keyframe and holds_idr(payload, extradata)
            facts = packet.pts, packet.dts, packet.is_keyframe, is_idr, packet.is_discard, has_frame(payload)
            num_packets += 1
            reached = max(reached, 0 if packet.dts is None else packet.dts + 1)
            yield packet, PacketInfo(*facts, packet.size)
        if self.container in _HEADER_TELLS_DURATION and not self.damage:
            self.damage = self._what_the_header_misses(num_packets)
        if self.container == "avi" and not self.damage:
            num_indexed = len(self.stream.index_entries)
            self.damage = what_an_avi_lacks(self.path, num_packets, reached, self.stream.frames, num_indexed)

    def _demuxed(self) -> Iterator[av.Packet[Any]]:
        sound_until = where_flv_breaks(self.path) if self.container == "flv" else None
        try:
            for packet in self._opened.demux(self.stream):
                if self.sees_damage(packet.is_corrupt):
                    return
                if sound_until is not None and (packet.pos or 0) >= sound_until:
                    break
                if packet.pts is not None:
                    self._last_ticks = max(self._last_ticks, packet.pts)
                    self._end_ticks = max(self._end_ticks, packet.pts + (packet.duration or 0))
                if packet.size:
                    yield from [packet] if self.codec != "gif" else self._images(packet)
        except av.FFmpegError as error:
            self.damage = reason(error)
        if not self.sees_damage() and sound_until is not None:
            self.damage = f"the tag of FLV at byte {sound_until} is followed by no other"

    def _images(self, packet: av.Packet[Any]) -> Iterator[av.Packet[Any]]:
        """One packet for each image of a GIF: FFmpeg splits it at the extensions before images, which are optional."""
        content, ticks = memoryview(packet), packet.duration or 0
        ends = [*gif_images(content)[:-1], len(content)]
        for number, (start, end) in enumerate(pairwise([0, *ends])):
            image = av.Packet(bytes(content[start:end]))
            image.stream, image.time_base, image.duration = packet.stream, packet.time_base, ticks
            image.pts = image.dts = (packet.pts or 0) + self._late_ticks + number * ticks
            image.is_keyframe = packet.is_keyframe and number == 0
            yield image
        self._late_ticks += (len(ends) - 1) * ticks

    def _what_the_header_misses(self, num_packets: int) -> str | None:
        """A difference between the duration in the header and the end of all streams."""
        promised_s, end_s = (self._opened.duration or 0) / av.time_base, self._end_ticks * self.time_base
        if self._end_ticks == self._last_ticks:  # The last packet has no duration: it is shown as long as others are.
            if num_packets < 2:
                return None
            end_s += end_s / (num_packets - 1)
        if what_the_header_misses(promised_s, end_s) is None:
            return None
        with _open(self.path) as opened:
            ends_s = (
                float((packet.pts + (packet.duration or 0)) * packet.time_base)
                for packet in opened.demux()
                if packet.pts is not None
            )
            end_s = max(end_s, *ends_s)
        self.forget_complaints()  # Those on other streams.
        return what_the_header_misses(promised_s, end_s)

    @contextmanager
    def reopened(self) -> Iterator[PacketReader]:
        """A reader of the same file from its start."""
        with _open(self.path) as opened:
            yield PacketReader(self.path, opened, self._complaints)

    def seek(self, ticks: int) -> None:
        """Go on with the last key frame at or before a time stamp, if the file can be sought; else remain."""
        with suppress(av.FFmpegError):
            self._opened.seek(ticks, stream=self.stream)

    def sees_damage(self, is_corrupt: bool = False) -> bool:
        complaint = next((text for *_, text in self._complaints if not text.startswith(_ON_SOUND)), None)
        if (is_corrupt or complaint) and not self.damage:
            self.damage = one_line(complaint or "marked as corrupt")
        return self.damage is not None

    def decoded(self, packets: Iterable[av.Packet[Any] | None]) -> Iterator[VideoFrame]:
        """The frames of packets in display order, up to the first sign of damage. None asks for the last frames."""
        try:
            for packet in packets:
                for frame in [] if packet is not None and self.sees_damage() else self.context.decode(packet):
                    if self.sees_damage(frame.is_corrupt):
                        return
                    yield frame
                if packet is not None and self.sees_damage():
                    return
        except av.FFmpegError as error:
            if not self.sees_damage():  # A message says more than the error.
                self.damage = reason(error)

    def gives_frame(self, packet: PacketInfo) -> bool:
        """Whether decoding must give a frame for a packet."""
        return packet.is_shown and packet.num_bytes > (_PLACEHOLDER_BYTES if self.codec == "mpeg4" else 0)


def _video(path: str, opened: InputContainer) -> AvStream:
    """The first video stream that is not a cover picture."""
    streams = [stream for stream in opened.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise DecodingError(f"{path}: has no video stream")
    if streams[0].codec_context is None:
        raise DecodingError(f"{path}: its codec has no decoder here")
    return streams[0]


def _rate(stream: AvStream, is_raw: bool) -> float | None:
    """Frames per second: of raw streams as the codec states them, else the average if another source confirms it."""
    stated = stream.codec_context.framerate
    rate = stated if is_raw else stream.average_rate
    if not rate or rate * LEAST_STEP_S > 1:
        return None
    others = [other for other in (stream.guessed_rate, stated) if other]
    return float(rate) if any(abs(rate - other) <= _RATE_TOLERANCE * other for other in others) else None


@contextmanager
def open_reader(path: str) -> Iterator[PacketReader]:
    """Open the video stream of a local file.

    Raises:
        DecodingError: If the file has no video stream that can be decoded.
    """
    with _logged_errors() as complaints, _open(path) as opened:
        yield PacketReader(path, opened, complaints)


@contextmanager
def _logged_errors() -> Iterator[list[Any]]:
    """Collect all errors logged by PyAV's FFmpeg, including repeated ones, which PyAV skips by default."""
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture() as complaints:
            yield complaints
    finally:
        av.logging.set_skip_repeated(skips)
        av.logging.set_level(level)


@contextmanager
def _open(path: str) -> Iterator[InputContainer]:
    """Open a file, and let FFmpeg read no other file. Metadata may have invalid UTF-8, which is ignored."""
    try:
        with av.open(ffmpeg_url(path), options=_OPEN_OPTIONS, metadata_errors="ignore") as opened:
            yield opened
    except av.FFmpegError as error:
        raise DecodingError(f"{path}: not decodable: {reason(error)}") from error


def reason(error: av.FFmpegError) -> str:
    return error.strerror or one_line(error)
