"""The known pairs of time-reversed classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from videomem.video.datasets.reversed_classes import JESTER, SOMETHING, known_reversed_pairs
from videomem.video.datasets.something import from_ssv2


@pytest.mark.parametrize(("pairs", "num_classes"), [(SOMETHING, 174), (JESTER, 27)])
def test_each_class_is_in_one_pair_and_pairs_are_sorted(pairs: tuple[tuple[str, str], ...], num_classes: int) -> None:
    names = [name for pair in pairs for name in pair]
    assert len(set(names)) == len(names) <= num_classes
    assert list(pairs) == sorted(tuple(sorted(pair)) for pair in pairs)


def test_a_pair_is_known_if_both_of_its_classes_occur() -> None:
    names = ["Swiping Up", "Closing something", "Swiping Left", "Opening something", "Swiping Right", "Stop Sign"]
    assert known_reversed_pairs(names) == [
        ("Closing something", "Opening something"),
        ("Swiping Left", "Swiping Right"),
    ]
    assert known_reversed_pairs(["opening something", "Closing something"]) == []


def test_pairs_are_spelled_as_the_labels_of_a_catalog(tmp_path: Path) -> None:
    templates = ["Pushing [something] from left to right", "Pushing [something] from right to left"]
    labels = ", ".join(f'"{template.replace("[", "").replace("]", "")}": "{n}"' for n, template in enumerate(templates))
    (tmp_path / "labels.json").write_text(f"{{{labels}}}")
    rows = ", ".join(f'{{"id": "{n}", "template": "{template}"}}' for n, template in enumerate(templates))
    for name in ("train", "validation"):
        (tmp_path / f"{name}.json").write_text(f"[{rows}]")
    pair = ("Pushing something from left to right", "Pushing something from right to left")
    assert known_reversed_pairs(clip.label for clip in from_ssv2(tmp_path, tmp_path).clips) == [pair]
