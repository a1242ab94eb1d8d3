"""Frames that carry their own number as a barcode: whatever a decoder returns, the number tells whether it is right."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import shared_data
from numpy.typing import NDArray

from videomem.errors import DecodingError
from videomem.video import decoding
from videomem.video.decoding import decode_clip, probe, why_not_decord
from videomem.video.sampling import FixedRate, Uniform
from videomem.video.writing import write_video

BITS = 10


def barcode(number: int, height: int = 96, width: int = 160) -> NDArray[np.uint8]:
    """A frame with `number` in black and white blocks, over a grey gradient."""
    image = np.broadcast_to(np.linspace(60, 190, width).astype(np.uint8)[None, :, None], (height, width, 3)).copy()
    block = width // BITS
    for bit in range(BITS):
        image[height // 4 : 3 * height // 4, bit * block : (bit + 1) * block] = 235 if number >> bit & 1 else 20
    return image


def read_barcode(image: NDArray[np.uint8]) -> int:
    height, width, _ = image.shape
    block = width // BITS
    middle = image[height // 2 - 4 : height // 2 + 4]
    return sum(1 << bit for bit in range(BITS) if middle[:, bit * block + 4 : (bit + 1) * block - 4].mean() > 128)


def write_barcodes(path: Path, num_frames: int, codec: str, options: dict[str, str], pixel_format: str = "yuv420p",
                   fps: int | Fraction = 25) -> Path:  # fmt: skip
    write_video(path, map(barcode, range(num_frames)), fps, codec, pixel_format, options)
    return path


# name: (suffix, codec, options, pixel format, whether decord may serve it)
STREAMS = {
    "h264 without B-frames": ("mp4", "libx264", {"bf": "0"}, "yuv420p", True),
    "h264, every frame a key frame": ("mp4", "libx264", {"g": "1"}, "yuv420p", True),
    "h264, key frame every 12": ("mp4", "libx264", {"bf": "0", "g": "12"}, "yuv420p", True),
    "h264, one key frame": ("mp4", "libx264", {"bf": "0", "g": "999"}, "yuv420p", True),
    "h264 lossless RGB": ("mp4", "libx264rgb", {"bf": "0", "qp": "0"}, "rgb24", True),
    "h264 intra refresh": ("mp4", "libx264", {"bf": "0", "g": "30", "intra-refresh": "1"}, "yuv420p", False),
    "h264 in mov": ("mov", "libx264", {"bf": "0"}, "yuv420p", True),
    "h264 with B-frames": ("mp4", "libx264", {"bf": "3"}, "yuv420p", False),
    "h264 open GOP": ("mp4", "libx264", {"bf": "3", "g": "12", "x264-params": "open-gop=1"}, "yuv420p", False),
    "h264 in avi": ("avi", "libx264", {"bf": "2"}, "yuv420p", False),
    "h264 in mkv": ("mkv", "libx264", {"bf": "0"}, "yuv420p", False),
    "h264 in mpegts": ("ts", "libx264", {"bf": "0"}, "yuv420p", False),
    "h264 4:4:4": ("mp4", "libx264", {"bf": "0"}, "yuv444p", False),
    "h264 10 bit": ("mp4", "libx264", {"bf": "0"}, "yuv420p10le", False),
    "hevc": ("mp4", "libx265", {"x265-params": "log-level=none"}, "yuv420p", False),
    "mpeg4 in avi with B-frames": ("avi", "mpeg4", {"bf": "2", "q:v": "3"}, "yuv420p", False),
    "mpeg4 in mp4": ("mp4", "mpeg4", {"q:v": "3"}, "yuv420p", False),
    "mpeg2 in mpg": ("mpg", "mpeg2video", {"q:v": "3"}, "yuv420p", False),
    "vp8 in webm": ("webm", "libvpx", {"b:v": "1M"}, "yuv420p", False),
    "vp9 in webm": ("webm", "libvpx-vp9", {"b:v": "1M"}, "yuv420p", False),
    "av1 in mp4": ("mp4", "libsvtav1", {"preset": "8", "crf": "15"}, "yuv420p", False),
    "wmv2": ("wmv", "wmv2", {"q:v": "3"}, "yuv420p", False),
    "mjpeg in avi": ("avi", "mjpeg", {"q:v": "3"}, "yuvj420p", False),
    "raw h264": ("h264", "libx264", {"bf": "2"}, "yuv420p", False),
}


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


def stream_file(folder: Path, name: str, num_frames: int = 90) -> Path:
    suffix, codec, options, pixel_format, _ = STREAMS[name]
    path = folder / f"{name.replace(' ', '_').replace(',', '')}-{num_frames}.{suffix}"
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no encoder {codec}")
    return path if path.exists() else write_barcodes(path, num_frames, codec, options, pixel_format)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_every_frame_is_the_right_one(streams: Path, name: str, decoder: decoding.Decoder) -> None:
    path = stream_file(streams, name)
    for sampling in (Uniform(90), Uniform(16), Uniform(7), Uniform(120)):
        clip = decode_clip(path, sampling, decoder=decoder)
        assert clip.num_available == 90
        assert [read_barcode(image) for image in clip.frames_THWC] == clip.indices_T.tolist()
        if decoder == "pyav":
            assert clip.decoder == "pyav"


@pytest.mark.parametrize("name", [name for name, stream in STREAMS.items() if stream[4]])
@pytest.mark.parametrize("num_frames", [2, 13, 90, 301])
def test_decord_is_right_wherever_the_allow_list_lets_it(streams: Path, name: str, num_frames: int) -> None:
    pytest.importorskip("decord")
    path = stream_file(streams, name, num_frames)
    assert why_not_decord(probe(str(path))) is None
    for wanted in (2, 5, 8, num_frames):
        clip = decode_clip(path, Uniform(wanted), decoder="decord")
        assert clip.decoder == "decord" and clip.num_available == num_frames
        assert [read_barcode(image) for image in clip.frames_THWC] == clip.indices_T.tolist()


@pytest.mark.parametrize("name", [name for name, stream in STREAMS.items() if stream[4]])
def test_decord_and_pyav_give_the_same_pixels(streams: Path, name: str) -> None:
    pytest.importorskip("decord")
    path = stream_file(streams, name)
    one, other = (decode_clip(path, Uniform(16), decoder=d).frames_THWC for d in ("decord", "pyav"))  # type: ignore[arg-type]
    assert np.abs(one.astype(int) - other).max() <= 2


@pytest.mark.parametrize("name", [name for name, stream in STREAMS.items() if not stream[4]])
def test_decord_is_refused_where_it_is_not_proved(streams: Path, name: str) -> None:
    path = stream_file(streams, name)
    assert why_not_decord(probe(str(path))) is not None
    assert decode_clip(path, Uniform(4)).decoder == "pyav"
    with pytest.raises(DecodingError, match="decord is not exact here"):
        decode_clip(path, Uniform(4), decoder="decord")


def test_pyav_serves_where_decord_is_missing(streams: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding.importlib.util, "find_spec", lambda name: None)
    assert decode_clip(stream_file(streams, "h264 without B-frames"), Uniform(4)).decoder == "pyav"


def test_decord_that_counts_otherwise_is_not_believed(streams: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_read_decord", lambda *arguments: None)
    clip = decode_clip(stream_file(streams, "h264 without B-frames"), Uniform(4))
    assert clip.decoder == "pyav" and read_barcode(clip.frames_THWC[-1]) == 89


@pytest.mark.parametrize("name", ["h264 without B-frames", "h264 with B-frames", "mpeg4 in avi with B-frames"])
@pytest.mark.parametrize(
    ("interval", "first", "last"), [((1.0, 2.0), 25, 49), ((None, 0.5), 0, 12), ((3.0, None), 75, 89)]
)
def test_trimmed_clips_hold_their_own_frames(
    streams: Path, name: str, interval: tuple[float | None, float | None], first: int, last: int
) -> None:
    clip = decode_clip(stream_file(streams, name), Uniform(6), interval)
    numbers = [read_barcode(image) for image in clip.frames_THWC]
    assert numbers[0] == first and numbers[-1] == last
    assert numbers == (first + clip.indices_T).tolist()
    assert clip.num_available == last - first + 1


def test_a_fixed_rate_takes_frames_by_their_times(streams: Path) -> None:
    clip = decode_clip(stream_file(streams, "h264 with B-frames"), FixedRate(fps=5, max_frames=8))
    assert [read_barcode(image) for image in clip.frames_THWC] == [0, 5, 10, 15, 20, 25, 30, 35]


def test_rotated_video_is_turned_upright(streams: Path, tmp_path: Path) -> None:
    upright = stream_file(streams, "h264 without B-frames")
    content = bytearray(upright.read_bytes())
    track_header = content.index(b"tkhd")
    matrix = track_header + 4 + 4 + 20 + 8 + 8
    one = 1 << 16
    quarter_turn = struct.pack(">9i", 0, one, 0, -one, 0, 0, 96 * one, 0, 1 << 30)
    content[matrix : matrix + 36] = quarter_turn
    rotated = tmp_path / "rotated.mp4"
    rotated.write_bytes(content)
    clip = decode_clip(rotated, Uniform(5))
    assert clip.decoder == "pyav"
    assert clip.frames_THWC.shape[1:3] == (160, 96)
    # A quarter turn clockwise brings the left edge to the top.
    turned_back = np.rot90(clip.frames_THWC, k=1, axes=(1, 2))
    assert [read_barcode(image) for image in turned_back] == clip.indices_T.tolist()


def test_frames_repeat_where_a_clip_is_short(streams: Path) -> None:
    clip = decode_clip(stream_file(streams, "h264 lossless RGB", 2), Uniform(6))
    assert [read_barcode(image) for image in clip.frames_THWC] == [0, 0, 0, 1, 1, 1]


def test_lossless_video_is_bit_equal_and_so_is_its_reversal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 64, 80, 3), dtype=np.uint8)
    for name, sequence in (("forwards", frames), ("backwards", frames[::-1])):
        path = tmp_path / f"{name}.mp4"
        write_video(path, sequence)
        for decoder in ("auto", "pyav"):
            decoded = decode_clip(path, Uniform(12), decoder=decoder).frames_THWC  # type: ignore[arg-type]
            assert np.array_equal(decoded, sequence)


def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path, streams: Path) -> None:
    inside = stream_file(streams, "h264 without B-frames")
    for name, text in {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{inside}\n#EXT-X-ENDLIST\n",
        "web.mp4": "#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "concat.mp4": f"ffconcat version 1.0\nfile '{inside}'\n",
    }.items():
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(DecodingError, match=name):
            decode_clip(path, Uniform(4))


def damaged(tmp_path: Path, source: Path, kind: str) -> Path:
    path, content = tmp_path / "damaged.mp4", bytearray(source.read_bytes())
    if kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "empty":
        content = bytearray()
    elif kind == "text":
        content = bytearray(b"not a video\n" * 50)
    elif kind == "random":
        content = bytearray(np.random.default_rng(0).bytes(5000))
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nothing")
    elif kind != "missing":
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "random", "folder", "dangling", "missing"])
@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_what_is_no_video_is_an_error_that_names_the_file(
    streams: Path, tmp_path: Path, kind: str, decoder: decoding.Decoder
) -> None:
    path = damaged(tmp_path, stream_file(streams, "h264 without B-frames"), kind)
    with pytest.raises(DecodingError, match=r"damaged\.mp4"):
        decode_clip(path, Uniform(4), decoder=decoder)


@pytest.mark.parametrize("interval", [(None, None), (0.0, 100.0), (0.0, 2.0)])
def test_a_recording_that_starts_between_key_frames_counts_what_can_be_decoded(
    streams: Path, tmp_path: Path, interval: tuple[float | None, float | None]
) -> None:
    source = tmp_path / "whole.ts"
    write_barcodes(source, 100, "libx264", {"bf": "0", "g": "25"})
    content = source.read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(content[: 188 * 3] + content[len(content) // 5 // 188 * 188 :])
    clip = decode_clip(path, Uniform(8), interval)
    numbers = [read_barcode(image) for image in clip.frames_THWC]
    assert len(numbers) == 8 and numbers == (numbers[0] + clip.indices_T).tolist()
    assert numbers[0] >= 20 and clip.num_available <= 80


def test_a_codec_without_decoder_is_an_error(streams: Path, tmp_path: Path) -> None:
    path = tmp_path / "unknown.mp4"
    path.write_bytes(stream_file(streams, "h264 without B-frames").read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(DecodingError, match=r"unknown\.mp4"):
        decode_clip(path, Uniform(4))


def test_an_interval_without_frames_is_an_error(streams: Path) -> None:
    with pytest.raises(DecodingError, match=r"no frame between 50\.0 s"):
        decode_clip(stream_file(streams, "h264 without B-frames"), Uniform(4), (50.0, 60.0))


def test_real_clips_decode_to_the_frames_of_a_plain_forward_pass() -> None:
    paths = [*shared_data("data/clips").glob("*.avi"), *shared_data("data/clips").glob("*.mp4")]
    paths += sorted(shared_data("data/egogestar").glob("*.mp4"))[::22]
    assert len(paths) > 9
    for path in paths:
        with av.open(str(path), metadata_errors="ignore") as container:
            reference = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        clip = decode_clip(path, Uniform(16))
        assert clip.num_available == len(reference)
        for image, index in zip(clip.frames_THWC, clip.indices_T, strict=True):
            assert np.abs(image.astype(int) - reference[index]).max() <= 2
