"""Run many small jobs in parallel processes, with one thread each and without Lightning's messages.

Each job stores its result in a file itself, so an interrupted run keeps every finished result.
"""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from videomem.errors import VideomemError
from videomem.utils.atomic import remove_orphans
from videomem.utils.workers import check_shared_memory, die_with_parent

Runner = Callable[[Callable[..., None], Sequence[tuple[Any, ...]], Any, int], Iterator[tuple[Any, ...]]]


def run_cached(
    job: Callable[..., None],
    calls: Mapping[tuple[Path, ...], tuple[Any, ...]],
    shared: Any,
    num_processes: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    in_turn: Sequence[Any] = (),
    finished: Callable[[tuple[Path, ...]], None] = lambda paths: None,
    runner: Runner | None = None,
) -> None:
    """Call `job(*call, paths, shared)` for all paths of which one does not exist yet.

    Args:
        job: A function of a module, or a partial of one, that writes its results to `paths` atomically.
        calls: Arguments of each job by the files of its results. The file names must identify everything that
            determines the results.
        shared: Argument that all jobs share; sent to each process once.
        num_processes: Number of processes; 1 runs all jobs in this process.
        progress: Called with the number of finished results and the number of all results.
        in_turn: Values of a further argument after those of `calls`, such as devices. The jobs take them in turn.
        finished: Called with the files of each job when it has finished.
        runner: Runs the jobs elsewhere, see `videomem.utils.ray_cluster`; None: in processes on this machine.
    Raises:
        VideomemError: If a process is killed, or the GPU runs out of memory.
    """
    for folder in {path.parent for paths in calls for path in paths}:
        remove_orphans(folder)
    missing = [paths for paths in calls if not all(path.is_file() for path in paths)]
    values: list[tuple[Any, ...]] = [(value,) for value in in_turn] or [()]
    arguments = [(*calls[paths], *value, paths) for paths, value in zip(missing, cycle(values), strict=False)]
    total = sum(map(len, calls))
    done = total - sum(map(len, missing))
    progress(done, total)
    for call in (runner or run_parallel)(job, arguments, shared, min(num_processes, len(missing))):
        done += len(call[-1])
        finished(call[-1])
        progress(done, total)


def run_parallel(
    job: Callable[..., None], calls: Sequence[tuple[Any, ...]], shared: Any, num_processes: int
) -> Iterator[tuple[Any, ...]]:
    """Call the picklable `job(*call, shared)` for every call, and yield each finished call; see `run_cached`."""
    if num_processes <= 1:
        with one_thread(), quiet():
            for call in calls:
                job(*call, shared)
                yield call
        return
    check_shared_memory("--processes 1")
    with ProcessPoolExecutor(num_processes, get_context("spawn"), _start_worker, (shared,)) as pool:
        running: dict[Future[None], tuple[Any, ...]] = {}
        try:
            running |= {pool.submit(_in_worker, job, *call): call for call in calls}
            for future in as_completed(running):
                future.result()
                yield running[future]
        except BrokenProcessPool as error:
            raise VideomemError(
                "a training process was killed, perhaps for lack of memory; finished results are kept: run it again "
                "with fewer --processes (in a script, call it under `if __name__ == '__main__'`)"
            ) from error
        except torch.OutOfMemoryError as error:
            raise VideomemError(
                "the GPU's memory was too small; finished results are kept: run it again with fewer --processes"
            ) from error
        finally:
            for future in running:
                future.cancel()


_shared: Any = None


def _start_worker(shared: Any) -> None:
    global _shared
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles Ctrl-C; running jobs finish.
    _shared = shared
    torch.set_num_threads(1)  # More threads do not help small matrices, and could change results.


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Lightning's messages and all warnings, which would be repeated for every job."""
    names = ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@quiet()
def _in_worker(job: Callable[..., None], *call: Any) -> None:
    job(*call, _shared)
