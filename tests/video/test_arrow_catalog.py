"""Catalogs in Arrow: the same clips, classes and splits as in CSV, without an object for each clip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from videomem.errors import VideomemError
from videomem.video.arrow_catalog import SCHEMA
from videomem.video.catalog import Catalog, Clip, MappedClips
from videomem.video.catalog_checks import catalog_problems, catalog_warnings
from videomem.video.catalog_files import read_catalog, write_catalog

CLIPS = tuple(
    Clip(
        f"{n // 2}.mp4", "zab"[n % 3], ("test", "train")[n % 4 > 0], f"g{n // 3}", n % 2 + 0.5 or None, n % 2 + 1.0, fps
    )
    for n, fps in enumerate([None, 25.0, 12.5] * 10)
)


def written(folder: Path, clips: tuple[Clip, ...] = CLIPS, **options: object) -> Path:
    path = folder / "catalog.arrow"
    table = pa.table({name: [getattr(clip, name) for clip in clips] for name in SCHEMA.names}).cast(SCHEMA)
    with pa.ipc.new_file(str(path), SCHEMA, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table, max_chunksize=7)
    return path


def test_an_arrow_catalog_has_the_clips_classes_splits_and_warnings_of_a_csv_catalog(tmp_path: Path) -> None:
    clips = tuple(replace(clip, path=str(tmp_path / clip.path)) for clip in CLIPS)
    for name in ("one.csv", "one.arrow"):
        write_catalog(Catalog(clips), tmp_path / name)
    text, mapped = (read_catalog(tmp_path / name) for name in ("one.csv", "one.arrow"))
    assert isinstance(mapped.clips, MappedClips) and not isinstance(text.clips, MappedClips)
    assert (
        tuple(mapped.clips) == text.clips == clips and mapped.clips[3] == clips[3] and mapped.clips[-2:] == clips[-2:]
    )
    assert (mapped.classes, mapped.splits) == (text.classes, text.splits) == (("a", "b", "z"), ("train", "test"))
    assert np.array_equal(mapped.labels_N, text.labels_N) and np.array_equal(mapped.splits_N, text.splits_N)
    assert [mapped.classes[number] for number in mapped.labels_N] == [clip.label for clip in clips]
    tested = [clip for clip in clips if clip.split == "test"]
    assert list(mapped.split("test")) == list(text.split("test")) == tested
    assert catalog_problems(mapped) == catalog_problems(text) == []
    assert catalog_warnings(mapped) == catalog_warnings(text) != []
    assert mapped.digest != text.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": ""}, "row 4: the path is empty"),
        ({"path": "a\0b"}, "row 4: the path has a zero byte"),
        ({"path": "0.mp4", "start_s": 0.5, "end_s": 1.0}, "listed 2 times"),
        ({"path": "https://a/b.mp4"}, "a URL; videomem reads local files only"),
        ({"label": ""}, "the label is empty"),
        ({"label": None}, "a label is missing"),
        ({"label": "a\nb"}, "cannot be displayed"),
        ({"split": ""}, "the split is empty"),
        ({"group": ""}, "a group is empty"),
        ({"start_s": 9.0}, "row 4: start_s is not before end_s"),
        ({"end_s": float("nan")}, "row 4: a time or fps is not finite"),
        ({"start_s": -1.0}, "row 4: a time or fps is not finite or negative"),
        ({"fps": 0.0}, "row 4: fps must be above 0"),
    ],
)
def test_a_row_that_no_catalog_can_have_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    clips = (*CLIPS[:3], replace(CLIPS[3], **change), *CLIPS[4:])  # type: ignore[arg-type]
    with pytest.raises(VideomemError, match=message) as error:
        read_catalog(written(tmp_path, clips))
    assert "\n" not in str(error.value)


def test_a_url_and_a_wrong_row_are_found_in_every_batch(tmp_path: Path) -> None:
    for row in (0, 6, 7, 29):
        for path, message in (
            ("https://a/b.mp4", "https://a/b.mp4.*: a URL"),
            ("a\0b", f"row {row + 1}: the path has"),
        ):
            clips = (*CLIPS[:row], replace(CLIPS[row], path=path), *CLIPS[row + 1 :])
            with pytest.raises(VideomemError, match=message):
                read_catalog(written(tmp_path, clips))


def test_a_colon_makes_no_url(tmp_path: Path) -> None:
    clips = tuple(replace(clip, path=f"at_12:30/{number}.mp4") for number, clip in enumerate(CLIPS))
    assert read_catalog(written(tmp_path, clips)).clips[29].path == str(tmp_path / "at_12:30/29.mp4")


def test_batches_with_dictionaries_of_their_own_have_the_same_classes(tmp_path: Path) -> None:
    clips = tuple(replace(clip, group="g") for clip in (*CLIPS[:2], *CLIPS[12:]))
    halves = [pa.table({name: [getattr(clip, name) for clip in part] for name in SCHEMA.names}).cast(SCHEMA)
              for part in (clips[:2], clips[2:])]  # fmt: skip
    assert [half["label"].chunk(0).dictionary.to_pylist() for half in halves] == [["z", "a"], ["z", "a", "b"]]
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.ipc.new_file(str(tmp_path / "deltas.arrow"), SCHEMA, options=options) as writer:
        for half in halves:
            writer.write_table(half)
    deltas, plain = read_catalog(tmp_path / "deltas.arrow"), read_catalog(written(tmp_path, clips))
    assert tuple(deltas.clips) == tuple(plain.clips) and deltas.classes == plain.classes
    assert np.array_equal(deltas.labels_N, plain.labels_N)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_compressed_table_is_refused_before_it_is_inflated(tmp_path: Path, codec: str) -> None:
    with pytest.raises(VideomemError, match="a compressed Arrow table; write it without compression"):
        read_catalog(written(tmp_path, compression=codec))


def test_damaged_tables_are_one_line_or_are_read(tmp_path: Path) -> None:
    path, rng = written(tmp_path), np.random.default_rng(0)
    whole = path.read_bytes()
    for number in range(1500):
        changed, place = bytearray(whole), int(rng.integers(len(whole)))
        changed[place : place + 1 + 7 * (number % 2)] = rng.bytes(1 + 7 * (number % 2))
        path.unlink()  # An earlier table may be mapped still.
        path.write_bytes(changed if number % 5 else whole[:place])
        try:
            tuple(read_catalog(path).clips)
        except VideomemError as error:
            assert "\n" not in str(error)
