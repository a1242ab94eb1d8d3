"""Start W&B runs, by default offline and without information about the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import wandb

from videomem.errors import VideomemError

Mode = Literal["offline", "online", "disabled"]
FLUSH_INTERVAL_S = 1.0  # Maximum delay until logged values are in the file of the run, where a killed run keeps them.


def run_settings(machine_details: bool = False) -> wandb.Settings:
    """W&B settings; system metrics, host, git state and program are recorded only with `machine_details`."""
    return wandb.Settings(
        silent=True,
        console="off",
        save_code=False,
        host=None if machine_details else "undisclosed",
        program=None if machine_details else "videomem",
        x_save_requirements=machine_details,
        disable_git=not machine_details,
        x_disable_meta=not machine_details,
        x_disable_stats=not machine_details,
        x_disable_machine_info=not machine_details,
        x_transaction_log_flush_interval=FLUSH_INTERVAL_S,
    )


def start_run(project: str, folder: Path, mode: Mode = "offline", **details: Any) -> wandb.Run:
    """Start a W&B run.

    Args:
        project: W&B project.
        folder: Folder for the files of the run.
        mode: `offline` needs no account and sends nothing. `online` is never chosen automatically.
        details: Further arguments of `wandb.init`, such as `name`, `group` and `config`. Paths in `config` are reduced
            to file names.
    Raises:
        VideomemError: If the run cannot be started, for example without an API key or network in mode `online`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # Turns off crash reports to W&B.
    details = {"settings": run_settings(), "reinit": "create_new", **details}
    details["config"] = without_paths(details.get("config") or {})
    try:
        return wandb.init(project=project, dir=str(folder), mode=mode, **details)
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise VideomemError(
            f"W&B mode is {mode}, but no run could be started ({reason}); run `wandb login`, or set the mode to offline"
        ) from error


@contextmanager
def files_beside(run: wandb.Run) -> Iterator[None]:
    """Let W&B copy files into the folder of an offline run, where `wandb sync` finds them later.

    By default W&B copies them to a data folder of the user. If WANDB_DATA_DIR is set, it takes precedence.
    """
    if not run.offline or "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder_of(run))
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def folder_of(run: wandb.Run) -> Path:
    """The local folder with all files of a run."""
    return Path(run.dir).parent


def without_paths(value: Any) -> Any:
    """Reduce absolute paths in plain data to file names, to keep folder names private."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and (path := Path(value)).is_absolute():
        return path.name if path.is_relative_to(Path.home()) or os.path.lexists(path) else value
    return value


def group_of(default: str) -> str:
    """The default group of runs: WANDB_RUN_GROUP, or the sweep if an agent started the run, or `default`."""
    if group := os.environ.get("WANDB_RUN_GROUP"):
        return group
    sweep = os.environ.get("WANDB_SWEEP_ID")
    return f"sweep-{sweep}" if sweep else default
