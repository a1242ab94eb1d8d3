"""Temporal subsets: the table of clip scores, the selection of clips and classes, and the command."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from videomem.cli.main import main
from videomem.errors import VideomemError
from videomem.experiments.order_test.subset import (
    FILE,
    ScoredClip,
    class_scores,
    classes_above,
    clips_above,
    read_clip_scores,
    restricted_to_clips,
    write_clip_scores,
)
from videomem.statistics.classes import class_gains
from videomem.statistics.clip_scores import clip_scores
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import read_catalog, write_catalog

EFFECT = {"open": 0.8, "close": 0.7, "hold": 0.0}
PER_CLASS, TESTS = 12, 4


def catalog_of(folder: Path) -> Catalog:
    """Clips of three classes in pairs of one group, a third of them in `test`."""
    return Catalog(tuple(
        Clip(str(folder / f"{label}{n}.mp4"), label, "test" if n % 6 in (4, 5) else "train", f"{label}-{n // 2}")
        for label in EFFECT for n in range(PER_CLASS)
    ))  # fmt: skip


def drawn(clips: tuple[Clip, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, rows and groups of tests, whose mean is the effect of the class."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(len(clips)), TESTS)
    effects = np.array([EFFECT[clip.label] for clip in clips])
    names = sorted({clip.group for clip in clips})
    groups = np.array([names.index(clip.group) for clip in clips])
    return np.clip(rng.normal(effects[rows], 0.15), -1, 1), rows, groups[rows]


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """The folder of a result beside `catalog.csv`."""
    catalog = catalog_of(tmp_path)
    write_catalog(catalog, tmp_path / "catalog.csv")
    write_clip_scores(tmp_path / "result", catalog.clips, clip_scores(*drawn(catalog.clips)))
    return tmp_path / "result"


def subset(result: Path, *options: str) -> Catalog:
    arguments = ["order", "subset", str(result), "--catalog", str(result.parent / "catalog.csv")]
    assert main([*arguments, "--out", str(result.parent / "subset.csv"), *options]) == 0
    return read_catalog(result.parent / "subset.csv")


def refusal(result: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    arguments = ["order", "subset", str(result), "--catalog", str(result.parent / "catalog.csv")]
    assert main([*arguments, "--out", str(result.parent / "subset.csv"), *options]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and not (result.parent / "subset.csv").exists()
    return printed


def scored(*scores: float, tests: int = 4) -> list[ScoredClip]:
    return [
        ScoredClip(Clip(f"/v/{n}.mp4", "ab"[n % 2], "", f"g{n}"), tests, score, score, 0.1)
        for n, score in enumerate(scores)
    ]


# The table


def test_written_scores_are_read_again(tmp_path: Path) -> None:
    """With intervals, names that are not UTF-8, and all bits of numbers."""
    odd = os.fsdecode(b"/v/\xff.mp4")
    clips = [
        Clip("/v/a,1.mp4", "x", "train", "g", 0.1, 1 / 3),
        Clip(odd, "y", "test", "h"),
        Clip("/v/c.mp4", "y", "", "h"),
    ]
    found = clip_scores([1.0, 0.7, 0.1, 0.2, 1 / 3, 0.1], [0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 1, 1])
    write_clip_scores(tmp_path, clips, found)
    again = read_clip_scores(tmp_path)
    assert [one.clip for one in again] == [replace(clips[place], split="") for place in np.argsort(-found.scores)]
    by_clip = {one.clip.path: one for one in again}
    for place, clip in enumerate(clips):
        numbers = (found.tests[place], found.raw[place], found.scores[place], found.standard_errors[place])
        one = by_clip[clip.path]
        assert (one.tests, one.raw, one.score, one.standard_error) == numbers


def test_joined_groups_have_one_name_in_the_table(tmp_path: Path) -> None:
    clips = [Clip("/v/a.mp4", "x", "", "g"), Clip("/v/b.mp4", "x", "", "h"), Clip("/v/c.mp4", "x", "", "k")]
    write_clip_scores(tmp_path, clips, clip_scores([1.0, 0.5, 0.0], [0, 1, 2], [3, 3, 4]))
    assert {one.clip.path[-5]: one.clip.group for one in read_clip_scores(tmp_path)} == {"a": "g", "b": "g", "c": "k"}


@pytest.mark.parametrize(("old", "new", "message"), [
    ("score,", "points,", "lacks the column score"),
    ("score,", "", "row 1 has 9 cells, but the header has 8"),
    (",4,", ",4.5,", r"row 1: tests is 4.5, but must be an integer of at least 1"),
    (",4,", ",,", r"row 1: tests is '', not a finite number; run `videomem order` again"),
    (",4,[^,]+,", ",4,nan,", r"row 1: raw is 'nan', not a finite number"),
    (",4,[^,]+,", ",4,80,", r"row 1: raw is 80, but must be in \[-1, 1\]"),
])  # fmt: skip
def test_a_damaged_table_is_refused(result: Path, old: str, new: str, message: str) -> None:
    text = (result / FILE).read_text()
    (result / FILE).write_text(re.sub(old, new, text, count=1))
    with pytest.raises(VideomemError, match=message):
        read_clip_scores(result)


# The selection


def test_the_scores_of_classes_are_those_of_all_tests(result: Path) -> None:
    """From the means of clips in the table as from all (run, clip)."""
    clips = catalog_of(result.parent).clips
    values, rows, groups = drawn(clips)
    labels = np.array([sorted(EFFECT).index(clips[row].label) for row in rows])
    expected = class_gains(values, groups, np.tile(np.arange(TESTS), len(clips)), labels, sorted(EFFECT))
    for one, other in zip(class_scores(read_clip_scores(result)), expected, strict=True):
        numbers = [(gain.num_groups, gain.value, gain.se, gain.pooled, gain.low, gain.high) for gain in (one, other)]
        assert one.name == other.name and numbers[0] == pytest.approx(numbers[1])


def test_a_top_share_keeps_all_clips_that_tie_with_its_last_one() -> None:
    """Otherwise the order of names would decide which of them are kept."""
    kept = clips_above(scored(0.1, 0.5, 0.9, 0.5, 0.0, 0.5, 0.1, 0.1, 0.1, 0.1), top_share=0.2)
    assert sorted(one.clip.path[3] for one in kept) == ["1", "2", "3", "5"] and kept[0].score == 0.9


def test_a_lowest_score_is_itself_kept() -> None:
    assert [one.score for one in clips_above(scored(0.1, 0.3, 0.2), min_score=0.2)] == [0.3, 0.2]


@pytest.mark.parametrize(("clips", "options", "message"), [
    (scored(0.1, 0.1, tests=1), {"min_score": 0.0}, "no clip was tested more than once"),
    (scored(0.1, 0.1), {"top_share": 0.5}, "all 2 scores are 0.1: clips do not differ by more than chance"),
    (scored(0.1, 0.1), {"min_score": 0.05}, "all 2 scores are 0.1: clips do not differ by more than chance"),
    (scored(0.1, 0.2), {"min_score": 0.5}, "no clip has a score of at least 0.5; the highest is 0.2"),
])  # fmt: skip
def test_scores_that_select_no_clips_are_refused(
    clips: list[ScoredClip], options: dict[str, float], message: str
) -> None:
    with pytest.raises(VideomemError, match=message):
        clips_above(clips, **options)


def test_a_class_is_kept_if_its_interval_lies_above_the_value(result: Path) -> None:
    gains = class_scores(read_clip_scores(result))
    assert classes_above(gains, 0.0) == ["close", "open"]
    low = next(gain.low for gain in gains if gain.name == "open")
    with pytest.raises(VideomemError, match=r"no class has an interval above 0\.9; the highest is 'open' from"):
        classes_above(gains, 0.9)
    assert "open" in classes_above(gains, low - 1e-9) and low > 0.5


def test_a_split_without_scores_keeps_the_classes_of_the_kept_clips() -> None:
    """In a test with the catalog's own split, only the clips of `test` have a score."""
    rows = [("a", "train"), ("b", "train"), ("c", "train"), ("a", "test"), ("b", "test"), ("c", "test"), ("a", "test")]
    clips = [Clip(f"/v/{n}.mp4", label, split, f"g{n}") for n, (label, split) in enumerate(rows)]
    tested = [ScoredClip(clip, 4, 0.1 * n, 0.1 * n, 0.1) for n, clip in enumerate(clips) if clip.split == "test"]
    found = restricted_to_clips(Catalog(tuple(clips)), tested, [tested[0], tested[1]])
    assert [clip.path[3] for clip in found.clips] == ["0", "1", "3", "4"]


def test_a_class_without_training_clips_is_left_out() -> None:
    clips = [Clip(f"/v/{n}.mp4", "ab"[n // 2], ("train", "test")[n % 2], f"g{n}") for n in range(4)]
    tested = [ScoredClip(clip, 4, 0.5, 0.5, 0.1) for clip in clips]
    found = restricted_to_clips(Catalog(tuple(clips)), tested, [tested[0], tested[1], tested[3]])
    assert [clip.path[3] for clip in found.clips] == ["0", "1"]


# The command


def test_the_command_keeps_the_clips_with_the_highest_scores(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = subset(result, "--top-share", "0.5")
    best = {one.clip.path for one in read_clip_scores(result)[:18]}
    assert {clip.path for clip in found.clips} == best and found.classes == ("close", "open")
    assert [clip.split for clip in found.clips] == [
        clip.split for clip in catalog_of(result.parent).clips if clip.path in best
    ]
    out, err = capsys.readouterr()
    assert out.startswith("18 of 36 scored clips kept, with scores of +")
    trained = found.split("train")
    groups = len({clip.group for clip in trained})
    assert f"train: {len(trained)} of 24 clips, 2 classes, {groups} groups\n" in out
    assert err.startswith("warning: these scores were estimated on the same clips")
    assert "report only accuracies of new trainings" in err


def test_the_command_tells_which_splits_have_no_scores(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, *rows = (result / FILE).read_text().splitlines()
    tested = [row for row in rows if row.split(",")[0][-5] in "45"]  # clips of `test`, and of `train` none
    tested = [row for row in tested if "10.mp4" not in row]
    (result / FILE).write_text("\n".join([header, *tested]))
    found = subset(result, "--min-score", "0.3")
    assert found.classes == ("close", "open") and len(found.split("train")) == 16
    assert "train: no clip was tested, so all clips of the kept classes stay\n" in capsys.readouterr().out


def test_the_command_keeps_the_classes_with_an_interval_above_a_value(
    result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = subset(result, "--by", "class")
    assert found.classes == ("close", "open") and len(found.clips) == 2 * PER_CLASS
    out = capsys.readouterr().out
    assert out.startswith("2 of 3 classes have an interval above 0.0 points\n")
    assert "train: 16 of 24 clips, 2 classes, 8 groups\ntest: 8 of 12 clips, 2 classes, 4 groups\n" in out


@pytest.mark.parametrize(("options", "message"), [
    ([], "nothing says which clips to keep; set --top-share, --min-score, or --by class"),
    (["--by", "class", "--top-share", "0.2"], "--top-share has no effect with --by class; set --min-score"),
    (["--top-share", "20"], "--top-share is 20, but must be in (0, 1]"),
    (["--min-score", "10"], "--min-score is 10, but must be in [-1, 1); give a share of 1, not points"),
    (["--top-share", "much"], "invalid share value: 'much'"),
    (["--top-share", "0.2", "--min-score", "0.1"], "not allowed with argument"),
    (["--min-score", "0.99"], "no clip has a score of at least 0.99"),
    (["--top-share", "0.01"], "the subset is not usable: "),
    (["--by", "class", "--min-score", "0.95"], "no class has an interval above 0.95"),
])  # fmt: skip
def test_bad_options_are_refused_in_one_line(
    result: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert message in refusal(result, capsys, *options)


def test_bad_files_are_refused_in_one_line(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog = result.parent / "catalog.csv"
    assert (
        main(["order", "subset", str(result), "--catalog", str(catalog), "--out", str(catalog), "--by", "class"]) == 2
    )
    assert "the catalog itself; give another file" in capsys.readouterr().err
    catalog.write_text(catalog.read_text().replace("open0.mp4", "other.mp4"))
    message = refusal(result, capsys, "--by", "class")
    assert "1 of 36 scored clips are not in the catalog with their label, the first" in message and "open0" in message
    (result / FILE).write_text((result / FILE).read_text().splitlines()[0])
    assert "the table has no rows; run `videomem order` again" in refusal(result, capsys, "--by", "class")
    (result / FILE).unlink()
    assert "no such table; give the folder that `videomem order --out` has written" in refusal(
        result, capsys, "--by", "class"
    )


def test_a_table_of_more_tests_than_any_experiment_has_is_refused(tmp_path: Path) -> None:
    """Each test is a row of the analysis of classes."""
    write_clip_scores(tmp_path, catalog_of(tmp_path).clips[:2], clip_scores([0.1, 0.2] * 2, [0, 1] * 2, [0, 1] * 2))
    table = tmp_path / FILE
    table.write_text(table.read_text().replace(",2,", ",1000000000,"))
    with pytest.raises(VideomemError, match=r"clip_scores.csv: 2000000000 tests, above the limit"):
        read_clip_scores(tmp_path)
