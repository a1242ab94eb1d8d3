"""What the packets of a video stream say about its frames, without decoding them."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from videomem.errors import DecodingError
from videomem.video.decoders.packet_reader import LEAST_STEP_S, PacketReader
from videomem.video.decoders.packets import PacketInfo, first_hole, loses_media_objects, loses_transport_packets

# Recordings that may start anywhere: packets before their first key frame cannot be decoded.
BROADCAST = frozenset({"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v"})
# Packets up to this total size are kept in memory until they are decoded; otherwise the file is read a second time.
_MOST_HELD_BYTES = 256 * 2**20
# Containers transmitted in small pieces, which have counters: with a gap in a regular rate, a gap in the counter means
# that pieces are missing. Encoders that skip frames leave none.
_LOSES_PIECES = {"mpegts": loses_transport_packets, "asf": loses_media_objects}
# Packets described in memory, about 1 GiB: 38 hours at 30 frames per second.
_MOST_PACKETS = 2**22
_BYTES_OF_PACKET = 512  # What PyAV and FFmpeg keep for each packet, beside its payload.
NO_TIME = -1 << 63  # A missing time stamp, as in FFmpeg.


class Listing:
    """The packets of the first video stream of a file that is not a cover picture, from the first decodable one on.

    Attributes:
        time_base: Seconds per tick of the time stamps.
        container: FFmpeg's names for the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
        codec: FFmpeg's name for the codec, such as `h264`.
        size: Height and width, as coded.
        pts_N: Presentation time stamp of each packet (N,), in the order of decoding; `NO_TIME` if missing.
        dts_N: Decoding time stamps (N,).
        num_bytes_N: Size of each payload (N,).
        is_key_N: Packets with a key frame (N,).
        is_shown_N: Packets with a frame of their own that no edit list hides (N,).
        gives_frame_N: Packets for which decoding must give a frame (N,).
        times_s: Time of each frame (T,) in seconds from the first, according to the packets; checked by decoding.
        has_times: The file has a frame rate or plausible time stamps; otherwise `times_s` only numbers the frames.
        is_reordered: Some packets are decoded in another order than they are displayed (B-frames).
        is_timed: Every packet with a frame has a presentation time, and all are different.
        is_plain: Times start at zero at a constant rate, every packet shows a frame, and the header has their number.
        has_idr_only: Every key frame is an IDR picture: no later frame refers to a frame before it.
        damage: The damage at which the list of packets ends, if any.
        first: Number of packets before the first decodable one.
        held: All packets with their payloads, or None if they are too large.
        opened: What decoders keep for further frames of the file.
    """

    def __init__(self, path: str, reader: PacketReader) -> None:
        self.path = path
        self.time_base, self.container, self.codec = reader.time_base, reader.container, reader.codec
        self.size = reader.context.height, reader.context.width
        self.num_streams = reader.num_streams
        self.opened: dict[Hashable, Any] = {}
        self.held: list[av.Packet[Any]] | None = []
        packets = self._list(reader)
        self.pts_N, self.dts_N = (_stamps([getattr(p, name) for p in packets]) for name in ("pts", "dts"))
        self.num_bytes_N = np.array([packet.num_bytes for packet in packets], np.int64)
        self.is_key_N = np.array([packet.is_key for packet in packets], bool)
        self.is_shown_N = np.array([packet.is_shown for packet in packets], bool)
        gives = [reader.gives_frame(packet) and not packet.is_leading(packets[0]) for packet in packets]
        self.gives_frame_N = np.array(gives, bool)
        num_shown = int(self.is_shown_N.sum())
        if not num_shown:
            raise DecodingError(f"{path}: its video stream is empty ({reader.damage or 'no packet'})")
        ticks_T = self.stamps(0, len(packets))
        self.is_timed = ticks_T[0] != NO_TIME and (num_shown < 2 or np.diff(ticks_T).min() > 0)
        if not self.is_timed and any(packet.is_hidden for packet in packets):
            raise DecodingError(f"{path}: an edit list hides frames by their times, but several have the same time")
        self.times_s, self.has_times = self._times(reader, ticks_T)
        self.is_reordered = reader.context.has_b_frames or bool((self.pts_N != self.dts_N).any())
        self.is_plain = (
            self.is_timed
            and ticks_T[0] == 0
            and len(np.unique(np.diff(ticks_T))) <= 1
            and num_shown == len(packets) == reader.stream.frames
        )
        self.has_idr_only = self.codec != "h264" or all(packet.is_idr for packet in packets if packet.is_key)

    def _list(self, reader: PacketReader) -> list[PacketInfo]:
        """List the packets from the first key frame; earlier ones cannot be decoded."""
        packets, num_bytes = [], 0
        for packet, facts in reader.packets():
            packets.append(facts)
            num_bytes += packet.size + _BYTES_OF_PACKET
            if len(packets) > _MOST_PACKETS:
                raise DecodingError(f"{self.path}: has more than {_MOST_PACKETS} packets; cut it into shorter files")
            if self.held is not None:
                self.held.append(packet)
            if num_bytes > _MOST_HELD_BYTES:
                self.held = None
        keys = (place for place, packet in enumerate(packets) if packet.is_key)
        self.first = next(keys, 0) if self.container in BROADCAST else 0
        loses_pieces = _LOSES_PIECES.get(self.container)
        hole = first_hole([packet.dts for packet in packets]) if loses_pieces else None
        if hole and loses_pieces and loses_pieces(self.path, reader.stream.id):
            reader.damage, packets = f"frames are missing after packet {hole}", packets[:hole]
        self.damage = reader.damage
        return packets[self.first :]

    def _times(self, reader: PacketReader, ticks_T: NDArray[np.int64]) -> tuple[NDArray[np.float64], bool]:
        num_shown = len(ticks_T)
        times_s = np.arange(num_shown) / (reader.rate or 1.0)
        if self.is_timed:
            times_s = (ticks_T - ticks_T[0]) * self.time_base
        is_known = reader.rate is not None or (self.is_timed and reader.has_stamps)
        return times_s, is_known and bool(num_shown == 1 or times_s[-1] / (num_shown - 1) >= LEAST_STEP_S)

    def __len__(self) -> int:
        return len(self.pts_N)

    @property
    def shows_all(self) -> bool:
        """Whether every packet shows a frame."""
        return len(self.times_s) == len(self)

    def stamps(self, start: int, stop: int) -> NDArray[np.int64]:
        """Presentation times of packets, in display order."""
        return np.sort(self.pts_N[start:stop][self.is_shown_N[start:stop]])

    @cached_property
    def ranges(self) -> NDArray[np.int64]:
        """First packet of each group of pictures, and the one after its last (G, 2)."""
        starts = np.flatnonzero(self.is_key_N)
        return np.stack([starts, np.append(starts[1:], len(self))], axis=1) if len(starts) else np.empty((0, 2), int)

    def ranges_of(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `ranges` that contain the packets with these numbers."""
        groups = np.unique(np.searchsorted(self.ranges[:, 0], wanted, side="right")) - 1
        return self.ranges[groups[groups >= 0]]

    def share_needed(self, wanted: NDArray[np.int64]) -> float:
        """Approximate fraction of the packets that are in groups of pictures with requested frames."""
        return float(np.diff(self.ranges_of(wanted)).sum()) / len(self)

    @cached_property
    def groups_are_separate(self) -> bool:
        """Whether each of `ranges` can certainly be decoded alone, and they are in display order.

        Each starts with a key frame, which is displayed first, and refers to no earlier frame.
        """
        is_unsure = (
            self.codec not in ("h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video")
            or not ("mp4" in self.container or "matroska" in self.container)
            or not (self.is_timed and self.has_idr_only and self.shows_all)
            or self.damage is not None
            or not self.is_key_N[0]
        )
        if is_unsure:
            return False
        starts = self.ranges[:, 0]
        key_G, first_G, last_G = (
            self.pts_N[starts], np.minimum.reduceat(self.pts_N, starts), np.maximum.reduceat(self.pts_N, starts),
        )  # fmt: skip
        return bool((key_G == first_G).all() and (first_G[1:] > last_G[:-1]).all())


def _stamps(ticks: list[int | None]) -> NDArray[np.int64]:
    return np.array([NO_TIME if tick is None else tick for tick in ticks], np.int64)
