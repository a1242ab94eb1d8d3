"""The feature store: byte-identical results, and keys that depend on all settings."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from conftest import data_arguments, fit_arguments, read_data_module, shared_data
from helpers.barcodes import barcode, file_of
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from videomem.cli.main import main
from videomem.errors import DecodingError, VideomemError
from videomem.features import clip_decoding, shard_extraction, shard_files, store
from videomem.features.backbone import BackboneSettings
from videomem.features.clip_decoding import decode_frames
from videomem.features.extraction import extract
from videomem.features.failures import Failure, FailureTable
from videomem.features.folder import store_folder
from videomem.features.keys import clip_keys
from videomem.features.settings import FeatureSettings, ImportedFeatures
from videomem.features.store import FeatureStore
from videomem.utils import atomic
from videomem.utils.atomic import write_atomic
from videomem.utils.checked_json import dump_checked
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import read_catalog, write_catalog
from videomem.video.decoding import DecodedClip
from videomem.video.sampling import FixedRate, Uniform

SETTINGS = FeatureSettings(BackboneSettings(weights="random", layer="pool5", grid=2), Uniform(4))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_CLIPS", 4)


@pytest.fixture
def clips(catalog: Catalog) -> list[Clip]:
    return list(catalog.clips[:14])


def contents(root: Path) -> dict[str, bytes]:
    """All files of a store by path, without the failure table and the cache of hashes."""
    kept = [path for path in root.rglob("*") if path.is_file() and path.name not in ("failures.csv", "hashes.sqlite")]
    return {str(path.relative_to(root)): path.read_bytes() for path in kept}


def features(root: Path, clips: list[Clip], settings: FeatureSettings = SETTINGS) -> list[torch.Tensor]:
    opened, keys = FeatureStore(root, settings), clip_keys(clips, root)[0]
    index = opened.read_index()
    return [opened.shards.read(index[keys[clip]]) for clip in clips]


def failures_in(root: Path) -> dict[str, Failure]:
    """The failure table of a store, by file name."""
    failure_table = FeatureStore(root, SETTINGS).failure_table.read()
    return {Path(path).name: failure for (path, _, _), failure in failure_table.items()}


def copy_of(clip: Clip, path: Path) -> Clip:
    shutil.copy(clip.path, path)
    return replace(clip, path=str(path))


def key_of(clip: Clip, root: Path) -> str:
    return clip_keys([clip], root)[0][clip]


def test_a_second_run_does_nothing(tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    assert extract(clips, SETTINGS, tmp_path).num_extracted == 14
    before = contents(tmp_path)
    monkeypatch.setattr(clip_decoding, "decode_frames", lambda *_, **__: pytest.fail("decoded again"))
    report = extract(clips, SETTINGS, tmp_path)
    assert (report.num_done_before, report.num_extracted, report.failures) == (14, 0, ())
    assert contents(tmp_path) == before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_number_of_workers_does_not_change_the_output(tmp_path: Path, clips: list[Clip], num_workers: int) -> None:
    extract(clips, SETTINGS, tmp_path / "reference")
    extract(clips, SETTINGS, tmp_path / "other", num_workers=num_workers)
    assert contents(tmp_path / "reference") == contents(tmp_path / "other")


@pytest.mark.parametrize("stop_after", range(0, 14, 3))
def test_an_interrupted_extraction_ends_with_the_same_bytes(
    tmp_path: Path, clips: list[Clip], stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(clips, SETTINGS, tmp_path / "reference")
    real, calls = clip_decoding.decode_frames, iter(range(1000))

    def interrupted(clip: Clip, settings: FeatureSettings, preprocessing: object = None) -> object:
        if next(calls) == stop_after:
            raise KeyboardInterrupt
        return real(clip, settings)

    monkeypatch.setattr(clip_decoding, "decode_frames", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(clips, SETTINGS, tmp_path / "other")
    monkeypatch.setattr(clip_decoding, "decode_frames", real)
    report = extract(clips, SETTINGS, tmp_path / "other")
    assert report.num_done_before == stop_after // 4 * 4
    assert contents(tmp_path / "reference") == contents(tmp_path / "other")


def test_new_videos_form_new_shards_and_change_no_old_one(tmp_path: Path, clips: list[Clip]) -> None:
    extract(clips[:6], SETTINGS, tmp_path)
    before = contents(tmp_path)
    assert extract(clips, SETTINGS, tmp_path).num_extracted == 8
    after = contents(tmp_path)
    assert before.items() <= after.items() and len(after) > len(before)
    assert len(features(tmp_path, clips)) == 14


def test_an_unfinished_catalog_of_another_run_does_not_interfere(tmp_path: Path, clips: list[Clip]) -> None:
    FeatureStore(tmp_path, SETTINGS).create()
    keys = clip_keys(clips, tmp_path)[0]
    FeatureStore(tmp_path, SETTINGS).extend_plan(list(keys.values()))
    assert extract(clips[:2], SETTINGS, tmp_path).num_extracted == 2
    assert extract(clips, SETTINGS, tmp_path).num_extracted == 12


def test_a_clip_and_its_reversal_have_the_same_rows(tmp_path: Path, clips: list[Clip]) -> None:
    extract(clips, SETTINGS, tmp_path)
    rows = features(tmp_path, clips)
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert torch.equal(one, other.flip(0))


def test_features_are_stored_in_half_precision_unless_asked(tmp_path: Path, clips: list[Clip]) -> None:
    full = replace(SETTINGS, dtype="float32")
    for settings in (SETTINGS, full):
        extract(clips[:2], settings, tmp_path)
    half_rows, full_rows = features(tmp_path, clips[:2]), features(tmp_path, clips[:2], full)
    assert half_rows[0].dtype == torch.float16 and full_rows[0].dtype == torch.float32
    assert torch.equal(full_rows[0].half(), half_rows[0])


OTHERS = {
    "layer": replace(SETTINGS, backbone=replace(SETTINGS.backbone, layer="fc6")),
    "seed of the weights": replace(SETTINGS, backbone=replace(SETTINGS.backbone, seed=1)),
    "grid": replace(SETTINGS, backbone=replace(SETTINGS.backbone, grid=3)),
    "network": replace(SETTINGS, backbone=BackboneSettings("squeezenet1_0", "features.12", "random")),
    "number of frames": replace(SETTINGS, sampling=Uniform(6)),
    "sampling": replace(SETTINGS, sampling=FixedRate()),
    "decoder": replace(SETTINGS, decoder="pyav"),
    "dtype": replace(SETTINGS, dtype="float32"),
}


@pytest.mark.parametrize("change", OTHERS)
def test_another_setting_is_another_store(change: str) -> None:
    assert OTHERS[change].key != SETTINGS.key
    assert FeatureStore("x", SETTINGS).differences(OTHERS[change].identity)


def test_another_version_of_a_decoder_is_another_store(monkeypatch: pytest.MonkeyPatch) -> None:
    before = replace(SETTINGS).key
    monkeypatch.setattr("videomem.features.settings.decoder_versions", lambda decoder: {"av": "0"})
    assert replace(SETTINGS).key != before


def test_a_video_that_changes_is_another_clip(tmp_path: Path, clips: list[Clip]) -> None:
    one, other = (key_of(copy_of(source, tmp_path / "video.mp4"), tmp_path) for source in clips[:2])
    assert one != other
    same = key_of(clips[0], tmp_path)
    assert key_of(copy_of(clips[0], tmp_path / "moved.mp4"), tmp_path) == same
    assert key_of(replace(clips[0], start_s=0.1), tmp_path) != same


def test_features_are_used_after_the_video_is_deleted(tmp_path: Path, clips: list[Clip]) -> None:
    clip = copy_of(clips[0], tmp_path / "video.mp4")
    extract([clip], SETTINGS, tmp_path / "store")
    Path(clip.path).unlink()
    assert len(features(tmp_path / "store", [clip])) == 1


def test_a_file_that_is_temporarily_missing_is_not_recorded_as_failed(tmp_path: Path, clips: list[Clip]) -> None:
    path, aside = tmp_path / "video.mp4", tmp_path / "aside.mp4"
    clip, other = copy_of(clips[0], path), replace(SETTINGS, decoder="pyav")
    extract([clip], SETTINGS, tmp_path / "store")
    path.rename(aside)
    assert len(extract([clip], other, tmp_path / "store").failures) == 1
    aside.rename(path)
    report = extract([clip], other, tmp_path / "store")
    assert (report.num_extracted, report.failures) == (1, ())


def test_any_exception_of_a_decoder_fails_only_its_clip(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = clip_decoding.decode_frames

    def odd(clip: Clip, settings: FeatureSettings, preprocessing: object = None) -> object:
        if clip == clips[1]:
            raise AttributeError("odd file")
        return real(clip, settings)

    monkeypatch.setattr(clip_decoding, "decode_frames", odd)
    report = extract(clips, SETTINGS, tmp_path)
    assert [f.error for f in report.failures] == ["AttributeError"] and report.num_extracted == len(clips) - 1


@pytest.fixture
def with_broken(tmp_path: Path, clips: list[Clip]) -> list[Clip]:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    odd = [replace(clips[n], path=str(tmp_path / name)) for n, name in ((3, "broken.mp4"), (4, "none.mp4"))]
    return [*clips[:3], *odd, *clips[5:]]


def test_a_clip_that_fails_is_in_the_failure_table_and_the_others_are_done(
    tmp_path: Path, with_broken: list[Clip]
) -> None:
    for attempt in range(2):
        report = extract(with_broken, SETTINGS, tmp_path / "store")
        assert report.num_done_before + report.num_extracted == len(with_broken) - 2
        stages = {Path(failure.path).name: failure.stage for failure in report.failures}
        assert stages == {"broken.mp4": "decode", "none.mp4": "hash"}
        assert list(failures_in(tmp_path / "store")).count("broken.mp4") == 1, attempt
    assert "broken.mp4: not decodable" in failures_in(tmp_path / "store")["broken.mp4"].message


def test_failures_do_not_change_stored_features(tmp_path: Path, with_broken: list[Clip]) -> None:
    for name in ("one", "two"):
        extract(with_broken, SETTINGS, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_features_beyond_half_precision_are_refused(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_extraction, "extract_features", lambda b, frames: torch.full((len(frames), 1024), 1e6))
    with pytest.raises(VideomemError, match=r"set data\.features\.dtype to float32"):
        extract(clips[:2], SETTINGS, tmp_path)


def test_a_file_is_either_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"first")
    write_atomic(path, b"second", exclusive=True)
    assert path.read_bytes() == b"first"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VideomemError, match="No space left on device"):
        write_atomic(path, b"third")
    assert path.read_bytes() == b"first" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_incomplete_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    opened = FeatureStore(tmp_path, SETTINGS)
    opened.create()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    writers = (atomic._host(), gone.pid), (atomic._host(), os.getpid()), ("other-host", gone.pid)
    names = [f".000000.safetensors.{host}.{pid}.abc.tmp" for host, pid in writers]
    orphan, in_use, elsewhere = paths = [opened.folder / "shards" / name for name in names]
    for path in paths:
        path.touch()
    opened.create()
    assert not orphan.exists() and in_use.exists() and elsewhere.exists()


def test_every_kind_of_decoding_error_fails_only_its_clip(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(clip: Clip, settings: FeatureSettings, preprocessing: object = None) -> None:
        raise DecodingError(f"{clip.path}: broken\nin two lines")

    monkeypatch.setattr(clip_decoding, "decode_frames", fail)
    report = extract(clips, SETTINGS, tmp_path)
    assert len(report.failures) == len(clips) and "\n" not in report.failures[0].message


def decode_oddly(
    clip: Clip, settings: FeatureSettings, preprocessing: object = None
) -> tuple[torch.Tensor, DecodedClip]:
    """A decoder that hangs, dies or fails, depending on the name of a file."""
    name = Path(clip.path).name
    if name.startswith("hangs"):
        time.sleep(1000)
    if name.startswith("aborts"):
        os.abort()
    if name.startswith("fails") and not Path(clip.path).with_suffix(".fixed").exists():
        raise DecodingError(f"{clip.path}: damaged")
    return decode_frames(clip, settings)


@pytest.fixture
def with_odd(tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> list[Clip]:
    """Clips, some of which make their decoder hang, abort or fail."""
    monkeypatch.setattr(clip_decoding, "decode_frames", decode_oddly)
    odd = [
        copy_of(clip, tmp_path / f"{name}.mp4")
        for clip, name in zip(clips[10:13], ("hangs", "aborts", "fails"), strict=True)
    ]
    return [*clips[:3], *odd, *clips[3:8]]


def test_a_clip_that_hangs_or_kills_its_decoder_does_not_affect_the_others(
    tmp_path: Path, with_odd: list[Clip]
) -> None:
    report = extract(with_odd, SETTINGS, tmp_path / "store", num_workers=2, time_limit_s=2)
    assert report.num_extracted == len(with_odd) - 3
    assert {Path(f.path).name: (f.error, f.message.split(": ", 1)[1]) for f in report.failures} == {
        "hangs.mp4": ("TimeLimit", "not decoded within 2 s"),
        "aborts.mp4": ("WorkerDied", "its process was killed by SIGABRT"),
        "fails.mp4": ("DecodingError", "damaged"),
    }
    failure_table = failures_in(tmp_path / "store")
    assert failure_table.keys() == {"hangs.mp4", "aborts.mp4", "fails.mp4"}
    assert 2 <= failure_table["hangs.mp4"].seconds < 60
    again = extract(with_odd, SETTINGS, tmp_path / "store", num_workers=2, time_limit_s=2)
    assert again.num_extracted == 0 and again.failures == report.failures


def test_failed_clips_alone_are_tried_again_when_asked(
    tmp_path: Path, clips: list[Clip], with_odd: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(with_odd[0], path=str(tmp_path / "later.mp4"))
    with_odd = [*with_odd, gone]
    extract(with_odd, SETTINGS, tmp_path / "store", num_workers=1, time_limit_s=1)
    before = contents(tmp_path / "store")
    (tmp_path / "fails.fixed").touch()
    shutil.copy(clips[13].path, gone.path)
    never_seen = replace(with_odd[0], start_s=0.1)
    tried = []

    def note(clip: Clip, settings: FeatureSettings, preprocessing: object = None) -> object:
        tried.append(Path(clip.path).name)
        if clip.path.endswith(("hangs.mp4", "aborts.mp4")):
            raise DecodingError(f"{clip.path}: still odd")
        return decode_frames(clip, settings)

    monkeypatch.setattr(clip_decoding, "decode_frames", note)
    report = extract([*with_odd, never_seen], SETTINGS, tmp_path / "store", retry_failed=True)
    assert set(tried) == {"hangs.mp4", "aborts.mp4", "fails.mp4", "later.mp4"}
    assert (report.num_done_before, report.num_extracted) == (8, 2)
    assert sorted(Path(failure.path).name for failure in report.failures) == ["aborts.mp4", "hangs.mp4"]
    assert before.items() <= contents(tmp_path / "store").items()
    assert len(features(tmp_path / "store", [with_odd[5], gone])) == 2
    reasons = {name: failure.message.split(": ")[1] for name, failure in failures_in(tmp_path / "store").items()}
    assert reasons == {"aborts.mp4": "still odd", "hangs.mp4": "still odd"}
    tried.clear()
    assert extract(with_odd, SETTINGS, tmp_path / "store").num_extracted == 0 and not tried


def test_an_incomplete_line_of_the_failure_table_is_ignored(tmp_path: Path, with_broken: list[Clip]) -> None:
    extract(with_broken, SETTINGS, tmp_path / "store")
    with FeatureStore(tmp_path / "store", SETTINGS).failure_table.path.open("a") as file:
        file.write("half a li")
    assert len(failures_in(tmp_path / "store")) == 2
    assert extract(with_broken, SETTINGS, tmp_path / "store").num_extracted == 0


def test_the_same_clip_fails_the_same_way_every_time(tmp_path: Path, clips: list[Clip]) -> None:
    content = bytearray(Path(clips[0].path).read_bytes())
    content[len(content) // 3 : len(content) // 3 + 200] = bytes(200)
    broken = replace(clips[0], path=str(tmp_path / "broken.mp4"))
    Path(broken.path).write_bytes(content)
    told = set()
    for name in ("one", "two", "three"):
        report = extract([broken, *clips[1:3]], SETTINGS, tmp_path / name, num_workers=1)
        told |= {replace(failure, seconds=0.0) for failure in report.failures}
    assert len(told) == 1


def test_the_good_part_of_a_damaged_video_can_be_used(tmp_path: Path, clips: list[Clip]) -> None:
    whole = file_of(tmp_path, "mpeg4 in avi")
    damaged = tmp_path / "damaged.avi"
    damaged.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    clip = replace(clips[0], path=str(damaged))
    strict, lenient = SETTINGS, replace(SETTINGS, on_damage="prefix")
    assert strict.key != lenient.key
    assert "damaged after" in extract([clip], strict, tmp_path / "store").failures[0].message
    assert extract([clip], lenient, tmp_path / "store").failures == ()
    mine = FeatureStore(tmp_path / "store", lenient)
    (entry,) = mine.read_index().values()
    assert 20 < entry.num_available < 60 and mine.shards.fields(entry)["damage"] == "marked as corrupt"


def test_folders_of_frames_are_clips_like_others(tmp_path: Path, clips: list[Clip]) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(barcode(number)).save(folder / f"{number + 1:05}.png")
    clip = replace(clips[0], path=str(folder), fps=12.0)
    other_rate, part = replace(clip, fps=6.0), replace(clip, start_s=0.25, end_s=0.75)
    report = extract([clip, other_rate, part], SETTINGS, tmp_path / "store", num_workers=1)
    assert (report.num_extracted, report.failures) == (3, ())
    mine = FeatureStore(tmp_path / "store", SETTINGS)
    entries = mine.read_index()
    keys = clip_keys([clip, other_rate, part], tmp_path / "store")[0]
    assert [entries[keys[c]].num_available for c in (clip, other_rate, part)] == [12, 12, 6]
    fields = mine.shards.fields(entries[keys[clip]])
    assert fields["decoder"] == "pillow" and fields["indices"] == [0, 3, 8, 11]
    os.utime(folder / "00003.png", ns=(1, 1))
    assert key_of(clip, tmp_path / "store") == keys[clip]
    Image.fromarray(barcode(99)).save(folder / "00003.png")
    assert key_of(clip, tmp_path / "store") != keys[clip]


EXTRACT = """
import sys
from videomem.features import store
store.SHARD_CLIPS = 4
from videomem.features.backbone import BackboneSettings
from videomem.features.extraction import extract
from videomem.video.catalog_files import read_catalog
from videomem.video.sampling import Uniform
if __name__ == "__main__":
    settings = store.FeatureSettings(BackboneSettings(weights="random", layer="pool5", grid=2), Uniform(4))
    print("ready", flush=True)
    try:
        extract(read_catalog(sys.argv[1]).clips, settings, sys.argv[2], num_workers=1)
    except store.VideomemError as error:
        sys.exit(f"videomem: {error}")
"""


def start(catalog: Path, root: Path) -> subprocess.Popen[str]:
    """Extract in a separate process, which prints a line when its imports are done."""
    command = [sys.executable, "-c", EXTRACT, str(catalog), str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, said = process.communicate()
    assert process.returncode == 0, said


@pytest.fixture
def real_catalog(tmp_path: Path) -> Path:
    """A catalog of real clips, one of them damaged."""
    videos = sorted(shared_data("data/egogestar").glob("*.mp4"))[:60] + sorted(shared_data("data/clips").glob("*.avi"))
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(videos[0].read_bytes()[:-50_000])
    clips = [Clip(str(path), f"label{n % 2}", "train", path.name) for n, path in enumerate([*videos, damaged])]
    write_catalog(Catalog(tuple(clips)), tmp_path / "catalog.csv")
    return tmp_path / "catalog.csv"


@pytest.mark.slow
def test_killed_at_random_moments_the_store_of_real_clips_ends_byte_equal(tmp_path: Path, real_catalog: Path) -> None:
    began = time.monotonic()
    finish(start(real_catalog, tmp_path / "reference"))
    whole_s = time.monotonic() - began
    rng, shards_at_kill, ran_through = random.Random(0), [], 0
    while len(shards_at_kill) < 20:
        process = start(real_catalog, tmp_path / "other")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.6 * whole_s))
        if process.poll() is None:
            process.kill()
            shards_at_kill.append(len(list((tmp_path / "other").rglob("*.safetensors"))))
        process.communicate()
        if process.returncode == 0:
            assert contents(tmp_path / "reference") == contents(tmp_path / "other")
            shutil.rmtree(tmp_path / "other")
            ran_through += 1
    print(
        f"a whole run takes {whole_s:.0f} s; complete shards at each kill: {shards_at_kill}; {ran_through} ran through"
    )
    assert len(set(shards_at_kill)) > 5
    finish(start(real_catalog, tmp_path / "other"))
    assert contents(tmp_path / "reference") == contents(tmp_path / "other")


@pytest.mark.slow
def test_two_processes_at_once_write_the_same_bytes(tmp_path: Path, real_catalog: Path) -> None:
    for process in [start(real_catalog, tmp_path / name) for name in ("one", "two", "two")]:
        finish(process)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("free_kib", [0, 4, 40, 100])
def test_a_full_disk_is_a_clear_error_and_the_store_goes_on_from_there(
    tmp_path: Path, clips: list[Clip], small_disk: Path, free_kib: int
) -> None:
    extract(clips, SETTINGS, tmp_path / "reference")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 1024 * free_kib))
    with pytest.raises((VideomemError, OSError), match=r"No space left on device|disk is full"):
        extract(clips, SETTINGS, small_disk / "store")
    filler.unlink()
    assert not list(small_disk.rglob("*.tmp"))
    extract(clips, SETTINGS, small_disk / "store")
    assert contents(tmp_path / "reference") == contents(small_disk / "store")


# Damage.


def shards_of(root: Path) -> list[Path]:
    return sorted((root / SETTINGS.key / "shards").glob("*.safetensors"))


def changed(path: Path, place: int, content: bytes) -> None:
    """Replace bytes of a file; a negative place counts from its end."""
    whole = bytearray(path.read_bytes())
    start = place % len(whole)
    whole[start : start + len(content)] = content
    path.write_bytes(whole)


def flipped(path: Path, place: int) -> None:
    changed(path, place, bytes([path.read_bytes()[place] ^ 1]))


def test_a_flipped_bit_and_a_zeroed_page_of_a_shard_are_noticed(tmp_path: Path, clips: list[Clip]) -> None:
    extract(clips, SETTINGS, tmp_path)
    first, second, *_ = shards_of(tmp_path)
    flipped(first, -5)
    changed(second, -4096, bytes(2048))
    for number, start in ((0, 0), (1, 4)):
        with pytest.raises(VideomemError, match=rf"00000{number}.safetensors: damaged \(the checksum of rows \d+ to"):
            features(tmp_path, clips[start : start + 4])
    assert len(features(tmp_path, clips[8:])) == 6, "clips of other shards are read"


def test_every_flipped_bit_of_a_header_is_noticed_or_changes_nothing(tmp_path: Path, clips: list[Clip]) -> None:
    extract(clips[:2], SETTINGS, tmp_path)
    (shard,) = shards_of(tmp_path)
    whole, expected = shard.read_bytes(), features(tmp_path, clips[:2])
    for place in range(0, 8 + int.from_bytes(whole[:8], "little"), 41):
        shard.write_bytes(whole)
        flipped(shard, place)
        try:
            found = features(tmp_path, clips[:2])
        except VideomemError as error:
            assert str(shard) in str(error) and "\n" not in str(error)
        else:
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_shards_that_were_exchanged_are_noticed(tmp_path: Path, clips: list[Clip]) -> None:
    extract(clips, SETTINGS, tmp_path)
    first, second, *_ = shards_of(tmp_path)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    with pytest.raises(VideomemError, match=r"000000.safetensors: the file of another number \(1, but must be 0\)"):
        features(tmp_path, clips)


def test_a_shard_of_another_store_is_noticed(tmp_path: Path, clips: list[Clip]) -> None:
    other = replace(SETTINGS, backbone=replace(SETTINGS.backbone, seed=1))
    for settings in (SETTINGS, other):
        extract(clips[:4], settings, tmp_path)
    shutil.copy(tmp_path / other.key / "shards" / "000000.safetensors", shards_of(tmp_path)[0])
    with pytest.raises(VideomemError, match="the file of another store"):
        features(tmp_path, clips[:4])


@pytest.mark.parametrize("content", [b"{", b"[]", b"[[1]]", b'{"content": 3}', b"\xff", b"null"])
@pytest.mark.parametrize("name", ["plan/000000.json", "settings.json"])
def test_other_content_of_a_file_of_the_store_is_one_line(
    tmp_path: Path, clips: list[Clip], name: str, content: bytes
) -> None:
    extract(clips[:2], SETTINGS, tmp_path)
    path = tmp_path / SETTINGS.key / name
    path.write_bytes(content)
    folder = path.parents[name.count("/")]
    with pytest.raises(VideomemError, match=rf"^{path}: damaged .*; delete {folder} and run") as told:
        extract(clips[:2], SETTINGS, tmp_path)
    assert "\n" not in str(told.value)


def test_a_plan_that_is_missing_is_named(tmp_path: Path, clips: list[Clip]) -> None:
    for end in (2, 4):
        extract(clips[:end], SETTINGS, tmp_path)
    path = tmp_path / SETTINGS.key / "plan" / "000000.json"
    path.unlink()
    with pytest.raises(VideomemError, match=f"^{path}: is missing; delete {path.parents[1]} and run"):
        features(tmp_path, clips[:4])


def test_features_that_were_checked_once_are_not_checked_again(
    tmp_path: Path, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(clips[:4], SETTINGS, tmp_path)
    opened = FeatureStore(tmp_path, SETTINGS)
    (first, *_) = opened.read_index().values()
    opened.shards.read(first)
    monkeypatch.setattr(shard_files, "_checksum", lambda rows: pytest.fail("checked again"))
    opened.shards.read(first)
    pickle.loads(pickle.dumps(opened)).shards.read(first)  # noqa: S301 - as a worker gets it


def test_a_store_is_read_without_writing_to_it(tmp_path: Path, clips: list[Clip]) -> None:
    """With permissions, or as root with a read-only mount."""
    extract(clips[:3], SETTINGS, tmp_path / "store")
    expected, before = features(tmp_path / "store", clips[:3]), files_of(tmp_path / "store")
    place = tmp_path / "read_only"
    place.mkdir()
    mounts = ["--bind", tmp_path / "store", place], ["-o", "remount,bind,ro", place]
    if any(subprocess.run(["mount", *one], check=False, capture_output=True).returncode for one in mounts):
        pytest.skip("needs the right to mount a file system")
    try:
        found = features(place, clips[:3])
        known, unreadable = clip_keys(clips[:5], place)
        with pytest.raises(VideomemError, match="Read-only file system"):
            write_atomic(place / "file", b"")
    finally:
        subprocess.run(["umount", "-l", place], check=True)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(known) == 5 and not unreadable, "clips without a cached hash are hashed"
    assert files_of(tmp_path / "store") == before


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_named_pipe_is_no_clip_and_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    keys, failures = clip_keys([Clip(str(tmp_path / "a.mp4"), "x", "train", "1")], tmp_path / "store")
    assert not keys and failures[0].message.endswith("a.mp4: not a regular file")


# The cache of file hashes, which may be that of an untrusted store.

CACHE = "CREATE TABLE hashes (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT)"
ENDLESS = "WITH RECURSIVE c(path) AS (SELECT 1 UNION ALL SELECT path + 1 FROM c) SELECT path FROM c"


@pytest.mark.parametrize(
    "statements",
    [
        [f"CREATE VIEW hashes AS SELECT path, 1 AS size, 1 AS mtime_ns, 'x' AS sha256 FROM ({ENDLESS})"],
        [CACHE, f"CREATE TRIGGER t BEFORE INSERT ON hashes BEGIN INSERT INTO hashes(path) {ENDLESS}; END"],
        [CACHE.replace("size INTEGER", "size INTEGER DEFAULT (zeroblob(1000000000))")],
    ],
    ids=["view", "trigger", "default"],
)
def test_a_cache_of_hashes_with_anything_but_its_table_is_refused(tmp_path: Path, statements: list[str]) -> None:
    with closing(sqlite3.connect(tmp_path / "hashes.sqlite")) as cache:
        for statement in statements:
            cache.execute(statement)
    (tmp_path / "a.mp4").write_bytes(b"a")
    with pytest.raises(VideomemError, match=r"hashes.sqlite: has other content than a cache of file hashes; delete it"):
        clip_keys([Clip(str(tmp_path / "a.mp4"), "a", "train", "g")], tmp_path)


def test_a_cached_hash_that_is_none_is_not_used(tmp_path: Path) -> None:
    clip = Clip(str(tmp_path / "a.mp4"), "a", "train", "g")
    Path(clip.path).write_bytes(b"a")
    expected = clip_keys([clip], tmp_path)
    for value in (None, 5, "", b"\xff" * 64):
        with closing(sqlite3.connect(tmp_path / "hashes.sqlite")) as cache, cache:
            cache.execute("UPDATE hashes SET sha256 = ?", (value,))
        assert clip_keys([clip], tmp_path) == expected


def test_a_journal_that_names_a_file_deletes_nothing(tmp_path: Path) -> None:
    """After a crash, SQLite ends a transaction on several databases by deleting the file that their journals name."""
    precious, page = tmp_path / "thesis.txt", 4096
    precious.write_text("years of work")
    store = tmp_path / "store"
    clip_keys([], store)
    name, magic = str(precious).encode(), bytes.fromhex("d9d505f920a163d7")
    pages = (store / "hashes.sqlite").stat().st_size // page
    journal = (magic + struct.pack(">5I", 0xFFFFFFFF, 1, pages, 512, page)).ljust(512, b"\0")
    journal += struct.pack(">I", 2**30 // page + 1) + name + struct.pack(">2I", len(name), sum(name)) + magic
    (store / "hashes.sqlite-journal").write_bytes(journal)
    with pytest.raises(VideomemError, match=r"hashes.sqlite-journal: names another file"):
        clip_keys([], store)
    assert precious.exists()
    with closing(sqlite3.connect(store / "hashes.sqlite")) as cache:  # What SQLite itself does with it.
        cache.execute("SELECT * FROM hashes")
    assert not precious.exists()


@pytest.mark.parametrize("suffix", ["", "-journal", "-wal", "-shm"])
def test_a_link_or_a_pipe_in_place_of_the_cache_of_hashes_is_refused(tmp_path: Path, suffix: str) -> None:
    place = tmp_path / "store" / f"hashes.sqlite{suffix}"
    place.parent.mkdir()
    for make in (os.mkfifo, lambda path: path.symlink_to(tmp_path / "other.sqlite")):
        make(place)
        with pytest.raises(VideomemError, match=f"{place.name}: not a regular file; delete it"):
            clip_keys([], place.parent)
        place.unlink()
    assert not (tmp_path / "other.sqlite").exists()


# Other files of an untrusted store.


@pytest.mark.parametrize("content", [b"[]", b"{", b"[" * 5000, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff"])
def test_the_settings_of_another_store_may_be_anything(tmp_path: Path, clips: list[Clip], content: bytes) -> None:
    """Its folder is named for them, as for those of a whole store."""
    place = tmp_path / sha256(content).hexdigest()[:16]
    place.mkdir()
    (place / "settings.json").write_bytes(content)
    assert FeatureStore(tmp_path, SETTINGS).nearest() == ""


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_a_pipe_or_a_device_in_a_store_is_not_read(
    tmp_path: Path, clips: list[Clip], make: Callable[[Path], None]
) -> None:
    extract(clips[:4], SETTINGS, tmp_path)
    mine = FeatureStore(tmp_path, SETTINGS)
    (tmp_path / "other").mkdir()
    make(tmp_path / "other" / "settings.json")
    assert mine.nearest() == ""
    plan = mine.folder / "plan" / "000000.json"
    plan.unlink()
    make(plan)
    with pytest.raises(VideomemError, match=r"000000.json: not a regular file; delete"):
        mine.read_index()


def test_failures_are_not_written_to_the_target_of_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("mine\n")
    table = FailureTable(store_folder(tmp_path))
    table.path.symlink_to(other)
    with pytest.raises(VideomemError, match=r"failures.csv: cannot be written"):
        table.add(Failure("a", "decode", "auto", "Error", "message", 0.0))
    assert other.read_text() == "mine\n"


@pytest.mark.parametrize("inside", ["", "plan", "shards"])
def test_a_store_is_read_through_links_but_nothing_is_written_or_deleted_through_them(
    tmp_path: Path, clips: list[Clip], inside: str
) -> None:
    extract(clips[:4], SETTINGS, tmp_path / "root")
    mine = FeatureStore(tmp_path / "root", SETTINGS)
    moved = (mine.folder / inside).rename(tmp_path / "other disk")
    (mine.folder / inside).symlink_to(moved)
    orphan = moved / f".000009.json.{atomic._host()}.{2**22 + 1}.12345678.tmp"
    orphan.write_text("of a process that has ended")
    before = contents(moved)
    index = mine.read_index()
    assert len(index) == 4 and all(torch.isfinite(mine.shards.read(entry)).all() for entry in index.values())
    with pytest.raises(VideomemError, match=r": a link, through which nothing is written; put the folder itself there"):
        extract(clips, SETTINGS, tmp_path / "root")
    assert contents(moved) == before and orphan.exists()


def test_a_shard_that_is_a_link_is_read_and_replaced_without_writing_to_its_target(
    tmp_path: Path, clips: list[Clip]
) -> None:
    extract(clips[:4], SETTINGS, tmp_path / "root")
    shard = FeatureStore(tmp_path / "root", SETTINGS).folder / "shards" / "000000.safetensors"
    moved = shard.rename(tmp_path / "moved.safetensors")
    shard.symlink_to(moved)
    assert extract(clips[:4], SETTINGS, tmp_path / "root").num_done_before == 4
    moved.unlink()  # The link dangles, so the shard is missing.
    assert extract(clips[:4], SETTINGS, tmp_path / "root").num_extracted == 4
    assert not moved.exists() and not shard.is_symlink()


@pytest.mark.parametrize(
    "row",
    [
        *("p,decode,auto,E,m,nan,,", "p,decode,auto,E,m,1.0,nan,2", "p,decode,auto,E,m,1.0,-1,2"),
        *("p,decode,auto,E,m,inf,,", "p,decode,auto,E,m,1.0,3,2", "p,decode,auto,E,m,1.0,,1e999"),
        *("p,decode,auto,E,m,1_0,,", "p,decode,auto,E,m,,,", ",decode,auto,E,m,1.0,,", "p\0,decode,auto,E,m,1.0,,"),
    ],
)
def test_a_row_of_the_failure_table_that_no_clip_can_have_is_ignored(tmp_path: Path, row: str) -> None:
    table = FailureTable(store_folder(tmp_path))
    table.add(failure := Failure("a", "decode", "auto", "Error", "message", 0.5, None, 2.0))
    with table.path.open("a") as file:
        file.write(f"{row}\n")
    assert table.read() == {failure.location: failure}


def test_text_of_a_store_does_not_act_on_the_terminal(
    workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoder and damage of each clip, and what failed with which reason."""
    monkeypatch.setattr(store, "SHARD_CLIPS", 256)
    clear = "\x1b[2J\x1b]0;title\x07"
    shutil.copytree(workspace / "features", tmp_path / "features")
    mine = read_data_module(data_arguments(workspace)).feature_store
    mine = FeatureStore(tmp_path / "features", mine.settings)
    first = mine.read_plan()[0][0]

    def change(index: dict[str, Any], features: torch.Tensor) -> None:
        index["clips"] = [row for row in index["clips"] if row["clip"] != first]
        for row in index["clips"]:
            row |= {"decoder": clear, "damage": clear}

    change_shard(mine, change)
    clips = read_catalog(workspace / "videos" / "catalog.csv").clips
    mine.failure_table.rewrite(Failure.of(clip, clear, clear, f"{clip}{clear}", clear) for clip in clips)
    arguments = [*data_arguments(workspace), "--data.store", str(tmp_path / "features")]
    assert main(["extract", *arguments, "--workers", "0"]) == 1
    fit = [*fit_arguments(workspace, tmp_path / "run"), "--data.store", str(tmp_path / "features")]
    assert main(["fit", *fit]) in (0, 1)
    said = capfd.readouterr()
    assert "\\x1b[2J" in said.err and "\x1b[2J" not in said.out + said.err and "\x07" not in said.out + said.err


def test_features_that_the_stored_type_keeps_imprecisely_are_a_warning_of_extract(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shard_extraction.extract_features
    monkeypatch.setattr(shard_extraction, "extract_features", lambda *given: whole(*given) * 1e-9)
    command = ["extract", *data_arguments(workspace), "--workers", "0", "--data.store", str(tmp_path)]
    command += ["--data.features.sampling.num_frames", "2"]
    warning = "of the features are in all clips too small for the full precision of float16; set data.features.dtype to"
    assert main(command) == 0
    assert warning in capsys.readouterr().err
    assert main(command) == 0  # Nothing is extracted.
    assert main([*command, "--data.features.dtype", "float32"]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_shard_of_many_clips_is_read_in_proportion(tmp_path: Path) -> None:
    mine = FeatureStore(tmp_path, replace(SETTINGS, imported=ImportedFeatures("a", 1)))
    keys = [f"{number:032x}" for number in range(60_000)]
    fields = {"num_available": 1, "fps": 25.0, "decoder": "pyav", "damage": "", "indices": [0]}
    mine.create()
    mine.shards.write(0, [(key, fields, torch.zeros(1, 1)) for key in keys])
    started = time.perf_counter()
    assert len(mine.shards.entries(0, keys)) == len(keys)
    assert time.perf_counter() - started < 15


WRONG = [("start_row", 0.5), ("start_row", True), ("stop_row", 0), ("fps", math.nan), ("fps", "25"), ("decoder", 5),
         ("indices", "ab"), ("indices", [0.5]), ("indices", {}), ("damage", None), ("num_available", "16")]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_shard_whose_index_has_another_type_is_refused(
    tmp_path: Path, clips: list[Clip], name: str, value: object
) -> None:
    """Its checksums are right."""
    extract(clips[:4], SETTINGS, tmp_path)
    mine = FeatureStore(tmp_path, SETTINGS)
    change_shard(mine, lambda index, features: index["clips"][0].update({name: value}))
    with pytest.raises(VideomemError, match=r"000000.safetensors: a damaged shard .*; delete it and run"):
        mine.read_index()


def test_features_that_are_not_finite_are_refused(tmp_path: Path, clips: list[Clip]) -> None:
    """Their checksum is right."""
    extract(clips[:4], SETTINGS, tmp_path)
    mine = FeatureStore(tmp_path, SETTINGS)

    def change(index: dict[str, Any], features: torch.Tensor) -> None:
        row = index["clips"][0]
        features[row["start_row"], 0] = math.nan
        row["checksum"] = crc32(features[row["start_row"] : row["stop_row"]].numpy().data)

    change_shard(mine, change)
    entries = mine.read_index()
    with pytest.raises(VideomemError, match="has values that are not finite; delete it and run"):
        [mine.shards.read(entry) for entry in entries.values()]


def change_shard(mine: FeatureStore, change: Callable[[dict[str, Any], torch.Tensor], object]) -> None:
    """Change the index and the features of the first shard, and write it with the checksum of the index."""
    path = mine.folder / "shards" / "000000.safetensors"
    with safe_open(path, "pt") as shard:
        text, features = shard.metadata()["index"], shard.get_tensor("features").clone()
    whole = json.loads(text)
    change(whole["content"], features)
    text = dump_checked(whole["identity"], whole["content"])
    path.write_bytes(save({"features": features}, metadata={"index": text}))
