"""Detect damage from packets, their time stamps and headers, without decoding."""

from __future__ import annotations

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


def first_hole(dts: Sequence[int | None], least: int) -> int | None:
    """Index of the first packet that follows the previous one after `least` or more steps of a regular rate, or None.

    Decoders silently replace frames that were lost in transmission by earlier frames.
    """
    steps = [b - a if a is not None and b is not None else 0 for a, b in pairwise(dts)]
    usual = statistics.mode(steps) if steps else 0
    num_even = sum(abs(step - usual) < usual / 2 for step in steps)
    if usual <= 0 or num_even < _EVEN_SHARE * len(steps):
        return None
    return next((place for place, step in enumerate(steps, start=1) if step >= least * usual), None)


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
