"""Atomic files and folders, and locks, of processes that are killed or run at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from videomem.errors import VideomemError
from videomem.utils.atomic import atomic_folder, locked_folder, remove_orphans, write_atomic

HOLD = """
import sys, time
from pathlib import Path
from videomem.utils.atomic import {name}
with {name}(Path(sys.argv[1])) as inside:
    if inside is not None:
        (inside / "half").write_text("half")
    print("inside", flush=True)
    time.sleep(1000)
"""


def held(name: str, folder: Path) -> subprocess.Popen[str]:
    """A process that is inside the block of a context manager of `videomem.utils.atomic`."""
    code = HOLD.format(name=name)
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "inside\n"
    return process


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "below" / "out"
    with atomic_folder(out) as unfinished:
        write_atomic(unfinished / "file", b"content")
        assert not out.exists()
    assert (out / "file").read_bytes() == b"content" and list(out.parent.iterdir()) == [out]


def test_a_failure_leaves_no_folder_and_is_told_with_its_final_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(VideomemError, match=f"^{out}/none/file: cannot be written"), atomic_folder(out) as unfinished:
        write_atomic(unfinished / "none" / "file", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_not_replaced(tmp_path: Path) -> None:
    refused = pytest.raises(VideomemError, match="out: cannot be written: Directory not empty")
    with refused, atomic_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]


def test_a_killed_writer_does_not_block_its_repetition_and_its_remains_are_removed(tmp_path: Path) -> None:
    process = held("atomic_folder", tmp_path / "out")
    process.kill()
    process.wait()
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_folder(tmp_path / "out") as unfinished:
        (unfinished / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_remains_of_ended_processes_are_removed(tmp_path: Path) -> None:
    process = held("atomic_folder", tmp_path / "out")
    remove_orphans(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    process.kill()
    process.wait()
    remove_orphans(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_belongs_to_one_process_until_it_ends_however_it_ends(tmp_path: Path) -> None:
    process = held("locked_folder", tmp_path)
    refused = pytest.raises(VideomemError, match="another process is writing to it; choose another folder")
    with refused, locked_folder(tmp_path):
        pytest.fail("two at once")
    process.kill()
    process.wait()
    with locked_folder(tmp_path):
        pass


def test_no_lock_and_no_empty_new_folder_remain_after_the_block(tmp_path: Path) -> None:
    with locked_folder(tmp_path / "new"):
        assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]
    (tmp_path / "old").mkdir()
    with locked_folder(tmp_path / "old"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "old"]


def test_of_many_processes_one_at_a_time_has_a_folder_although_locks_are_removed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from videomem.utils.atomic import locked_folder\n"
        "from videomem.errors import VideomemError\n"
        "folder, done = Path(sys.argv[1]), 0\n"
        "while done < 200:\n"
        "    try:\n"
        "        with locked_folder(folder):\n"
        "            (folder / 'claim').touch(exist_ok=False); (folder / 'claim').unlink(); done += 1\n"
        "    except VideomemError: pass\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_a_lock_that_is_a_pipe_or_a_link_does_not_wait_or_make_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with locked_folder(tmp_path):
        pass
    (tmp_path / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(VideomemError, match="cannot be locked"), locked_folder(tmp_path):
        pytest.fail("entered")
    assert not (tmp_path / "made").exists()


def test_a_mount_point_is_not_replaced() -> None:
    with pytest.raises(VideomemError, match="a mount point, which cannot be replaced"), atomic_folder(Path("/")):
        pytest.fail("entered")


def test_a_killed_writer_leaves_the_previous_file(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from videomem.utils.atomic import write_atomic\n"
        "print('started', flush=True)\n"
        "while True: write_atomic(Path(sys.argv[1]), bytes(1_000_000))\n"
    )
    path = tmp_path / "file"
    for delay_s in (0.0, 0.01, 0.02, 0.03):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        time.sleep(0.2 + delay_s)
        process.kill()
        process.wait()
        assert os.path.getsize(path) == 1_000_000
