"""W&B runs: offline unless asked otherwise, and quiet about the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import wandb

from videomem.errors import VideomemError

Mode = Literal["offline", "online", "disabled"]
FLUSH_EVERY_S = 1.0  # What a run logged is in its file at most so much later; a killed run keeps it.


def run_settings(machine_details: bool = False) -> wandb.Settings:
    """Settings of a run: no system metrics, host, git state, program or source code unless asked for."""
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
        x_transaction_log_flush_interval=FLUSH_EVERY_S,
    )


def start_run(project: str, folder: Path, mode: Mode = "offline", **details: Any) -> wandb.Run:
    """Start a run whose files go below `folder`.

    Args:
        project: W&B project.
        folder: Where the run's files are written.
        mode: `offline` needs no account and sends nothing; `online` is never a default, not even with a key at hand.
        details: Further arguments of `wandb.init`, such as `name`, `group`, `config`; paths in `config` become names.
    Raises:
        VideomemError: If `online` has no key or no network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # W&B's reports of its own errors to its makers.
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
    """What W&B copies while this lasts lies in an offline run's folder, where `wandb sync` needs it later.

    Otherwise it would lie in the user's own data folder. Where WANDB_DATA_DIR is set, that counts.
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
    """The folder that holds all of a run on this machine."""
    return Path(run.dir).parent


def without_paths(value: Any) -> Any:
    """Plain data in which a path of this machine is but the name of its file, since folders tell of their owner."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str) and _is_path_here(value):
        return Path(value).name
    return value


def _is_path_here(text: str) -> bool:
    path = Path(text)
    return path.is_absolute() and (path.is_relative_to(Path.home()) or os.path.lexists(path))


def group_of(default: str) -> str:
    """The group that runs join unless told: WANDB_RUN_GROUP, or the sweep's where an agent started them."""
    if group := os.environ.get("WANDB_RUN_GROUP"):
        return group
    sweep = os.environ.get("WANDB_SWEEP_ID")
    return f"sweep-{sweep}" if sweep else default
