"""Paths in what people share: none of them has the folders of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from videomem.utils.sharing import shared_command, shared_path, shared_text


@pytest.mark.parametrize(
    ("path", "shared"),
    [
        ("data/ucf101.csv", "data/ucf101.csv"),
        ("imagenet", "imagenet"),
        ("/home/alice/projects/ucf101/catalog.csv", "ucf101/catalog.csv"),
        ("/home/alice/catalog.csv", "catalog.csv"),
        (str(Path.home() / "catalog.csv"), "catalog.csv"),
        ("~/catalog.csv", "catalog.csv"),
        ("../../alice/videos/a.mp4", "videos/a.mp4"),
        ("/a.mp4", "a.mp4"),
        ("/mnt/my disk/some videos/a b.mp4", "some videos/a b.mp4"),
    ],
)
def test_a_shared_path_has_the_name_and_at_most_one_folder(path: str, shared: str) -> None:
    assert shared_path(path) == shared == shared_path(shared)


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/home/alice/v/a.mp4: no such file (/usr/lib/x/y.so)", "v/a.mp4: no such file (x/y.so)"),
        ("either/or, 3/4, http://a.b/c/d, ~1 s", "either/or, 3/4, http://a.b/c/d, ~1 s"),
        ("alexnet fc6, /data/w/net.pth weights", "alexnet fc6, w/net.pth weights"),
    ],
)
def test_a_shared_text_has_no_absolute_path(text: str, shared: str) -> None:
    assert shared_text(text) == shared == shared_text(shared)


def test_a_shared_text_names_paths_with_spaces_where_they_are_known() -> None:
    path = "/home/alice b/c d/e.mp4"
    assert shared_text(f"{path}: damaged", [path]) == "c d/e.mp4: damaged"


def test_a_shared_command_can_be_read_by_a_shell_and_has_no_absolute_path() -> None:
    arguments = [
        "order",
        "--config",
        "/home/alice/x/base.yaml",
        "--data.store=/mnt/my disk/f",
        "--seed",
        "3",
        "-c",
        "~/y",
    ]
    shared = "videomem order --config x/base.yaml '--data.store=my disk/f' --seed 3 -c y"
    assert shared_command(arguments) == shared
