"""The video stream of a file, opened with PyAV: lists packets without decoding, and decodes frames up to any damage.

FFmpeg conceals damage: it fills or skips a damaged picture and continues. Decoding therefore stops at errors
(`err_detect=explode`) and at every other sign of damage: a packet or frame flagged as corrupt, an error logged by
FFmpeg, or a packet that gives no frame.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream as AvStream
from numpy.typing import NDArray

from videomem.errors import DecodingError, one_line
from videomem.video.decoders.packets import (
    PacketInfo,
    first_hole,
    holds_idr,
    is_truncated_avi,
    what_an_avi_lacks,
    what_the_header_misses,
)

# Containers and raw streams. Excludes playlists (hls, concat, dash), which refer to other files or addresses.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,gif,apng,h264,hevc,av1,obu,ivf,m4v,nut,"
    "mxf,rm,dv,yuv4mpegpipe"
)
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
# Packets up to this total size are kept in memory until they are decoded; otherwise the file is read a second time.
_MOST_HELD_BYTES = 256 * 2**20
# Recordings that may start anywhere: packets before their first key frame cannot be decoded.
_BROADCAST = frozenset({"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v"})
# Containers transmitted in small pieces: a gap of so many steps in a regular rate means that pieces are missing. WMV
# encoders skip a few frames occasionally.
_LEAST_HOLE = {"mpegts": 2, "asf": 8}
# Containers whose header has the duration; a truncated copy of a file still has the original duration.
_HEADER_TELLS_DURATION = frozenset({"matroska,webm", "asf", "flv"})
# The "packed bitstream" of XviD has two frames in one packet and a placeholder of a few bytes in the next.
_PLACEHOLDER_BYTES = 16


class VideoStream:
    """The first video stream of a file that is not a cover picture. Creating it lists the packets and decodes nothing.

    Attributes:
        time_base: Seconds per tick of the time stamps.
        container: FFmpeg's names for the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
        codec: FFmpeg's name for the codec, such as `h264`.
        times_s: Time of each frame (N,) in seconds from the first, according to the packets; checked by decoding.
        is_reordered: Some packets are decoded in another order than they are displayed (B-frames).
        is_timed: Every packet has a presentation time, and all are different.
        is_plain: Times start at zero at a constant rate, no packet is hidden, and the header has the right frame count.
        has_idr_only: Every key frame is an IDR picture: no later frame refers to a frame before it.
        listed_damage: The damage at which the list of packets ends, if any.
        damage: The damage at which the latest call of `frames` ended, if any.
        is_gappy: Frames were missing from the latest `frames`, at an unknown position.
    """

    def __init__(self, path: str, opened: InputContainer, complaints: list[Any]) -> None:
        self.path = path
        self._opened, self._complaints = opened, complaints
        self._stream = _video(path, opened)
        self._context = self._stream.codec_context
        self._context.thread_count = 1  # Workers decode in parallel; more threads would compete for the same cores.
        self._context.options = {"err_detect": "explode"}
        self.container = opened.format.name
        self.codec = self._context.codec.canonical_name
        self.num_streams = len(opened.streams.video)
        self.damage: str | None = None
        self.is_gappy = False
        self.listed_damage: str | None = None
        complaints.clear()  # Messages of opening; relevant ones are repeated in decoding.
        self._end_s = 0.0
        self._held: list[av.Packet[Any]] | None = []
        self.packets = self._list()
        if all(packet.is_hidden for packet in self.packets):
            raise DecodingError(f"{path}: its video stream is empty ({self.damage or 'no packet'})")
        self.time_base = float(self._stream.time_base or 0)
        shown = [packet for packet in self.packets if not packet.is_hidden]
        ticks = np.sort(np.array([p.pts for p in shown if p.pts is not None], dtype=np.int64))
        self.is_timed = len(ticks) == len(shown) and (len(ticks) < 2 or np.diff(ticks).min() > 0)
        self.times_s = self._times(ticks, len(shown))
        self.is_reordered = self._context.has_b_frames or any(p.pts != p.dts for p in self.packets)
        self.is_plain = (
            self.is_timed
            and ticks[0] == 0
            and len(np.unique(np.diff(ticks))) <= 1
            and len(shown) == len(self.packets) == self._stream.frames
        )
        self.has_idr_only = self.codec != "h264" or all(packet.is_idr for packet in self.packets if packet.is_key)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, as coded."""
        return self._context.height, self._context.width

    def _list(self) -> list[PacketInfo]:
        """List the packets from the first key frame; earlier ones cannot be decoded."""
        packets, num_bytes, extradata = [], 0, self._context.extradata or b""
        for packet in self._demuxed():
            checks_idr = packet.is_keyframe and self.codec == "h264"
            is_idr = checks_idr and holds_idr(bytes(packet), extradata)
            facts = packet.pts, packet.dts, packet.is_keyframe, is_idr, packet.is_discard, packet.size
            packets.append(PacketInfo(*facts))
            num_bytes += packet.size
            if self._held is not None:
                self._held.append(packet)
            if num_bytes > _MOST_HELD_BYTES:
                self._held = None
        keys = (place for place, packet in enumerate(packets) if packet.is_key)
        self._first = next(keys, 0) if self.container in _BROADCAST else 0
        if self.container == "avi" and not self.damage:
            num_indexed = len(self._stream.index_entries)
            self.damage = what_an_avi_lacks(self.path, packets, self._stream.frames, num_indexed)
        if self.container in _HEADER_TELLS_DURATION and not self.damage:
            self.damage = what_the_header_misses((self._opened.duration or 0) / av.time_base, self._end_s)
        least_hole = _LEAST_HOLE.get(self.container)
        if least_hole and (hole := first_hole([packet.dts for packet in packets], least_hole)):
            self.damage, packets = f"frames are missing after packet {hole}", packets[:hole]
        self.listed_damage = self.damage
        return packets[self._first :]

    def _demuxed(self) -> Iterator[av.Packet[Any]]:
        """Non-empty packets up to the first sign of damage."""
        ends_matter = self.container in _HEADER_TELLS_DURATION
        try:
            for packet in self._opened.demux(*([] if ends_matter else [self._stream])):
                if ends_matter and packet.pts is not None:
                    length = packet.duration or 0
                    self._end_s = max(self._end_s, (packet.pts + length) * float(packet.time_base))
                if packet.stream_index != self._stream.index:
                    continue
                if self._sees_damage(packet.is_corrupt):
                    return
                if packet.size:
                    yield packet
        except av.FFmpegError as error:
            self.damage = _reason(error)
        self._sees_damage()

    def _sees_damage(self, is_corrupt: bool = False) -> bool:
        if (is_corrupt or self._complaints) and not self.damage:
            self.damage = one_line(self._complaints[0][2]) if self._complaints else "marked as corrupt"
        return self.damage is not None

    def _times(self, ticks: NDArray[np.int64], num_shown: int) -> NDArray[np.float64]:
        rate = self._stream.average_rate or self._stream.guessed_rate
        if self.is_timed:
            return (ticks - ticks[0]) * self.time_base
        if rate:
            return np.arange(num_shown) / float(rate)
        raise DecodingError(f"{self.path}: has neither time stamps nor a frame rate")

    def first_frame(self) -> VideoFrame:
        """Decode the first frame only, and rewind the stream."""
        frame = next(self.frames(), None)
        if frame is None:
            raise DecodingError(f"{self.path}: no frame can be decoded ({self.damage or 'its packets give none'})")
        self.restart()
        return frame

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[VideoFrame]:
        """Decode packets start..stop: their frames in display order, up to the first sign of damage."""
        self._complaints.clear()
        self.damage, self.is_gappy, num_frames = None, False, 0
        is_cut_short = stop is None and self.listed_damage is not None
        # Frames still waiting for reordering, which None asks for, may refer to missing ones.
        last: list[None] = [] if is_cut_short else [None]
        try:
            for packet in chain(self._content(start, stop), last):
                for frame in [] if packet is not None and self._sees_damage() else self._context.decode(packet):
                    if self._sees_damage(frame.is_corrupt):
                        return
                    num_frames += 1
                    yield frame
                if packet is not None and self._sees_damage():
                    return
        except av.FFmpegError as error:
            self.damage = _reason(error)
            return
        least_bytes = _PLACEHOLDER_BYTES if self.codec == "mpeg4" else 0
        expected = [p for p in self.packets[start:stop] if not p.is_hidden and p.num_bytes > least_bytes]
        if is_cut_short:
            self.damage = self.listed_damage
        elif num_frames < len(expected) and not self._sees_damage():
            self.damage = f"{len(expected)} packets gave {num_frames} frames"
            self.is_gappy = True

    def _content(self, start: int, stop: int | None) -> Iterator[av.Packet[Any]]:
        """The listed packets, from memory or by reading the file again."""
        start, stop = start + self._first, self._first + (len(self.packets) if stop is None else stop)
        if self._held is not None:
            yield from self._held[start:stop]
            return
        with _open(self.path) as opened:
            stream = _video(self.path, opened)
            self._complaints.clear()
            packets = (packet for packet in opened.demux(stream) if packet.size)
            for place, packet in enumerate(packets):
                if place >= stop:
                    return
                if place >= start:
                    yield packet

    def restart(self) -> None:
        """Flush the decoder, so that `frames` can start at another packet."""
        self._context.flush_buffers()

    def groups(self) -> list[tuple[int, int]] | None:
        """Ranges of packets (groups of pictures) that can be decoded independently, in display order; None if unsure.

        Each range starts with a key frame, which is displayed first, and refers to no earlier frame.
        """
        is_unsure = (
            self.codec not in ("h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video")
            or not ("mp4" in self.container or "matroska" in self.container)
            or not (self.is_timed and self.has_idr_only)
            or any(packet.is_hidden for packet in self.packets)
            or self.listed_damage is not None
            or not self.packets[0].is_key
        )
        if is_unsure:
            return None
        shown_until = -1 << 62
        for start, stop in self._ranges:
            stamps = [packet.pts or 0 for packet in self.packets[start:stop]]
            if stamps[0] != min(stamps) or stamps[0] <= shown_until:
                return None
            shown_until = max(stamps)
        return self._ranges

    @cached_property
    def _ranges(self) -> list[tuple[int, int]]:
        starts = [place for place, packet in enumerate(self.packets) if packet.is_key]
        return list(pairwise([*starts, len(self.packets)]))

    def share_needed(self, wanted: NDArray[np.int64]) -> float:
        """Approximate fraction of the packets that are in groups of pictures with requested frames."""
        keep = set(wanted.tolist())
        needed = sum(stop - start for start, stop in self._ranges if not keep.isdisjoint(range(start, stop)))
        return needed / len(self.packets)

    def num_sound(self, pts: Sequence[int | None]) -> int:
        """Number of frames of the latest `frames`, which ended in damage, that are intact and in the right position.

        Damage starts before it is detected, so the last frame is not counted. If frames may be missing at an unknown
        position, the result is 0.
        """
        if self.is_gappy and not self.is_timed:
            return 0
        if self.is_gappy:
            expected = self.stamps(0, len(self.packets))
            return next(place for place, one in enumerate([*pts, None]) if one != expected[place])
        if self.container == "avi" and self.damage == self.listed_damage and not is_truncated_avi(self.path):
            return 0
        return max(len(pts) - 1, 0)

    def stamps(self, start: int, stop: int) -> list[int | None]:
        """Presentation times of packets, in display order."""
        return sorted((packet.pts for packet in self.packets[start:stop]), key=lambda pts: pts or 0)


def _video(path: str, opened: InputContainer) -> AvStream:
    """The first video stream that is not a cover picture."""
    streams = [stream for stream in opened.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise DecodingError(f"{path}: has no video stream")
    if streams[0].codec_context is None:
        raise DecodingError(f"{path}: its codec has no decoder here")
    return streams[0]


@contextmanager
def open_stream(path: str) -> Iterator[VideoStream]:
    """Open the video stream of a local file.

    Raises:
        DecodingError: If the file has no video stream that can be decoded.
    """
    with _logged_errors() as complaints, _open(path) as opened:
        yield VideoStream(path, opened, complaints)


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
        with av.open(f"file:{os.path.abspath(path)}", options=_OPEN_OPTIONS, metadata_errors="ignore") as opened:
            yield opened
    except av.FFmpegError as error:
        raise DecodingError(f"{path}: not decodable: {_reason(error)}") from error


def _reason(error: av.FFmpegError) -> str:
    return error.strerror or one_line(error)
