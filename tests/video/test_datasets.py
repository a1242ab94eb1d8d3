"""Every layout of `videomem catalog build`, with files in the format of the released data sets.

The functions named like a layout write its videos to `videos` and its lists to `lists`, and return the arguments of
`catalog build`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import CONFIGS, shared_data
from PIL import Image

from videomem.cli.main import main
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import read_catalog
from videomem.video.datasets import LAYOUTS
from videomem.video.datasets.hmdb51 import movie
from videomem.video.decoding import decode_clip
from videomem.video.sampling import Uniform
from videomem.video.synthetic import write_video

Arguments = list[object]
Build = Callable[..., Catalog]
Refuse = Callable[..., str]


def build(*arguments: object) -> int:
    return main(["catalog", "build", *map(str, arguments)])


@pytest.fixture
def built(tmp_path: Path) -> Build:
    """Builds `out.csv`, or the file of another suffix, which must succeed."""

    def build_and_read(*arguments: object, out: str = "out.csv") -> Catalog:
        assert build(*arguments, "--out", tmp_path / out) == 0
        return read_catalog(tmp_path / out)

    return build_and_read


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Builds a catalog, which must fail with one line of error; returns what was printed."""

    def fail(*arguments: object) -> str:
        out = tmp_path / "refused.csv"
        capsys.readouterr()
        assert build(*arguments, "--out", out) == 2
        assert not out.exists()
        printed = capsys.readouterr().err
        assert "Traceback" not in printed and printed.splitlines()[-1].startswith("videomem: error: ")
        return printed

    return fail


def files(root: Path, names: Iterable[str], content: bytes = b"some bytes") -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    root.mkdir(exist_ok=True)
    return root


def text(folder: Path, name: str, lines: object, end: str = "\n", encoding: str = "utf-8") -> Path:
    """Write lines, or anything else than a list of lines as JSON if the name says so."""
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(lines) if name.endswith(".json") else "".join(f"{line}{end}" for line in lines)  # type: ignore[attr-defined]
    (folder / name).write_bytes(content.encode(encoding))
    return folder / name


def videos(root: Path, *names: str) -> Path:
    """Decodable videos of 6 frames."""
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / name, rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    return root


def frames(folder: Path, count: int, template: str = "{:05}.jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        Image.new("RGB", (16, 12), (number, 0, 0)).save(folder / template.format(number))


def arguments_of(layout: str, tmp_path: Path) -> Arguments:
    return [layout, "--root", tmp_path / "videos", "--annotations", tmp_path / "lists"]


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


def ucf101(tmp_path: Path) -> Arguments:
    lists, end = tmp_path / "lists", "\r\n"
    text(lists, "classInd.txt", [f"{n} {label}" for n, label in enumerate(UCF_CLASSES, start=1)], end)
    everything = [(label, g, c) for label in UCF_CLASSES for g in range(1, 26) for c in (1, 2)]
    for split, held in UCF_TEST_GROUPS.items():
        train = [f"{ucf_name(*clip)} {UCF_CLASSES.index(clip[0]) + 1}" for clip in everything if clip[1] not in held]
        text(lists, f"trainlist{split:02}.txt", train, end)
        text(lists, f"testlist{split:02}.txt", [ucf_name(*clip) for clip in everything if clip[1] in held], end)
    files(tmp_path / "videos", [ucf_name(*clip) for clip in everything])
    return arguments_of("ucf101", tmp_path)


@pytest.mark.parametrize("split", [1, 2, 3])
def test_ucf101_gives_each_official_split(tmp_path: Path, built: Build, split: int) -> None:
    catalog = built(*ucf101(tmp_path), "--split", split)
    assert splits(catalog) == {"train": 3 * 18 * 2, "test": 3 * 7 * 2}
    assert {int(clip.group[-2:]) for clip in catalog.split("test")} == set(UCF_TEST_GROUPS[split])
    assert catalog.classes == tuple(UCF_CLASSES)
    assert by_name(catalog)["v_Archery_g09_c02.avi"].group == "Archery_g09"


def test_ucf101_takes_the_class_from_the_folder(tmp_path: Path, built: Build) -> None:
    clip = by_name(built(*ucf101(tmp_path)))["v_HandStandPushups_g08_c01.avi"]
    assert (clip.label, clip.group, clip.split) == ("HandstandPushups", "HandstandPushups_g08", "train")


def test_ucf101_holds_out_whole_groups_for_validation(tmp_path: Path, built: Build) -> None:
    arguments = [*ucf101(tmp_path), "--val-share", "0.15"]
    catalog = built(*arguments)
    assert splits(catalog)["test"] == 3 * 7 * 2
    assert 0.1 < splits(catalog)["val"] / (3 * 18 * 2) < 0.2
    groups = {split: {clip.group for clip in catalog.split(split)} for split in catalog.splits}
    assert not groups["train"] & groups["val"]
    assert built(*arguments).clips == catalog.clips
    assert built(*arguments, "--seed", 1).clips != catalog.clips


def test_missing_and_binary_lists_are_a_one_line_error(tmp_path: Path, refused: Refuse) -> None:
    arguments, lists = ucf101(tmp_path), tmp_path / "lists"
    (lists / "testlist01.txt").write_bytes(b"Archery/v_Archery_\xff_g01_c01.avi")
    assert "testlist01.txt: not UTF-8 text (byte 18" in refused(*arguments)
    (lists / "testlist01.txt").unlink()
    assert "testlist01.txt: no such file" in refused(*arguments)
    assert "nowhere: no such folder" in refused(*arguments[:-1], tmp_path / "nowhere")


def test_listed_files_that_are_absent_are_counted(
    tmp_path: Path, built: Build, refused: Refuse, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, root, list_of_missing = ucf101(tmp_path), tmp_path / "videos", tmp_path / "out.csv.missing.txt"
    absent = ["Archery/v_Archery_g08_c01.avi", "Archery/v_Archery_g08_c02.avi"]
    for name in absent:
        (root / name).unlink()
    (root / "Archery/v_Archery_g09_c01.avi").write_bytes(b"")
    assert f"2 of the 150 listed files are missing ({', '.join(absent)})" in refused(*arguments)
    catalog = built(*arguments, "--allow-missing")
    assert "3 of 150 listed files are missing or empty" in capsys.readouterr().out
    assert len(catalog.clips) == 147
    listed = list_of_missing.read_text().splitlines()
    assert [Path(line).name for line in listed] == [*(Path(n).name for n in absent), "v_Archery_g09_c01.avi"]
    ucf101(tmp_path)
    assert len(built(*arguments).clips) == 150
    assert not list_of_missing.exists()
    wrong = [*arguments[:2], tmp_path / "lists", *arguments[3:], "--allow-missing"]
    assert "none of the 150 listed files exists" in refused(*wrong)


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


def hmdb51(tmp_path: Path) -> Arguments:
    for label, clips in HMDB.items():
        text(tmp_path / "lists", f"{label}_test_split1.txt", [f"{name} {use} " for name, use in clips])
        text(tmp_path / "lists", f"{label}_test_split2.txt", [f"{name} {2 - use // 2} " for name, use in clips])
        files(tmp_path / "videos" / label, [name for name, _ in clips])
    return arguments_of("hmdb51", tmp_path)


def test_hmdb51_reads_its_lists(tmp_path: Path, built: Build, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = hmdb51(tmp_path)
    catalog = built(*arguments)
    assert splits(catalog) == {"train": 5, "test": 2}
    assert catalog.classes == ("brush_hair", "wave")
    assert "1 clips are in no part of split 1" in capsys.readouterr().out
    clips = by_name(catalog)
    assert clips["April_09_brush_hair_u_nm_np1_ba_goo_0.avi"].group == "April_09"
    assert clips["[IVASEK]_#1_(a)_&_b_brush_hair_h_cm_np2_le_med_12.avi"].group == "[IVASEK]_#1_(a)_&_b"
    assert splits(built(*arguments, "--split", 2)) == {"train": 2, "test": 6}


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


def test_hmdb51_finds_names_that_are_no_utf8(tmp_path: Path, built: Build) -> None:
    arguments, name = hmdb51(tmp_path), "Turnk\xfcr_wave_f_cm_np2_le_med_6.avi"
    text(tmp_path / "lists", "wave_test_split1.txt", [f"{name} 1"], encoding="latin-1")
    files(tmp_path / "videos" / "wave", [name.encode("latin-1").decode("utf-8", "surrogateescape")])
    assert [clip.group for clip in built(*arguments).clips if clip.label == "wave"] == ["Turnk\ufffdr"]


def test_hmdb51_needs_its_lists(tmp_path: Path, refused: Refuse) -> None:
    arguments = [*hmdb51(tmp_path)[:-1], tmp_path / "videos"]
    assert "no lists <class>_test_split1.txt" in refused(*arguments)


def assert_decoded_as_by_pyav(catalog: Catalog) -> None:
    """Whether the frames equal those of a forward pass within 2/255."""
    for clip in catalog.clips:
        with av.open(clip.path, metadata_errors="ignore") as container:
            reference = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        decoded = decode_clip(clip.path, Uniform(len(reference)))
        assert decoded.num_available == len(reference)
        assert np.abs(decoded.frames_THWC.astype(np.int16) - np.stack(reference)).max() <= 2


def test_real_clips_of_hmdb51_are_catalogued(tmp_path: Path, built: Build) -> None:
    clips = shared_data("data/clips")
    named = {"cartwheel": ["hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"],
             "wave": sorted(path.name for path in clips.glob("*_wave_*.avi"))}  # fmt: skip
    for label, names in named.items():
        (tmp_path / "videos" / label).mkdir(parents=True)
        for name in names:
            (tmp_path / "videos" / label / name).symlink_to(clips / name)
        text(tmp_path / "lists", f"{label}_test_split1.txt", [f"{name} 1 " for name in names])
    catalog = built(*arguments_of("hmdb51", tmp_path))
    assert {clip.group for clip in catalog.clips} == {
        "RATRACE", "SchoolRulesHowTheyHelpUs", "TrumanShow", "hmdb51_Turnk_r_Pippi_Michel"
    }  # fmt: skip
    assert_decoded_as_by_pyav(catalog)


def test_real_clips_of_ucf101_are_catalogued(tmp_path: Path, built: Build) -> None:
    clips, root, lists = shared_data("data/clips"), tmp_path / "videos", tmp_path / "lists"
    names = {24: [], 23: []}  # type: dict[int, list[str]]
    for label, number in (("SoccerJuggling", 84), ("Surfing", 87)):
        (root / label).mkdir(parents=True)
        for group, listed in names.items():
            name = f"{label}/v_{label}_g{group}_c01.avi"
            shutil.copy(clips / f"v_SoccerJuggling_g{group}_c01.avi", root / name)
            listed.append(name if group == 24 else f"{name} {number}")
    text(lists, "classInd.txt", ["84 SoccerJuggling", "87 Surfing"])
    text(lists, "trainlist01.txt", names[23])
    text(lists, "testlist01.txt", names[24])
    catalog = built(*arguments_of("ucf101", tmp_path))
    assert splits(catalog) == {"train": 2, "test": 2}
    assert_decoded_as_by_pyav(catalog)


# Kinetics

KINETICS = "label,youtube_id,time_start,time_end,split,is_cc"


def kinetics(tmp_path: Path) -> Arguments:
    """Returns the arguments with the table train.csv, which is the last one."""
    root, tables = tmp_path / "videos", tmp_path / "lists"
    videos(root, "train/abseiling/-3B32lodo2M_000059_000069.mp4")
    files(root, ["_dbcJuKJQNs_000040_000050.mp4", "val/--GkrdYZ9Tc_000000_000010.mp4",
                 "val/air drumming/4-2_HyyHnL8_000104_000114.mp4", "val/notes.txt"])  # fmt: skip
    train = [KINETICS, "abseiling,-3B32lodo2M,59,69,train,0", '"air drumming",_dbcJuKJQNs,40,50,train,0',
             "abseiling,gone0000000,1,11,train,0"]  # fmt: skip
    val = ["abseiling,--GkrdYZ9Tc,0,10,validate", "air drumming,4-2_HyyHnL8,104,114,val"]
    text(tables, "train.csv", train, "\r\n", "utf-8-sig")
    text(tables, "val.csv", [KINETICS.removesuffix(",is_cc"), *val])
    text(tables, "test.csv", ["youtube_id,time_start,time_end,split", "--tttttt,1,11,test", "--uuuuuu,1,11,test"])
    return ["kinetics", "--root", root, "--annotations", tables / "train.csv"]


def all_of_kinetics(tmp_path: Path) -> Arguments:
    others = [("--annotations", tmp_path / "lists" / f"{name}.csv") for name in ("val", "test")]
    return [*kinetics(tmp_path), *(part for option in others for part in option)]


def test_kinetics_finds_its_files_wherever_they_lie(
    tmp_path: Path, built: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = built(*all_of_kinetics(tmp_path))
    printed = capsys.readouterr().out
    assert splits(catalog) == {"train": 2, "val": 2}
    assert catalog.classes == ("abseiling", "air drumming")
    assert "test.csv: 2 of 2 rows have no label and are left out" in printed
    assert "1 of 5 listed files are missing or empty" in printed
    assert (tmp_path / "out.csv.missing.txt").read_text() == f"{tmp_path}/videos/gone0000000_000001_000011.mp4\n"
    clip = by_name(catalog)["-3B32lodo2M_000059_000069.mp4"]
    assert clip.group == "-3B32lodo2M"
    assert num_decoded(clip.path, 3) == 3


def test_kinetics_takes_the_file_in_the_folders_of_its_class(tmp_path: Path, built: Build, refused: Refuse) -> None:
    arguments, twin = all_of_kinetics(tmp_path), "-3B32lodo2M_000059_000069.mp4"
    files(tmp_path / "videos", [f"replacement/{twin}"])
    assert by_name(built(*arguments))[twin].path.endswith(f"train/abseiling/{twin}")
    files(tmp_path / "videos", [f"train/copy/abseiling/{twin}"])
    assert "another file has the same name" in refused(*arguments)


def test_kinetics_follows_a_linked_folder_once(tmp_path: Path, built: Build) -> None:
    arguments, root = all_of_kinetics(tmp_path), tmp_path / "videos"
    (root / "val").rename(tmp_path / "elsewhere")
    (root / "val").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    assert splits(built(*arguments)) == {"train": 2, "val": 2}


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
    tmp_path: Path, built: Build, layout: str, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, lists = tmp_path / "videos", tmp_path / "lists"
    text(lists, f"{prefix}labels.csv", SSV1_LABELS, "\r\n")
    for split, first, end in (("train", 100218, "\n"), ("validation", 56557, "\r\n")):
        text(lists, f"{prefix}{split}.csv", [f"{n};{label}" for n, label in enumerate(SSV1_LABELS, first)], end)
        for number in range(4):
            frames(root / str(first + number), 3)
    text(lists, f"{prefix}test.csv", ["59651", "59652", "59653"])
    arguments = arguments_of(layout, tmp_path)
    catalog = built(*arguments)
    assert splits(catalog) == {"train": 4, "val": 4} and set(catalog.classes) == set(SSV1_LABELS)
    assert {clip.fps for clip in catalog.clips} == {12.0}
    assert catalog.clips[0] == Clip(str(root / "100218"), SSV1_LABELS[0], "train", "100218", fps=12.0)
    assert f"{prefix}test.csv: 3 clips have no label and are left out" in capsys.readouterr().out
    text(lists, f"{prefix}test-answers.csv", [f"59651;{SSV1_LABELS[3]}"])
    frames(root / "59651", 2)
    assert built(*arguments).split("test")[0].label == SSV1_LABELS[3]
    assert "no label" not in capsys.readouterr().out


def jester(tmp_path: Path) -> Arguments:
    text(tmp_path / "lists", "jester-v1-labels.csv", SSV1_LABELS)
    for split in ("train", "validation"):
        text(tmp_path / "lists", f"jester-v1-{split}.csv", ["100;Holding something"])
    files(tmp_path / "videos", [])
    return arguments_of("jester", tmp_path)


def ssv2(tmp_path: Path, prefix: str = "something-something-v2-") -> Arguments:
    root, lists = tmp_path / "videos", tmp_path / "lists"
    templates = ["Holding [something] next to [something]", "Pushing [something] from left to right"]
    labels = {template.replace("[", "").replace("]", ""): str(n) for n, template in enumerate(templates)}
    for split, start in (("train", 78687), ("validation", 74225)):
        records = [
            {"id": str(start + n), "label": "holding a potato", "template": template, "placeholders": ["a potato"]}
            for n, template in enumerate(templates)
        ]
        text(lists, f"{prefix}{split}.json", records)
        videos(root, *(f"{record['id']}.mp4" for record in records))
        for record in records:
            (root / f"{record['id']}.mp4").rename(root / f"{record['id']}.webm")
    text(lists, f"{prefix}labels.json", labels)
    text(lists, f"{prefix}test.json", [{"id": "1420"}, {"id": "1421"}])
    return arguments_of("ssv2", tmp_path)


@pytest.mark.parametrize("prefix", ["something-something-v2-", ""])
def test_ssv2_labels_are_templates_without_brackets(
    tmp_path: Path, built: Build, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ssv2(tmp_path, prefix)
    catalog = built(*arguments, out="out.parquet")
    assert splits(catalog) == {"train": 2, "val": 2}
    assert by_name(catalog)["78687.webm"].label == "Holding something next to something"
    assert f"{prefix}test.json: 2 clips have no label and are left out" in capsys.readouterr().out
    assert num_decoded(catalog.clips[0].path, 2) == 2
    files(tmp_path / "videos", ["1420.webm"])
    text(tmp_path / "lists", "test-answers.csv", ["1420;Pushing something from left to right"])
    catalog = built(*arguments, out="out.parquet")
    assert [clip.label for clip in catalog.split("test")] == ["Pushing something from left to right"]


@pytest.mark.parametrize("name", ["train", "labels"])
def test_files_that_are_no_json_are_named(tmp_path: Path, refused: Refuse, name: str) -> None:
    arguments, path = ssv2(tmp_path), tmp_path / "lists" / f"something-something-v2-{name}.json"
    for content in ("[{", "[" * 100_000):
        path.write_text(content)
        assert f"something-something-v2-{name}.json: not JSON" in refused(*arguments)
    path.unlink()
    assert f"no file {name}.json" in refused(*arguments)


# Diving48

DIVES = [["Back", "15som", "05Twis", "FREE"], ["Reverse", "Dive", "NoTwis", "PIKE"]]


def diving48(tmp_path: Path) -> Arguments:
    parts = {"train": [("_8Vy3dlHg2w", 0), ("_8Vy3dlHg2w", 1), ("a_b-C_dEfG0", 0), ("a_b-C_dEfG0", 1)],
             "test": [("_8Vy3dlHg2w", 0), ("zzzzzzzzzzz", 1)]}  # fmt: skip
    for first, (split, clips) in zip((0, 4), parts.items(), strict=True):
        records = [
            {"vid_name": f"{source}_{serial:05}", "label": label, "start_frame": 0, "end_frame": 91}
            for serial, (source, label) in enumerate(clips, first)
        ]
        text(tmp_path / "lists", f"Diving48_V2_{split}.json", records)
        files(tmp_path / "videos", [f"{record['vid_name']}.mp4" for record in records])
    text(tmp_path / "lists", "Diving48_vocab.json", DIVES)
    return arguments_of("diving48", tmp_path)


def test_diving48_names_its_dives_and_groups_by_competition(
    tmp_path: Path, built: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = diving48(tmp_path)
    catalog = built(*arguments)
    assert catalog.classes == ("Back / 15som / 05Twis / FREE", "Reverse / Dive / NoTwis / PIKE")
    assert {clip.group for clip in catalog.clips} == {"_8Vy3dlHg2w", "a_b-C_dEfG0", "zzzzzzzzzzz"}
    assert "warning: 1 group(s) are in more than one split" in capsys.readouterr().err
    assert splits(built(*arguments, "--val-share", "0.5")) == {"train": 2, "val": 2, "test": 2}
    (tmp_path / "lists" / "Diving48_vocab.json").unlink()
    assert built(*arguments).classes == ("dive 00", "dive 01")


# Lists


def a_list(tmp_path: Path, *lines: str) -> Arguments:
    """A list of one video and of other lines, with the names of two classes."""
    train = text(tmp_path / "lists", "train.txt", ["a.mp4 0", *lines])
    classes = text(tmp_path / "lists", "classes.txt", ["x", "y"])
    root = files(tmp_path / "videos", ["a.mp4"])
    return ["list", "--root", root, "--list", f"train={train}", "--classes", classes]


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
def test_lists_of_videos_may_have_spaces_in_paths(tmp_path: Path, built: Build, separator: str) -> None:
    names = ["walk/a 1.mp4", "run/b, c 2.avi", "run/#3 [x].MP4", "walk/d 4 5.mkv"]
    root = files(tmp_path / "videos", names)
    train = text(tmp_path, "train.txt", [f"{name}{separator}{n % 2}" for n, name in enumerate(names)], "\r\n")
    arguments = ["list", "--root", root, "--list", f"train={train}"]
    catalog = built(*arguments)
    assert [Path(clip.path).relative_to(root).as_posix() for clip in catalog.clips] == names
    assert [clip.label for clip in catalog.clips] == ["class 00", "class 01", "class 00", "class 01"]
    for lines in (["walking", "running"], ["0 walking", "1 running"]):
        classes = text(tmp_path, "classes.txt", lines, "\r\n", "utf-8-sig")
        named = built(*arguments, "--classes", classes)
        assert [clip.label for clip in named.clips] == ["walking", "running", "walking", "running"]


def test_lists_of_frames_count_what_is_there(
    tmp_path: Path, built: Build, refused: Refuse, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "frames"
    for name in ("walk 01", "run", "test/walk"):
        frames(root / name, 5, "img_{:05d}.jpg")
        frames(root / name, 5, "flow_x_{:05d}.jpg")
    train = text(tmp_path, "train.txt", ["walk 01 5 0", "run 7 1"])
    val = text(tmp_path, "val.txt", ["test/walk 5 0"])
    arguments = ["list", "--root", root, "--list", f"train={train}", "--list", f"validation={val}"]
    catalog = built(*arguments, "--template", "img_{:05}.jpg", "--source-fps", "25")
    assert "warning: 1 of 3 folders do not have the listed number of frames, the first run: 7 listed, 5 there" in (
        capsys.readouterr().err
    )
    assert splits(catalog) == {"train": 2, "val": 1}
    assert catalog.clips[0] == Clip(f"{root}/walk 01/img_{{:05}}.jpg", "class 00", "train", "walk 01", fps=25.0)
    plain = built(*arguments)
    assert "3 of 3 folders" in capsys.readouterr().err
    assert plain.clips[0].path == f"{root}/walk 01" and plain.clips[0].fps is None
    message = refused(*arguments, "--template", "image_{:05}.jpg")
    assert "nor a folder with images of that name" in message


def test_a_list_numbered_from_1_does_not_get_the_names_of_other_classes(
    tmp_path: Path, built: Build, refused: Refuse
) -> None:
    root = files(tmp_path / "videos", ["jump/a.mp4", "walk/b.mp4"])
    train = text(tmp_path, "train.txt", ["jump/a.mp4 1", "walk/b.mp4 2"])
    classes = text(tmp_path, "classes.txt", ["jump", "walk", "sit"])
    arguments = ["list", "--root", root, "--list", f"train={train}", "--classes", classes]
    assert "no clip has class 0 ('jump'), the lowest is 1" in refused(*arguments)
    assert [clip.label for clip in built(*arguments, "--first-class", "1").clips] == ["jump", "walk"]
    assert [clip.label for clip in built(*arguments, "--first-class", "0").clips] == ["walk", "sit"]
    text(tmp_path, "classes.txt", ["1 jump", "2 walk", "3 sit"])
    assert [clip.label for clip in built(*arguments, "--first-class", "1").clips] == ["jump", "walk"]
    text(tmp_path, "train.txt", ["jump/a.mp4 0", "walk/b.mp4 1"])
    assert "class 0, but" in refused(*arguments, "--first-class", "1")


NO_IMAGE_NAME = "is not an image name with one field"


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--list", "train.txt", "is not of the form train=train.txt"),
        ("--template", "img.jpg", NO_IMAGE_NAME),
        ("--template", "{}_{:05}.jpg", NO_IMAGE_NAME),
        ("--template", "img_{:5x}.jpg", NO_IMAGE_NAME),
        ("--template", "img_{:05}.mp4", NO_IMAGE_NAME),
        ("--source-fps", "0", "--source-fps is 0.0, but must be above 0 and finite"),
    ],
)
def test_options_of_lists_are_held_to_their_form(
    tmp_path: Path, refused: Refuse, option: str, value: str, message: str
) -> None:
    assert message in refused(*a_list(tmp_path), option, value)


# What is wrong in the lists of each layout

SSV2, DIVING = "something-something-v2-", "Diving48_"
NOT_MULTI_LABEL = "multi-label lists are not supported: give one label per video"


@pytest.mark.parametrize(
    ("data_set", "name", "content", "message"),
    [
        (ucf101, "trainlist01.txt", ["Archery/v_Archery_g08_c01.avi 1"],
         "trainlist01.txt:1: class index 1 of 'Archery', but"),
        (ucf101, "trainlist01.txt", ["Archery/v_Archery_g08_c01.avi 2", "Rowing/v_Rowing_g08_c01.avi 3"],
         ":2: class 'Rowing'"),
        (ucf101, "trainlist01.txt", ["Archery/v_Archery_g08_c01.avi"],
         ":1: 'Archery/v_Archery_g08_c01.avi' lacks the class"),
        (ucf101, "testlist01.txt", ["v_Archery_g08_c01.avi"],
         "testlist01.txt:1: 'v_Archery_g08_c01.avi' is not of the form"),
        (ucf101, "classInd.txt", ["1,Archery"], "classInd.txt:1: '1,Archery' is not a class"),
        *((hmdb51, "wave_test_split1.txt", ["", line], f"wave_test_split1.txt:2: {line!r} is not of the form")
          for line in ("a_wave_f_nm_np1_fr_goo_3.avi 3", "a_wave_f_nm_np1_fr_goo_3.avi", "../x.avi 1")),
        (kinetics, "train.csv", [KINETICS, "abseiling,-3B32lodo2M,soon,69,train,0"],
         "train.csv:2: time_start is 'soon', not a whole number"),
        (kinetics, "train.csv", [KINETICS, f"abseiling,-3B32lodo2M,{'9' * 5000},69,train,0"], "not a whole number"),
        (kinetics, "train.csv", [KINETICS, "abseiling,,5,69,train,0"],
         "train.csv:2: youtube_id is '', which is not a video id"),
        (kinetics, "train.csv", [KINETICS, "abseiling,-3B32lodo2M,5"], "train.csv:2: "),
        (kinetics, "train.csv", ["path label", "a.mp4 1"],
         "lacks the column youtube_id, time_start, time_end, split"),
        (kinetics, "train.csv", ["youtube_id,time_start,time_end,split", "a,1,2,test"], "no row has a label"),
        (jester, "jester-v1-train.csv", ["5;Waving"], "jester-v1-train.csv:1: 'Waving' is not one of the 4 labels"),
        (jester, "jester-v1-train.csv", ["5,Holding something"],
         ":1: '5,Holding something' is not of the form id;label"),
        (jester, "jester-v1-validation.csv", ["../5;Holding something"], ":1: id '../5' is not a file name"),
        (jester, "jester-v2-train.csv", ["5;Waving"], "jester-v1-train.csv, jester-v2-train.csv all match train.csv"),
        (ssv2, f"{SSV2}train.json", [{"id": "1", "template": "Eating [something]"}],
         "entry 1: 'Eating something' is not one of the 2 labels"),
        (ssv2, f"{SSV2}train.json", [{"id": "1"}], "entry 1: no 'template', but id; a text 'template' is needed"),
        (ssv2, f"{SSV2}train.json", [{"id": None, "template": "Pushing [something] from left to right"}],
         "'id' is None"),
        (ssv2, f"{SSV2}train.json", {"1": "a"}, "must be a list of objects, but is a dict"),
        (ssv2, f"{SSV2}train.json", ["1"], "entry 1 is str, not an object"),
        (ssv2, f"{SSV2}labels.json", ["Holding something"], "must be an object of labels, but is a list"),
        (diving48, f"{DIVING}V2_train.json", [{"vid_name": "a_00001", "label": 2}],
         "entry 1: label 2, but the vocabulary has 2 dives (0..1)"),
        (diving48, f"{DIVING}V2_train.json", [{"vid_name": "a_00001", "label": "x"}],
         "entry 1: label is 'x', not a whole number"),
        (diving48, f"{DIVING}V2_train.json", [{"vid_name": "a_00001", "label": "9" * 5000}], "not a whole number"),
        (diving48, f"{DIVING}V2_train.json", [{"vid_name": "a/b", "label": 1}], "vid_name 'a/b' is not a file name"),
        (diving48, f"{DIVING}vocab.json", {"0": "Back"}, "must be a list of lists of text"),
        (diving48, f"{DIVING}vocab.json", [["Back"], ["Back"]], "'Back' is there twice"),
        *((a_list, "train.txt", ["a.mp4 0", line], message) for line, message in (
            ("a.mp4 1 3 5", "train.txt:2: 'a.mp4 1 3 5' has more columns than a path, a number of frames"),
            ("frames 163 1 3", NOT_MULTI_LABEL),
            ("-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1", "neither are detection lists"),
            ("a.mp4 0.077 0.151 0.283 0.811 80", "neither are detection lists"),
            ("a.mp4", "train.txt:2: 'a.mp4' is neither `video.mp4 label` nor `folder num_frames label`"),
            ("a.mp4 walking", "is neither"),
            ("a.mp4 " + "9" * 5000, "is neither"),
            ("a.mp4 -1", "train.txt:2: class -1, but classes start at 0"),
            ("a.mp4 2", "train.txt:2: class 2, but"),
        )),
        (a_list, "classes.txt", ["1 walk", "2 run"], "class 0 is numbered 1"),
        (a_list, "classes.txt", ["walk", "walk"], "'walk' is there twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_list_is_named(
    tmp_path: Path, refused: Refuse, data_set: Callable[[Path], Arguments], name: str, content: object, message: str
) -> None:
    arguments = data_set(tmp_path)
    text(tmp_path / "lists", name, content)
    assert message in refused(*arguments)


# The user's own tables


def test_the_time_to_read_a_line_is_in_proportion_to_its_length(tmp_path: Path, refused: Refuse) -> None:
    started = time.process_time()
    assert "x' is neither" in refused(*a_list(tmp_path, "1 " * 50_000 + "x"))[-200:]
    assert time.process_time() - started < 5  # Otherwise more than a minute.


def a_table(tmp_path: Path, lines: Sequence[str]) -> Arguments:
    root = files(tmp_path / "videos", ["a.mp4", "b.mp4"])
    return ["csv", "--root", root, "--table", text(tmp_path, "mine.csv", lines)]


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
def test_tables_of_other_tasks_are_refused(tmp_path: Path, refused: Refuse, lines: list[str], message: str) -> None:
    assert message in refused(*a_table(tmp_path, lines))


def test_labels_with_brackets_and_bars_are_labels(tmp_path: Path, built: Build) -> None:
    arguments = a_table(tmp_path, ["path,label,split,fps", "a.mp4,[x] | y,train,", "b.mp4,z;w,train,"])
    assert built(*arguments).classes == ("[x] | y", "z;w")


def test_rows_whose_file_is_absent_can_be_left_out(tmp_path: Path, built: Build, refused: Refuse) -> None:
    arguments = a_table(tmp_path, ["path,label,split", "a.mp4,x,train", "b.mp4,y,train", "c.mp4,y,train"])
    assert "1 of the 3 listed files are missing (c.mp4)" in refused(*arguments)
    assert len(built(*arguments, "--allow-missing").clips) == 2


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
