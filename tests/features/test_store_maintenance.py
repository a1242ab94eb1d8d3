"""One store made by several jobs, and the commands of `videomem store`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import data_arguments, failed

from videomem.cli.main import main
from videomem.features import clip_decoding, store
from videomem.features.folder import store_folder
from videomem.features.maintenance import stores_in
from videomem.features.shard_files import Shards


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_CLIPS", 4)


@pytest.fixture(scope="module")
def extracted_once(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extracted")
    assert extracted(workspace, folder) == 0
    return folder


@pytest.fixture
def stored(extracted_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(extracted_once, tmp_path / "stored"))


def by_key(root: Path | str) -> dict[str, torch.Tensor]:
    (one,) = stores_in(root)
    return {key: one.shards.read(entry) for key, entry in one.read_index().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def extracted(workspace: Path, root: Path | str, *options: str) -> int:
    """Extract two frames of each clip."""
    settings = ["--data.store", str(root), "--data.features.sampling.num_frames", "2", "--workers", "0"]
    return main(["extract", *data_arguments(workspace), *settings, *options])


@pytest.mark.parametrize("is_shared", [True, False])
def test_jobs_for_parts_of_a_catalog_make_one_store(
    stored: Path, workspace: Path, tmp_path: Path, is_shared: bool
) -> None:
    roots = [tmp_path / ("shared" if is_shared else f"part{number}") for number in range(3)]
    for number in (2, 0, 1):
        assert extracted(workspace, roots[number], "--shard", f"{number}/3") == 0
    assert sorted(path.name for path in roots[1].glob("hashes*")) == [
        f"hashes.{number}-of-3.sqlite" for number in (range(3) if is_shared else [1])
    ]
    whole = by_key(stored)
    if is_shared:
        assert same(by_key(roots[0]), whole)
        return
    out = tmp_path / "out"
    assert main(["store", "merge", str(out), *map(str, roots)]) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert same(by_key(out), whole)
    assert main(["store", "merge", str(out), *map(str, roots)]) == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert extracted(workspace, out) == 0


def test_a_job_uses_the_hashes_that_others_know(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted(workspace, tmp_path, "--shard", "0/1")
    monkeypatch.setattr("videomem.features.keys._hash", lambda _: pytest.fail("read again"))
    assert extracted(workspace, tmp_path) == 0 and extracted(workspace, tmp_path, "--shard", "1/2") == 0


def test_a_merge_that_was_interrupted_is_repeated(
    stored: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Shards.write, iter(range(100))

    def write(*given: object) -> None:
        if next(calls) == 1:
            raise KeyboardInterrupt
        real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(Shards, "write", write)
    command = ["store", "merge", str(tmp_path / "out"), str(stored)]
    assert main(command) == 130
    assert main(command) == 0
    assert same(by_key(tmp_path / "out"), by_key(stored))


def test_a_part_that_does_not_exist_is_refused(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("3/3", "-1/3", "1", "1/0"):
        error = failed(capsys, "extract", *data_arguments(workspace), f"--shard={part}")
        assert "must be I/N with I from 0 to N - 1, such as 0/16" in error


@pytest.fixture
def copied(stored: Path, workspace: Path, tmp_path: Path) -> Path:
    assert main(["store", "merge", str(tmp_path / "copy"), str(stored)]) == 0
    return tmp_path / "copy"


def test_a_flipped_bit_is_found_and_named_with_file_and_clip(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "verify", str(copied)]) == 0
    (one,) = stores_in(copied)
    key, entry = list(one.read_index().items())[-1]
    path = copied / one.settings.key / "shards" / f"{entry.shard:06d}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    assert main(["store", "verify", str(copied)]) == 1
    error = capsys.readouterr().err
    assert f"clip {key}: {path}: damaged (the checksum of rows" in error and len(error.splitlines()) == 1
    content[200] ^= 1  # In the index.
    path.write_bytes(content)
    assert main(["store", "verify", str(copied)]) == 1
    assert f"{path}: " in capsys.readouterr().err


def test_every_damaged_shard_is_named(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = sorted(copied.rglob("shards/*.safetensors"))[:2]
    for path in damaged:
        path.write_bytes(b"damaged")
    assert main(["store", "verify", str(copied)]) == 1
    error = capsys.readouterr().err
    assert all(f"{path}: a damaged shard" in error for path in damaged) and len(error.splitlines()) == 2


def test_gc_removes_only_what_no_store_needs(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = stores_in(copied)
    shards = copied / one.settings.key / "shards"
    before = by_key(copied)
    orphans = [shards / "000900.safetensors", shards / f".000001.safetensors.elsewhere.{2**22 + 1}.12345678.tmp"]
    for orphan in orphans:
        orphan.write_bytes(b"12345")
    os.utime(orphans[1], (0, 0))
    for options, remains in ((["--dry-run"], True), ([], False), ([], False)):
        assert main(["store", "gc", str(copied), *options]) == 0
        assert [orphan.exists() for orphan in orphans] == [remains, remains]
    assert "10 bytes would be freed" in (said := capsys.readouterr().out) and "\n10 bytes freed" in said
    assert same(by_key(copied), before)


def test_stats_are_those_of_the_store(copied: Path, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied / stores_in(copied)[0].settings.key / "shards" / "000000.safetensors").unlink()
    (one,) = stores_in(copied)
    assert main(["store", "stats", str(copied)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert one.settings.key[:6] in said and f" {len(by_key(copied))} " in said


def test_a_folder_without_stores_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["verify", tmp_path], ["gc", tmp_path], ["stats", tmp_path], ["merge", tmp_path / "a", tmp_path]):
        assert "has no feature store" in failed(capsys, "store", *arguments)


def test_a_part_has_a_failure_table_of_its_own(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(clip: object, settings: object, preprocessing: object = None) -> object:
        raise ValueError("odd")

    monkeypatch.setattr(clip_decoding, "decode_frames", fail)
    for number in range(2):
        assert extracted(workspace, tmp_path, "--shard", f"{number}/2") == 1
    (one,) = stores_in(tmp_path)
    names = store_folder(tmp_path / one.settings.key).states("failures")
    assert list(names) == ["0-of-2.csv", "1-of-2.csv"]
    assert len(one.failure_table.read()) == len(one.settled_clips())
