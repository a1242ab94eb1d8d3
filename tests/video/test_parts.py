"""Parts of one file: the file is listed once, and each part is what it is in a process that decodes nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.barcodes import KINDS, barcode, file_of, read_barcode
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from videomem.errors import DecodingError
from videomem.features.keys import clip_keys
from videomem.video import files as video_files
from videomem.video.catalog import Clip
from videomem.video.decoders import by_torchcodec, frame_folder, listing, video_stream
from videomem.video.decoders.packet_reader import PacketReader
from videomem.video.decoding import Decoder, OnDamage, decode_clip
from videomem.video.sampling import Interval, Uniform

SHORT_GROUPS = "h264, key frame every 12"
# Of each way to decode: groups of pictures, forwards, only after a search for the first key frame, up to damage.
VARIED = [SHORT_GROUPS, "h264 with B-frames", "h264 open GOP", "h264 cut between key frames",
          "h264 variable frame rate", "hevc open GOP", "vp9 with hidden frames", "mpeg4 in mkv", "gif",
          "mpegts from the middle", "h264 without sample lengths"]  # fmt: skip
LONG_AGO_S = 1_000_000_000


def settled(path: Path) -> Path:
    """The file, as if it had been written long ago."""
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    forget()
    yield
    forget()


def forget() -> None:
    video_stream._latest = None
    frame_folder.unchanged_folder.cache_clear()


def decoded(path: Path, interval: Interval, decoder: Decoder = "auto", on_damage: OnDamage = "exclude") -> list[Any]:
    """All of a decoded part, or its error."""
    try:
        clip = decode_clip(path, Uniform(3), interval, decoder, on_damage=on_damage)
    except DecodingError as error:
        return [str(error)]
    frames = clip.frames_THWC.shape, clip.frames_THWC.tobytes(), clip.indices_T.tolist()
    times_s = None if clip.times_s_T is None else clip.times_s_T.tolist()
    return [*frames, times_s, clip.num_available, clip.fps, clip.decoder, clip.codec, clip.damage]


def assert_alone_as_in_turn(path: Path, intervals: list[Interval], *how: Any) -> list[list[Any]]:
    alone = []
    for interval in intervals:
        forget()
        alone.append(decoded(path, interval, *how))
    forget()
    assert [decoded(path, interval, *how) for interval in intervals] == alone
    return alone


seconds = st.floats(0, 2.5).map(lambda value: round(value, 2))
intervals = st.tuples(seconds, seconds).filter(lambda pair: pair[0] < pair[1])
some_intervals = st.lists(intervals | st.tuples(seconds, st.none()), min_size=2, max_size=4)


@pytest.mark.parametrize("name", [n if n in VARIED else pytest.param(n, marks=pytest.mark.slow) for n in KINDS])
def test_a_part_has_the_same_bits_whatever_was_decoded_before(files: Path, name: str) -> None:
    path = settled(file_of(files, name))

    @settings(max_examples=4, deadline=None, derandomize=True)
    @given(some_intervals, st.sampled_from(["auto", "auto", "pyav"]))
    def check(several: list[Interval], decoder: Decoder) -> None:
        assert_alone_as_in_turn(path, several, decoder)

    check()


@pytest.mark.parametrize("name", [SHORT_GROUPS, "h264 with B-frames", "hevc open GOP"])
def test_damage_is_found_in_the_same_parts_whatever_was_decoded_before(files: Path, tmp_path: Path, name: str) -> None:
    content, found = file_of(files, name).read_bytes(), []

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(st.integers(len(content) // 4, 3 * len(content) // 4), st.sampled_from(["exclude", "prefix"]))
    def check(place: int, on_damage: OnDamage) -> None:
        path = tmp_path / "damaged.mp4"
        path.write_bytes(content[:place] + bytes(60) + content[place + 60 :])
        parts: list[Interval] = [(0.3 * n, 0.3 * (n + 1)) for n in range(8)]
        found.extend(assert_alone_as_in_turn(settled(path), parts, "auto", on_damage))

    check()
    assert 0.1 < np.mean([len(one) == 1 for one in found]) < 0.9


@pytest.mark.parametrize("name", [SHORT_GROUPS, "h264 with B-frames", "mpeg4 in mkv", "vp9 in webm", "hevc closed GOP"])
def test_a_large_file_is_read_from_the_key_frame_on(files: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, parts = settled(file_of(files, name)), [(0.1, 0.4), (1.5, 1.9), (0.9, 1.1), (2.0, None)]
    held = [decoded(path, part, "pyav") for part in parts]
    forget()
    monkeypatch.setattr(listing, "_MOST_HELD_BYTES", 1000)
    assert [decoded(path, part, "pyav") for part in parts] == held


def count_packets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    num_read, packets = [0], PacketReader.packets

    def counted(reader: PacketReader) -> Iterator[object]:
        for pair in packets(reader):
            num_read[0] += 1
            yield pair

    monkeypatch.setattr(PacketReader, "packets", counted)
    return num_read


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize(("most_held", "num_expected"), [(2**20, 60), (1000, 60 + 12)])
def test_packets_are_listed_once_for_all_parts(
    files: Path, monkeypatch: pytest.MonkeyPatch, decoder: Decoder, most_held: int, num_expected: int
) -> None:
    path = settled(file_of(files, SHORT_GROUPS))
    monkeypatch.setattr(listing, "_MOST_HELD_BYTES", most_held)
    num_read = count_packets(monkeypatch)
    for number in range(6):
        part = (0.48 * (number % 5) + 0.01, 0.48 * (number % 5) + 0.2)
        assert read_barcode(decode_clip(path, Uniform(2), part, decoder).frames_THWC[0]) == 12 * (number % 5) + 1
        # A large file is read again for the first frame, or from the key frame before a part on.
        assert num_read[0] <= num_expected + 12 * number
    if most_held == 2**20:
        assert num_read == [60]


def test_a_file_that_changes_between_parts_is_listed_again(files: Path, tmp_path: Path) -> None:
    one, other = (file_of(files, name).read_bytes() for name in (SHORT_GROUPS, "h264, every frame a key frame"))
    path, size = tmp_path / "clip.mp4", max(len(one), len(other))
    path.write_bytes(one.ljust(size, b"\0"))
    before = decoded(settled(path), (1.0, 1.5))
    path.write_bytes(other.ljust(size, b"\0"))  # The same file, of the same size.
    os.utime(path, ns=(LONG_AGO_S * 10**9, LONG_AGO_S * 10**9 + 1))
    after = decoded(path, (1.0, 1.5))
    forget()
    assert before != after == decoded(path, (1.0, 1.5))


@pytest.mark.parametrize("cause", ["another process", "another file", "another name", "a whole file", "a recent write"])
def test_a_listing_is_not_used_after(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    first, second = tmp_path / "first.mp4", tmp_path / "second.mp4"
    for path in (first, second):
        settled(Path(shutil.copy(file_of(files, SHORT_GROUPS), path)))
    if cause == "a recent write":
        os.utime(first)
    if cause == "another name":
        second.unlink()
        os.link(first, second)
    decode_clip(first, Uniform(2), (0.0, 0.5))
    kept = video_stream._latest
    assert (kept is None) == (cause == "a recent write")
    if cause == "another process":
        monkeypatch.setattr(os, "getpid", lambda: 1)
    decode_clip(second if cause in ("another file", "another name") else first, Uniform(2),
                (None, None) if cause == "a whole file" else (0.0, 0.5))  # fmt: skip
    assert video_stream._latest is None or video_stream._latest[1] is not kept[1]  # type: ignore[index]


def test_torchcodec_is_opened_once_and_again_after_a_message(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not by_torchcodec.versions():
        pytest.skip("needs torchcodec and an FFmpeg that it can load")
    path, opened, complains = settled(file_of(files, SHORT_GROUPS)), [], False
    open_file = by_torchcodec._open

    def counted(stream: Any) -> Any:
        opened.append(stream)
        return open_file(stream)

    class Messages:
        def __enter__(self) -> list[str]:
            return ["[h264 @ 0x1] error"] if complains else []

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(by_torchcodec, "_open", counted)
    monkeypatch.setattr(by_torchcodec, "ffmpeg_messages", Messages)
    parts: list[Interval] = [(0.1, 0.3), (1.0, 1.2), (0.5, 0.7)]
    assert {decode_clip(path, Uniform(2), part).decoder for part in parts} == {"torchcodec"} and len(opened) == 1
    complains = True
    assert decode_clip(path, Uniform(2), parts[0]).decoder == "pyav" and len(opened) == 1
    complains = False
    assert decode_clip(path, Uniform(2), parts[1]).decoder == "torchcodec" and len(opened) == 2


@pytest.mark.parametrize("kind", ["video", "images"])
def test_keys_and_parts_look_at_a_file_or_folder_once(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "frames"
    if kind == "images":
        path.mkdir()
        for number in range(30):
            Image.fromarray(barcode(number)).save(path / f"{number:03}.png")
    else:
        shutil.copy(file_of(files, SHORT_GROUPS), path)
    settled(path)
    listed = []

    def counted(*arguments: Any) -> Any:
        listed.append(arguments)
        return video_files.images_in(*arguments)

    monkeypatch.setattr("videomem.features.keys.images_in", counted)
    monkeypatch.setattr(frame_folder, "images_in", counted)
    hashed = []
    monkeypatch.setattr("videomem.features.keys._hash", lambda of: hashed.append(of) or "0" * 64)  # type: ignore[func-returns-value]
    clips = [Clip(str(path), "a", "train", "", n / 10, (n + 4) / 10, 10.0) for n in range(20)]
    keys, failures = clip_keys(clips, tmp_path / "store")
    assert len(set(keys.values())) == 20 and not failures and len(hashed) == 1 and len(listed) == (kind == "images")
    for number, clip in enumerate(clips if kind == "images" else ()):
        found = decode_clip(clip.path, Uniform(2), clip.interval, fps=clip.fps).frames_THWC
        assert [read_barcode(image) for image in found] == [number, number + 3]
    assert len(listed) == 2 * (kind == "images")


def test_seeking_never_gives_another_packet(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settled(file_of(files, SHORT_GROUPS))
    monkeypatch.setattr(listing, "_MOST_HELD_BYTES", 1000)
    expected = decoded(path, (1.0, 1.4), "pyav")
    forget()
    decode_clip(path, Uniform(2), (0.0, 0.4), "pyav")
    kept = video_stream._latest
    assert kept is not None and np.all(kept[1].num_bytes_N > 0)
    kept[1].num_bytes_N[24:] += 1  # As if the file had other packets there.
    assert decoded(path, (1.0, 1.4), "pyav") == expected  # By decoding forwards.
