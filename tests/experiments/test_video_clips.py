"""`load_clips`: splits, groups and errors. Features of these videos are in the store of the workspace already."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from videomem import Clips, load_clips
from videomem.errors import VideomemError
from videomem.training.data_module import VideoDataModule
from videomem.video.catalog import Catalog
from videomem.video.catalog_files import write_catalog


@pytest.fixture
def some(catalog: Catalog) -> Catalog:
    """Two clips of each of two classes."""
    of_class = [[clip for clip in catalog.clips if clip.label == label][:2] for label in catalog.classes[:2]]
    return Catalog(tuple(clip for clips in of_class for clip in clips))


def folder_of(some: Catalog, root: Path, *splits: str) -> Path:
    """A folder with a folder per class, below those of splits, each of which has the same clips."""
    for split in splits or (".",):
        for number, clip in enumerate(some.clips):
            (root / split / clip.label).mkdir(parents=True, exist_ok=True)
            shutil.copy(clip.path, root / split / clip.label / f"anna{number}.mp4")
    return root


def loaded(videos: Path, data: VideoDataModule, **options: Any) -> Clips:
    settings = data.settings
    return load_clips(
        videos, num_frames=settings.sampling.num_frames, backbone=settings.backbone,  # type: ignore[union-attr]
        store=data.feature_store.folder.parent, device="cpu", **options,
    )  # fmt: skip


@pytest.mark.parametrize("splits", [(), ("train",), ("train", "test")])
def test_clips_of_a_folder_have_the_splits_of_its_folders_or_none(
    some: Catalog, data: VideoDataModule, tmp_path: Path, splits: tuple[str, ...]
) -> None:
    clips = loaded(folder_of(some, tmp_path, *splits), data, group_by=r"anna\d")
    assert set(clips.splits) == (set(splits) or {""}) and set(clips.class_names) == set(some.classes)
    assert len(clips) == 4 * (len(splits) or 1) and len(set(clips.groups.tolist())) == 4


@pytest.mark.parametrize("split", ["train", "test"])
def test_clips_of_a_catalog_have_its_splits(some: Catalog, data: VideoDataModule, tmp_path: Path, split: str) -> None:
    write_catalog(Catalog(tuple(replace(clip, split=split) for clip in some.clips)), tmp_path / "catalog.csv")
    assert loaded(tmp_path / "catalog.csv", data).splits == (split,) * 4


def test_a_video_that_cannot_be_decoded_is_named_or_left_out(
    some: Catalog, data: VideoDataModule, tmp_path: Path
) -> None:
    folder = folder_of(some, tmp_path)
    (folder / some.classes[0] / "broken.mp4").write_bytes(b"no video")
    message = (
        r"broken\.mp4.* \(1 of 5 clips failed, see \S+failures\S+\); fix the videos, or leave them out with allow_f"
    )
    with pytest.raises(VideomemError, match=message):
        loaded(folder, data)
    assert len(loaded(folder, data, allow_failures=True)) == 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("catalog.csv", {"group_by": "anna"}, r"catalog\.csv: group_by is for folders, but a catalog has its groups"),
        ("gone.csv", {}, r"gone\.csv: no such"),
        ("folder", {"group_by": "("}, r"group_by is '\(', but must be a regular expression \("),
        ("folder", {"group_by": "bob"}, "'bob' matches nothing in"),
        ("empty", {}, "empty: has no videos; expected empty/"),
        ("flat", {}, r"flat: has 2 videos, but none in the folder of a class; expected flat/.*, or use the csv layout"),
        ("one", {}, "one: one class only"),
        ("folder", {"num_frames": 1}, "num_frames is 1"),
    ],
)
def test_what_cannot_be_loaded_is_a_one_line_error(
    some: Catalog, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    write_catalog(some, tmp_path / "catalog.csv")
    folder_of(some, tmp_path / "folder")
    folder_of(Catalog(some.clips[:2]), tmp_path / "one")
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    for number, clip in enumerate(some.clips[:2]):
        shutil.copy(clip.path, tmp_path / "flat" / f"{number}.mp4")
    with pytest.raises(VideomemError, match=message) as caught:
        load_clips(tmp_path / name, **options, store=tmp_path / "store")
    assert "\n" not in str(caught.value) and not (tmp_path / "store").exists()
