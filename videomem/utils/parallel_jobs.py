"""Run many small training jobs in parallel processes, with one thread each and without Lightning's messages."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import torch

from videomem.errors import VideomemError
from videomem.utils.workers import die_with_parent


def run_parallel(
    job: Callable[..., None], calls: Sequence[tuple[Any, ...]], shared: Any, num_processes: int
) -> Iterator[int]:
    """Call `job(*call, shared)` for every call. Yields 1 after each call.

    Args:
        job: A picklable function. It must store its result itself, so that results are kept after an interruption.
        calls: Arguments of each call.
        shared: Data for all calls, sent to each process once.
        num_processes: Number of parallel processes; 1 runs all calls in this process.
    Raises:
        VideomemError: If a process is killed, or GPU memory is exhausted.
    """
    if num_processes <= 1:
        with one_thread(), quiet():
            for call in calls:
                job(*call, shared)
                yield 1
        return
    with ProcessPoolExecutor(num_processes, get_context("spawn"), _start_worker, (shared,)) as pool:
        running: list[Future[None]] = []
        try:
            running += [pool.submit(_in_worker, job, *call) for call in calls]
            for future in as_completed(running):
                future.result()
                yield 1
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
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # The parent handles Ctrl-C; running jobs finish and keep their results.
    _shared = shared
    torch.set_num_threads(1)  # More threads do not help small matrices, and could change results.


def _in_worker(job: Callable[..., None], *call: Any) -> None:
    with quiet():
        job(*call, _shared)


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
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
