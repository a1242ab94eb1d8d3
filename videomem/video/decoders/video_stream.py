"""The video stream of a file: decodes the frames of listed packets, or of all while they are read, up to any damage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from itertools import chain, dropwhile, islice
from typing import Any

import av
from av.video.frame import VideoFrame

from videomem.errors import DecodingError
from videomem.video.decoders.listing import BROADCAST, NO_TIME, Listing
from videomem.video.decoders.packet_reader import PacketReader, open_reader
from videomem.video.decoders.packets import PacketInfo, is_truncated_avi
from videomem.video.files import file_state

# A recording without any key frame within so many packets is decoded from its first packet on.
_MOST_BEFORE_KEY = 1000


class VideoStream:
    """Decodes the first video stream of a file that is not a cover picture.

    Args:
        listing: The packets of the stream.
        open_reader: Opens a reader of the file, which is called when the first frame is decoded.
    Attributes:
        damage: The damage at which the latest call of `frames` ended, if any.
        is_gappy: Frames were missing from the latest `frames`, at an unknown position.
    """

    def __init__(self, listing: Listing, open_reader: Callable[[], PacketReader]) -> None:
        self.listing, self._open_reader = listing, open_reader
        self.path = listing.path
        self.is_gappy = False

    @cached_property
    def _reader(self) -> PacketReader:
        return self._open_reader()

    @property
    def damage(self) -> str | None:
        return self._reader.damage

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
        is_cut_short = stop is None and self.listing.damage is not None
        # Frames still waiting for reordering, which None asks for, may refer to missing ones.
        last: list[None] = [] if is_cut_short else [None]
        for frame in reader.decoded(chain(self._content(start, stop), last)):
            num_frames += 1
            yield frame
        if reader.damage:
            return
        num_expected = int(self.listing.gives_frame_N[start:stop].sum())
        if is_cut_short:
            reader.damage = self.listing.damage
        elif num_frames < num_expected and not reader.sees_damage():
            reader.damage = f"{num_expected} packets gave {num_frames} frames"
            self.is_gappy = True

    def _content(self, start: int, stop: int | None) -> Iterator[av.Packet[Any]]:
        """The listed packets, from memory or by reading the file again."""
        listing = self.listing
        start, stop = start + listing.first, listing.first + (len(listing) if stop is None else stop)
        if listing.held is not None:
            yield from listing.held[start:stop]
            return
        with self._reader.reopened() as again:
            if start > listing.first:
                yield from self._sought(again, start, stop)
            else:
                yield from (packet for packet, _ in islice(again.packets(), start, stop))

    def _sought(self, again: PacketReader, start: int, stop: int) -> Iterator[av.Packet[Any]]:
        """Packets from a key frame on, without those before it; none from the first that is not the listed one."""
        stamps, sizes = (column_N[start:stop].tolist() for column_N in (self.listing.pts_N, self.listing.num_bytes_N))
        again.seek(min(ticks for ticks in (stamps[0], int(self.listing.dts_N[start])) if ticks != NO_TIME))
        read = dropwhile(lambda pair: pair[1].pts != stamps[0], again.packets())
        for pts, num_bytes, (packet, facts) in zip(stamps, sizes, read, strict=False):
            if (facts.pts, facts.num_bytes) != (pts, num_bytes):
                return
            yield packet

    def restart(self) -> None:
        """Flush the decoder, so that `frames` can start at another packet."""
        self._reader.context.flush_buffers()

    def num_sound(self, pts: Sequence[int | None]) -> int:
        """Number of frames of the latest `frames`, which ended in damage, that are intact and in the right position.

        Damage starts before it is detected, so the last frame is not counted. If frames may be missing at an unknown
        position, the result is 0.
        """
        listing = self.listing
        if self.is_gappy and not listing.is_timed:
            return 0
        if self.is_gappy:
            expected = listing.stamps(0, len(listing)).tolist()
            return next(place for place, one in enumerate([*pts, None]) if one != expected[place])
        if listing.container == "avi" and self.damage == listing.damage and not is_truncated_avi(self.path):
            return 0
        return max(len(pts) - 1, 0)


# The listing of the latest file of which parts were decoded, and the state of the file.
_latest: tuple[tuple[int, ...], Listing] | None = None


@contextmanager
def open_stream(path: str, is_part: bool = False) -> Iterator[VideoStream]:
    """Open the video stream of a local file.

    Args:
        path: The file.
        is_part: Further parts of the file may be decoded: keep its listing until another file is opened or it changes.
    Raises:
        DecodingError: If the file has no video stream that can be decoded.
    """
    global _latest
    state = file_state(path) if is_part else None
    latest = _latest
    if latest is not None and (latest[0], latest[1].path) == (state, path):
        with ExitStack() as opened:
            yield VideoStream(latest[1], lambda: opened.enter_context(open_reader(path)))
        return
    _latest = None  # Before memory is needed for another.
    with open_reader(path) as reader:
        listing = Listing(path, reader)
        if state is not None:
            _latest = state, listing
        yield VideoStream(listing, lambda: reader)


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
            self._num_expected += self._reader.gives_frame(facts) and not facts.is_leading(first)
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
    if reader.container in BROADCAST:
        waiting = []
        for pair in packets:
            waiting.append(pair)
            if pair[1].is_key or len(waiting) > _MOST_BEFORE_KEY:
                break
        yield from waiting[-1:] if waiting and waiting[-1][1].is_key else waiting
    yield from packets
