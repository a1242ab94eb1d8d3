"""Many small trainings: in processes in parallel, one thread each, without Lightning's advice about each."""

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
    """Call `job(*call, shared)` for every call, and yield 1 for each that is done.

    Args:
        job: A function of a module, or a partial of one; it keeps its result itself, so that what was done is kept.
        calls: Arguments of each call.
        shared: What all calls need, sent to each process once.
        num_processes: Calls at a time; 1 calls in this process.
    Raises:
        VideomemError: If a process is killed, or the GPU's memory is too small.
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
                "a training process was killed, perhaps for memory; what was trained is kept: run it again, with fewer "
                "--processes (from a script, call it under `if __name__ == '__main__'`)"
            ) from error
        except torch.OutOfMemoryError as error:
            raise VideomemError(
                "the GPU's memory was too small; what was trained is kept: run it again, with fewer --processes"
            ) from error
        finally:
            for future in running:
                future.cancel()


_shared: Any = None


def _start_worker(shared: Any) -> None:
    global _shared
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: what runs is finished and kept.
    _shared = shared
    torch.set_num_threads(1)  # Small matrices gain nothing from more, and the bits stay.


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
    """Lightning's advice is about one training, and there are hundreds."""
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
