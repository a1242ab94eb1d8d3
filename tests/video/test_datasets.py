"""Every layout of `videomem catalog build`, with files in the format of the released data sets."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import CONFIGS, shared_data
from PIL import Image

from videomem.cli.main import main
from videomem.video.catalog import Catalog, Clip, read_catalog
from videomem.video.datasets import LAYOUTS
from videomem.video.datasets.hmdb51 import movie
from videomem.video.decoding import decode_clip
from videomem.video.sampling import Uniform
from videomem.video.synthetic import write_video


def build(*arguments: object) -> int:
    return main(["catalog", "build", *map(str, arguments)])


def built(out: Path, *arguments: object) -> Catalog:
    assert build(*arguments, "--out", out) == 0
    return read_catalog(out)


def refused(capsys: pytest.CaptureFixture[str], out: Path, *arguments: object) -> str:
    capsys.readouterr()
    assert build(*arguments, "--out", out) == 2
    assert not out.exists()
    printed = capsys.readouterr().err
    assert "Traceback" not in printed and printed.splitlines()[-1].startswith("videomem: error: ")
    return printed


def files(root: Path, names: Iterable[str], content: bytes = b"some bytes") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    root.mkdir(exist_ok=True)
    return root


def text(folder: Path, name: str, lines: Sequence[str], end: str = "\n", encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes("".join(line + end for line in lines).encode(encoding))
    return folder / name


def videos(root: Path, *names: str) -> Path:
    """Decodable videos of 6 frames."""
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / name, rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    return root


def frames(folder: Path, count: int, template: str = "{:05}.jpg", start: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(start, start + count):
        Image.new("RGB", (16, 12), (number, 0, 0)).save(folder / template.format(number))
    return folder


def by_name(catalog: Catalog) -> dict[str, Clip]:
    return {Path(clip.path).name: clip for clip in catalog.clips}


def splits(catalog: Catalog) -> dict[str, int]:
    return dict(Counter(clip.split for clip in catalog.clips))


def num_decoded(path: str, num_frames: int) -> int:
    return len(decode_clip(path, Uniform(num_frames)).indices_T)


# UCF101

UCF_CLASSES = ["ApplyEyeMakeup", "Archery", "HandstandPushups"]
UCF_TEST_GROUPS = {1: range(1, 8), 2: range(8, 15), 3: range(15, 22)}


def ucf_name(label: str, group: int, number: int) -> str:
    spelled = "HandStandPushups" if label == "HandstandPushups" else label
    return f"{label}/v_{spelled}_g{group:02}_c{number:02}.avi"


def ucf101(tmp_path: Path, end: str = "\r\n") -> tuple[Path, Path]:
    lists = tmp_path / "ucfTrainTestlist"
    text(lists, "classInd.txt", [f"{n} {label}" for n, label in enumerate(UCF_CLASSES, start=1)], end)
    everything = [(label, g, c) for label in UCF_CLASSES for g in range(1, 26) for c in (1, 2)]
    for split, held in UCF_TEST_GROUPS.items():
        train = [f"{ucf_name(*clip)} {UCF_CLASSES.index(clip[0]) + 1}" for clip in everything if clip[1] not in held]
        text(lists, f"trainlist{split:02}.txt", train, end)
        text(lists, f"testlist{split:02}.txt", [ucf_name(*clip) for clip in everything if clip[1] in held], end)
    return files(tmp_path / "UCF-101", [ucf_name(*clip) for clip in everything]), lists


@pytest.mark.parametrize("split", [1, 2, 3])
def test_ucf101_gives_each_official_split(tmp_path: Path, split: int) -> None:
    root, lists = ucf101(tmp_path)
    arguments = ["ucf101", "--root", root, "--annotations", lists, "--split", split]
    catalog = built(tmp_path / "out.csv", *arguments)
    assert splits(catalog) == {"train": 3 * 18 * 2, "test": 3 * 7 * 2}
    assert {int(clip.group[-2:]) for clip in catalog.split("test")} == set(UCF_TEST_GROUPS[split])
    assert catalog.classes == tuple(UCF_CLASSES)
    assert by_name(catalog)["v_Archery_g09_c02.avi"].group == "Archery_g09"


def test_ucf101_takes_the_class_from_the_folder(tmp_path: Path) -> None:
    root, lists = ucf101(tmp_path)
    catalog = built(tmp_path / "out.csv", "ucf101", "--root", root, "--annotations", lists)
    clip = by_name(catalog)["v_HandStandPushups_g08_c01.avi"]
    assert (clip.label, clip.group, clip.split) == ("HandstandPushups", "HandstandPushups_g08", "train")


def test_ucf101_holds_out_whole_groups_for_validation(tmp_path: Path) -> None:
    root, lists = ucf101(tmp_path)
    arguments = ["ucf101", "--root", root, "--annotations", lists, "--val-share", "0.15"]
    catalog = built(tmp_path / "out.csv", *arguments)
    assert splits(catalog)["test"] == 3 * 7 * 2
    assert 0.1 < splits(catalog)["val"] / (3 * 18 * 2) < 0.2
    groups = {split: {clip.group for clip in catalog.split(split)} for split in catalog.splits}
    assert not groups["train"] & groups["val"]
    assert built(tmp_path / "same.csv", *arguments).clips == catalog.clips
    assert built(tmp_path / "other.csv", *arguments, "--seed", 1).clips != catalog.clips


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("trainlist01.txt", ["Archery/v_Archery_g08_c01.avi 1"], "trainlist01.txt:1: class index 1 of 'Archery', but"),
        ("trainlist01.txt", ["Archery/v_Archery_g08_c01.avi 2", "Rowing/v_Rowing_g08_c01.avi 3"], ":2: class 'Rowing'"),
        ("trainlist01.txt", ["Archery/v_Archery_g08_c01.avi"], ":1: 'Archery/v_Archery_g08_c01.avi' lacks the class"),
        ("testlist01.txt", ["v_Archery_g08_c01.avi"], "testlist01.txt:1: 'v_Archery_g08_c01.avi' is not of the form"),
        ("classInd.txt", ["1,Archery"], "classInd.txt:1: '1,Archery' is not a class"),
    ],
)  # fmt: skip
def test_ucf101_names_the_line_that_is_wrong(
    tmp_path: Path, name: str, lines: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lists = ucf101(tmp_path)
    text(lists, name, lines)
    assert message in refused(capsys, tmp_path / "out.csv", "ucf101", "--root", root, "--annotations", lists)


def test_lists_that_are_not_there_or_no_text_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, lists = ucf101(tmp_path)
    arguments = ["ucf101", "--root", root, "--annotations", lists]
    (lists / "testlist01.txt").write_bytes(b"Archery/v_Archery_\xff_g01_c01.avi")
    assert "testlist01.txt: not UTF-8 text (byte 18" in refused(capsys, tmp_path / "out.csv", *arguments)
    (lists / "testlist01.txt").unlink()
    assert "testlist01.txt: no such file" in refused(capsys, tmp_path / "out.csv", *arguments)
    assert "nowhere: no such folder" in refused(capsys, tmp_path / "out.csv", *arguments[:-1], tmp_path / "nowhere")


def test_listed_files_that_are_absent_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, lists = ucf101(tmp_path)
    for number in (1, 2):
        (root / f"Archery/v_Archery_g08_c0{number}.avi").unlink()
    (root / "Archery/v_Archery_g09_c01.avi").write_bytes(b"")
    out = tmp_path / "out.csv"
    arguments = ["ucf101", "--root", root, "--annotations", lists]
    printed = refused(capsys, out, *arguments)
    assert (
        "2 of the 150 listed files are missing (Archery/v_Archery_g08_c01.avi, Archery/v_Archery_g08_c02.avi)"
        in printed
    )
    catalog = built(out, *arguments, "--allow-missing")
    assert "3 of 150 listed files are missing or empty" in capsys.readouterr().out
    assert len(catalog.clips) == 147
    listed = (tmp_path / "out.csv.missing.txt").read_text().splitlines()
    assert [Path(line).name for line in listed] == [
        "v_Archery_g08_c01.avi", "v_Archery_g08_c02.avi", "v_Archery_g09_c01.avi"
    ]  # fmt: skip
    ucf101(tmp_path)
    assert len(built(out, *arguments).clips) == 150
    assert not (tmp_path / "out.csv.missing.txt").exists()
    wrong = [*arguments[:2], lists, *arguments[3:], "--allow-missing"]
    assert "none of the 150 listed files exists" in refused(capsys, tmp_path / "new.csv", *wrong)


# HMDB51

HMDB = {
    "brush_hair": [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", 1),
        ("April_09_brush_hair_u_nm_np1_ba_goo_1.avi", 1),
        ("[IVASEK]_#1_(a)_&_b_brush_hair_h_cm_np2_le_med_12.avi", 1),
        ("Brushing_Hair_with_Beth_brush_hair_h_nm_np1_le_goo_2.avi", 2),
        ("Unused_brush_hair_h_nm_np1_le_goo_2.avi", 0),
    ],
    "wave": [
        ("20060723sfjffbartsinger_wave_f_cm_np1_ba_med_0.avi", 1),
        ("Gone_With_The_Wind_wave_u_cm_np4_ri_bad_3.avi", 1),
        ("Other_wave_u_cm_np4_ri_bad_3.avi", 2),
    ],
}


def hmdb51(tmp_path: Path) -> tuple[Path, Path]:
    lists, root = tmp_path / "testTrainMulti_7030_splits", tmp_path / "hmdb51"
    for label, clips in HMDB.items():
        text(lists, f"{label}_test_split1.txt", [f"{name} {use} " for name, use in clips])
        text(lists, f"{label}_test_split2.txt", [f"{name} {2 - use // 2} " for name, use in clips])
        files(root / label, [name for name, _ in clips])
    return root, lists


def test_hmdb51_reads_its_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, lists = hmdb51(tmp_path)
    catalog = built(tmp_path / "out.csv", "hmdb51", "--root", root, "--annotations", lists)
    assert splits(catalog) == {"train": 5, "test": 2}
    assert catalog.classes == ("brush_hair", "wave")
    assert "1 clips are in no part of split 1" in capsys.readouterr().out
    clips = by_name(catalog)
    assert clips["April_09_brush_hair_u_nm_np1_ba_goo_0.avi"].group == "April_09"
    assert clips["[IVASEK]_#1_(a)_&_b_brush_hair_h_cm_np2_le_med_12.avi"].group == "[IVASEK]_#1_(a)_&_b"
    other = built(tmp_path / "out.csv", "hmdb51", "--root", root, "--annotations", lists, "--split", 2)
    assert splits(other) == {"train": 2, "test": 6}


@pytest.mark.parametrize(
    ("name", "label", "source"),
    [
        ("RATRACE_wave_f_nm_np1_fr_goo_37.avi", "wave", "RATRACE"),
        ("hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi", "cartwheel", "hmdb51_Turnk_r_Pippi_Michel"),
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "April_09"),
        ("Turnk\udcfcr_cartwheel_f_cm_np2_le_med_6.avi", "cartwheel", "Turnk\ufffdr"),
        ("a_wave_f_nm_np1_fr_goo_3_wave_f_nm_np1_fr_goo_37.avi", "wave", "a_wave_f_nm_np1_fr_goo_3"),
        ("another_form_12.avi", "wave", "another_form"),
    ],
)
def test_hmdb51_groups_by_movie(name: str, label: str, source: str) -> None:
    assert movie(name, label) == source


def test_hmdb51_finds_names_that_are_no_utf8(tmp_path: Path) -> None:
    root, lists = hmdb51(tmp_path)
    name = "Turnk\xfcr_wave_f_cm_np2_le_med_6.avi"
    text(lists, "wave_test_split1.txt", [f"{name} 1"], encoding="latin-1")
    files(root / "wave", [name.encode("latin-1").decode("utf-8", "surrogateescape")])
    catalog = built(tmp_path / "out.csv", "hmdb51", "--root", root, "--annotations", lists)
    assert [clip.group for clip in catalog.clips if clip.label == "wave"] == ["Turnk\ufffdr"]


@pytest.mark.parametrize("line", ["a_wave_f_nm_np1_fr_goo_3.avi 3", "a_wave_f_nm_np1_fr_goo_3.avi", "../x.avi 1"])
def test_hmdb51_names_the_line_that_is_wrong(tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    root, lists = hmdb51(tmp_path)
    text(lists, "wave_test_split1.txt", ["", line])
    arguments = ["hmdb51", "--root", root, "--annotations"]
    assert f"wave_test_split1.txt:2: {line!r} is not of the form" in refused(
        capsys, tmp_path / "o.csv", *arguments, lists
    )
    assert "no lists <class>_test_split1.txt" in refused(capsys, tmp_path / "o.csv", *arguments, root)


def assert_decoded_as_by_pyav(catalog: Catalog) -> None:
    """Whether the frames equal those of a forward pass within 2/255."""
    for clip in catalog.clips:
        with av.open(clip.path, metadata_errors="ignore") as container:
            reference = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        decoded = decode_clip(clip.path, Uniform(len(reference)))
        assert decoded.num_available == len(reference)
        assert np.abs(decoded.frames_THWC.astype(np.int16) - np.stack(reference)).max() <= 2


def test_real_clips_of_hmdb51_and_ucf101_are_catalogued(tmp_path: Path) -> None:
    clips = shared_data("data/clips")
    ucf, hmdb, lists = tmp_path / "UCF-101", tmp_path / "hmdb51", tmp_path / "lists"
    named = {"cartwheel": ["hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"],
             "wave": sorted(path.name for path in clips.glob("*_wave_*.avi"))}  # fmt: skip
    for label, names in named.items():
        (hmdb / label).mkdir(parents=True)
        for name in names:
            (hmdb / label / name).symlink_to(clips / name)
        text(lists, f"{label}_test_split1.txt", [f"{name} 1 " for name in names])
    catalog = built(tmp_path / "hmdb51.csv", "hmdb51", "--root", hmdb, "--annotations", lists)
    assert {clip.group for clip in catalog.clips} == {
        "RATRACE", "SchoolRulesHowTheyHelpUs", "TrumanShow", "hmdb51_Turnk_r_Pippi_Michel"
    }  # fmt: skip
    assert_decoded_as_by_pyav(catalog)
    (ucf / "SoccerJuggling").mkdir(parents=True)
    (ucf / "Surfing").mkdir()
    for group in (23, 24):
        name = f"v_SoccerJuggling_g{group}_c01.avi"
        shutil.copy(clips / name, ucf / "SoccerJuggling" / name)
        shutil.copy(clips / name, ucf / "Surfing" / name.replace("SoccerJuggling", "Surfing"))
    text(lists, "classInd.txt", ["84 SoccerJuggling", "87 Surfing"])
    text(
        lists, "trainlist01.txt", ["SoccerJuggling/v_SoccerJuggling_g23_c01.avi 84", "Surfing/v_Surfing_g23_c01.avi 87"]
    )
    text(lists, "testlist01.txt", ["SoccerJuggling/v_SoccerJuggling_g24_c01.avi", "Surfing/v_Surfing_g24_c01.avi"])
    catalog = built(tmp_path / "ucf101.csv", "ucf101", "--root", ucf, "--annotations", lists)
    assert splits(catalog) == {"train": 2, "test": 2}
    assert_decoded_as_by_pyav(catalog)


# Kinetics

KINETICS = "label,youtube_id,time_start,time_end,split,is_cc"


def kinetics(tmp_path: Path) -> list[object]:
    root, tables = tmp_path / "k400", tmp_path / "annotations"
    videos(root, "train/abseiling/-3B32lodo2M_000059_000069.mp4")
    files(root, ["_dbcJuKJQNs_000040_000050.mp4", "val/--GkrdYZ9Tc_000000_000010.mp4",
                 "val/air drumming/4-2_HyyHnL8_000104_000114.mp4", "val/notes.txt"])  # fmt: skip
    train = [KINETICS, "abseiling,-3B32lodo2M,59,69,train,0", '"air drumming",_dbcJuKJQNs,40,50,train,0',
             "abseiling,gone0000000,1,11,train,0"]  # fmt: skip
    val = [
        KINETICS.removesuffix(",is_cc"),
        "abseiling,--GkrdYZ9Tc,0,10,validate",
        "air drumming,4-2_HyyHnL8,104,114,val",
    ]
    text(tables, "train.csv", train, "\r\n", "utf-8-sig")
    text(tables, "val.csv", val)
    text(tables, "test.csv", ["youtube_id,time_start,time_end,split", "--tttttt,1,11,test", "--uuuuuu,1,11,test"])
    options = [("--annotations", tables / f"{name}.csv") for name in ("train", "val", "test")]
    return ["kinetics", "--root", root, *(part for option in options for part in option)]


def test_kinetics_finds_its_files_wherever_they_lie(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    catalog = built(out, *kinetics(tmp_path))
    printed = capsys.readouterr().out
    assert splits(catalog) == {"train": 2, "val": 2}
    assert catalog.classes == ("abseiling", "air drumming")
    assert by_name(catalog)["-3B32lodo2M_000059_000069.mp4"].group == "-3B32lodo2M"
    assert "test.csv: 2 of 2 rows have no label and are left out" in printed
    assert "1 of 5 listed files are missing or empty" in printed
    assert (tmp_path / "out.csv.missing.txt").read_text() == f"{tmp_path}/k400/gone0000000_000001_000011.mp4\n"
    clip = by_name(catalog)["-3B32lodo2M_000059_000069.mp4"]
    assert num_decoded(clip.path, 3) == 3


def test_kinetics_takes_the_file_in_the_folders_of_its_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = kinetics(tmp_path)
    twin = "-3B32lodo2M_000059_000069.mp4"
    files(tmp_path / "k400", [f"replacement/{twin}"])
    catalog = built(tmp_path / "out.csv", *arguments)
    assert by_name(catalog)[twin].path.endswith(f"train/abseiling/{twin}")
    files(tmp_path / "k400", [f"train/copy/abseiling/{twin}"])
    assert "another file has the same name" in refused(capsys, tmp_path / "new.csv", *arguments)


def test_kinetics_follows_a_linked_folder_once(tmp_path: Path) -> None:
    arguments = kinetics(tmp_path)
    root = tmp_path / "k400"
    (root / "val").rename(tmp_path / "elsewhere")
    (root / "val").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    assert splits(built(tmp_path / "out.csv", *arguments)) == {"train": 2, "val": 2}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([KINETICS, "abseiling,-3B32lodo2M,soon,69,train,0"], "train.csv:2: time_start is 'soon', not a whole number"),
        ([KINETICS, f"abseiling,-3B32lodo2M,{'9' * 5000},69,train,0"], "not a whole number"),
        ([KINETICS, "abseiling,,5,69,train,0"], "train.csv:2: youtube_id is '', which is not a video id"),
        ([KINETICS, "abseiling,-3B32lodo2M,5"], "train.csv:2: "),
        (["path label", "a.mp4 1"], "lacks the column youtube_id, time_start, time_end, split"),
        (["youtube_id,time_start,time_end,split", "a,1,2,test"], "no row has a label"),
    ],
)
def test_kinetics_names_the_line_that_is_wrong(
    tmp_path: Path, lines: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kinetics(tmp_path)
    table = text(tmp_path / "annotations", "train.csv", lines)
    arguments = ["kinetics", "--root", tmp_path / "k400", "--annotations", table]
    assert message in refused(capsys, tmp_path / "out.csv", *arguments)


# Something-Something and Jester

SSV1_LABELS = [
    "Holding something",
    "Tipping something with something in it over, so something in it falls out",
    "Trying to bend something unbendable so nothing happens",
    'Moving "something" [and] something (closer) to each other',
]


@pytest.mark.parametrize(("layout", "prefix"), [("ssv1", "something-something-v1-"), ("jester", "jester-v1-"),
                                                ("jester", "")])  # fmt: skip
def test_frames_of_ssv1_and_jester_become_clips(
    tmp_path: Path, layout: str, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lists = tmp_path / "20bn", tmp_path / "annotations"
    text(lists, f"{prefix}labels.csv", SSV1_LABELS, "\r\n")
    text(lists, f"{prefix}train.csv", [f"{n};{label}" for n, label in enumerate(SSV1_LABELS, start=100218)])
    text(lists, f"{prefix}validation.csv", [f"{n};{label}" for n, label in enumerate(SSV1_LABELS, start=56557)], "\r\n")
    text(lists, f"{prefix}test.csv", ["59651", "59652", "59653"])
    for start in (100218, 56557):
        for number in range(4):
            frames(root / str(start + number), 3)
    arguments = [layout, "--root", root, "--annotations", lists]
    catalog = built(tmp_path / "out.csv", *arguments)
    assert splits(catalog) == {"train": 4, "val": 4} and set(catalog.classes) == set(SSV1_LABELS)
    assert {clip.fps for clip in catalog.clips} == {12.0}
    assert catalog.clips[0] == Clip(str(root / "100218"), SSV1_LABELS[0], "train", "100218", fps=12.0)
    assert f"{prefix}test.csv: 3 clips have no label and are left out" in capsys.readouterr().out
    text(lists, f"{prefix}test-answers.csv", [f"59651;{SSV1_LABELS[3]}"])
    frames(root / "59651", 2)
    assert built(tmp_path / "out.csv", *arguments).split("test")[0].label == SSV1_LABELS[3]
    assert "no label" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("jester-v1-train.csv", "5;Waving", "jester-v1-train.csv:1: 'Waving' is not one of the 4 labels"),
        ("jester-v1-train.csv", "5,Holding something", ":1: '5,Holding something' is not of the form id;label"),
        ("jester-v1-validation.csv", "../5;Holding something", ":1: id '../5' is not a file name"),
        ("jester-v2-train.csv", "5;Waving", "jester-v1-train.csv, jester-v2-train.csv all match train.csv"),
    ],
)
def test_frame_tables_that_are_wrong_are_named(
    tmp_path: Path, name: str, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text(tmp_path, "jester-v1-labels.csv", SSV1_LABELS)
    for split in ("train", "validation"):
        text(tmp_path, f"jester-v1-{split}.csv", ["100;Holding something"])
    text(tmp_path, name, [line])
    arguments = ["jester", "--root", tmp_path, "--annotations", tmp_path]
    assert message in refused(capsys, tmp_path / "out.csv", *arguments)


def ssv2(tmp_path: Path, prefix: str = "something-something-v2-") -> tuple[Path, Path]:
    root, lists = tmp_path / "20bn-something-something-v2", tmp_path / "labels"
    templates = ["Holding [something] next to [something]", "Pushing [something] from left to right"]
    labels = {template.replace("[", "").replace("]", ""): str(n) for n, template in enumerate(templates)}
    for split, start in (("train", 78687), ("validation", 74225)):
        records = [
            {"id": str(start + n), "label": "holding a potato", "template": template, "placeholders": ["a potato"]}
            for n, template in enumerate(templates)
        ]
        text(lists, f"{prefix}{split}.json", [json.dumps(records)])
        videos(root, *(f"{record['id']}.mp4" for record in records))
        for record in records:
            (root / f"{record['id']}.mp4").rename(root / f"{record['id']}.webm")
    text(lists, f"{prefix}labels.json", [json.dumps(labels)])
    text(lists, f"{prefix}test.json", [json.dumps([{"id": "1420"}, {"id": "1421"}])])
    return root, lists


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_ssv2_labels_are_templates_without_brackets(
    tmp_path: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lists = ssv2(tmp_path, prefix)
    catalog = built(tmp_path / "out.parquet", "ssv2", "--root", root, "--annotations", lists)
    assert splits(catalog) == {"train": 2, "val": 2}
    assert by_name(catalog)["78687.webm"].label == "Holding something next to something"
    assert f"{prefix}test.json: 2 clips have no label and are left out" in capsys.readouterr().out
    assert num_decoded(catalog.clips[0].path, 2) == 2
    files(root, ["1420.webm"])
    text(lists, "test-answers.csv", ["1420;Pushing something from left to right"])
    catalog = built(tmp_path / "out.parquet", "ssv2", "--root", root, "--annotations", lists)
    assert [clip.label for clip in catalog.split("test")] == ["Pushing something from left to right"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train",
            [{"id": "1", "template": "Eating [something]"}],
            "entry 1: 'Eating something' is not one of the 2 labels",
        ),
        ("train", [{"id": "1"}], "entry 1: no 'template', but id; a text 'template' is needed"),
        ("train", [{"id": None, "template": "Pushing [something] from left to right"}], "'id' is None"),
        ("train", {"1": "a"}, "must be a list of objects, but is a dict"),
        ("train", ["1"], "entry 1 is str, not an object"),
        ("labels", ["Holding something"], "must be an object of labels, but is a list"),
    ],
)
def test_json_of_another_shape_is_named(
    tmp_path: Path, name: str, content: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lists = ssv2(tmp_path)
    text(lists, f"something-something-v2-{name}.json", [json.dumps(content)])
    arguments = ["ssv2", "--root", root, "--annotations", lists]
    assert message in refused(capsys, tmp_path / "out.csv", *arguments)
    text(lists, f"something-something-v2-{name}.json", ["[{"])
    assert f"something-something-v2-{name}.json: not JSON" in refused(capsys, tmp_path / "out.csv", *arguments)
    text(lists, f"something-something-v2-{name}.json", ["[" * 100_000])
    assert f"something-something-v2-{name}.json: not JSON" in refused(capsys, tmp_path / "out.csv", *arguments)
    (lists / f"something-something-v2-{name}.json").unlink()
    assert f"no file {name}.json" in refused(capsys, tmp_path / "out.csv", *arguments)


# Diving48

DIVES = [["Back", "15som", "05Twis", "FREE"], ["Reverse", "Dive", "NoTwis", "PIKE"]]


def diving48(tmp_path: Path) -> tuple[Path, Path]:
    root, lists = tmp_path / "rgb", tmp_path / "annotations"
    parts = {"train": [("_8Vy3dlHg2w", 0), ("_8Vy3dlHg2w", 1), ("a_b-C_dEfG0", 0), ("a_b-C_dEfG0", 1)],
             "test": [("_8Vy3dlHg2w", 0), ("zzzzzzzzzzz", 1)]}  # fmt: skip
    serial = 0
    for split, clips in parts.items():
        records = []
        for source, label in clips:
            records.append({"vid_name": f"{source}_{serial:05}", "label": label, "start_frame": 0, "end_frame": 91})
            serial += 1
        text(lists, f"Diving48_V2_{split}.json", [json.dumps(records)])
        files(root, [f"{record['vid_name']}.mp4" for record in records])
    text(lists, "Diving48_vocab.json", [json.dumps(DIVES)])
    return root, lists


def test_diving48_names_its_dives_and_groups_by_competition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, lists = diving48(tmp_path)
    arguments = ["diving48", "--root", root, "--annotations", lists]
    catalog = built(tmp_path / "out.csv", *arguments)
    assert catalog.classes == ("Back / 15som / 05Twis / FREE", "Reverse / Dive / NoTwis / PIKE")
    assert {clip.group for clip in catalog.clips} == {"_8Vy3dlHg2w", "a_b-C_dEfG0", "zzzzzzzzzzz"}
    assert "warning: 1 group(s) are in more than one split" in capsys.readouterr().err
    held = built(tmp_path / "out.csv", *arguments, "--val-share", "0.5")
    assert splits(held) == {"train": 2, "val": 2, "test": 2}
    (lists / "Diving48_vocab.json").unlink()
    assert built(tmp_path / "out.csv", *arguments).classes == ("dive 00", "dive 01")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("V2_train", [{"vid_name": "a_00001", "label": 2}], "entry 1: label 2, but the vocabulary has 2 dives (0..1)"),
        ("V2_train", [{"vid_name": "a_00001", "label": "x"}], "entry 1: label is 'x', not a whole number"),
        ("V2_train", [{"vid_name": "a_00001", "label": "9" * 5000}], "not a whole number"),
        ("V2_train", [{"vid_name": "a/b", "label": 1}], "vid_name 'a/b' is not a file name"),
        ("vocab", {"0": "Back"}, "must be a list of lists of text"),
        ("vocab", [["Back"], ["Back"]], "'Back' is there twice"),
    ],
)
def test_diving48_names_what_is_wrong(
    tmp_path: Path, name: str, content: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lists = diving48(tmp_path)
    text(lists, f"Diving48_{name}.json", [json.dumps(content)])
    arguments = ["diving48", "--root", root, "--annotations", lists]
    assert message in refused(capsys, tmp_path / "out.csv", *arguments)


# Lists


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
def test_lists_of_videos_may_have_spaces_in_paths(tmp_path: Path, separator: str) -> None:
    names = ["walk/a 1.mp4", "run/b, c 2.avi", "run/#3 [x].MP4", "walk/d 4 5.mkv"]
    root = files(tmp_path / "videos", names)
    train = text(tmp_path, "train.txt", [f"{name}{separator}{n % 2}" for n, name in enumerate(names)], "\r\n")
    arguments = ["list", "--root", root, "--list", f"train={train}"]
    catalog = built(tmp_path / "out.csv", *arguments)
    assert [Path(clip.path).relative_to(root).as_posix() for clip in catalog.clips] == names
    assert [clip.label for clip in catalog.clips] == ["class 00", "class 01", "class 00", "class 01"]
    for lines in (["walking", "running"], ["0 walking", "1 running"]):
        classes = text(tmp_path, "classes.txt", lines, "\r\n", "utf-8-sig")
        named = built(tmp_path / "out.csv", *arguments, "--classes", classes)
        assert [clip.label for clip in named.clips] == ["walking", "running", "walking", "running"]


def test_lists_of_frames_count_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "frames"
    for name in ("walk 01", "run", "test/walk"):
        frames(root / name, 5, "img_{:05d}.jpg")
        frames(root / name, 5, "flow_x_{:05d}.jpg")
    train = text(tmp_path, "train.txt", ["walk 01 5 0", "run 7 1"])
    val = text(tmp_path, "val.txt", ["test/walk 5 0"])
    arguments = ["list", "--root", root, "--list", f"train={train}", "--list", f"validation={val}"]
    catalog = built(tmp_path / "out.csv", *arguments, "--template", "img_{:05}.jpg", "--source-fps", "25")
    assert "warning: 1 of 3 folders do not have the listed number of frames, the first run: 7 listed, 5 there" in (
        capsys.readouterr().err
    )
    assert splits(catalog) == {"train": 2, "val": 1}
    assert catalog.clips[0] == Clip(f"{root}/walk 01/img_{{:05}}.jpg", "class 00", "train", "walk 01", fps=25.0)
    plain = built(tmp_path / "out.csv", *arguments)
    assert "3 of 3 folders" in capsys.readouterr().err
    assert plain.clips[0].path == f"{root}/walk 01" and plain.clips[0].fps is None
    message = refused(capsys, tmp_path / "new.csv", *arguments, "--template", "image_{:05}.jpg")
    assert "nor a folder with images of that name" in message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4 1 3 5", "train.txt:2: 'a.mp4 1 3 5' has more columns than a path, a number of frames"),
        ("frames 163 1 3", "multi-label lists are not supported: give one label per video"),
        ("-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1", "neither are detection lists"),
        ("a.mp4 0.077 0.151 0.283 0.811 80", "neither are detection lists"),
        ("a.mp4", "train.txt:2: 'a.mp4' is neither `video.mp4 label` nor `folder num_frames label`"),
        ("a.mp4 walking", "is neither"),
        ("a.mp4 " + "9" * 5000, "is neither"),
        ("a.mp4 -1", "train.txt:2: class -1, but classes start at 0"),
        ("a.mp4 2", "train.txt:2: class 2, but"),
    ],
)  # fmt: skip
def test_a_line_of_a_list_that_is_no_single_label_is_named(
    tmp_path: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = files(tmp_path / "videos", ["a.mp4"])
    train, classes = text(tmp_path, "train.txt", ["a.mp4 0", line]), text(tmp_path, "classes.txt", ["x", "y"])
    arguments = ["list", "--root", root, "--list", f"train={train}", "--classes", classes]
    assert message in refused(capsys, tmp_path / "out.csv", *arguments)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--list", "train.txt", "is not of the form train=train.txt"),
        ("--template", "img.jpg", "is not an image name with one field"),
        ("--template", "{}_{:05}.jpg", "is not an image name with one field"),
        ("--template", "img_{:5x}.jpg", "is not an image name with one field"),
        ("--template", "img_{:05}.mp4", "is not an image name with one field"),
        ("--source-fps", "0", "--source-fps is 0.0, but must be above 0 and finite"),
    ],
)
def test_options_of_lists_are_held_to_their_form(
    tmp_path: Path, option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train = text(tmp_path, "train.txt", ["a 1"])
    arguments = ["list", "--root", tmp_path, "--list", f"train={train}", option, value]
    assert message in refused(capsys, tmp_path / "out.csv", *arguments)


@pytest.mark.parametrize(
    ("lines", "message"),
    [(["1 walk", "2 run"], "class 0 is numbered 1"), (["walk", "walk"], "'walk' is there twice")],
)
def test_names_of_classes_are_held_to_their_form(
    tmp_path: Path, lines: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = files(tmp_path / "videos", ["a.mp4"])
    train, classes = text(tmp_path, "train.txt", ["a.mp4 0"]), text(tmp_path, "classes.txt", lines)
    arguments = ["list", "--root", root, "--list", f"train={train}", "--classes", classes]
    assert message in refused(capsys, tmp_path / "out.csv", *arguments)


# The user's own tables


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,label", '"a.mp4","[1, 3]"'], "mine.csv: row 1 has several labels ([1, 3]); multi-label tables are not"),
        (["path,labels", "a.mp4,walk|run"], "row 1 has several labels (walk|run)"),
        (["path,labels", "a.mp4,walk;run"], "row 1 has several labels (walk;run)"),
        (["path,label,x1,y1,x2,y2", "a.mp4,walk,0,0,1,1"], "has bounding boxes; detection is not supported"),
        (["-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1"] * 2, "has bounding boxes; detection is not supported"),
        (["path,labels", "a.mp4,walk"], "lacks the column label; it has path, labels"),
    ],
)
def test_tables_of_other_tasks_are_refused(
    tmp_path: Path, lines: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, table = files(tmp_path / "videos", ["a.mp4"]), text(tmp_path, "mine.csv", lines)
    assert message in refused(capsys, tmp_path / "out.csv", "csv", "--root", root, "--table", table)


def test_labels_with_brackets_and_bars_are_labels(tmp_path: Path) -> None:
    root = files(tmp_path / "videos", ["a.mp4", "b.mp4"])
    table = text(tmp_path, "mine.csv", ["path,label,split,fps", "a.mp4,[x] | y,train,", "b.mp4,z;w,train,"])
    assert built(tmp_path / "out.csv", "csv", "--root", root, "--table", table).classes == ("[x] | y", "z;w")


def test_rows_whose_file_is_absent_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = files(tmp_path / "videos", ["a.mp4", "b.mp4"])
    table = text(tmp_path, "mine.csv", ["path,label,split", "a.mp4,x,train", "b.mp4,y,train", "c.mp4,y,train"])
    arguments = ["csv", "--root", root, "--table", table]
    assert "1 of the 3 listed files are missing (c.mp4)" in refused(capsys, tmp_path / "out.csv", *arguments)
    assert len(built(tmp_path / "out.csv", *arguments, "--allow-missing").clips) == 2


# The table of layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_help_that_shows_its_files(layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build(layout, "--help")
    printed = capsys.readouterr().out
    assert "--root" in printed and "    " in printed
    assert "--allow-missing" in printed or LAYOUTS[layout].missing_is_normal


def test_every_public_data_set_has_a_config() -> None:
    own = {"folder", "csv", "list"}
    assert {path.stem for path in (CONFIGS / "data").glob("*.yaml")} >= set(LAYOUTS) - own
