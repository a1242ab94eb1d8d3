"""A connection to a Ray cluster, and training jobs on it.

A job runs in a folder of its own, and its files are sent to this process, which writes them where local jobs write
theirs. A cluster therefore needs the features under the same path, but not the folder of results.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videomem.errors import VideomemError, one_line, requires_extra
from videomem.utils.atomic import write_atomic
from videomem.utils.parallel_jobs import one_thread, quiet

_CONNECT_LIMIT_S = 10.0
_JOBS_PER_GPU = 2


@dataclass(frozen=True)
class RayJobs:
    """Runs jobs on a Ray cluster, as `run_parallel` does in processes.

    Args:
        address: Address of a running cluster; empty: that of `RAY_ADDRESS`, or else a new one on this machine.
        on_gpu: Whether two jobs share a GPU; otherwise, each has a CPU.
    """

    address: str = ""
    on_gpu: bool = False

    def __call__(
        self, job: Callable[..., None], calls: Sequence[tuple[Any, ...]], shared: Any, num_processes: int
    ) -> Iterator[tuple[Any, ...]]:
        """Call `job(*call, shared)` for every call, whose last value are the paths of its results; yields each call."""
        if not calls:
            return
        ray = connected(self.address)
        try:
            what = ray.put((job, shared))
            remote = ray.remote(num_cpus=1, num_gpus=1 / _JOBS_PER_GPU if self.on_gpu else 0)(results_of)
            running = {remote.remote(what, call): call for call in calls}
            while running:
                (done, *_), _ = ray.wait(list(running), num_returns=1)
                call, (contents, error) = running.pop(done), ray.get(done)
                if error:
                    raise VideomemError(f"on the Ray cluster: {error}")
                for path, content in zip(call[-1], contents, strict=True):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(path, content)
                yield call
        except ray.exceptions.RayError as error:
            raise VideomemError(f"Ray: {one_line(error)}; finished results are kept: run it again") from error
        finally:
            ray.shutdown()


def results_of(what: tuple[Callable[..., None], Any], call: tuple[Any, ...]) -> tuple[list[bytes], str]:
    """The contents of the files that a job writes, or the error that ends it."""
    job, shared = what
    with tempfile.TemporaryDirectory() as folder, one_thread(), quiet():
        paths = [Path(folder, path.name) for path in call[-1]]
        try:
            job(*call[:-1], paths, shared)
        except VideomemError as error:  # Ray would add a traceback.
            return [], str(error)
        except OSError as error:
            return [], f"{error.filename or 'a file'}: {error.strerror or error}"
        return [path.read_bytes() for path in paths], ""


def connected(address: str) -> Any:
    """Ray, connected to a cluster, without messages, dashboard and usage statistics."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    with requires_extra("ray", "--engine ray"):
        import ray
        import ray.data
    is_new = not (address or os.environ.get("RAY_ADDRESS"))
    options: dict[str, Any] = {"include_dashboard": False} if is_new else {"address": address or None}
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host:  # Ray waits for minutes for a cluster that does not answer.
            socket.create_connection((host, int(port)), _CONNECT_LIMIT_S).close()
        with _quiet_stderr():  # It tells its log level there, whatever it is.
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise VideomemError(f"--address {address}: no Ray cluster answers ({one_line(error)})") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)
