"""A worker that hangs or dies loses only its item, and no process is left behind."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from helpers.barcodes import file_of

from videomem.errors import VideomemError
from videomem.utils import workers as isolation
from videomem.utils.workers import Lost, run_isolated
from videomem.video.decoding import decode_clip
from videomem.video.sampling import Uniform

GIL_HELD = "a" * 60 + "b"


def misbehave(how: str) -> object:
    """Fail in the ways in which decoders fail on damaged files."""
    if how == "abort":
        os.abort()
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "leave":
        os._exit(0)
    elif how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "sleep":
        time.sleep(1000)
    elif how == "hang within C":
        re.match(r"(a+)+$", GIL_HELD)
    elif how == "raise":
        raise ValueError("odd")
    elif how == "chatter":
        print("to stdout")
        os.write(2, b"to stderr")
    elif how == "large":
        return bytes(20_000_000)
    elif how == "lambda":
        return lambda: None
    elif how == "slow":
        time.sleep(0.5)
    return how, os.getpid()


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_come_in_order_even_if_workers_die(num_workers: int) -> None:
    hows = ["a", "abort", "b", "sleep", "slow", "segfault", "c", "hang within C", "leave", "large", "killed", "d"]
    answers = list(run_isolated(misbehave, hows, num_workers, time_limit_s=2))
    lost = {how: answer for how, answer in zip(hows, answers, strict=True) if isinstance(answer, Lost)}
    assert {how: answer.error for how, answer in lost.items()} == {
        "abort": "WorkerDied", "segfault": "WorkerDied", "leave": "WorkerDied", "killed": "WorkerDied",
        "sleep": "TimeLimit", "hang within C": "TimeLimit",
    }  # fmt: skip
    assert lost["abort"].reason == "its process was killed by SIGABRT"
    assert lost["segfault"].reason == "its process was killed by SIGSEGV"
    assert lost["sleep"].reason == "not decoded within 2 s" and 2 <= lost["sleep"].seconds < 60
    good = [answer for answer in answers if isinstance(answer, tuple)]
    assert [how for how, _ in good] == ["a", "b", "slow", "c", "d"]
    assert len(answers[hows.index("large")]) == 20_000_000  # type: ignore[arg-type]


def test_work_is_done_in_other_processes_without_output(capfd: pytest.CaptureFixture[str]) -> None:
    answers = list(run_isolated(misbehave, ["chatter"] * 4, 2, time_limit_s=60))
    assert all(pid != os.getpid() for _, pid in answers)  # type: ignore[misc]
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_dies_while_idle_is_replaced() -> None:
    pids = set()
    for number, answer in enumerate(run_isolated(misbehave, ["a"] * 20, 1, time_limit_s=60)):
        assert isinstance(answer, tuple)
        pids.add(answer[1])
        if number == 3:
            time.sleep(1)  # The queue is full, and the thread waits.
            os.kill(answer[1], signal.SIGKILL)
            time.sleep(0.5)
    assert len(pids) == 2


def test_a_worker_killed_in_the_middle_of_its_answer_is_lost() -> None:
    ours, theirs = multiprocessing.Pipe()
    os.write(theirs.fileno(), struct.pack("!i", 1000) + b"the first bytes")
    theirs.close()
    worker = SimpleNamespace(pipe=ours, is_ready=True, place=0, since_s=time.monotonic(), how_it_died="killed")
    answer = isolation._answer(worker, 60)  # type: ignore[arg-type]
    assert isinstance(answer, Lost) and (answer.error, answer.reason) == ("WorkerDied", "killed")


def test_a_result_that_cannot_be_pickled_stops_the_workers() -> None:
    with pytest.raises(VideomemError, match="pickle"):
        list(run_isolated(misbehave, ["lambda"], 1, time_limit_s=60))


def test_an_exception_of_the_function_ends_the_work() -> None:
    with pytest.raises(VideomemError, match="ValueError: odd"):
        list(run_isolated(misbehave, ["a", "raise", "b"], 1, time_limit_s=60))


def test_workers_end_when_their_results_are_no_longer_awaited() -> None:
    answers = run_isolated(misbehave, ["a"] * 50, 2, time_limit_s=60)
    _, pid = next(answers)  # type: ignore[misc]
    answers.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
sys.path.insert(0, sys.argv[1] + '/..')
from test_workers import misbehave
from videomem.utils.workers import run_isolated
if __name__ == "__main__":
    for answer in run_isolated(misbehave, ["a", "a", *sys.argv[2:]], 2, time_limit_s=1000):
        print("at work", flush=True)
"""


def processes_marked(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            marked = mark.encode() in path.read_bytes() and b") Z " not in (path.parent / "stat").read_bytes()
        except OSError:
            continue
        found += [int(path.parent.name)] if marked else []
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ["sleep", "hang within C"])
def test_workers_end_when_their_parent_is_killed(tmp_path: Path, how: str) -> None:
    script, mark = tmp_path / "parent.py", uuid4().hex
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(Path(__file__).parent), how, how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"MARK": mark})
    assert process.stdout is not None
    assert [process.stdout.readline().strip() for _ in range(2)] == ["at work"] * 2
    time.sleep(0.5)
    assert len(processes_marked(mark)) >= 3
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while processes_marked(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_marked(mark) == []


def test_a_script_without_a_main_guard_gets_a_clear_error(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(PARENT.replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run([sys.executable, str(script), str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.returncode != 0 and 'needs `if __name__ == "__main__":`' in done.stderr


def resident_bytes(paths: list[str]) -> int:
    """Open and decode files; returns the resident memory of the process."""
    for path in paths:
        decode_clip(path, Uniform(4))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
def test_memory_stays_flat_over_ten_thousand_opens(tmp_path: Path) -> None:
    names = ["h264 without B-frames", "h264 with B-frames", "h264, key frame every 12", "hevc", "vp9 in webm",
             "mpeg4 in avi with B-frames", "mjpeg in avi", "h264 in mpegts"]  # fmt: skip
    paths = [str(file_of(tmp_path, name)) for name in names]
    rounds = [paths * (500 // len(paths) + 1)] * 20
    assert sum(map(len, rounds)) >= 10_000
    after = [answer for answer in run_isolated(resident_bytes, rounds, 1, time_limit_s=600) if isinstance(answer, int)]
    print(f"MiB after each {len(rounds[0])} opens:", [round(n / 2**20) for n in after])
    assert len(after) == len(rounds)
    assert after[-1] - after[3] < 16 * 2**20
