"""The video stream of a file: lists packets without decoding, and decodes frames up to any damage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from videomem.errors import DecodingError
from videomem.video.decoders.packet_reader import LEAST_STEP_S, PacketReader, open_reader
from videomem.video.decoders.packets import (
    PacketInfo,
    first_hole,
    is_truncated_avi,
    loses_media_objects,
    loses_transport_packets,
)

# Packets up to this total size are kept in memory until they are decoded; otherwise the file is read a second time.
_MOST_HELD_BYTES = 256 * 2**20
# Recordings that may start anywhere: packets before their first key frame cannot be decoded.
_BROADCAST = frozenset({"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v"})
# Containers transmitted in small pieces, which have counters: with a gap in a regular rate, a gap in the counter means
# that pieces are missing. Encoders that skip frames leave none.
_LOSES_PIECES = {"mpegts": loses_transport_packets, "asf": loses_media_objects}
# Packets described in memory, about 1 GiB: 38 hours at 30 frames per second.
_MOST_PACKETS = 2**22
_BYTES_OF_PACKET = 512  # What PyAV and FFmpeg keep for each packet, beside its payload.
# A recording without any key frame within so many packets is decoded from its first packet on.
_MOST_BEFORE_KEY = 1000


class VideoStream:
    """The first video stream of a file that is not a cover picture. Creating it lists the packets and decodes nothing.

    Attributes:
        time_base: Seconds per tick of the time stamps.
        container: FFmpeg's names for the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
        codec: FFmpeg's name for the codec, such as `h264`.
        times_s: Time of each frame (N,) in seconds from the first, according to the packets; checked by decoding.
        has_times: The file has a frame rate or plausible time stamps; otherwise `times_s` only numbers the frames.
        is_reordered: Some packets are decoded in another order than they are displayed (B-frames).
        is_timed: Every packet with a frame has a presentation time, and all are different.
        is_plain: Times start at zero at a constant rate, every packet shows a frame, and the header has their number.
        has_idr_only: Every key frame is an IDR picture: no later frame refers to a frame before it.
        listed_damage: The damage at which the list of packets ends, if any.
        is_gappy: Frames were missing from the latest `frames`, at an unknown position.
    """

    def __init__(self, path: str, reader: PacketReader) -> None:
        self.path, self._reader = path, reader
        self._context = reader.context
        self.time_base, self.container, self.codec = reader.time_base, reader.container, reader.codec
        self.num_streams = reader.num_streams
        self.is_gappy = False
        self.listed_damage: str | None = None
        self._held: list[av.Packet[Any]] | None = []
        self.packets = self._list()
        shown = [packet for packet in self.packets if packet.is_shown]
        if not shown:
            raise DecodingError(f"{path}: its video stream is empty ({self.damage or 'no packet'})")
        ticks = np.sort(np.array([p.pts for p in shown if p.pts is not None], dtype=np.int64))
        self.is_timed = len(ticks) == len(shown) and (len(ticks) < 2 or np.diff(ticks).min() > 0)
        if not self.is_timed and any(packet.is_hidden for packet in self.packets):
            raise DecodingError(f"{path}: an edit list hides frames by their times, but several have the same time")
        self.times_s, self.has_times = self._times(ticks, len(shown))
        self.is_reordered = self._context.has_b_frames or any(p.pts != p.dts for p in self.packets)
        self.is_plain = (
            self.is_timed
            and ticks[0] == 0
            and len(np.unique(np.diff(ticks))) <= 1
            and len(shown) == len(self.packets) == reader.stream.frames
        )
        self.has_idr_only = self.codec != "h264" or all(packet.is_idr for packet in self.packets if packet.is_key)

    @property
    def damage(self) -> str | None:
        """The damage at which the latest call of `frames` ended, if any."""
        return self._reader.damage

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, as coded."""
        return self._context.height, self._context.width

    def _list(self) -> list[PacketInfo]:
        """List the packets from the first key frame; earlier ones cannot be decoded."""
        packets, num_bytes, reader = [], 0, self._reader
        for packet, facts in reader.packets():
            packets.append(facts)
            num_bytes += packet.size + _BYTES_OF_PACKET
            if len(packets) > _MOST_PACKETS:
                raise DecodingError(f"{self.path}: has more than {_MOST_PACKETS} packets; cut it into shorter files")
            if self._held is not None:
                self._held.append(packet)
            if num_bytes > _MOST_HELD_BYTES:
                self._held = None
        keys = (place for place, packet in enumerate(packets) if packet.is_key)
        self._first = next(keys, 0) if self.container in _BROADCAST else 0
        loses_pieces = _LOSES_PIECES.get(self.container)
        hole = first_hole([packet.dts for packet in packets]) if loses_pieces else None
        if hole and loses_pieces and loses_pieces(self.path, reader.stream.id):
            reader.damage, packets = f"frames are missing after packet {hole}", packets[:hole]
        self.listed_damage = reader.damage
        return packets[self._first :]

    def _times(self, ticks: NDArray[np.int64], num_shown: int) -> tuple[NDArray[np.float64], bool]:
        times_s = np.arange(num_shown) / (self._reader.rate or 1.0)
        if self.is_timed:
            times_s = (ticks - ticks[0]) * self.time_base
        is_known = self._reader.rate is not None or (self.is_timed and self._reader.has_stamps)
        return times_s, is_known and bool(num_shown == 1 or times_s[-1] / (num_shown - 1) >= LEAST_STEP_S)

    def first_frame(self) -> VideoFrame:
        """Decode the first frame only, and rewind the stream."""
        frame = next(self.frames(), None)
        if frame is None:
            raise DecodingError(f"{self.path}: no frame can be decoded ({self.damage or 'its packets give none'})")
        self.restart()
        return frame

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[VideoFrame]:
        """Decode packets start..stop: their frames in display order, up to the first sign of damage."""
        reader, num_frames = self._reader, 0
        reader.forget_complaints()
        reader.damage, self.is_gappy = None, False
        is_cut_short = stop is None and self.listed_damage is not None
        # Frames still waiting for reordering, which None asks for, may refer to missing ones.
        last: list[None] = [] if is_cut_short else [None]
        for frame in reader.decoded(chain(self._content(start, stop), last)):
            num_frames += 1
            yield frame
        if reader.damage:
            return
        num_expected = sum(
            reader.gives_frame(p) and not _is_leading(p, self.packets[0]) for p in self.packets[start:stop]
        )
        if is_cut_short:
            reader.damage = self.listed_damage
        elif num_frames < num_expected and not reader.sees_damage():
            reader.damage = f"{num_expected} packets gave {num_frames} frames"
            self.is_gappy = True

    def _content(self, start: int, stop: int | None) -> Iterator[av.Packet[Any]]:
        """The listed packets, from memory or by reading the file again."""
        start, stop = start + self._first, self._first + (len(self.packets) if stop is None else stop)
        if self._held is not None:
            yield from self._held[start:stop]
            return
        with self._reader.reopened() as again:
            for place, (packet, _) in enumerate(again.packets()):
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
            or not all(packet.is_shown for packet in self.packets)
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
        shown = (packet.pts for packet in self.packets[start:stop] if packet.is_shown)
        return sorted(shown, key=lambda pts: pts or 0)


def _is_leading(packet: PacketInfo, first: PacketInfo) -> bool:
    """Whether a packet is displayed before the first key frame: it may refer to frames before a cut."""
    return first.is_key and packet.pts is not None and first.pts is not None and packet.pts < first.pts


@contextmanager
def open_stream(path: str) -> Iterator[VideoStream]:
    """Open the video stream of a local file.

    Raises:
        DecodingError: If the file has no video stream that can be decoded.
    """
    with open_reader(path) as reader:
        yield VideoStream(path, reader)


def read_live(path: str) -> Iterator[tuple[VideoFrame, float | None]]:
    """Decode a file while it is read, in constant memory: all frames, and their times in seconds, None if unknown.

    Raises:
        DecodingError: Before the first frame if the file has no video, or after the last undamaged frame.
    """
    with open_reader(path) as reader:
        live = _Live(reader)
        yield from live.frames()
        if not live.num_frames and not reader.damage:
            reader.damage = "its video stream is empty"
        if reader.damage:
            raise DecodingError(f"{path}: damaged after {live.num_frames} frames: {reader.damage}")


class _Live:
    """Decodes packets while they are read, and counts the frames that they must give."""

    def __init__(self, reader: PacketReader) -> None:
        self._reader, self.num_frames = reader, 0
        self._num_expected = 0
        self._stamps: tuple[int, int] | None = None  # Of the first and the latest frame.
        self._has_stamps = reader.has_stamps

    def frames(self) -> Iterator[tuple[VideoFrame, float | None]]:
        reader = self._reader
        for frame in reader.decoded(self._packets()):
            yield frame, self._time_s(frame.pts)
            self.num_frames += 1
        if self.num_frames < self._num_expected and not reader.sees_damage():
            reader.damage = f"{self._num_expected} packets gave {self.num_frames} frames"

    def _packets(self) -> Iterator[av.Packet[Any] | None]:
        first = None
        for packet, facts in _from_key_frame(self._reader):
            first = first or facts
            self._has_stamps &= facts.pts is not None or not facts.is_shown
            self._num_expected += self._reader.gives_frame(facts) and not _is_leading(facts, first)
            yield packet
        if not self._reader.damage:  # Otherwise, frames still waiting for reordering may refer to missing ones.
            yield None

    def _time_s(self, pts: int | None) -> float | None:
        """Time of the next frame: by its time stamp, or, from the first one without a later stamp on, by the rate."""
        # AVI files only have the order in which frames are decoded.
        is_guessed = self._reader.container == "avi" and self._reader.context.has_b_frames
        self._has_stamps &= not is_guessed and pts is not None and (self._stamps is None or pts > self._stamps[1])
        if self._has_stamps and pts is not None:
            self._stamps = self._stamps[0] if self._stamps else pts, pts
            return (pts - self._stamps[0]) * self._reader.time_base
        return None if self._reader.rate is None else self.num_frames / self._reader.rate


def _from_key_frame(reader: PacketReader) -> Iterator[tuple[av.Packet[Any], PacketInfo]]:
    """The packets of a recording from its first key frame on; earlier ones cannot be decoded."""
    packets = reader.packets()
    if reader.container in _BROADCAST:
        waiting = []
        for pair in packets:
            waiting.append(pair)
            if pair[1].is_key or len(waiting) > _MOST_BEFORE_KEY:
                break
        yield from waiting[-1:] if waiting and waiting[-1][1].is_key else waiting
    yield from packets
