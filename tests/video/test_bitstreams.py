"""Which packets show a frame of their own, on streams made bit by bit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomem.video.decoders.bitstreams import gif_images, holds_idr, shows_frame

NUMBER_BITS = 6
FRAME, TOP, BOTTOM = "0", "10", "11"  # field_pic_flag and bottom_field_flag


def golomb(*values: int) -> str:
    return "".join(f"{value + 1:b}".zfill(2 * (value + 1).bit_length() - 1) for value in values)


def nal(kind: int, bits: str) -> bytes:
    bits += "1"
    content = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    escaped = bytearray()
    for byte in content:  # Emulation prevention (ITU-T H.264, section 7.4.1).
        escaped += b"\3" if escaped[-2:] == b"\0\0" and byte <= 3 else b""
        escaped.append(byte)
    return bytes([0x60 | kind]) + bytes(escaped)


def sequence(profile: int, has_frames_only: bool) -> bytes:
    """A sequence parameter set; in a high profile with 4:4:4 color planes apart, and a list of scaling factors."""
    high = golomb(3) + "1" + golomb(0, 0) + "0" + "1" + "1" + golomb(0) * 16 + "0" * 11 if profile == 100 else ""
    bits = f"{profile:08b}" + "0" * 16 + golomb(0) + high + golomb(NUMBER_BITS - 4)
    order = golomb(1) + "0" + golomb(0, 0, 2, 0, 0)  # pic_order_cnt_type 1, with two offsets
    return nal(7, bits + order + golomb(4) + "0" + golomb(9, 5) + str(int(has_frames_only)))


def picture(profile: int, number: int, field: str, kind: int = 1) -> bytes:
    color = "00" if profile == 100 else ""
    return nal(kind, golomb(0, 7, 0) + color + f"{number:0{NUMBER_BITS}b}" + field + "1010101" * 9)


SETS = nal(8, golomb(0, 0) + "0101")
PICTURES = [(0, TOP), (0, BOTTOM), (1, FRAME), (2, BOTTOM), (2, TOP), (3, TOP), (4, TOP), (4, BOTTOM), (5, FRAME)]
SHOWN = [True, False, True, True, False, True, True, False, True]  # The second field of frame 3 is lost.


@pytest.mark.parametrize("profile", [77, 100])
@pytest.mark.parametrize("form", ["start codes", "start codes, sets in the extradata", "lengths"])
def test_the_second_field_of_a_frame_shows_no_new_frame(profile: int, form: str) -> None:
    sets = [sequence(profile, False), SETS]
    slices = [picture(profile, number, field) for number, field in PICTURES]
    annex_b = b"".join(b"\0\0\0\1" + one for one in sets)
    if form == "lengths":
        parts = [len(one).to_bytes(2, "big") + one for one in sets]
        extradata = b"\1\x64\0\x28\xff\xe1" + parts[0] + b"\1" + parts[1]
        packets = [len(one).to_bytes(4, "big") + one for one in slices]
    else:
        extradata = annex_b if form.endswith("extradata") else b""
        packets = [b"\0\0\1" + one + b"\0\0\1" + one for one in slices]  # Two slices each.
        packets[0] = packets[0] if extradata else annex_b + packets[0]
    shows = shows_frame("h264", extradata)
    assert [shows(memoryview(packet)) for packet in packets] == SHOWN


def test_every_packet_of_a_progressive_stream_shows_a_frame() -> None:
    shows = shows_frame("h264", b"\0\0\1" + sequence(77, True) + b"\0\0\1" + SETS)
    assert all(shows(memoryview(b"\0\0\1" + picture(77, number, "1"))) for number in (0, 0, 1))


def test_idr_pictures_are_found_with_lengths_and_with_start_codes() -> None:
    for kind in (1, 5):
        one = picture(77, 0, FRAME, kind)
        assert holds_idr(memoryview(b"\0\0\1" + one), b"") == (kind == 5)
        assert holds_idr(memoryview(len(one).to_bytes(4, "big") + one), b"\1\x64\0\x28\xff\xe1") == (kind == 5)


STARTS = [b"", b"GIF89a", b"GIF87a\4\0\4\0\x80\0\0", b"\0\0\1\x67", b"\0\0\1\x68", b"\0\0\1\x65", b"\x82I\x83B"]


@given(payload=st.binary(max_size=80), start=st.sampled_from(STARTS))
def test_arbitrary_bytes_raise_no_error(payload: bytes, start: bytes) -> None:
    content = memoryview(start + payload)
    for codec in ("h264", "vp8", "vp9", "gif", "hevc"):
        for extradata in (b"", bytes(content), b"\1" + bytes(content)):
            assert shows_frame(codec, extradata)(content) in (True, False)
    ends = gif_images(content)
    assert ends == sorted(ends)
