"""The survey of `catalog check`, and the fingerprints by which it finds copies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import shared_data
from helpers.barcodes import Kind
from helpers.rough_decoder import decode_roughly
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from videomem.cli.main import main
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import write_catalog
from videomem.video.decoding import decode_clip
from videomem.video.fingerprint import MAX_DISTANCE, SAMPLING, distance, fingerprint, is_reversal, near_pairs
from videomem.video.survey import ClipFacts, near_duplicates, summary
from videomem.video.synthetic import write_video

Frames = NDArray[np.uint8]
BITS = 64 * SAMPLING.num_frames  # of a fingerprint
LOSSY: dict[str, Any] = {"codec": "libx264", "pixel_format": "yuv420p", "options": {"crf": "35", "preset": "ultrafast"}}

MPEG4: dict[str, Any] = {"codec": "mpeg4", "pixel_format": "yuv420p", "options": {"q:v": "5"}}


def scene(seed: int, num_frames: int = 12, height: int = 96, width: int = 128) -> Frames:
    """Frames (T, height, width, 3) of a camera that pans over blurred random blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (7, 14, 3), np.uint8)
    wide = np.asarray(Image.fromarray(blocks).resize((2 * width, height), Image.Resampling.BICUBIC))
    return np.stack([wide[:, shift : shift + width] for shift in np.linspace(0, width, num_frames).astype(int)])


def halved(frames: Frames) -> Frames:
    _, height, width, _ = frames.shape
    size = (width // 4 * 2, height // 4 * 2)
    return np.stack([np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BILINEAR)) for f in frames])


def print_of(path: Path | str) -> NDArray[np.uint64]:
    found = fingerprint(decode_clip(path, SAMPLING, decoder="pyav").frames_THWC)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_re_encoded_at_half_the_size_is_near_also_when_reversed(tmp_path: Path, seed: int) -> None:
    frames = scene(seed)
    write_video(tmp_path / "a.mp4", frames)
    write_video(tmp_path / "small.mp4", halved(frames), **LOSSY)
    write_video(tmp_path / "reversed.mp4", halved(frames)[::-1], **LOSSY)
    original, small, turned = (print_of(tmp_path / f"{name}.mp4") for name in ("a", "small", "reversed"))
    assert distance(original, small) <= MAX_DISTANCE and not is_reversal(original, small)
    assert distance(original, turned) <= MAX_DISTANCE and is_reversal(original, turned)


def test_other_scenes_are_far() -> None:
    prints = np.stack([found for seed in range(30) if (found := fingerprint(scene(seed, 4))) is not None])
    assert len(prints) == 30
    among = distance(prints[:, None], prints[None])
    assert among[~np.eye(30, dtype=bool)].min() > 2 * MAX_DISTANCE


def test_the_bits_are_the_signs_of_differences_between_neighboring_cells() -> None:
    brighter = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None] * 20, (4, 8, 9, 3))
    assert fingerprint(brighter).tolist() == [2**64 - 1] * 4  # type: ignore[union-attr]
    assert fingerprint(brighter[:, :, ::-1]).tolist() == [0] * 4  # type: ignore[union-attr]
    scaled = brighter.repeat(3, axis=1).repeat(5, axis=2)
    assert fingerprint(scaled).tolist() == [2**64 - 1] * 4  # type: ignore[union-attr]


def test_frames_smaller_than_the_grid_have_a_fingerprint() -> None:
    assert fingerprint(scene(0, 4, height=3, width=6)) is not None


@pytest.mark.parametrize("level", [0, 16, 128, 255])
def test_uniform_frames_have_no_fingerprint(level: int) -> None:
    noise = np.random.default_rng(0).integers(-2, 3, (4, 96, 128, 3))
    assert fingerprint(np.clip(level + noise, 0, 255).astype(np.uint8)) is None


def test_one_flat_frame_of_four_is_passed_over_and_two_are_too_many() -> None:
    frames = scene(1, 4).copy()
    frames[0] = 16
    found = fingerprint(frames)
    assert found is not None and found[0] == 0
    frames[3] = 16
    assert fingerprint(frames) is None


@st.composite
def clusters(draw: st.DrawFn) -> NDArray[np.uint64]:
    """Fingerprints (N, 4), most with a distance of a few bits, some reversed."""
    center = draw(arrays(np.uint64, 4))
    rows = []
    for _ in range(draw(st.integers(0, 12))):
        row = center.copy()
        for bit in draw(st.lists(st.integers(0, BITS - 1), max_size=2 * MAX_DISTANCE)):
            row[bit // 64] ^= np.uint64(1 << bit % 64)
        rows.append(row[::-1] if draw(st.booleans()) else row)
    return np.stack(rows) if rows else np.empty((0, 4), np.uint64)


@given(left=arrays(np.uint64, 4), right=arrays(np.uint64, 4))
@settings(deadline=None)
def test_distance_is_symmetric_and_blind_to_the_direction_of_time(
    left: NDArray[np.uint64], right: NDArray[np.uint64]
) -> None:
    assert distance(left, right) == distance(right, left) == distance(left[::-1], right)
    assert distance(left, left) == distance(left, left[::-1]) == 0
    assert 0 <= distance(left, right) <= BITS


@given(left=clusters(), right=clusters(), swapped=st.booleans())
@settings(deadline=None)
def test_near_pairs_are_all_whose_distance_is_small(
    left: NDArray[np.uint64], right: NDArray[np.uint64], swapped: bool
) -> None:
    if swapped and len(left):
        right = left[::-1]
    found = [tuple(pair) for pairs in near_pairs(left, right) for pair in pairs.tolist()]
    assert found == [(a, b) for a, x in enumerate(left) for b, y in enumerate(right) if distance(x, y) <= MAX_DISTANCE]


def test_near_pairs_are_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = np.random.default_rng(0).integers(0, 2**63, (50, 4)).astype(np.uint64)
    whole = np.concatenate(list(near_pairs(prints, prints[::-1])))
    monkeypatch.setattr("videomem.video.fingerprint._BLOCK", 120)
    assert np.array_equal(np.concatenate(list(near_pairs(prints, prints[::-1]))), whole) and len(whole) == 50


def real_frames(path: Path) -> Frames:
    with av.open(str(path), metadata_errors="ignore") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.slow
def test_copies_of_real_clips_are_near_and_other_clips_are_not(tmp_path: Path) -> None:
    files = [*sorted(shared_data("data/clips").glob("*.[am][vp][i4]"))]
    files += sorted(shared_data("data/egogestar").glob("*.mp4"))
    originals, copies = [], []
    for file in files:
        write_video(tmp_path / "copy.mp4", halved(real_frames(file)), **LOSSY)
        originals.append(print_of(file))
        copies.append(print_of(tmp_path / "copy.mp4"))
    missed = int((distance(np.stack(originals), np.stack(copies)) > MAX_DISTANCE).sum())
    upper = np.triu_indices(len(files), 1)
    mistaken = int((distance(np.stack(originals)[:, None], np.stack(originals)[None])[upper] <= MAX_DISTANCE).sum())
    print(f"{len(files)} clips: {missed} copies missed; {mistaken} of {len(upper[0])} pairs of others are near")
    assert (len(files), len(upper[0])) == (97, 4656)
    assert missed <= 2 and mistaken <= 1


# The command


def check(folder: Path, *rows: Clip, options: tuple[str, ...] = ("--workers", "1")) -> int:
    """Run `catalog check` on a catalog with these rows, whose paths are file names in the folder."""
    at = tuple(Clip(str(folder / r.path), r.label, r.split, r.group, r.start_s, r.end_s, r.fps) for r in rows)
    write_catalog(Catalog(at), folder / "catalog.csv")
    return main(["catalog", "check", str(folder / "catalog.csv"), *options])


def line(printed: str, name: str) -> str:
    return next(line for line in printed.splitlines() if line.startswith(name)).removeprefix(name).strip()


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """A scene, its small copy, its reversal, and another scene."""
    videos = {"a": scene(0), "copy": halved(scene(0)), "turned": scene(0)[::-1], "other": scene(1)}
    for name, frames in videos.items():
        write_video(tmp_path / f"{name}.avi", frames, **MPEG4)
    return tmp_path


def test_near_duplicates_in_different_splits_cause_a_warning(copies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", "x", "train"), ("copy", "x", "test"), ("turned", "y", "test"), ("other", "y", "train")]
    assert check(copies, *(Clip(f"{n}.avi", label, split, n) for n, label, split in rows)) == 0
    printed = capsys.readouterr()
    assert re.search(
        r"warning: near-duplicates are in different splits: 2 in train and test; remove one clip of each pair, or put "
        r"both in one split; the first: \S+/a\.avi \(train\) and \S+/copy\.avi \(test\)\n"
        r"\S+/a\.avi \(train\) and \S+/turned\.avi \(test\), "
        r"reversed\n",
        printed.err,
    )
    assert "no errors, but 1 warning(s), see above" in printed.out and "no problems" not in printed.out


def test_near_duplicates_are_counted_for_each_pair_of_splits(copies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", "x", "train"), ("copy", "x", "val"), ("turned", "y", "test"), ("other", "y", "train")]
    assert check(copies, *(Clip(f"{n}.avi", label, split, n) for n, label, split in rows)) == 0
    warning = capsys.readouterr().err
    for splits in ("train and val", "train and test", "val and test"):
        assert f"1 in {splits}" in warning


def test_near_duplicates_within_one_split_are_not_reported(copies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a", "x", "train"), ("copy", "x", "train"), ("turned", "y", "train"), ("other", "y", "test")]
    assert check(copies, *(Clip(f"{n}.avi", label, split, n) for n, label, split in rows)) == 0
    assert "near-duplicates" not in capsys.readouterr().err


def facts(**changed: Any) -> ClipFacts:
    plain: dict[str, Any] = {"num_frames": 10, "duration_s": 1.0, "height": 96, "width": 128, "codec": "h264"}
    return ClipFacts(**(plain | {"decoder": "pyav", "fingerprint": None} | changed))


def test_of_many_near_duplicates_twenty_are_named_and_all_are_counted() -> None:
    known = facts(fingerprint=np.arange(4, dtype=np.uint64))
    clips = [Clip(f"{n}.mp4", "x", ("train", "test")[n % 2], str(n)) for n in range(12)]
    num_pairs, named = near_duplicates(dict.fromkeys(clips, known))
    assert (num_pairs, len(named)) == ({"train and test": 36}, 20)
    assert named[:2] == ["0.mp4 (train) and 1.mp4 (test)", "0.mp4 (train) and 3.mp4 (test)"]


def test_a_clip_without_a_fingerprint_is_never_a_near_duplicate() -> None:
    clips = [Clip(f"{n}.mp4", "x", ("train", "val", "test")[n % 3], str(n)) for n in range(6)]
    assert near_duplicates(dict.fromkeys(clips, facts())) == ({}, [])


def test_check_prints_durations_frames_resolutions_codecs_and_decoders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, num_frames in (("a", 8), ("b", 16), ("c", 40)):
        write_video(tmp_path / f"{name}.mp4", scene(ord(name), num_frames), fps=16)
    Kind("avi", "mpeg4", {"q:v": "3"}, num_frames=30).write(tmp_path / "d.avi")
    Kind("mkv", "ffv1", num_frames=30).write(tmp_path / "e.mkv")
    names = ("a.mp4", "b.mp4", "c.mp4", "d.avi", "e.mkv")
    assert check(tmp_path, *(Clip(name, "xy"[n % 2], "train", name) for n, name in enumerate(names))) == 0
    printed = capsys.readouterr().out
    assert "2 classes, 5 clips, 5 groups" in printed
    assert line(printed, "durations") == "0.50 / 1.20 / 2.50 s (min / median / max)"
    assert line(printed, "frames") == "8 / 30 / 40 (min / median / max)"
    assert line(printed, "resolutions") == "128x96 (3), 160x96 (2)"
    assert line(printed, "codecs") == "h264 (3), mpeg4 (1), ffv1 (1)"
    served = re.findall(r"(\w+) \((\d)\)", line(printed, "decoders"))
    assert sum(int(count) for _, count in served) == 5 and {n for n, _ in served} <= {"pyav", "decord", "torchcodec"}


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_a_part_of_a_file_counts_its_own_frames(
    tmp_path: Path, num_workers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "a.avi", scene(0, 40), fps=10, **MPEG4)
    parts = Clip("a.avi", "x", "train", "a", 0, 1), Clip("a.avi", "y", "train", "a", 1, 4)
    assert check(tmp_path, *parts, options=("--workers", num_workers)) == 0
    printed = capsys.readouterr().out
    assert line(printed, "frames") == "10 / 20 / 30 (min / median / max)"
    assert line(printed, "durations") == "1.00 / 2.00 / 3.00 s (min / median / max)"


def images(folder: Path, frames: Frames) -> None:
    folder.mkdir()
    for number, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(folder / f"img_{number:05}.jpg")


def test_folders_of_images_have_durations_where_the_catalog_has_their_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "a", scene(0, 12))
    images(tmp_path / "b", scene(1, 6))
    a, b = Clip("a", "x", "train", "a", fps=12), Clip("b/img_{:05}.jpg", "y", "train", "b")
    assert check(tmp_path, a, b) == 0
    printed = capsys.readouterr().out
    assert line(printed, "durations").startswith("1.00 / 1.00 / 1.00 s (min / median / max), 1 unknown")
    assert line(printed, "codecs") == "images (2)" and line(printed, "decoders") == "pillow (2)"
    assert check(tmp_path, Clip("a", "x", "train", "a"), b) == 0
    assert line(capsys.readouterr().out, "durations").startswith("2 unknown")


def test_of_many_resolutions_the_most_frequent_are_named_first() -> None:
    sizes = [100] * 3 + [200] * 5 + [300, 400, 500, 600, 700, 800]
    lines = summary([facts(width=size, height=size) for size in sizes])
    assert lines["resolutions"] == "200x200 (5), 100x100 (3), 300x300 (1), 400x400 (1), 500x500 (1), 600x600 (1), " \
        "... and 2 more"  # fmt: skip
    assert summary([]) == {}


def test_files_that_cannot_be_decoded_are_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / "a.mp4", scene(0), **MPEG4)
    (tmp_path / "b.mp4").write_bytes(b"some bytes")
    (tmp_path / "c.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:2000])
    rows = [Clip(f"{name}.mp4", label, "train", name) for name, label in zip("abcd", "xyxy", strict=True)]
    assert check(tmp_path, *rows) == 2
    printed = capsys.readouterr()
    assert "3 problem(s)" in printed.err
    for name in "bcd":
        assert len(re.findall(rf"{name}\.mp4: ", printed.err)) == 1
    assert "d.mp4: no such file" in printed.err
    assert line(printed.out, "codecs") == "mpeg4 (1)"


def test_a_clip_whose_process_dies_or_hangs_gives_one_error_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("videomem.video.survey.decode_clip", decode_roughly)
    names = ("dies", "good", "hangs", "raises", "fine")
    for name in names:
        (tmp_path / name).write_bytes(b"some bytes")
    rows = [Clip(name, "xy"[n % 2], "train", name) for n, name in enumerate(names)]
    assert check(tmp_path, *rows, options=("--workers", "2", "--time-limit", "3")) == 2
    printed = capsys.readouterr()
    assert "3 problem(s)" in printed.err
    assert "dies: its process was killed by SIGKILL" in printed.err
    assert "hangs: not decoded within 3 s" in printed.err
    assert "raises: ZeroDivisionError: of a strange file" in printed.err
    assert line(printed.out, "decoders") == "rough (2)"


def test_without_decoding_no_video_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a video was opened")

    monkeypatch.setattr("videomem.video.survey.decode_clip", never)
    monkeypatch.setattr("videomem.video.survey.run_isolated", never)
    for name in "ab":
        (tmp_path / name).write_bytes(b"some bytes")
    rows = (Clip("a", "x", "train", "a"), Clip("b", "y", "train", "b"))
    assert check(tmp_path, *rows, options=("--no-decode",)) == 0
    printed = capsys.readouterr().out
    assert "2 classes, 2 clips, 2 groups" in printed and "durations" not in printed


@pytest.mark.parametrize("option", [("--workers", "-1"), ("--time-limit", "0"), ("--time-limit", "nan")])
def test_options_outside_their_limits_are_a_one_line_error(
    tmp_path: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(tmp_path, Clip("a", "x", "train", "a"), options=option) == 2
    assert option[0] in capsys.readouterr().err
