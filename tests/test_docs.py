"""The documents run: their examples, and the page of public names names all of them."""

from __future__ import annotations

import doctest
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

import videomem
from videomem.inference.model import load
from videomem.video.catalog import Catalog


def test_the_examples_of_the_python_interface_run(
    checkpoints: dict[str, Path], catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(checkpoints["gru"]).save_pretrained(tmp_path / "exported")
    shutil.copy(catalog.clips[0].path, tmp_path / "video.mp4")
    for place, label in enumerate(("appear", "vanish")):
        clip = next(clip for clip in catalog.clips if clip.label == label)
        (tmp_path / "my_videos" / label).mkdir(parents=True)
        shutil.copy(clip.path, tmp_path / "my_videos" / label / f"take{place}.mp4")
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testfile(str(ROOT / "docs" / "api.md"), module_relative=False, optionflags=flags)
    assert failed == 0 and tried > 25


def test_the_page_of_the_python_interface_names_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    table = page[page.index("| name |") : page.index("## load")]
    named = set(re.findall(r"`(\w+)`", " ".join(line.split("|")[1] for line in table.splitlines() if "|" in line)))
    assert named == set(videomem.__all__) - {"__version__"}
    for name in named:
        assert getattr(videomem, name).__doc__, name
