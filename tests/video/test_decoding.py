"""Every kind of file gives the right frames or an error. Frames have their index as a barcode."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from conftest import shared_data
from helpers.barcodes import (
    KINDS,
    Kind,
    barcode,
    encode,
    file_of,
    from_the_middle,
    read_barcode,
    with_matrix,
    without_sample_lengths,
)
from numpy.typing import NDArray
from PIL import Image

from videomem.errors import DecodingError
from videomem.video import decoding
from videomem.video.decoders import by_pyav, by_torchcodec, limits
from videomem.video.decoders.packet_reader import PacketReader
from videomem.video.decoders.seeking import ffmpeg_messages
from videomem.video.decoders.video_stream import open_stream
from videomem.video.decoding import decode_clip
from videomem.video.live import frames_of_file
from videomem.video.sampling import FixedRate, Interval, Uniform
from videomem.video.synthetic import write_video

SEEKING = ["decord", "torchcodec"]
PLAIN, WITH_B_FRAMES, SHORT_GROUPS = "h264 without B-frames", "h264 with B-frames", "h264, key frame every 12"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def needs(decoder: str) -> None:
    if decoder == "decord":
        pytest.importorskip("decord")
    elif not by_torchcodec.versions():
        pytest.skip("needs torchcodec and an FFmpeg that it can load")


def numbers(name: str, frames_THWC: NDArray[np.uint8]) -> list[int]:
    if name == "h264 rotated":
        frames_THWC = np.rot90(frames_THWC, k=1, axes=(1, 2))
    if name == "h264 mirrored":
        frames_THWC = frames_THWC[:, :, ::-1]
    return [read_barcode(image) for image in frames_THWC]


def assert_right(files: Path, name: str, decoder: decoding.Decoder) -> set[str]:
    """Check the numbers of decoded frames for many choices of frames; returns the decoders used."""
    expected, served = KINDS[name].expected, set()
    for num_frames in sorted({2, 5, 16, max(len(expected), 2), len(expected) + 7}):
        clip = decode_clip(file_of(files, name), Uniform(num_frames), decoder=decoder)
        assert clip.num_available == len(expected)
        assert numbers(name, clip.frames_THWC) == [expected[index] for index in clip.indices_T]
        served.add(clip.decoder)
    return served


def test_there_are_enough_kinds_of_damage() -> None:
    assert len(KINDS) >= 60


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_every_frame_is_the_right_one(files: Path, name: str, decoder: decoding.Decoder) -> None:
    served = assert_right(files, name, decoder)
    assert decoder == "auto" or served == {"pyav"}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_read_frame_by_frame_gives_the_same_frames_and_times(files: Path, name: str) -> None:
    live = list(frames_of_file(str(file_of(files, name))))
    clip = decode_clip(file_of(files, name), Uniform(max(len(live), 2)))
    assert len(live) == clip.num_available
    assert all(np.array_equal(one.frame_HWC, clip.frames_THWC[place]) for place, one in enumerate(live))
    times_s = [one.time_s for one in live]
    if clip.times_s_T is None:
        assert set(times_s[1:]) == {None}
    else:
        assert np.allclose(times_s, clip.times_s_T[: len(live)])  # type: ignore[arg-type]


def test_a_file_read_frame_by_frame_is_not_read_ahead(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, num_read = file_of(files, "h264, one key frame"), 0
    packets = PacketReader.packets

    def counted(reader: PacketReader) -> Iterator[object]:
        nonlocal num_read
        for pair in packets(reader):
            num_read += 1
            yield pair

    monkeypatch.setattr(PacketReader, "packets", counted)
    for live in frames_of_file(str(path)):
        assert num_read <= live.place + 5
    assert num_read == 250


@pytest.mark.parametrize("decoder", SEEKING)
@pytest.mark.parametrize("name", KINDS)
def test_a_seeking_decoder_returns_the_right_frames_or_is_refused(
    files: Path, name: str, decoder: decoding.Decoder
) -> None:
    needs(decoder)
    try:
        served = assert_right(files, name, decoder)
    except DecodingError as error:
        assert f"{decoder} is not exact here" in str(error)
        assert not (decoder == "decord" and KINDS[name].decord)
    else:
        assert served == {decoder}


@pytest.mark.parametrize("decoder", SEEKING)
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.decord])
def test_decoders_give_the_same_pixels(files: Path, name: str, decoder: decoding.Decoder) -> None:
    needs(decoder)
    path = file_of(files, name)
    one, other = (decode_clip(path, Uniform(16), decoder=d).frames_THWC for d in (decoder, "pyav"))  # type: ignore[arg-type]
    assert np.abs(one.astype(int) - other).max() <= 2


def test_auto_works_without_torchcodec(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_torchcodec, "versions", dict)
    assert assert_right(files, SHORT_GROUPS, "auto") == {"pyav"}
    assert set(decoding.decoder_versions("auto")) == {"av", "pillow"}


def test_auto_selects_torchcodec_where_it_decodes_fewer_frames(files: Path) -> None:
    needs("torchcodec")
    assert decode_clip(file_of(files, SHORT_GROUPS), Uniform(2)).decoder == "torchcodec"
    assert decode_clip(file_of(files, SHORT_GROUPS), Uniform(60)).decoder == "pyav"
    assert assert_right(files, "h264, one key frame", "auto") <= {"pyav", "torchcodec"}


def test_output_with_an_ffmpeg_message_is_decoded_again(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_SEEKING", dict.fromkeys(decoding._SEEKING, lambda stream, wanted: "a doubt"))
    assert assert_right(files, SHORT_GROUPS, "auto") == {"pyav"}
    with pytest.raises(DecodingError, match="a doubt"):
        decode_clip(file_of(files, PLAIN), Uniform(4), decoder="decord")


ALONE = [SHORT_GROUPS, "hevc closed GOP", "h264, every frame a key frame"]


@pytest.mark.parametrize("name", ALONE)
def test_groups_of_pictures_that_are_not_asked_for_are_not_decoded(files: Path, name: str) -> None:
    with open_stream(str(file_of(files, name))) as stream:
        wanted = np.array([1, 50])
        frames = by_pyav.read_groups(stream, wanted)
        assert not isinstance(frames, str) and numbers(name, frames) == [1, 50]
        assert stream.listing.share_needed(wanted) < 0.5 and stream.listing.share_needed(np.arange(60)) == 1


@pytest.mark.parametrize("name", ["h264 open GOP", "hevc open GOP", "h264 intra refresh", "mpeg4 in avi with B-frames",
                                  "h264 cut between key frames", "h264 in mpegts"])  # fmt: skip
def test_groups_that_may_refer_to_each_other_are_not_decoded_alone(files: Path, name: str) -> None:
    with open_stream(str(file_of(files, name))) as stream:
        assert by_pyav.read_groups(stream, np.array([1])) == "its groups of pictures may refer to each other"


@pytest.mark.parametrize("name", [PLAIN, WITH_B_FRAMES, SHORT_GROUPS, "mpeg4 in avi with B-frames", "hevc open GOP"])
@pytest.mark.parametrize(
    ("interval", "first", "last"), [((1.0, 2.0), 25, 49), ((None, 0.5), 0, 12), ((2.0, None), 50, 59)]
)
def test_trimmed_clips_hold_their_own_frames(files: Path, name: str, interval: Interval, first: int, last: int) -> None:
    clip = decode_clip(file_of(files, name), Uniform(6), interval)
    found = numbers(name, clip.frames_THWC)
    assert found[0] == first and found[-1] == last
    assert found == (first + clip.indices_T).tolist()
    assert clip.num_available == last - first + 1


def test_a_fixed_rate_takes_frames_by_their_times(files: Path) -> None:
    clip = decode_clip(file_of(files, WITH_B_FRAMES), FixedRate(fps=5, max_frames=8))
    assert numbers("", clip.frames_THWC) == [0, 5, 10, 15, 20, 25, 30, 35]
    varying = decode_clip(file_of(files, "h264 variable frame rate"), FixedRate(fps=25 / 3, max_frames=8))
    ticks = np.asarray(KINDS["h264 variable frame rate"].pts) - 1
    assert numbers("", varying.frames_THWC) == [int(np.searchsorted(ticks, 3 * n, side="right")) - 1 for n in range(8)]


MATRICES: dict[tuple[float, ...], Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    (1, 0, 0, 1): lambda image: image,
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): lambda image: np.rot90(image, 1),
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).swapaxes(0, 1),
    (2, 0, 0, 0.5): lambda image: image,
    (0, 0, 0, 0): lambda image: image,
    (0, 1, 0, 0): lambda image: image,
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_frames_are_turned_and_mirrored_as_the_display_matrix_says(
    files: Path, tmp_path: Path, matrix: tuple[float, float, float, float]
) -> None:
    stored = decode_clip(file_of(files, PLAIN), Uniform(2)).frames_THWC
    (tmp_path / "turned.mp4").write_bytes(with_matrix(*matrix)(file_of(files, PLAIN).read_bytes()))
    shown = decode_clip(tmp_path / "turned.mp4", Uniform(2)).frames_THWC
    assert all(np.array_equal(image, MATRICES[matrix](other)) for image, other in zip(shown, stored, strict=True))


def test_a_turn_by_another_angle_is_an_error(files: Path, tmp_path: Path) -> None:
    turned = with_matrix(0.866, 0.5, -0.5, 0.866)(file_of(files, PLAIN).read_bytes())
    (tmp_path / "turned.mp4").write_bytes(turned)
    with pytest.raises(DecodingError, match="its frames are turned by 30 degrees, but only multiples of 90"):
        decode_clip(tmp_path / "turned.mp4", Uniform(2))


def test_frames_with_side_data_that_pyav_cannot_name_are_turned_as_well(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271] = "the maker of a camera"  # FFmpeg attaches Exif to the frame.
    with av.open(str(tmp_path / "camera.mov"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuvj420p"  # type: ignore[union-attr]
        for number in range(5):
            image = BytesIO()
            Image.fromarray(barcode(number)).save(image, "JPEG", exif=exif)
            packet = av.Packet(image.getvalue())
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 25), number, number
            container.mux(packet)
    assert_whole(tmp_path / "camera.mov", list(range(5)))
    (tmp_path / "mirrored.mov").write_bytes(with_matrix(-1, 0, 0, 1)((tmp_path / "camera.mov").read_bytes()))
    mirrored = decode_clip(tmp_path / "mirrored.mov", Uniform(5)).frames_THWC
    assert np.array_equal(mirrored[:, :, ::-1], decode_clip(tmp_path / "camera.mov", Uniform(5)).frames_THWC)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_raw_stream_has_the_rate_that_it_states(tmp_path: Path, codec: str) -> None:
    kind = Kind(codec, {"h264": "libx264", "hevc": "libx265"}[codec], {"x265-params": "log-level=none"}, fps=50)
    path = kind.write(tmp_path / f"raw.{codec}")
    clip = decode_clip(path, FixedRate(fps=5, max_frames=9))
    assert clip.fps == pytest.approx(50) and numbers("", clip.frames_THWC) == [0, 10, 20, 30, 40, 50]
    assert numbers("", decode_clip(path, Uniform(2), (0.5, 1.0)).frames_THWC) == [25, 49]


UNTIMED = {
    "hevc": Kind("hevc", "libx265", {"x265-params": "log-level=none:vui-timing-info=0"}, num_frames=9),
    "mp4": Kind("mp4", "libx264", {"bf": "0"}, after=without_sample_lengths, num_frames=9),
}


@pytest.mark.parametrize("suffix", UNTIMED)
def test_a_file_without_times_refuses_what_needs_times(tmp_path: Path, suffix: str) -> None:
    path = UNTIMED[suffix].write(tmp_path / f"untimed.{suffix}")
    clip = decode_clip(path, Uniform(9))
    assert numbers("", clip.frames_THWC) == list(range(9)) and clip.fps == 0 and clip.times_s_T is None
    for sampling, interval in ((FixedRate(), (None, None)), (Uniform(2), (0.0, 1.0))):
        with pytest.raises(DecodingError, match="has no times, but"):
            decode_clip(path, sampling, interval)


def test_frames_repeat_where_a_clip_is_short(files: Path) -> None:
    clip = decode_clip(file_of(files, "h264 of two frames"), Uniform(6))
    assert numbers("", clip.frames_THWC) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("decoder", ["auto", "pyav", *SEEKING])
def test_lossless_video_is_bit_equal_and_so_is_its_reversal(tmp_path: Path, decoder: decoding.Decoder) -> None:
    needs(decoder) if decoder in SEEKING else None
    frames = np.random.default_rng(0).integers(0, 256, (12, 64, 80, 3), dtype=np.uint8)
    for name, sequence in (("forwards", frames), ("backwards", frames[::-1])):
        path = tmp_path / f"{name}.mp4"
        write_video(path, sequence)
        assert np.array_equal(decode_clip(path, Uniform(12), decoder=decoder).frames_THWC, sequence)


ODD_NAMES = ["with space.mp4", "it's \"quoted\".mp4", "ünïcödé 视频.mp4", "new\nline.mp4", "-dash.mp4", "%d.mp4",
             "a:b.mp4", "#x?y=1&z.mp4", "[x]*{1}.mp4", "back\\slash.mp4", "no suffix", "file:x.mp4", "pipe:0",
             "x" * 200, os.fsdecode(b"not utf-8 \xff\xfe.mp4")]  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_unusual_file_names_work(files: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    shutil.copy(file_of(files, PLAIN), path)
    assert numbers("", decode_clip(path, Uniform(6)).frames_THWC) == [0, 11, 23, 36, 48, 59]


def test_a_playlist_with_another_extension_opens_no_other_file(files: Path, tmp_path: Path) -> None:
    inside = file_of(files, PLAIN)
    for name, text in {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{inside}\n#EXT-X-ENDLIST\n",
        "web.mp4": "#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{inside}'\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DecodingError, match=name):
            decode_clip(tmp_path / name, Uniform(4))


def no_video(path: Path, source: Path, kind: str) -> None:
    content = source.read_bytes()
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(path.parent / "nothing")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "sound alone":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            for place in range(20):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16000, 1024 * place
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    elif kind == "song with a cover":
        with av.open(str(path), "w") as container:
            cover = container.add_stream("mjpeg", options={"q:v": "3"})
            cover.pix_fmt, cover.height, cover.width = "yuvj420p", 96, 160  # type: ignore[union-attr]
            cover.disposition = Disposition.attached_pic
            still = av.VideoFrame.from_ndarray(barcode(99), format="rgb24").reformat(format="yuvj420p")
            container.mux([*cover.encode(still), *cover.encode()])  # type: ignore[arg-type, union-attr]
    elif kind != "missing":
        path.write_bytes({
            "empty": b"", "text": b"not a video\n" * 50, "random": np.random.default_rng(0).bytes(5000),
            "zeros": bytes(5000), "first bytes alone": content[:100], "without its index": content[: len(content) // 2],
            "of an unknown codec": content.replace(b"avc1", b"zzzz"), "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        }[kind])  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "dangling link", "pipe", "sound alone", "song with a cover", "missing",
                                  "empty", "text", "random", "zeros", "first bytes alone", "without its index",
                                  "of an unknown codec", "picture"])  # fmt: skip
@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_what_is_not_a_video_is_an_error_that_names_the_file(
    files: Path, tmp_path: Path, kind: str, decoder: decoding.Decoder
) -> None:
    path = tmp_path / "odd.mp4"
    no_video(path, file_of(files, PLAIN), kind)
    with pytest.raises(DecodingError, match=r"odd\.mp4"):
        decode_clip(path, Uniform(4), decoder=decoder)


def test_an_interval_without_frames_is_an_error(files: Path) -> None:
    with pytest.raises(DecodingError, match=r"no frame between 50\.0 s"):
        decode_clip(file_of(files, PLAIN), Uniform(4), (50.0, 60.0))


def test_frames_that_would_fill_the_memory_are_refused(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_BYTES", 10 * 96 * 160 * 3)
    folder = frame_folder(tmp_path / "frames", ["1.png", "2.png"])
    for path in (file_of(files, PLAIN), file_of(files, "h264 of two frames"), folder):
        assert len(decode_clip(path, Uniform(10)).frames_THWC) == 10
        with pytest.raises(DecodingError, match="11 frames of 160x96 need"):
            decode_clip(path, Uniform(11))


def test_pictures_that_would_fill_the_memory_are_refused(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_PIXELS", 160 * 96 - 1)
    folder = frame_folder(tmp_path / "frames", ["1.png", "2.png"])
    for path in (file_of(files, PLAIN), folder):
        with pytest.raises(DecodingError, match="frames of 160x96 are above the limit of 15359 pixels"):
            decode_clip(path, Uniform(2))
        with pytest.raises(DecodingError, match="above the limit"):
            list(frames_of_file(str(path)))


def test_a_small_file_of_huge_pictures_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    side, deflate = 9000, zlib.compressobj()
    pixels = b"".join(deflate.compress(bytes(1 + side)) for _ in range(side)) + deflate.flush()
    header, control = (
        struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0),
        struct.pack(">IIIIIHHBB", 0, side, side, *[0] * 6),
    )
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"acTL", struct.pack(">II", 1, 0))
    content += chunk(b"fcTL", control) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    for name in ("huge.png", "huge.apng"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DecodingError, match="Picture size 9000x9000 exceeds specified max pixel count 67108864"):
            decode_clip(tmp_path / name, Uniform(2))


def test_a_file_of_too_many_packets_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videomem.video.decoders.listing._MOST_PACKETS", 59)
    with pytest.raises(DecodingError, match="has more than 59 packets"):
        decode_clip(file_of(files, PLAIN), Uniform(2))


def test_a_size_that_changes_within_the_video_is_an_error(tmp_path: Path) -> None:
    path, parts = tmp_path / "whole.h264", []
    for height in (96, 112):
        with av.open(str(tmp_path / "part.h264"), "w") as container:
            encode(container, Kind("h264", "libx264", {"bf": "0"}, height=height, num_frames=20))
        parts.append((tmp_path / "part.h264").read_bytes())
    path.write_bytes(b"".join(parts))
    with pytest.raises(DecodingError, match="the frame size changes"):
        decode_clip(path, Uniform(16))


def test_a_file_too_large_to_hold_is_read_again(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videomem.video.decoders.listing._MOST_HELD_BYTES", 1000)
    for name in (WITH_B_FRAMES, SHORT_GROUPS, "mpegts from the middle", "hevc open GOP"):
        assert_right(files, name, "pyav")


def test_decoding_prints_nothing_and_restores_the_settings_of_pyav(
    files: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    damaged = files / "chatter.mp4"
    content = bytearray(file_of(files, PLAIN).read_bytes())
    content[3000:3400] = bytes(400)
    damaged.write_bytes(content)
    for decoder in ("auto", "pyav", *SEEKING):
        with pytest.raises(DecodingError):
            decode_clip(damaged, Uniform(60), decoder=decoder)  # type: ignore[arg-type]
    assert capfd.readouterr() == ("", "")
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == before


def promising_one_more(content: bytes) -> bytes:
    """An AVI file of 60 frames whose header promises 61."""
    changed = bytearray(content)
    for place in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):
        changed[place : place + 4] = struct.pack("<I", 61)
    return bytes(changed)


def without_default_duration(content: bytes) -> bytes:
    """A WebM whose blocks have no duration: the element becomes void."""
    place = content.index(b"\x23\xe3\x83\x84")
    return content[:place] + b"\xec\x86" + bytes(6) + content[place + 8 :]


def with_riff_size(too_large: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:4] + struct.pack("<I", len(content) - 8 + too_large) + content[8:]


def with_spread_sound(content: bytes) -> bytes:
    """A WMV file whose header promises an interleaving of the sound that its packets do not have."""
    place = content.index(bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b"))
    place += 54 + int.from_bytes(content[place + 40 : place + 44], "little")
    return content[:place] + struct.pack("<BHH", 2, 370, 185) + content[place + 5 :]


GOOD = {"q:v": "3"}
OPEN_GOP = {"bf": "3", "g": "12", "x264-params": "open-gop=1"}
LATE = {"num_frames": 100, "after": from_the_middle, "shown": range(24, 100)}
UNUSUAL = {
    "avi with dropped frames": Kind("avi", "mpeg4", GOOD, pts=[n + (n > 20) + (n > 40) for n in range(60)]),
    "avi with sound": Kind("avi", "mpeg4", GOOD | {"bf": "2"}, beside="sound"),
    "avi whose header promises one more": Kind("avi", "mpeg4", GOOD, after=promising_one_more),
    "avi whose size counts its header": Kind("avi", "mpeg4", GOOD, after=with_riff_size(8)),
    "wmv with dropped frames": Kind("wmv", "wmv2", GOOD, pts=[n + n // 20 for n in range(60)]),
    "wmv with one frame a second": Kind("wmv", "wmv2", GOOD, num_frames=6, fps=1),
    "wmv with sound that the demuxer complains about": Kind(
        "wmv", "wmv2", GOOD, beside="sound", after=with_spread_sound
    ),
    "webm of one frame": Kind("webm", "libvpx", {}, num_frames=1, fps=1, after=without_default_duration),
    "mpegts with a late second frame": Kind("ts", "libx264", {"bf": "0"}, pts=[0, *range(3, 62)]),
    "mpegts from the middle of an open group": Kind("ts", "libx264", OPEN_GOP, **LATE),
    "mpeg2 in mpegts from the middle": Kind("ts", "mpeg2video", GOOD | {"bf": "2", "g": "12"}, **LATE),
}


def assert_whole(path: Path, expected: list[int]) -> None:
    clip = decode_clip(path, Uniform(max(len(expected), 2)))
    assert numbers("", clip.frames_THWC) == [expected[index] for index in clip.indices_T]
    assert clip.num_available == len(expected)


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_but_intact_files_are_accepted(tmp_path: Path, name: str) -> None:
    kind = UNUSUAL[name]
    assert_whole(kind.write(tmp_path / f"odd.{kind.suffix}"), kind.expected)


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_hidden_frames_in_packets_of_their_own_are_not_counted(tmp_path: Path, codec: str) -> None:
    source = Kind("webm", codec, {"g": "20", "b:v": "1M"}).write(tmp_path / "source.webm")
    kept_apart = {"fflags": "-autobsf"}
    with av.open(str(source)) as whole, av.open(str(tmp_path / "odd.webm"), "w", options=kept_apart) as container:
        copied = container.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.is_keyframe and packet.size:  # A copy of the key frame that is not displayed.
                content = bytes(packet)
                hidden = av.Packet(bytes([content[0] & (0xEF if codec == "libvpx" else 0xFD)]) + content[1:])
                hidden.pts, hidden.dts, hidden.time_base = packet.pts, packet.dts, packet.time_base
                hidden.is_keyframe, hidden.stream = True, copied
                container.mux(hidden)
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts + 1, packet.dts + 1, copied
                container.mux(packet)
    with open_stream(str(tmp_path / "odd.webm")) as stream:
        assert len(stream.listing) > len(stream.listing.times_s) == 60
    assert_whole(tmp_path / "odd.webm", list(range(60)))


def test_h264_coded_as_fields_has_one_frame_for_two_packets(tmp_path: Path) -> None:
    source = shared_data("failing") / "paff_fields.ts"
    for suffix in ("ts", "mp4", "mkv", "avi"):
        path = tmp_path / f"fields.{suffix}"
        with av.open(str(source)) as whole, av.open(str(path), "w") as container:
            copied = container.add_stream_from_template(whole.streams.video[0])
            for packet in whole.demux(video=0):
                if packet.size:
                    packet.stream = copied
                    container.mux(packet)
        with av.open(str(path)) as container:
            reference = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        clip = decode_clip(path, Uniform(3))
        assert clip.num_available == 3 and np.array_equal(clip.frames_THWC, reference)


def test_lost_packets_of_mpegts_are_damage_but_late_frames_are_not(tmp_path: Path) -> None:
    kind = Kind("ts", "libx264", {"bf": "0"}, pts=[n + 9 * (n > 20) for n in range(60)])
    content = kind.write(tmp_path / "late.ts").read_bytes()
    assert_whole(tmp_path / "late.ts", list(range(60)))
    packets = [content[place : place + 188] for place in range(0, len(content), 188)]
    own = [n for n, packet in enumerate(packets) if packet[1] & 31 == 1 and packet[2] == 0]  # PID 256, the video.
    for lost in (own[40:41], own[30:47]):  # One packet, and so many that the counter goes once around.
        (tmp_path / "lost.ts").write_bytes(b"".join(p for n, p in enumerate(packets) if n not in lost))
        with pytest.raises(DecodingError, match="damaged after"):
            decode_clip(tmp_path / "lost.ts", Uniform(4))


def test_lost_packets_of_asf_are_damage_but_late_frames_are_not(tmp_path: Path) -> None:
    late = [n + 30 * (n > 20) for n in range(60)]
    kind = Kind("wmv", "wmv2", {"b": "200k"}, pts=late, container={"packet_size": "500"}, beside="sound")
    assert_whole(kind.write(tmp_path / "late.wmv"), list(range(60)))
    content = (
        Kind("wmv", "wmv2", {"b": "200k"}, container={"packet_size": "500"}).write(tmp_path / "even.wmv").read_bytes()
    )
    start = content.index(bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")) + 50  # The packets, after their number.
    num_packets, middle = int.from_bytes(content[start - 10 : start - 2], "little"), start + 10 * 500
    for num_lost in (2, 5):
        number = (num_packets - num_lost).to_bytes(8, "little")
        lost = content[: start - 10] + number + content[start - 2 : middle] + content[middle + num_lost * 500 :]
        (tmp_path / "lost.wmv").write_bytes(lost)
        with pytest.raises(DecodingError, match="frames are missing after packet"):
            decode_clip(tmp_path / "lost.wmv", Uniform(4))


@pytest.mark.parametrize("damage", ["a header of zeros", "37 bytes removed", "an unknown type"])
def test_tags_of_flv_that_do_not_follow_each_other_are_damage(tmp_path: Path, damage: str) -> None:
    content = Kind("flv", "flv", {"qscale:v": "2"}).write(tmp_path / "whole.flv").read_bytes()
    with av.open(str(tmp_path / "whole.flv")) as container:
        places = [packet.pos or 0 for packet in container.demux(video=0) if packet.size]
    tag = max(place for place in range(places[30] - 20, places[30] + 1) if content[place] == 9)
    lost = {
        "a header of zeros": content[:tag] + bytes(11) + content[tag + 11 :],
        "37 bytes removed": content[: tag - 20] + content[tag + 17 :],
        "an unknown type": content[:tag] + b"\7" + content[tag + 1 :],
    }[damage]
    (tmp_path / "lost.flv").write_bytes(lost)
    with pytest.raises(DecodingError, match=r"damaged after \d+ frames"):
        decode_clip(tmp_path / "lost.flv", Uniform(4))
    before = decode_clip(tmp_path / "lost.flv", Uniform(20), on_damage="prefix")
    assert 25 <= before.num_available <= 30
    assert [read_barcode(image) for image in before.frames_THWC] == before.indices_T.tolist()


FAILING = {
    "hflip.mp4": (60, 30), "zero_matrix.mp4": (60, 30), "gif87a_12_frames.gif": (12, 10),
    "gif_comment_at_end.gif": (12, 10), "paff_fields.ts": (3, 19.98), "vp9_hidden_frames_apart.webm": (120, 30),
    "late_second_frame.ts": (58, 28.98), "raw_50fps.h264": (50, 50), "fps1.wmv": (6, 1), "riff_plus8.avi": (60, 30),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
def test_inputs_that_once_failed_have_the_right_frames_and_rate(name: str) -> None:
    num_frames, fps = FAILING[name]
    clip = decode_clip(shared_data("failing") / name, Uniform(num_frames))
    assert clip.num_available == num_frames == len(clip.frames_THWC)
    assert clip.fps == pytest.approx(fps, rel=1e-3)


def test_a_last_frame_that_is_held_is_not_taken_for_damage(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "odd.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.pix_fmt, stream.height, stream.width = "yuv420p", 96, 160  # type: ignore[union-attr]
        images = [av.VideoFrame.from_ndarray(barcode(number), format="rgb24") for number in range(30)]
        for packet in (packet for image in [*images, None] for packet in stream.encode(image)):  # type: ignore[arg-type, union-attr]
            packet.duration = round(5 / packet.time_base) if packet.pts * packet.time_base > 1.1 else packet.duration
            container.mux(packet)
    assert_whole(tmp_path / "odd.mkv", list(range(30)))


def test_damage_before_an_interval_is_said_to_be_damage(files: Path, tmp_path: Path) -> None:
    path, content = tmp_path / "cut.mkv", file_of(files, "h264 in mkv").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodingError, match="damaged after"):
        decode_clip(path, Uniform(4), (2.0, 2.3))


def test_only_messages_of_ffmpeg_count(capfd: pytest.CaptureFixture[str]) -> None:
    with ffmpeg_messages() as heard:
        os.write(2, b"50 % done\n")
    assert not heard and capfd.readouterr().err == "50 % done\n"
    with ffmpeg_messages() as heard:
        os.write(2, b"[h264 @ 0x5597ab] error while decoding MB 3 4\n")
    assert heard == ["[h264 @ 0x5597ab] error while decoding MB 3 4"] and capfd.readouterr().err == ""


def frame_folder(folder: Path, names: Iterable[str]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(barcode(number)).save(folder / name, quality=95)
    return folder


@pytest.mark.parametrize("pattern", ["{:05}.jpg", "img_{:06}.png", "frame {}.JPG", "ünï{:03}.jpeg"])
@pytest.mark.parametrize("first", [0, 1, 7])
def test_numbered_images_are_frames_in_the_order_of_their_numbers(tmp_path: Path, pattern: str, first: int) -> None:
    folder = frame_folder(tmp_path / "frames", [pattern.format(first + n) for n in range(120)])
    (folder / "notes.txt").write_text("no image")
    clip = decode_clip(folder, Uniform(120))
    assert numbers("", clip.frames_THWC) == list(range(120)) and clip.num_available == 120
    assert (clip.decoder, clip.fps) == ("pillow", 0.0)
    assert numbers("", decode_clip(folder, FixedRate(fps=5, max_frames=9), fps=10).frames_THWC) == list(range(0, 18, 2))
    trimmed = decode_clip(folder, Uniform(3), (1.0, 2.0), fps=10)
    assert numbers("", trimmed.frames_THWC) == [10, 14, 19] and trimmed.num_available == 10


def test_a_template_names_one_of_several_series(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "frames", [f"{kind}_{n:05}.jpg" for n in range(20) for kind in ("img", "flow_x")])
    with pytest.raises(DecodingError, match=r"has 2 series of images .*select one with a template"):
        decode_clip(folder, Uniform(4))
    clip = decode_clip(folder / "img_{:05}.jpg", Uniform(20))
    assert numbers("", clip.frames_THWC) == list(range(0, 40, 2))


def test_postscript_with_the_name_of_an_image_starts_no_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"{number}.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(DecodingError, match="damaged after 0 images"):
        decode_clip(folder, Uniform(2))


@pytest.mark.parametrize("decoder", ["auto", "pyav", *SEEKING])
@pytest.mark.parametrize("name", ["http:", "tcp:"])
def test_a_folder_named_like_a_protocol_is_a_folder(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: decoding.Decoder, name: str
) -> None:
    needs(decoder) if decoder in SEEKING else None
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    shutil.copy(file_of(files, PLAIN), tmp_path / name / "x.mp4")
    assert numbers("", decode_clip(f"{name}/x.mp4", Uniform(2), decoder=decoder).frames_THWC) == [0, 59]
    write_video(f"{name}/y.mp4", [barcode(0), barcode(1)])
    assert (tmp_path / name / "y.mp4").is_file()


def test_images_without_a_rate_refuse_what_needs_times(tmp_path: Path) -> None:
    folder = frame_folder(tmp_path / "frames", ["1.png", "2.png"])
    for sampling, interval in ((FixedRate(), (None, None)), (Uniform(2), (0.0, 1.0))):
        with pytest.raises(DecodingError, match="give the catalog a column fps"):
            decode_clip(folder, sampling, interval)


@pytest.mark.parametrize("wrong", ["missing", "text", "cut", "zero tail", "size", "twice"])
def test_a_frame_folder_that_is_damaged_is_refused_or_used_up_to_there(tmp_path: Path, wrong: str) -> None:
    folder = frame_folder(tmp_path / "frames", [f"{n:03}.jpg" for n in range(20)])
    image = folder / "012.jpg"
    content = image.read_bytes()
    if wrong == "missing":
        image.unlink()
    elif wrong == "size":
        Image.fromarray(barcode(12, 64, 64)).save(image)
    elif wrong == "twice":
        shutil.copy(image, folder / "0012.jpg")
    else:
        image.write_bytes({"text": b"x" * 99, "cut": content[:-900], "zero tail": content[:-900] + bytes(900)}[wrong])
    with pytest.raises(DecodingError, match="frames: ") as refused:
        decode_clip(folder, Uniform(20))
    assert ("damaged after 12 images" in str(refused.value)) == (wrong not in ("size", "twice"))
    if wrong not in ("size", "twice"):
        clip = decode_clip(folder, Uniform(20), on_damage="prefix")
        assert numbers("", clip.frames_THWC) == clip.indices_T.tolist()
        assert clip.num_available == 12 and clip.damage


def test_images_of_every_depth_are_read_as_they_look(tmp_path: Path) -> None:
    picture = Image.fromarray(barcode(37))
    gray = np.asarray(picture.convert("L"))
    depths = [picture, picture.convert("L"), picture.convert("P"), picture.convert("RGBA"), picture.convert("CMYK"),
              Image.fromarray(gray.astype(np.uint16) * 257)]  # fmt: skip
    for number, image in enumerate(depths):
        folder = tmp_path / str(number)
        folder.mkdir()
        for place in (1, 2):
            image.save(folder / f"{place}.{'jpg' if image.mode == 'CMYK' else 'png'}")
        assert numbers("", decode_clip(folder, Uniform(2)).frames_THWC) == [37, 37], image.mode


def real_clips() -> list[Path]:
    paths = [*shared_data("data/clips").glob("*.avi"), *shared_data("data/clips").glob("*.mp4")]
    return paths + sorted(shared_data("data/egogestar").glob("*.mp4"))[::22]


def test_real_clips_decode_to_the_frames_of_a_plain_forward_pass() -> None:
    assert len(real_clips()) > 9
    for path in real_clips():
        with av.open(str(path), metadata_errors="ignore") as container:
            reference = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        for decoder, num_frames in (("auto", len(reference)), ("auto", 16), ("pyav", 16)):
            clip = decode_clip(path, Uniform(num_frames), decoder=decoder)  # type: ignore[arg-type]
            assert clip.num_available == len(reference)
            for image, index in zip(clip.frames_THWC, clip.indices_T, strict=True):
                assert np.abs(image.astype(np.int16) - reference[index]).max() <= 2


def test_barcodes_are_decoded() -> None:
    assert [read_barcode(barcode(number)) for number in range(256)] == list(range(256))
    assert [read_barcode(barcode(number, 16, 16)) for number in range(256)] == list(range(256))


def test_an_image_with_unusual_metadata_is_an_error_of_its_clip(tmp_path: Path) -> None:
    """Pillow writes the metadata of an image that it turns, and raises any error."""
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new("RGB", (16, 16)).save(tmp_path / "1.png", exif=exif)
    content = (tmp_path / "1.png").read_bytes()
    start = content.index(b"eXIf")
    (num_bytes,) = struct.unpack(">I", content[start - 4 : start])
    wrong = b"MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHIHH", 0x112, 3, 1, 6, 0)
    wrong += struct.pack(">HHIf", 0x10E, 11, 1, 1.5) + bytes(4)  # The description as a number.
    chunk = b"eXIf" + wrong
    before, after = content[: start - 4], content[start + 4 + num_bytes + 4 :]
    (tmp_path / "1.png").write_bytes(
        before + struct.pack(">I", len(wrong)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + after
    )
    with pytest.raises(DecodingError, match=r"1\.png"):
        decode_clip(tmp_path, Uniform(2))
