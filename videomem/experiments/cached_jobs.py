"""Jobs whose results are cached in files: the missing ones run in parallel, the others are not repeated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from videomem.utils.parallel_jobs import run_parallel


def run_cached(
    job: Callable[..., None],
    calls: Mapping[Path, tuple[Any, ...]],
    shared: Any,
    num_processes: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
    in_turn: Sequence[Any] = (),
) -> None:
    """Calls `job(*call, path, shared)` for every path where no file exists yet.

    Args:
        job: A function of a module, or a partial of one, that writes its result to `path` atomically. An interrupted
            run therefore keeps every finished result.
        calls: Arguments of each job by the file of its result. The file name must identify everything that determines
            the result.
        shared: Argument that all jobs share; sent to each process once.
        num_processes: Number of processes; 1 runs all jobs in this process.
        progress: Called with the number of finished jobs and the number of all jobs.
        in_turn: Values of a further argument after those of `calls`, such as devices. The missing jobs take them in
            turn.
    Raises:
        VideomemError: If a process is killed, or the GPU runs out of memory.
    """
    missing = [path for path in calls if not path.is_file()]
    done = len(calls) - len(missing)
    progress(done, len(calls))
    further = [(in_turn[number % len(in_turn)],) if in_turn else () for number in range(len(missing))]
    arguments = [(*calls[path], *more, path) for path, more in zip(missing, further, strict=True)]
    for finished in run_parallel(job, arguments, shared, min(num_processes, len(missing))):
        done += finished
        progress(done, len(calls))
