"""Which packets show a frame of their own, according to the headers of their codec.

In some streams, packets outnumber frames without any loss: a frame of H.264 may be coded as two fields in two packets,
VP8 and VP9 have frames that are only referred to, and a GIF may end in a comment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

# Profiles of H.264 whose parameter sets have the fields on chroma and scaling (ITU-T H.264, section 7.3.2.1.1).
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
_SLICE, _IDR_SLICE, _SEQUENCE, _PICTURE = 1, 5, 7, 8
_HEADER_BYTES = 40  # More than a slice header needs up to its fields.


def shows_frame(codec: str, extradata: bytes) -> Callable[[memoryview], bool]:
    """A function that is called with the payload of each packet in order: whether the packet shows a new frame."""
    if codec == "h264":
        return _FieldPairs(extradata)
    return {"vp8": _vp8_shows, "vp9": _vp9_shows, "gif": lambda payload: bool(gif_images(payload))}.get(
        codec, lambda payload: True
    )


def holds_idr(payload: memoryview, extradata: bytes) -> bool:
    """Whether a packet of H.264 has a NAL unit of type 5."""
    return any(nal[0] & 31 == _IDR_SLICE for nal in _nal_units(payload, extradata))


def _nal_units(payload: memoryview, extradata: bytes) -> Iterator[memoryview]:
    """The NAL units of a packet, from their headers on: with lengths (ISO/IEC 14496-15, section 5.3) or start codes."""
    if extradata[:1] != b"\x01":
        content = bytes(payload)
        place = content.find(b"\0\0\1")
        while place >= 0:
            start, place = place + 3, content.find(b"\0\0\1", place + 3)
            if nal := payload[start : len(payload) if place < 0 else place]:
                yield nal
        return
    length_bytes, place = (extradata[4] & 3) + 1 if len(extradata) > 4 else 4, 0
    while place + length_bytes < len(payload):
        start = place + length_bytes
        place = start + int.from_bytes(payload[place:start], "big")
        if nal := payload[start:place]:
            yield nal


class _Bits:
    """Reads the bits of a NAL unit after its header, without emulation prevention bytes."""

    def __init__(self, nal: memoryview) -> None:
        content = bytes(nal[1:]).replace(b"\0\0\3", b"\0\0")
        self._bits, self._left = int.from_bytes(content, "big"), 8 * len(content)

    def read(self, count: int) -> int:
        if count > self._left:
            raise ValueError("the NAL unit ends within its header")
        self._left -= count
        return self._bits >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """An unsigned Exp-Golomb code (section 9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)


class _FieldPairs:
    """Whether a packet of H.264 is anything but the second field of the frame whose first field precedes it."""

    def __init__(self, extradata: bytes) -> None:
        self._extradata = extradata
        # By id: the bits of frame_num, and those of colour_plane_id, in sequences that may be coded as fields.
        self._sequences: dict[int, tuple[int, int] | None] = {}
        self._sequence_of: dict[int, int] = {}
        self._first: tuple[int, int] | None = None  # frame_num and parity of a field that may have a second one.
        for nal in _parameter_sets(extradata):
            self._learn(nal)

    def __call__(self, payload: memoryview) -> bool:
        field = None
        # The parameter sets of mp4 are in the extradata: most streams are progressive, which saves reading the slices.
        is_progressive = self._extradata[:1] == b"\x01" and not any(self._sequences.values())
        for nal in () if is_progressive else _nal_units(payload, self._extradata):
            if nal[0] & 31 in (_SLICE, _IDR_SLICE):
                field = self._field(nal)
                break
            self._learn(nal)
        is_second = field is not None and self._first == (field[0], 1 - field[1])
        self._first = None if is_second else field
        return not is_second

    def _learn(self, nal: memoryview) -> None:
        try:
            bits = _Bits(nal[:4096])
            if nal[0] & 31 == _SEQUENCE:
                number, fields = _sequence(bits)
                self._sequences[number] = fields
            elif nal[0] & 31 == _PICTURE:
                number = bits.golomb()
                self._sequence_of[number] = bits.golomb()
        except ValueError:  # The decoder reports the damage.
            return

    def _field(self, nal: memoryview) -> tuple[int, int] | None:
        """Number of the frame and parity of the field in a slice, or None: the slice is of a frame (section 7.3.3)."""
        try:
            bits = _Bits(nal[:_HEADER_BYTES])
            bits.golomb(), bits.golomb()  # The first macroblock, and the type of the slice.
            sizes = self._sequences.get(self._sequence_of.get(bits.golomb(), -1))
            if sizes is None:
                return None
            number_bits, color_bits = sizes
            bits.read(color_bits)
            number = bits.read(number_bits)
            return (number, bits.read(1)) if bits.read(1) else None
        except ValueError:
            return None


def _parameter_sets(extradata: bytes) -> Iterator[memoryview]:
    content = memoryview(extradata)
    if extradata[:1] != b"\x01":
        yield from _nal_units(content, extradata)
        return
    place = 5
    for mask in (31, 255):  # The sequence parameter sets, then those of pictures.
        count, place = content[place] & mask if place < len(content) else 0, place + 1
        for _ in range(count):
            start = place + 2
            place = start + int.from_bytes(content[place:start], "big")
            if nal := content[start:place]:
                yield nal


def _sequence(bits: _Bits) -> tuple[int, tuple[int, int] | None]:
    """Id of a sequence parameter set, and the bits of frame_num and colour_plane_id if it may be coded as fields."""
    profile, _ = bits.read(8), bits.read(16)
    number, color_bits = bits.golomb(), 0
    if profile in _HIGH_PROFILES:
        if (chroma := bits.golomb()) == 3:
            color_bits = 2 * bits.read(1)
        bits.golomb(), bits.golomb(), bits.read(1)  # Bit depths, and whether a transform is bypassed.
        if bits.read(1):
            for place in range(8 if chroma != 3 else 12):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if place < 6 else 64)
    number_bits = bits.golomb() + 4
    order_type = bits.golomb()
    if order_type == 0:
        bits.golomb()
    elif order_type == 1:
        bits.read(1), bits.golomb(), bits.golomb()
        for _ in range(min(bits.golomb(), 255)):
            bits.golomb()
    bits.golomb(), bits.read(1), bits.golomb(), bits.golomb()  # References, gaps, and the size in macroblocks.
    has_frames_only = bits.read(1)
    return number, None if has_frames_only else (number_bits, color_bits)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            code = bits.golomb()
            following = (last + (code + 1) // 2 * (1 if code % 2 else -1)) % 256
        last = following or last


def _vp8_shows(payload: memoryview) -> bool:
    return len(payload) == 0 or bool(payload[0] >> 4 & 1)  # RFC 6386, section 9.1


def _vp9_shows(payload: memoryview) -> bool:
    """Whether a frame of VP9, or one of those in a superframe, is shown (VP9 specification, 6.2 and annex B)."""
    return any(_vp9_frame_shows(payload[start:stop]) for start, stop in pairwise(_vp9_frames(payload)))


def _vp9_frames(payload: memoryview) -> list[int]:
    """Where the frames of a packet start, and where the last one ends."""
    last = payload[-1] if len(payload) else 0
    num_frames, size_bytes = (last & 7) + 1, (last >> 3 & 3) + 1
    index_bytes = 2 + num_frames * size_bytes
    if last & 0xE0 != 0xC0 or len(payload) < index_bytes or payload[-index_bytes] != last:
        return [0, len(payload)]
    places = [0]
    for number in range(num_frames):
        start = len(payload) - index_bytes + 1 + number * size_bytes
        places.append(places[-1] + int.from_bytes(payload[start : start + size_bytes], "little"))
    return places


def _vp9_frame_shows(frame: memoryview) -> bool:
    if len(frame) == 0 or frame[0] >> 6 != 2:
        return True  # Not a frame of VP9: the decoder reports the damage.
    bits = frame[0] & 15 if frame[0] >> 4 & 3 != 3 else frame[0] << 1 & 15
    shows_existing, shows = bits >> 3 & 1, bits >> 1 & 1
    return bool(shows_existing or shows)


def gif_images(payload: memoryview) -> list[int]:
    """Where the images of a piece of a GIF end (GIF89a specification); extensions belong to the image after them."""
    place, ends = 0, []
    if bytes(payload[:3]) == b"GIF":
        place = 13 + _color_bytes(payload, 10)
    try:
        while place < len(payload) and payload[place] in (0x21, 0x2C):  # An extension, or an image.
            is_image = payload[place] == 0x2C
            place += 2 if not is_image else 11 + _color_bytes(payload, place + 9)
            while size := payload[place]:
                place += 1 + size
            place += 1
            if is_image:
                ends.append(place)
    except IndexError:  # The piece ends within an image, which the decoder reports.
        ends.append(len(payload))
    return ends


def _color_bytes(payload: memoryview, place: int) -> int:
    """Size of the color table that the flags at a place announce."""
    flags = payload[place] if place < len(payload) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
