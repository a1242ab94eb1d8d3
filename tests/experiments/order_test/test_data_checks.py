"""Checks of the data of an order test, on clips small enough to know the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videomem.experiments.clips import Clips, clips_of_arrays
from videomem.experiments.order_test.data_checks import (
    data_checks,
    join_groups,
    length_accuracy,
    length_check,
    rare_classes_check,
    static_check,
    static_rows,
    with_joined_groups,
)
from videomem.experiments.order_test.plan import OrderSettings
from videomem.experiments.order_test.run_splits import RunSplit, overlap, run_splits

SETTINGS = OrderSettings(runs=4, folds=4)


def clips_of(lengths: list[int], labels: list[str], groups: list[str] | None = None, seed: int = 0) -> Clips:
    rng = np.random.default_rng(seed)
    features = [rng.normal(size=(length, 3)).astype(np.float32) for length in lengths]
    return clips_of_arrays(features, labels, groups or [f"g{i}" for i in range(len(labels))])


def joined(ids: list[str], groups: list[int]) -> list[int]:
    return join_groups(ids, np.array(groups)).tolist()


# Same content


def test_groups_that_share_content_are_joined_through_other_groups() -> None:
    assert joined(list("abbccd"), [4, 4, 3, 3, 2, 1]) == [2, 2, 2, 2, 2, 1]
    assert joined(list("axbxcx"), [0, 1, 2, 3, 4, 5]) == [0, 1, 2, 1, 4, 1]


def test_groups_without_shared_content_keep_their_index() -> None:
    assert joined(list("aabc"), [5, 5, 0, 7]) == [5, 5, 0, 7]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 7)), min_size=1, max_size=20))
def test_joined_groups_are_connected_components(members: list[tuple[str, int]]) -> None:
    """Compared with the closure of `same content or same group` by repeated squaring."""
    ids, groups = [content for content, _ in members], [group for _, group in members]
    together = np.equal.outer(ids, ids) | np.equal.outer(groups, groups)
    for _ in range(5):
        together = (together.astype(int) @ together.astype(int)) > 0
    assert (np.equal.outer(joined(ids, groups), joined(ids, groups)) == together).all()


def test_clips_with_the_same_content_do_not_straddle_folds() -> None:
    clips = clips_of([4] * 24, ["a", "b"] * 12)
    copies = [0, 5, 10, 15, 20]
    clips = replace(clips, ids=tuple("same" if row in copies else one for row, one in enumerate(clips.ids)))
    found, check = with_joined_groups(replace(clips, names=[f"{row}.mp4" for row in range(24)]))
    assert check is not None and check.name == "same content" and check.num_clips == 5
    assert check.sentence == "5 clips have the same content as a clip of another group; these groups were joined"
    assert check.examples == ("0.mp4", "5.mp4", "10.mp4")
    for split in run_splits(found, SETTINGS):
        assert np.isin(copies, split.test).all() or not np.isin(copies, split.test).any()


def test_joined_clips_without_names_are_named_by_their_rows() -> None:
    clips = replace(clips_of([4] * 4, ["a", "b"] * 2, list("ghij")), ids=("other", "same", "third", "same"))
    found, check = with_joined_groups(clips)
    assert check is not None and check.examples == ("clip 1", "clip 3") and found.groups.tolist() == [0, 1, 2, 1]


def test_a_copy_within_a_group_joins_nothing() -> None:
    clips = clips_of([4, 4, 4], ["a", "a", "b"], ["g", "g", "h"])
    clips = replace(clips, ids=("same", "same", "other"))
    found, check = with_joined_groups(clips)
    assert found is clips and check is None


# Length


def length_data(of_class: dict[str, tuple[int, int]], num: int = 48) -> tuple[Clips, list[RunSplit]]:
    """Clips of each class with lengths in a range, and their splits."""
    rng = np.random.default_rng(3)
    labels = [list(of_class)[row % len(of_class)] for row in range(num)]
    clips = clips_of([int(rng.integers(*of_class[label])) for label in labels], labels)
    return clips, run_splits(clips, SETTINGS)


def test_a_length_that_predicts_the_label_is_found() -> None:
    clips, splits = length_data({"short": (3, 6), "long": (8, 12)})
    assert length_accuracy(clips, splits, overlap(splits, fixed=False)).value == 1.0
    check = length_check(clips, splits, overlap(splits, fixed=False))
    assert check is not None and check.num_clips == 48
    assert check.sentence.startswith(
        "the number of frames alone predicts the class with a balanced accuracy of 100.0 %"
    )
    assert "chance 50.0 %" in check.sentence


def test_a_length_that_does_not_predict_the_label_is_not_reported() -> None:
    clips, splits = length_data({"one": (3, 9), "other": (3, 9)}, num=96)
    found = length_accuracy(clips, splits, overlap(splits, fixed=False))
    assert found.low < 0.5 < found.high
    assert length_check(clips, splits, overlap(splits, fixed=False)) is None


def test_a_rare_class_that_length_predicts_is_found() -> None:
    labels = ["frequent"] * 80 + ["rare"] * 16
    clips = clips_of([4 + row % 3 for row in range(80)] + [9] * 16, labels)
    splits = run_splits(clips, SETTINGS)
    found = length_accuracy(clips, splits, overlap(splits, fixed=False))
    assert (found.value, found.high) == (1.0, 1.0) and 0.5 < found.low < 1
    assert length_check(clips, splits, overlap(splits, fixed=False)) is not None


def test_length_is_found_to_predict_a_rare_class_that_is_never_the_most_frequent_one_of_its_length() -> None:
    labels = ["frequent"] * 80 + ["rare"] * 8
    clips = clips_of([9 if row % 8 == 0 else 4 for row in range(80)] + [9] * 8, labels)
    splits = run_splits(clips, SETTINGS)
    assert length_accuracy(clips, splits, overlap(splits, fixed=False)).value == pytest.approx(
        (0.875 + 1) / 2, abs=0.02
    )


def test_equal_lengths_need_no_check() -> None:
    clips = clips_of([5] * 24, ["a", "b"] * 12)
    assert length_check(clips, run_splits(clips, SETTINGS), 0.3) is None


# Static clips


def with_static(static: list[int], num: int = 24) -> tuple[Clips, list[RunSplit]]:
    rng = np.random.default_rng(1)
    features = [rng.normal(size=(5, 3)) for _ in range(num)]
    features = [np.repeat(x_TD[:1], 5, axis=0) if row in static else x_TD for row, x_TD in enumerate(features)]
    clips = clips_of_arrays(features, ["a", "b"] * (num // 2), [f"g{row}" for row in range(num)])
    return clips, run_splits(clips, SETTINGS)


def test_clips_with_equal_frames_are_found() -> None:
    clips, splits = with_static([2, 7, 11])
    assert static_rows(clips, np.arange(24)).tolist() == [2, 7, 11]
    check = static_check(clips, splits)
    assert check is not None and (check.num_clips, check.examples) == (3, ("clip 2", "clip 7", "clip 11"))
    assert check.sentence == (
        "3 of 24 test clips (12.5 %) have the same features in all frames, so that their order cannot matter"
    )


def test_if_all_clips_are_static_there_is_nothing_to_order() -> None:
    check = static_check(*with_static(list(range(24))))
    assert check is not None and check.sentence.endswith("there is nothing to order")


def test_only_tested_clips_are_searched_for_static_ones() -> None:
    clips, _ = with_static([0, 1])
    split = RunSplit(np.arange(12), np.arange(0), np.arange(12, 24))
    assert static_check(clips, [split]) is None


# Rare classes


def test_rare_classes_are_named_from_the_rarest() -> None:
    labels = ["many"] * 200 + ["some"] * 40 + ["few"] * 12 + ["fewest"] * 3
    check = rare_classes_check(clips_of([2] * len(labels), labels))
    assert check is not None and (check.num_clips, check.examples) == (15, ("fewest", "few"))
    assert check.sentence.startswith("2 of 4 classes have fewer than 10 clips or less than a third of the mean share")
    assert "'fewest' has 3 clips" in check.sentence and "use balanced accuracy" in check.sentence


def test_balanced_classes_of_enough_clips_are_not_rare() -> None:
    assert rare_classes_check(clips_of([2] * 30, ["a", "b", "c"] * 10)) is None


def test_good_data_pass_all_checks() -> None:
    clips, splits = with_static([])
    assert data_checks(clips, splits, 0.3) == ()


def test_all_checks_are_reported() -> None:
    clips, splits = length_data({"short": (3, 6), "long": (8, 12)})
    frozen = [clips.features(row)[:1].expand(int(clips.lengths[row]), -1) for row in range(len(clips))]
    names = [f"{row}.mp4" for row in range(len(clips))]
    clips = replace(clips, features=frozen.__getitem__, class_names=(*clips.class_names, "never"), names=names)
    found = data_checks(clips, splits, 0.3)
    assert [check.name for check in found] == ["length", "static clips", "rare classes"]
    assert all(example in names for example in found[1].examples)
