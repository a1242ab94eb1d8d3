"""Start W&B runs, by default offline and without information about the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import wandb
from wandb import Run

from videomem.errors import VideomemError

Mode = Literal["offline", "online", "disabled"]
FLUSH_INTERVAL_S = 1.0  # Maximum delay until logged values are in the file of the run, where a killed run keeps them.


@dataclass(frozen=True)
class Tracking:
    """Where runs of W&B belong, and whether they are uploaded. None: not set.

    Attributes:
        mode: `offline`, `online` or `disabled`.
        project: Project of the runs.
        entity: User or team that owns the runs.
        group: Group of the runs within the project.
        tags: Tags of the runs.
    """

    mode: Mode | None = None
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] | None = None

    def over(self, other: Tracking) -> Tracking:
        """These settings, and those of `other` for what is not set here."""
        return Tracking(**(asdict(other) | {name: value for name, value in vars(self).items() if value is not None}))


def environment() -> Tracking:
    """What the environment variables of W&B say: WANDB_MODE, _PROJECT, _ENTITY, _RUN_GROUP, _TAGS, and the sweep.

    WANDB_MODE can disable runs. It cannot upload them: that takes a setting of videomem.
    """
    given = {name: os.environ.get(f"WANDB_{name}") or None for name in ("PROJECT", "ENTITY", "RUN_GROUP", "SWEEP_ID")}
    tags = [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
    return Tracking(
        mode="disabled" if os.environ.get("WANDB_MODE") == "disabled" else None,
        project=given["PROJECT"],
        entity=given["ENTITY"],
        group=given["RUN_GROUP"] or (f"sweep-{given['SWEEP_ID']}" if given["SWEEP_ID"] else None),
        tags=tags or None,
    )


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


def start_run(tracking: Tracking, folder: Path, defaults: Tracking = Tracking(), **details: Any) -> Run:
    """Start a W&B run.

    Args:
        tracking: What options and configs say. For what they do not set, the environment counts, then `defaults`.
        folder: Folder for the files of the run.
        defaults: What counts last, before the project `videomem` and the mode `offline`, which sends nothing.
        details: Further arguments of `wandb.init`, such as `name` and `config`. Paths in `config` are reduced to file
            names.
    Raises:
        VideomemError: If the run cannot be started, for example without an API key or network in mode `online`.
    """
    details |= asdict(tracking.over(environment()).over(defaults))
    mode = details["mode"] = details["mode"] or "offline"
    details["project"] = details["project"] or "videomem"
    if mode != "disabled":
        folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # Turns off crash reports to W&B.
    details = {"settings": run_settings(), "reinit": "create_new", **details}
    details["config"] = without_paths(details.get("config") or {})
    try:
        return wandb.init(dir=str(folder), **details)
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise VideomemError(
            f"W&B mode is {mode}, but no run could be started ({reason}); run `wandb login`, or set the mode to offline"
        ) from error


@contextmanager
def finishing(run: Run) -> Iterator[Run]:
    """Finish a run at the end, or mark it as failed by an exception, of which W&B itself would print the traceback."""
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


@contextmanager
def files_beside(run: Run) -> Iterator[None]:
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


def folder_of(run: Run) -> Path:
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
