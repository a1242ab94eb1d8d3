from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.barcodes import KINDS
from hypothesis import given, settings
from hypothesis import strategies as st

from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.inference.folder_config import class_names
from videomem.video.catalog import COLUMNS, Catalog, Clip
from videomem.video.catalog_checks import catalog_warnings
from videomem.video.catalog_files import absolute_clips, read_catalog, read_table, write_catalog
from videomem.video.datasets.own import UNGROUPED, from_csv, from_folder
from videomem.video.files import file_problem, videos_named
from videomem.video.splits import assign_splits

HEADER = "path,label,split,group,start_s,end_s\n"
GOOD = "a.mp4,x,train,1,,\nb.mp4,y,train,2,,\nc.mp4,x,test,3,,\nd.mp4,y,test,4,0.5,2\n"


def written(tmp_path: Path, rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "catalog.csv"
    path.write_text(header + rows)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_frames_per_second_are_a_column_only_where_a_clip_has_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"catalog.{suffix}"
    plain = (Clip(str(tmp_path / "a"), "x", "train", "1"), Clip(str(tmp_path / "b"), "y", "train", "2"))
    write_catalog(Catalog(plain), path)
    assert set(read_table(path)[0]) == set(COLUMNS)
    framed = (plain[0], replace(plain[1], fps=12.0))
    write_catalog(Catalog(framed), path)
    assert set(read_table(path)[0]) == {*COLUMNS, "fps"}
    assert read_catalog(path).clips == framed


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_interrupted_catalog_leaves_the_old_one(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"catalog.{suffix}"
    write_catalog(Catalog((Clip("a", "x", "train", "1"), Clip("b", "y", "train", "2"))), path)
    before = path.read_bytes()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_catalog(Catalog((Clip("c", "x", "train", "1"),)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_catalog_reads_back_as_written(tmp_path: Path, suffix: str) -> None:
    names = ["plain.mp4", "with, comma.mp4", 'with "quotes".mp4', "with space.mp4", "ünïcode.mp4", "new\nline.mp4"]
    clips = tuple(
        Clip(str(tmp_path / name), f"label {number % 2}", "train", f"g{number}", 0.1 * number or None, None)
        for number, name in enumerate(names)
    )
    path = tmp_path / f"catalog.{suffix}"
    write_catalog(Catalog(clips), path)
    assert read_catalog(path).clips == clips


def test_paths_are_relative_to_the_catalog(tmp_path: Path) -> None:
    catalog = read_catalog(written(tmp_path, GOOD))
    assert catalog.clips[0].path == str(tmp_path / "a.mp4")
    assert catalog.classes == ("x", "y")
    assert catalog.splits == ("train", "test")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "no videos in the table"),
        (GOOD + "a.mp4,x,train,1,,\n", r"a\.mp4: listed 2 times"),
        ("a.mp4,x,train,1,,\nb.mp4,x,test,2,,\n", "one class only"),
        (GOOD + "e.mp4,z,test,5,,\n", "label 'z' is in split test, but not in train"),
        (GOOD + "http://host/e.mp4,x,test,5,,\n", "a URL; videomem reads local files only"),
        (GOOD + "e.mp4,,test,5,,\n", "the label is empty"),
        (GOOD + "e.mp4,x,test,5,3,2\n", r"start_s 3\.0 is not before end_s 2\.0"),
        (GOOD + "e.mp4,x,test,5,-1,2\n", "must be finite and not negative"),
        (GOOD + "e.mp4,x,test,5,soon,2\n", "'soon', not a number of seconds"),
        (GOOD + ",x,test,5,,\n", "the path is empty"),
    ],
)
def test_a_rule_that_is_broken_is_named(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        read_catalog(written(tmp_path, rows))


@pytest.mark.parametrize(
    ("fps", "message"),
    [
        ("0", "fps is 0, but must be above 0"),
        ("-1", "not negative"),
        ("inf", "finite"),
        ("fast", "'fast', not a number"),
    ],
)
def test_frames_per_second_are_held_to_their_limits(tmp_path: Path, fps: str, message: str) -> None:
    with pytest.raises(VideomemError, match=message):
        read_catalog(written(tmp_path, f"a,x,train,1,,,{fps}\n", HEADER.replace("end_s", "end_s,fps")))


WARNED = [
    (
        GOOD + "e.mp4,x,test,1,,\n",
        r"1 group\(s\) are in more than one split, the first '1' in train, test: clips of one",
    ),
    (GOOD + "e.mp4,z,train,5,,\n", r"1 label\(s\) of train are not in test, the first 'z'"),
    (GOOD + "".join(f"{n}.mp4,x,train,{n},,\n" for n in range(10, 19)), "train has 10 clips of 'x', but 1 of 'y'; set"),
]


@pytest.mark.parametrize(("rows", "message"), WARNED)
def test_usable_but_damaged_files_cause_a_warning(
    tmp_path: Path, rows: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, rows)
    warnings = catalog_warnings(read_catalog(path))
    assert len(warnings) == 1 and re.search(message, warnings[0])
    for clip in read_catalog(path).clips:
        Path(clip.path).write_bytes(b"some bytes")
    assert main(["catalog", "check", str(path), "--no-decode"]) == 0
    assert re.search(f"warning: {message}", capsys.readouterr().err)


def test_a_catalog_without_faults_has_no_warnings(tmp_path: Path) -> None:
    assert catalog_warnings(read_catalog(written(tmp_path, GOOD))) == []


def test_reading_logs_groups_across_splits_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_catalog(written(tmp_path, GOOD))
    assert not caplog.records
    read_catalog(written(tmp_path, GOOD + "e.mp4,x,test,1,,\nf.mp4,y,test,2,,\n"))
    (record,) = caplog.records
    assert record.name == "videomem" and "2 group(s) are in more than one split" in record.getMessage()


def test_two_parts_of_one_file_are_two_clips(tmp_path: Path) -> None:
    rows = GOOD + "d.mp4,y,test,4,2,3\n"
    assert len(read_catalog(written(tmp_path, rows)).clips) == 5


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideomemError, match="lacks the column group"):
        read_catalog(written(tmp_path, "a.mp4,x,train\n", "path,label,split\n"))


def test_a_damaged_table_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "catalog.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(VideomemError, match="not readable as Parquet"):
        read_catalog(path)


labeled_groups = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=40, max_size=120)


@given(pairs=labeled_groups, seed=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_splits_do_not_divide_groups_and_are_reproducible(pairs: list[tuple[int, int]], seed: int) -> None:
    clips = [Clip(f"{n}.mp4", f"l{label}", "", f"g{group}") for n, (label, group) in enumerate(pairs)]
    groups_of = defaultdict(set)
    for clip in clips:
        groups_of[clip.label].add(clip.group)
    if min(map(len, groups_of.values())) < 3:
        with pytest.raises(VideomemError, match="3 splits need one each"):
            assign_splits(clips, seed=seed)
        return
    split = assign_splits(clips, seed=seed)
    assert split == assign_splits(clips, seed=seed)
    splits_of = defaultdict(set)
    for clip in split:
        splits_of[clip.group].add(clip.split)
    assert all(len(found) == 1 for found in splits_of.values())


def test_splits_are_stratified() -> None:
    clips = [Clip(f"{n}.mp4", "rare" if n < 20 else "common", "", f"g{n}") for n in range(200)]
    split = assign_splits(clips)
    for label, total in (("rare", 20), ("common", 180)):
        for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
            count = sum(clip.label == label and clip.split == name for clip in split)
            assert abs(count - share * total) <= 1.5


def folder_of(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"some bytes")
    return root


def build(*arguments: object) -> int:
    return main(["catalog", "build", *map(str, arguments)])


def test_a_folder_per_class_becomes_a_catalog(tmp_path: Path) -> None:
    names = [f"{label}/{n}.mp4" for label in ("wave", "jump") for n in range(10)]
    root = folder_of(tmp_path / "videos", *names, "wave/notes.txt", ".hidden/a.mp4")
    out = tmp_path / "catalog.csv"
    assert build("folder", "--root", root, "--out", out) == 0
    catalog = read_catalog(out)
    assert len(catalog.clips) == 20 and catalog.classes == ("jump", "wave")
    assert catalog.splits == ("train", "val", "test")
    assert main(["catalog", "check", str(out), "--no-decode"]) == 0


def test_split_folders_are_kept(tmp_path: Path) -> None:
    names = [
        f"{split}/{label}/{n}.avi" for split in ("train", "validation", "test") for label in "ab" for n in range(2)
    ]
    out = tmp_path / "catalog.parquet"
    assert build("folder", "--root", folder_of(tmp_path / "videos", *names), "--out", out) == 0
    assert {clip.split for clip in read_catalog(out).clips} == {"train", "val", "test"}


def test_a_folder_beside_the_split_folders_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_of(tmp_path / "videos", "train/a/1.mp4", "test/a/1.mp4", "extra/a/1.mp4", "annotations/list.txt")
    assert build("folder", "--root", root, "--out", tmp_path / "catalog.csv") == 2
    assert "some folders are splits, but 'extra' is not" in capsys.readouterr().err


def test_names_with_colons_are_no_addresses(tmp_path: Path) -> None:
    names = [f"{label}/{n}.mp4" for label in ("re:zero", "a") for n in range(8)]
    out = tmp_path / "catalog.csv"
    assert build("folder", "--root", folder_of(tmp_path / "videos", *names), "--out", out) == 0
    assert read_catalog(out).classes == ("a", "re:zero")


def test_the_users_own_table_becomes_a_catalog(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "videos", *(f"{n}.mp4" for n in range(12)))
    table = tmp_path / "mine.csv"
    table.write_text("path,label,person\n" + "".join(f"{n}.mp4,{'ab'[n % 2]},p\n" for n in range(12)))
    out = tmp_path / "catalog.csv"
    assert build("csv", "--root", root, "--table", table, "--out", out, "--fractions", "0.5,0,0.5") == 0
    assert read_catalog(out).splits == ("train", "test")


@pytest.mark.parametrize(
    ("names", "message"),
    [(["only/1.mp4", "only/2.mp4", "only/3.mp4"], "one class only"), (["a/readme.txt"], "has no videos")],
)
def test_a_folder_without_a_data_set_is_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], message: str
) -> None:
    out = tmp_path / "catalog.csv"
    assert build("folder", "--root", folder_of(tmp_path / "videos", *names), "--out", out) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_check_lists_what_is_wrong_with_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "c.mp4").mkdir()
    assert main(["catalog", "check", str(written(tmp_path, GOOD)), "--no-decode"]) == 2
    printed = capsys.readouterr().err
    assert "c.mp4: not a regular file" in printed and "d.mp4: no such file" in printed


def test_a_folder_of_frames_passes_with_one_image(tmp_path: Path) -> None:
    folder = tmp_path / "clip [1]"
    folder.mkdir()
    (folder / "notes.txt").write_bytes(b"x")
    assert "nor a folder with images" in str(file_problem(str(folder)))
    (folder / "img_00001.JPG").write_bytes(b"x")
    assert file_problem(str(folder)) is None
    assert file_problem(str(folder / "img_{:05}.JPG")) is None
    assert "nor a folder with images of that name" in str(file_problem(str(folder / "flow_{:05}.JPG")))
    assert "no such file" in str(file_problem(str(tmp_path / "gone" / "img_{:05}.jpg")))


def test_a_file_may_be_named_like_a_template(tmp_path: Path) -> None:
    odd = tmp_path / "a{}.jpg"
    odd.write_bytes(b"x")
    assert file_problem(str(odd)) is None


def test_names_that_a_spreadsheet_would_execute_are_written_as_text_and_read_as_they_were(tmp_path: Path) -> None:
    names = ["=1+1", "+a", "-b", "@c", "'=d", "-1"]
    clips = tuple(Clip(str(tmp_path / f"{name}.mp4"), name, "train", name, 0.5, 1.0) for name in names)
    write_catalog(Catalog(clips), tmp_path / "catalog.csv")
    assert absolute_clips(tmp_path / "catalog.csv") == Catalog(clips)
    cells = [cell for row in csv.reader((tmp_path / "catalog.csv").read_text().splitlines()) for cell in row]
    assert "'=1+1" in cells and "'=1+1.mp4" in cells and "-1" in cells and "0.5" in cells
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)


ODD_LABELS = {"no-break space": "moving\xa0left", "line break": "moving\nleft", "escape sequence": "\x1b[2Jleft",
              "text direction": "\u202eleft", "surrogate": "\udcff"}  # fmt: skip


@pytest.mark.parametrize("label", ODD_LABELS.values(), ids=ODD_LABELS)
def test_a_label_that_no_exported_folder_can_have_is_refused_when_the_catalog_is_read(
    tmp_path: Path, label: str
) -> None:
    with pytest.raises(ValueError, match="cannot be printed"):
        class_names({"0": label, "1": "other"})
    path = tmp_path / "catalog.csv"
    clips = [Clip(str(tmp_path / f"{n}.mp4"), (label, "other")[n], "train", f"g{n}") for n in range(2)]
    write_catalog(Catalog(tuple(clips)), path)
    with pytest.raises(VideomemError, match=r"cannot be displayed|is not UTF-8") as error:
        read_catalog(path)
    assert str(error.value).isprintable()


TABLES = {
    "a comma without quotes": ("path,label\na.mp4,push, left\nb.mp4,push, right\n", "row 1 has 3 cells, but the"),
    "a doubled column": ("path,label,label\na.mp4,x,y\nb.mp4,y,x\n", "has several columns 'label'"),
    "one file in two spellings": ("path,label\na.mp4,x\nb.mp4,y\n./a.mp4,x\n", r"a\.mp4: listed 2 times"),
    "a file and the same from 0": ("path,label,start_s\na.mp4,x,\nb.mp4,y,\na.mp4,x,0.0\n", r"a\.mp4: listed 2 times"),
    "a number with an underscore": ("path,label,start_s\na.mp4,x,1_0\nb.mp4,y,\n", "'1_0', not a number of seconds"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), TABLES.values(), ids=TABLES)
def test_a_table_that_says_something_else_than_it_seems_to_becomes_no_catalog(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    root, out = folder_of(tmp_path / "videos", "a.mp4", "b.mp4"), tmp_path / "catalog.csv"
    table = tmp_path / "mine.csv"
    table.write_text(content)
    assert build("csv", "--root", root, "--table", table, "--out", out, "--fractions", "1,0,0") == 2
    assert re.search(message, capsys.readouterr().err) and not out.exists()


def test_empty_cells_beyond_the_header_are_ignored(tmp_path: Path) -> None:
    assert len(read_catalog(written(tmp_path, GOOD.replace("1,,\n", "1,,,,\n"))).clips) == 4


def test_parts_of_one_file_are_in_one_group_however_its_path_is_written(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "videos", "a.mp4")
    table = tmp_path / "mine.csv"
    table.write_text(f"path,label,start_s,end_s\na.mp4,x,0,1\n./a.mp4,y,1,2\n{root}/b/../a.mp4,x,2,3\n")
    clips = from_csv(root, table).clips
    assert {(clip.path, clip.group) for clip in clips} == {(str(root / "a.mp4"), "a.mp4")}
    assert clips[0].start_s is None


def test_hidden_files_and_folders_are_no_clips(tmp_path: Path) -> None:
    hidden = [".ipynb_checkpoints/a.mp4", "deep/.Trash/b.mp4", "._c.mp4"]
    root = folder_of(tmp_path / "videos", *(f"{label}/{name}" for label in "ab" for name in ["v.mp4", *hidden]))
    assert {Path(clip.path).name for clip in from_folder(root).clips} == {"v.mp4"}
    assert videos_named([str(root)]) == [str(root / "a/v.mp4"), str(root / "b/v.mp4")]


def test_a_folder_has_videos_of_every_suffix_and_a_note_on_other_files(tmp_path: Path) -> None:
    suffixes = {f".{kind.suffix}" for kind in KINDS.values()} | {".h264", ".3g2", ".F4V", ".gif", ".vob", ".mxf"}
    videos = [f"{label}/v{suffix}" for label in "ab" for suffix in suffixes]
    found = from_folder(folder_of(tmp_path / "videos", *videos, "a/notes.txt", "b/notes.TXT", "b/v.mp4.part", "b/x"))
    assert {os.path.relpath(clip.path, tmp_path / "videos") for clip in found.clips} == set(videos)
    note = "4 files do not have the suffix of a video and are left out: .txt (2), .part (1), no suffix (1)"
    assert found.notes == (UNGROUPED, note)


def test_an_empty_file_in_a_folder_is_left_out_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "videos", *(f"{label}/{n}.mp4" for label in "ab" for n in range(10)))
    (root / "a" / "3.mp4").write_bytes(b"")
    assert build("folder", "--root", root, "--out", tmp_path / "out.csv") == 0
    assert f"warning: left out: {root / 'a' / '3.mp4'}: an empty file" in capsys.readouterr().err
    assert len(read_catalog(tmp_path / "out.csv").clips) == 19


def test_an_empty_file_of_a_table_names_the_option_that_excludes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "videos", *(f"{n}.mp4" for n in range(12)))
    (root / "3.mp4").write_bytes(b"")
    table = tmp_path / "mine.csv"
    table.write_text("path,label\n" + "".join(f"{n}.mp4,{'ab'[n % 2]}\n" for n in range(12)))
    arguments = ("csv", "--root", root, "--table", table, "--out", tmp_path / "out.csv")
    assert build(*arguments) == 2
    assert "--allow-missing excludes files" in capsys.readouterr().err
    assert build(*arguments, "--allow-missing") == 0


def test_a_class_of_one_clip_names_the_option_that_draws_fewer_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "videos", *(f"a/{n}.mp4" for n in range(5)), "b/0.mp4")
    assert build("folder", "--root", root, "--out", tmp_path / "out.csv") == 2
    assert "label 'b' has 1 group(s)" in (error := capsys.readouterr().err) and "--fractions" in error


def test_a_folder_is_grouped_by_what_a_regular_expression_matches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(
        tmp_path / "videos", *(f"{label}/p{n}_take{t}.mp4" for label in "ab" for n in range(6) for t in "12")
    )
    arguments = ("folder", "--root", root, "--out", tmp_path / "out.csv")
    assert build(*arguments) == 0
    assert "every file is a group of its own" in capsys.readouterr().out
    assert build(*arguments, "--group-by", "(p[0-9]+)_") == 0
    assert "group of its own" not in (said := capsys.readouterr().out) and "24 clips, 6 groups" in said
    clips = read_catalog(tmp_path / "out.csv").clips
    assert {clip.group for clip in clips} == {f"p{n}" for n in range(6)}
    assert all(len({clip.split for clip in clips if clip.group == f"p{n}"}) == 1 for n in range(6))
    assert build(*arguments, "--group-by", "_take[1-2]", "--fractions", "0.5,0,0.5") == 0
    assert {clip.group for clip in read_catalog(tmp_path / "out.csv").clips} == {"_take1", "_take2"}
    (root / "a" / "empty.mp4").write_bytes(b"")
    assert build(*arguments, "--group-by", "(p[0-9]+)_") == 0
    for pattern, message in (("p9", "matches nothing in a/p0_take1.mp4"), ("(", "not a regular expression")):
        assert build(*arguments, "--group-by", pattern) == 2
        assert message in capsys.readouterr().err


def test_a_table_is_grouped_by_the_named_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_of(tmp_path / "videos", *(f"{n}.mp4" for n in range(12)))
    table = tmp_path / "mine.csv"
    rows = (f"{n}.mp4,{'ab'[n % 2]},p{n // 2},g{n}\n" for n in range(12))
    table.write_text("path,label,person,group\n" + "".join(rows))
    arguments = ("csv", "--root", root, "--table", table, "--out", tmp_path / "out.csv")
    for options, groups in (((), 12), (("--group-by", "person"), 6)):
        assert build(*arguments, *options) == 0
        assert f"{groups} groups" in (said := capsys.readouterr().out) and "group of its own" not in said
    assert build(*arguments, "--group-by", "actor") == 2
    assert "lacks the column actor" in capsys.readouterr().err


# Tables that would take more memory or time than they have bytes.


def test_a_table_whose_rows_lack_most_cells_is_refused(tmp_path: Path) -> None:
    """Each of these rows of two bytes would take as much memory as the header has columns."""
    columns = ",".join(f"c{number}" for number in range(1000))
    path = written(tmp_path, "a\n" * 1000, f"{HEADER.strip()},{columns}\n")
    with pytest.raises(VideomemError, match=r"catalog.csv: most cells of its 1006 columns are missing"):
        read_table(path)


def test_a_parquet_table_of_far_more_rows_than_bytes_is_refused(tmp_path: Path) -> None:
    places = pa.array(np.zeros(10**6, np.int32))
    columns = {name: pa.DictionaryArray.from_arrays(places, ["a"]) for name in COLUMNS[:4]}
    pq.write_table(pa.table(columns), tmp_path / "catalog.parquet")
    assert (tmp_path / "catalog.parquet").stat().st_size < 100_000
    with pytest.raises(VideomemError, match=r"catalog.parquet: its rows take more than 100 times the bytes"):
        read_table(tmp_path / "catalog.parquet")


def test_damaged_parquet_tables_are_one_line_or_are_read(tmp_path: Path) -> None:
    """In a process of its own, which some damage of metadata would end if pyarrow were asked for the codecs."""
    path = tmp_path / "catalog.parquet"
    write_catalog(Catalog(tuple(Clip(f"{n}.mp4", "ab"[n % 2], "train", str(n)) for n in range(30))), path)
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from videomem.errors import VideomemError; from videomem.video.catalog_files import read_table\n"
        "path, rng = Path(sys.argv[1]), np.random.default_rng(0); whole = path.read_bytes()\n"
        "for number in range(2000):\n"
        "    changed, place = bytearray(whole), int(rng.integers(len(whole)))\n"
        "    changed[place : place + 1 + 7 * (number % 2)] = rng.bytes(1 + 7 * (number % 2))\n"
        "    path.write_bytes(changed if number % 5 else whole[:place])\n"
        "    try: read_table(path)\n"
        "    except VideomemError as error: assert '\\n' not in str(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]


def test_an_empty_csv_file_lacks_the_columns(tmp_path: Path) -> None:
    assert read_table(written(tmp_path, "", "")) == []


@pytest.mark.parametrize("codec", ["gzip", "zstd", "brotli", "lz4"])
def test_a_parquet_table_of_a_codec_that_can_inflate_without_limit_is_refused(tmp_path: Path, codec: str) -> None:
    table = pa.table({name: ["\0" * 2**20] for name in COLUMNS[:4]})
    pq.write_table(table, tmp_path / "catalog.parquet", compression=codec)
    with pytest.raises(
        VideomemError, match=rf"compressed with {codec.upper()}\w*; save it with snappy, without compress"
    ):
        read_table(tmp_path / "catalog.parquet")


def test_a_parquet_table_that_repeats_one_long_text_takes_memory_in_proportion(tmp_path: Path) -> None:
    """The peak of a process that reads 400 MB of text from 100 kB."""
    places = pa.array(np.zeros(200, np.int32))
    column = pa.DictionaryArray.from_arrays(places, ["a" * 2**21])
    table = pa.table({"path": column}, schema=pa.schema([("path", column.type)]))
    path = tmp_path / "catalog.parquet"
    pq.write_table(table, path, dictionary_pagesize_limit=2**30, write_statistics=False)
    assert path.stat().st_size < 110_000
    code = (
        "import resource, sys; from pathlib import Path; import pyarrow.parquet\n"
        "from videomem.video.catalog_files import read_table\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024; before = peak()\n"
        "try: read_table(Path(sys.argv[1]))\n"
        "except Exception as error: print(error, peak() - before, sep='\\n')"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    message, grown = said.splitlines()
    assert "take more than 100 times the bytes of the file" in message and int(grown) < 200


@pytest.mark.parametrize(
    "options",
    [{}, {"use_dictionary": False}, {"use_dictionary": False, "column_encoding": {"path": "DELTA_BYTE_ARRAY"}}],
)
def test_parquet_tables_of_every_encoding_have_the_same_rows(tmp_path: Path, options: dict[str, object]) -> None:
    rows = [{"path": "a" * (n % 10), "number": str(n), "none": "", "half": "0.5"} for n in range(1000)]
    columns = {"path": [row["path"] or None for row in rows], "number": range(1000), "none": pa.nulls(1000)}
    pq.write_table(pa.table(columns | {"half": [0.5] * 1000}), tmp_path / "a.parquet", row_group_size=300, **options)
    assert read_table(tmp_path / "a.parquet") == rows


def test_a_parquet_table_is_read_in_large_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    plain = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda file, size: [sizes.append(size), plain(file, size)][1])
    columns = {name: ["a"] * 10 for name in COLUMNS}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert len(read_table(tmp_path / "a.parquet")) == 10 and sizes == [2**16]
    wide = pa.array([b"a" * 100] * 10, pa.binary(100))  # A value of any length, repeated in a few bytes.
    pq.write_table(pa.table({**columns, "wide": wide}), tmp_path / "b.parquet")
    assert len(read_table(tmp_path / "b.parquet")) == 10 and sizes[1] == 4
    pq.write_table(pa.table({f"c{n}": [0] * 10 for n in range(5000)}), tmp_path / "c.parquet")
    assert len(read_table(tmp_path / "c.parquet")) == 10 and sizes[2] == 2**26 // (64 * 5000)


def test_a_parquet_table_whose_texts_share_long_prefixes_is_refused(tmp_path: Path) -> None:
    table = pa.table({"path": ["a" * 2**19] * 200})
    encoding = {"path": "DELTA_BYTE_ARRAY"}
    pq.write_table(
        table, tmp_path / "a.parquet", use_dictionary=False, column_encoding=encoding, write_statistics=False
    )
    assert (tmp_path / "a.parquet").stat().st_size < 110_000
    with pytest.raises(VideomemError, match="take more than 100 times the bytes"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_large_catalog_is_in_proportion(tmp_path: Path, suffix: str) -> None:
    clips = (Clip(str(tmp_path / f"{n:07}.mp4"), "x", "train", str(n)) for n in range(50_000))
    write_catalog(Catalog(tuple(clips)), tmp_path / f"a.{suffix}")
    assert len(read_table(tmp_path / f"a.{suffix}")) == 50_000


def test_a_path_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideomemError, match="row 1: the path has a zero byte"):
        read_catalog(written(tmp_path, "a\0b.mp4,x,train,1,,\n"))
