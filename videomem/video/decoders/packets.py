"""Detect damage from packets, their time stamps and headers, without decoding."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

_LEAST_MISSING_S, _LEAST_MISSING_SHARE = 0.3, 0.05
# Length in the header of an AVI file whose recording was interrupted.
_UNFINISHED = 0xFFFFFFFF
# A rate is regular if this fraction of the steps between packets is the usual one.
_EVEN_SHARE = 0.9


class PacketInfo(NamedTuple):
    """Facts about a packet, without its payload."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_idr: bool
    is_hidden: bool
    num_bytes: int


def holds_idr(payload: bytes, extradata: bytes) -> bool:
    """Whether a packet of H.264 in mp4 has a NAL unit of type 5 (length-prefixed, ISO/IEC 14496-15, section 5.3)."""
    length_bytes = (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 4
    place = 0
    while place + length_bytes < len(payload):
        start = place + length_bytes
        if payload[start] & 31 == 5:
            return True
        place = start + int.from_bytes(payload[place:start], "big")
    return False


def first_hole(dts: Sequence[int | None], least: int) -> int | None:
    """Index of the first packet that follows the previous one after `least` or more steps of a regular rate, or None.

    This is the only sign of frames lost in transmission; decoders silently replace them by earlier frames.
    """
    steps = [b - a if a is not None and b is not None else 0 for a, b in pairwise(dts)]
    usual = statistics.mode(steps) if steps else 0
    num_even = sum(abs(step - usual) < usual / 2 for step in steps)
    if usual <= 0 or num_even < _EVEN_SHARE * len(steps):
        return None
    return next((place for place, step in enumerate(steps, start=1) if step >= least * usual), None)


def what_an_avi_lacks(path: str, packets: Sequence[PacketInfo], num_promised: int, num_indexed: int) -> str | None:
    """Frames missing from an AVI file, or None. Its index and time stamps also count dropped frames (empty chunks)."""
    reached = max((packet.dts for packet in packets if packet.dts is not None), default=-1) + 1
    lost = reached < num_promised - 1 and len(packets) < num_indexed
    if not (lost or is_truncated_avi(path)):
        return None
    return f"the header promises {num_promised} frames, but {len(packets)} are there"


def is_truncated_avi(path: str) -> bool:
    """Whether an AVI file is shorter than its header states, so that its end is missing."""
    with Path(path).open("rb") as file:
        promised = int.from_bytes(file.read(8)[4:], "little")
    return promised != _UNFINISHED and os.path.getsize(path) < 8 + promised


def what_the_header_misses(promised_s: float, end_s: float) -> str | None:
    """Difference between the duration in the header and the end of all streams, as in a truncated file, or None."""
    if promised_s - end_s <= max(_LEAST_MISSING_S, _LEAST_MISSING_SHARE * promised_s):
        return None
    return f"the header promises {promised_s:.1f} s, but the packets end at {end_s:.1f} s"
