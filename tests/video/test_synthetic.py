from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from videomem.errors import VideomemError
from videomem.video.catalog import Catalog, Clip
from videomem.video.decoding import decode_clip
from videomem.video.sampling import Uniform
from videomem.video.synthetic import ACTIONS, SHAPES, SyntheticSettings, render_clip, synthesize

SMALL = SyntheticSettings(train_pairs=1, val_pairs=1, test_pairs=1, frame_size=64, num_frames=8)


def pairs(catalog: Catalog) -> list[list[Clip]]:
    groups = defaultdict(list)
    for clip in catalog.clips:
        groups[clip.group].append(clip)
    return list(groups.values())


def digests(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        synthesize(SMALL, tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    synthesize(SMALL, tmp_path / "one")
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_each_clip_stands_beside_its_exact_reversal(catalog: Catalog) -> None:
    for one, other in pairs(catalog):
        assert one.split == other.split and one.label != other.label
        assert (one.label, other.label) in ACTIONS
        frames = [decode_clip(clip.path, Uniform(16)).frames_THWC for clip in (one, other)]
        assert np.array_equal(frames[0], frames[1][::-1])


def test_classes_are_equally_frequent_in_every_split(catalog: Catalog) -> None:
    for split in catalog.splits:
        assert len(set(Counter(clip.label for clip in catalog.split(split)).values())) == 1


def test_file_names_do_not_reveal_the_class(catalog: Catalog) -> None:
    for clip in catalog.clips:
        assert clip.label not in clip.path and clip.group not in clip.path


@pytest.mark.parametrize("action", list(ACTIONS.values()), ids=["-".join(pair) for pair in ACTIONS])
def test_the_action_stays_inside_the_center_crop(action: object) -> None:
    margin = round(64 * (1 - 224 / 256) / 2)
    for number in range(6):
        frames = np.stack(render_clip(action, SyntheticSettings(frame_size=64), [number])[0]).astype(float)  # type: ignore[arg-type]
        change = np.abs(np.diff(frames, axis=0)).max((0, 3))
        change[margin:-margin, margin:-margin] = 0
        assert change.max() < 20  # Noise only.


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(VideomemError, match="is not empty; choose an empty folder"):
        synthesize(SMALL, tmp_path)


@pytest.mark.parametrize(("name", "value"), [("num_frames", 15), ("frame_size", 65), ("train_pairs", 0), ("fps", 0)])
def test_settings_that_break_the_symmetry_or_make_no_sense_are_refused(name: str, value: int) -> None:
    with pytest.raises(VideomemError, match=name):
        SyntheticSettings(**{name: value})


def test_labeled_by_shape_a_clip_and_its_reversal_are_of_one_class(tmp_path: Path) -> None:
    by_direction = synthesize(SMALL, tmp_path / "direction")
    by_shape = synthesize(replace(SMALL, label_by="shape"), tmp_path / "shape")
    assert set(by_shape.classes) <= set(SHAPES) and len(by_shape.classes) > 1
    for one, other in pairs(by_shape):
        assert one.label == other.label and one.split == other.split
    for direction, shape in zip(by_direction.clips, by_shape.clips, strict=True):
        assert Path(direction.path).read_bytes() == Path(shape.path).read_bytes()
    with pytest.raises(VideomemError, match="label_by is 'color'"):
        replace(SMALL, label_by="color")
