"""Run a function in isolated workers: a worker that hangs or crashes loses only its current item and is replaced.

Each worker has a separate pipe, so that a crash cannot leave a shared lock held. The process pools of the standard
library are not used because they stop completely when a worker dies, and have no time limit per item.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

from videomem.errors import VideomemError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

# Far longer than decoding any clip takes; only a decoder that hangs should reach it.
TIME_LIMIT_S = 300.0
# A fork of this process could inherit locks held by other threads; the fork server has no other threads.
_START_METHODS = multiprocessing.get_all_start_methods()
_CONTEXT: Any = multiprocessing.get_context("forkserver" if "forkserver" in _START_METHODS else "spawn")
_START_LIMIT_S = 300.0
_POLL_INTERVAL_S = 0.2
_PR_SET_PDEATHSIG = 1
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Lost:
    """An item whose worker hung or died.

    Attributes:
        error: `TimeLimit` or `WorkerDied`.
        reason: What happened, such as `its process was killed by SIGABRT`.
        seconds: Time since the worker received the item.
    """

    error: str
    reason: str
    seconds: float


class _Worker(Generic[Item, Answer]):
    def __init__(self, function: Callable[[Item], Answer]) -> None:
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()
        self.is_ready = False
        self.place: int | None = None
        self.since_s = time.monotonic()

    def give(self, place: int, item: Item) -> None:
        self.place, self.since_s = place, time.monotonic()
        self.pipe.send(item)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    @property
    def how_it_died(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"its process ended with status {code}"
        names = {known.value: known.name for known in signal.Signals}
        return f"its process was killed by {names.get(-code, f'signal {-code}')}"


def start_early(preload: str) -> None:
    """Start the server that workers are forked from, which imports `preload` while this process does other things."""
    if _CONTEXT.get_start_method() == "forkserver":
        _CONTEXT.set_forkserver_preload([preload])
        multiprocessing.forkserver.ensure_running()


def run_isolated(
    function: Callable[[Item], Answer],
    items: Sequence[Item],
    num_workers: int,
    time_limit_s: float,
    preload: str = "videomem.utils.workers",
) -> Iterator[Answer | Lost]:
    """Yield `function(item)` for each item in order, computed in isolated worker processes.

    Args:
        function: A picklable function with picklable results.
        items: The items.
        num_workers: Number of processes. 0 computes in this process, without a time limit or crash isolation.
        time_limit_s: If an item takes longer, its worker is killed.
        preload: Module that is imported before workers are forked.
    Yields:
        The result of each item, or `Lost` if its worker hung or died.
    Raises:
        VideomemError: If workers cannot start, or the function raises.
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    start_early(preload)
    answers: Queue[Any] = Queue(maxsize=2 * num_workers)
    stop = threading.Event()
    work = threading.Thread(target=_work, args=(function, items, num_workers, time_limit_s, answers, stop), daemon=True)
    work.start()
    try:
        for _ in items:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        stop.set()
        while work.is_alive():  # It may be waiting for space in the queue.
            try:
                answers.get(timeout=_POLL_INTERVAL_S)
            except Empty:
                work.join(_POLL_INTERVAL_S)


def _work(
    function: Callable[[Item], Answer],
    items: Sequence[Item],
    num_workers: int,
    time_limit_s: float,
    answers: Queue[Any],
    stop: threading.Event,
) -> None:
    """Distribute items to workers, and put their results into the queue in order."""
    done: dict[int, Any] = {}
    given = left = 0
    workers: list[_Worker[Item, Answer]] = []
    try:
        while left < len(items) and not stop.is_set():
            busy = sum(worker.place is not None or not worker.is_ready for worker in workers)
            while len(workers) < min(num_workers, len(items) - given + busy):
                workers.append(_Worker(function))
                busy += 1
            for worker in workers:
                if worker.is_ready and worker.place is None and given < len(items) and given < left + 4 * num_workers:
                    try:
                        worker.give(given, items[given])
                    except ConnectionError:  # It died while idle; this is detected below.
                        worker.place = None
                    else:
                        given += 1
            wait([thing for w in workers for thing in (w.pipe, w.process.sentinel)], _POLL_INTERVAL_S)
            for worker in list(workers):
                if (answer := _answer(worker, time_limit_s)) is None:
                    continue
                if isinstance(answer, Lost):
                    worker.end()
                    workers.remove(worker)
                if worker.place is not None:
                    done[worker.place] = answer
                    worker.place = None
            while left in done and not stop.is_set():
                try:
                    answers.put(done[left], timeout=_POLL_INTERVAL_S)
                except Full:
                    continue
                del done[left]
                left += 1
    except BaseException as error:  # noqa: BLE001 - raised by the consumer of the queue
        answers.put(error)
    finally:
        for worker in workers:
            worker.end()


def _answer(worker: _Worker[Item, Answer], time_limit_s: float) -> Any:
    """The result of a worker, or `Lost` if it hung or died; None while it is busy."""
    seconds = time.monotonic() - worker.since_s
    try:
        if worker.pipe.poll():
            answer = worker.pipe.recv()
            if isinstance(answer, VideomemError):
                raise answer
            if worker.is_ready:
                return answer
            worker.is_ready = True
            return None
        died = not worker.process.is_alive()
    except (EOFError, OSError):  # Killed before or while it sent its result.
        died = True
    if not worker.is_ready and (died or seconds > _START_LIMIT_S):
        what = worker.how_it_died if died else f"no response within {_START_LIMIT_S:.0f} s"
        raise VideomemError(
            f"a decoding process cannot start: {what}; a script that calls videomem needs "
            '`if __name__ == "__main__":`, or use 0 workers to decode in this process'
        )
    if died:
        return Lost("WorkerDied", worker.how_it_died, seconds)
    if worker.place is not None and seconds > time_limit_s:
        return Lost("TimeLimit", f"not decoded within {time_limit_s:g} s", seconds)
    return None


def _serve(pipe: Connection, function: Callable[[Item], Answer]) -> None:
    """Main function of a worker: process items until the parent closes the pipe."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles Ctrl-C.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # Discard what decoders print.
        os.dup2(nowhere, descriptor)
    pipe.send("ready")
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(function(item))
        except Exception as error:  # noqa: BLE001 - sent to the parent, which raises it
            pipe.send(VideomemError(f"{type(error).__name__}: {error}"))


def check_shared_memory(remedy: str, num_bytes: int = 0) -> None:
    """Raise if processes cannot share memory, as in a container without /dev/shm, or not as much as they need.

    Args:
        remedy: Option that avoids worker processes, for the error message.
        num_bytes: Memory that is needed. A worker of torch that cannot get it prints an error and hangs.
    """
    try:
        multiprocessing.get_context("spawn").Lock()
    except (OSError, ImportError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideomemError(
            f"/dev/shm: worker processes need this shared memory, but it is not usable ({reason}); mount it with write "
            f"access, or set {remedy}"
        ) from error
    if _SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(_SHARED_MEMORY).free) < num_bytes:
        raise VideomemError(
            f"/dev/shm: {free / 2**20:.0f} MiB are free, but the batches of worker processes may take "
            f"{num_bytes / 2**20:.0f} MiB of it; enlarge it (for Docker with --shm-size), or set {remedy}"
        )


def die_with_parent() -> None:
    """End this worker when its parent ends, even if the parent is killed or a decoder in the worker hangs."""
    if sys.platform == "linux":
        # The parent process of a worker is the fork server, which ends when all copies of this descriptor are closed.
        server = multiprocessing.forkserver._forkserver
        if (lifeline := getattr(server, "_forkserver_alive_fd", None)) is not None:
            os.close(lifeline)
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch(sentinel: int) -> None:
            wait([sentinel])
            os._exit(1)

        threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
