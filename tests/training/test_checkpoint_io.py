"""Checkpoints of trainings that are killed, with the folder for temporary files on another file system."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from videomem.errors import VideomemError
from videomem.training.checkpoint import read_checkpoint
from videomem.training.checkpoint_io import AtomicCheckpointIO


def test_no_temporary_file_is_elsewhere_than_beside_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    path = tmp_path / "checkpoints" / "last.ckpt"
    for value in (1, 2):
        AtomicCheckpointIO().save_checkpoint({"value": torch.tensor(value)}, path)
        assert torch.load(path, weights_only=True) == {"value": torch.tensor(value)}
    assert list(path.parent.iterdir()) == [path]


def test_a_flipped_bit_of_a_checkpoint_is_noticed(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = bytearray(checkpoints["gru"].read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True), "torch does not notice"
    with pytest.raises(VideomemError, match=r"last\.ckpt: .*Bad CRC-32"):
        read_checkpoint(path)


@pytest.mark.slow
def test_twenty_kills_leave_no_broken_checkpoint(workspace: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("needs two file systems")
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "helpers")))
        environment = {**os.environ, "TMPDIR": elsewhere, "PYTHONPATH": paths}
        command = [sys.executable, ROOT / "tests" / "helpers" / "killed_fits.py", workspace, tmp_path, "20"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["20", "0"], "checkpoints found, and broken ones"
