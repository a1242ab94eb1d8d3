"""Detect damage from packets, their time stamps and headers, without decoding."""

from __future__ import annotations

import mmap
import os
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

_LEAST_MISSING_S, _LEAST_MISSING_SHARE = 0.3, 0.05
# Length in the header of an AVI file whose recording was interrupted.
_UNFINISHED = 0xFFFFFFFF
# Writers of AVI files count their header and padding or do not; less than an index follows the last frame.
_RIFF_SLACK = 16
_SYNC_BYTE = 0x47
# Types of the tags of FLV: sound, video, and data in two encodings. FFmpeg skips others without a word.
_FLV_TAGS = frozenset({8, 9, 15, 18})
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
# A rate is regular if this fraction of the steps between packets is the usual one.
_EVEN_SHARE = 0.9


class PacketInfo(NamedTuple):
    """Facts about a packet, without its payload: `is_hidden` by an edit list, `has_frame` of its own."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_idr: bool
    is_hidden: bool
    has_frame: bool
    num_bytes: int

    @property
    def is_shown(self) -> bool:
        return self.has_frame and not self.is_hidden

    def is_leading(self, first: PacketInfo) -> bool:
        """Whether the packet is displayed before the first key frame: it may refer to frames before a cut."""
        return first.is_key and self.pts is not None and first.pts is not None and self.pts < first.pts


def first_hole(dts: Sequence[int | None]) -> int | None:
    """Index of the first packet that follows the previous one after two or more steps of a regular rate, or None.

    Decoders silently replace frames that were lost in transmission by earlier frames.
    """
    steps = [b - a if a is not None and b is not None else 0 for a, b in pairwise(dts)]
    usual = statistics.mode(steps) if steps else 0
    num_even = sum(abs(step - usual) < usual / 2 for step in steps)
    if usual <= 0 or num_even < _EVEN_SHARE * len(steps):
        return None
    return next((place for place, step in enumerate(steps, start=1) if step >= 2 * usual), None)


def loses_transport_packets(path: str, stream_id: int) -> bool:
    """Whether an MPEG-TS file lacks packets of a stream: it is out of step, or the counter of the packets has a gap.

    Reference:
        ISO/IEC 13818-1, section 2.4.3 (188 bytes; 4 more in front on Blu-ray discs, 16 more behind in broadcasts).
    """
    content = np.memmap(path, np.uint8, "r")
    for size, front in ((188, 0), (192, 4), (204, 0)):
        packets = content[: len(content) // size * size].reshape(-1, size)[:, front:]
        if len(packets) and (packets[:, 0] == _SYNC_BYTE).all():
            break
    else:
        return True
    own = packets[((packets[:, 1] & 31).astype(np.int64) << 8 | packets[:, 2]) == stream_id]
    own = own[own[:, 3] & 0x10 > 0]  # Packets without payload do not count.
    steps = np.diff(own[:, 3] & 15) & 15
    may_jump = (own[1:, 3] & 0x20 > 0) & (own[1:, 4] > 0) & (own[1:, 5] & 0x80 > 0)
    return bool(((steps > 1) & ~may_jump).any() or (own[:, 1] & 0x80).any())


def loses_media_objects(path: str, stream_number: int) -> bool:
    """Whether an ASF file lacks frames of a stream: the number of its media objects has a gap, or packets are broken.

    Reference:
        Advanced Systems Format specification 1.20, sections 3.2 (file properties) and 5.2 (data packets).
    """
    with Path(path).open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    properties, start = content.find(_ASF_PROPERTIES), content.find(_ASF_DATA) + 50
    size = int.from_bytes(content[properties + 92 : properties + 96], "little")
    if properties < 0 or start < 50 or size == 0:
        return True
    num_packets = int.from_bytes(content[start - 10 : start - 2], "little") or (len(content) - start) // size
    if start + num_packets * size > len(content):
        return True
    numbers: list[int] = []
    for place in range(start, start + num_packets * size, size):
        try:
            numbers += _media_objects(_Fields(content[place : place + size]), stream_number)
        except IndexError:
            return True
    return any((b - a) % 256 > 1 for a, b in pairwise(numbers))  # The numbers have a byte or more.


class _Fields:
    """Reads the fields of a data packet of ASF."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def skip(self, num_bytes: int) -> None:
        self.place += num_bytes
        if self.place > len(self.content):
            raise IndexError

    def read(self, length_type: int) -> int:
        """A number of 0, 1, 2 or 4 bytes."""
        num_bytes = (0, 1, 2, 4)[length_type & 3]
        self.skip(num_bytes)
        return int.from_bytes(self.content[self.place - num_bytes : self.place], "little")


def _media_objects(fields: _Fields, stream_number: int) -> list[int]:
    """Numbers, modulo 256, of the media objects (frames) of a stream that have a piece in a data packet."""
    if (flags := fields.read(1)) & 0x80:  # Error correction data.
        fields.skip(flags & 15)
        flags = fields.read(1)
    types = fields.read(1)
    fields.read(flags >> 5), fields.read(flags >> 1)  # Length of the packet, and its number, which is unused.
    padding = fields.read(flags >> 3)
    fields.skip(6)  # Time and duration.
    has_several = flags & 1
    payloads = fields.read(1) if has_several else 1
    numbers: list[int] = []
    for _ in range(payloads & 63):
        stream, number = fields.read(1) & 127, fields.read(types >> 4)
        fields.read(types >> 2)
        replicated = fields.read(types)
        fields.skip(replicated)
        rest = len(fields.content) - fields.place - padding
        size = fields.read(payloads >> 6) if has_several else rest
        own, stop = [number], fields.place + size
        while replicated == 1 and fields.place < stop:  # Several objects, each after its size.
            own.append(own[-1] + 1)
            fields.skip(fields.read(1))
        fields.skip(stop - fields.place)
        numbers += (own[:-1] if replicated == 1 else own) if stream == stream_number else []
    return numbers


def where_flv_breaks(path: str) -> int | None:
    """Place of the first tag of an FLV file that no other tag follows although the file goes on, or None.

    Reference:
        Adobe Flash Video File Format Specification 10.1, annexes E.3 and E.4.
    """
    with Path(path).open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    last = place = int.from_bytes(content[5:9], "big") + 4
    while place + 11 <= len(content):
        if content[place] & 31 not in _FLV_TAGS:
            return last
        last, place = place, place + 15 + int.from_bytes(content[place + 1 : place + 4], "big")
    return last if place - 4 > len(content) else None


def what_an_avi_lacks(path: str, num_packets: int, reached: int, num_promised: int, num_indexed: int) -> str | None:
    """Frames missing from an AVI file, or None. Its index and time stamps also count dropped frames (empty chunks)."""
    is_short = reached < num_promised - 1 and num_packets < num_indexed
    if not is_short and (reached >= num_promised or not is_truncated_avi(path)):
        return None
    return f"the header promises {num_promised} frames, but {num_packets} are there"


def is_truncated_avi(path: str) -> bool:
    """Whether an AVI file is shorter than its header states, so that its end is missing."""
    with Path(path).open("rb") as file:
        promised = int.from_bytes(file.read(8)[4:], "little")
    return promised != _UNFINISHED and os.path.getsize(path) < promised + 8 - _RIFF_SLACK


def what_the_header_misses(promised_s: float, end_s: float) -> str | None:
    """Difference between the duration in the header and the end of all streams, as in a truncated file, or None."""
    if promised_s - end_s <= max(_LEAST_MISSING_S, _LEAST_MISSING_SHARE * promised_s):
        return None
    return f"the header promises {promised_s:.1f} s, but the packets end at {end_s:.1f} s"
