"""Training and evaluation with several processes, one for each device: DistributedDataParallel of torch."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch.distributed
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from videomem.errors import VideomemError, one_line
from videomem.utils.workers import die_with_parent


def check_processes(trainer: Trainer, strategy: object, run_dir_is_new: bool) -> None:
    """Checks that a trainer with several processes can be used.

    Args:
        run_dir_is_new: Whether this process has chosen the directory of the run.
    Raises:
        VideomemError: If it cannot.
    """
    started = TorchElasticEnvironment().world_size() if TorchElasticEnvironment.detect() else trainer.world_size
    if started != trainer.world_size:
        raise VideomemError(
            f"torchrun started {started} processes, but trainer.devices is {trainer.num_devices} and "
            f"trainer.num_nodes {trainer.num_nodes}; set trainer.devices to the processes of each node"
        )
    if trainer.world_size == 1:
        return
    if type(trainer.strategy) is not DDPStrategy or trainer.strategy._start_method != "popen":
        raise VideomemError(
            f"trainer.strategy is {one_line(strategy)}, but several processes are trained with ddp; "
            "set it to auto or ddp"
        )
    if overfit := trainer.overfit_batches:  # type: ignore[attr-defined]
        raise VideomemError(
            f"trainer.overfit_batches is {overfit}, but trainer.devices is {trainer.num_devices}; set it to 1"
        )
    if has_to_launch(trainer) and trainer.num_nodes > 1:
        raise VideomemError(
            f"trainer.num_nodes is {trainer.num_nodes}, but this is a single process; start the processes of each node "
            "with torchrun or srun"
        )
    if run_dir_is_new and not has_to_launch(trainer):
        raise VideomemError(
            f"{trainer.world_size} processes were started without --run-dir; name one directory for all of them"
        )


def has_to_launch(trainer: Trainer) -> bool:
    """Whether the processes of a trainer are not running yet."""
    return trainer.world_size > 1 and not trainer.strategy.cluster_environment.creates_processes_externally  # type: ignore[attr-defined]


def launch(trainer: Trainer, command: str, arguments: Sequence[str]) -> None:
    """Runs a command in one process for each device, as torchrun does on one node, and waits for their end.

    Raises:
        VideomemError: If a process was killed.
        SystemExit: If one failed or was interrupted, which has written its error.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=trainer.num_devices,
        run_id="videomem",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        local_addr="localhost",
    )
    logging.disable()  # The processes write their own messages.
    try:
        elastic_launch(config, sys.executable)("-m", "videomem", command, *arguments)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        for rank, code in codes.items():
            if code < 0 and code != -signal.SIGTERM:  # SIGTERM ends the other processes after a failure.
                raise VideomemError(
                    f"process {rank} of {trainer.world_size} was ended by {signal.Signals(-code).name}, perhaps for "
                    "lack of memory; lower data.batch_size or trainer.devices"
                ) from error
        raise SystemExit(max(codes.values())) from error
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from error
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def first_error_only() -> Iterator[None]:
    """Ends this process without a message if it fails because another one has failed or was killed."""
    if TorchElasticEnvironment.detect():
        die_with_parent()
    try:
        yield
    except BaseException as error:
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if torch.distributed.is_initialized() and (lost or not _is_first()):
            raise SystemExit(2) from error
        raise


def _is_first() -> bool:
    """Whether no other process has called this; False if the process that counts the calls has ended."""
    try:
        return torch.distributed.distributed_c10d._get_default_store().add("failed", 1) == 1
    except RuntimeError:
        return False
