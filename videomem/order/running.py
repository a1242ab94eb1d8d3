"""All cells of an order test: in processes side by side, and never one that the cache holds."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from videomem.errors import VideomemError
from videomem.order.cells import Cell, Outcome, cell_key, read_outcome, train_cell, write_outcome
from videomem.order.clips import Clips
from videomem.order.memories import build_head, is_control, with_parameters_of_largest
from videomem.order.plan import PRIMARY, OrderPlan
from videomem.order.splits import RunSplit, run_splits, training_share
from videomem.video.isolation import die_with_parent


def cells_of(plan: OrderPlan, clips: Clips) -> list[Cell]:
    """Every cell that a plan needs, run after run, so that an interrupted test has whole runs.

    A memory that has none is a control: arms O and F of it give the noise floor, and others add nothing.
    """
    settings, memories = plan.settings, plan.memories
    resized = memories
    if "equal_parameters" in settings.sensitivity:
        learned = settings.projection_dim if settings.projection == "learned" else None
        dim = min(clips.feature_dim, settings.projection_dim) if settings.projection == "pca" else clips.feature_dim
        sizes = (dim, len(clips.class_names), plan.recipe.num_layers, learned)
        resized = with_parameters_of_largest(memories, lambda memory: build_head(memory, *sizes))
    further = [str(size) for size in settings.sizes] + list(settings.sensitivity)
    cells = []
    for run in range(settings.runs):
        for name, memory in memories.items():
            if is_control(memory, plan.recipe):
                cells += [Cell(name, memory, arm, run) for arm in PRIMARY]
                continue
            cells += [Cell(name, memory, arm, run) for arm in settings.arms]
            for analysis in further:
                other = resized[name] if analysis == "equal_parameters" else memory
                cells += [Cell(name, other, arm, run, analysis) for arm in PRIMARY]
    return cells


def split_of(cell: Cell, splits: Sequence[RunSplit], clips: Clips, seed: int) -> RunSplit:
    """The run's split, with a share of its training groups where the cell is a point of the size curve."""
    split = splits[cell.run]
    try:
        share = float(cell.analysis)
    except ValueError:
        return split
    return replace(split, train=training_share(clips, split.train, share, seed + cell.run))


def run_cells(
    plan: OrderPlan,
    clips: Clips,
    cache: Path,
    num_processes: int = 1,
    devices: Sequence[str] = ("cpu",),
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Cell, Outcome]:
    """Train what the cache lacks and return every cell's outcome.

    Args:
        plan: The plan.
        clips: Its clips.
        cache: Folder of cells; each is written when it is done, so what is interrupted goes on where it was.
        num_processes: Trainings side by side; 1 trains in this process.
        devices: Where trainings run, in turn.
        tell: Called with the number of cells done and of all.
    Raises:
        VideomemError: If a training diverges, or a process is killed.
    """
    split, paths = _placed(plan, clips, cache, devices[0])
    todo = [cell for cell, path in paths.items() if not path.is_file()]
    done = len(paths) - len(todo)
    tell(done, len(paths))
    for finished in _finished(todo, paths, split, plan, clips, min(num_processes, len(todo)), devices):
        done += finished
        tell(done, len(paths))
    return {cell: read_outcome(path) for cell, path in paths.items()}


def _placed(plan: OrderPlan, clips: Clips, cache: Path, device: str) -> tuple[dict[Cell, RunSplit], dict[Cell, Path]]:
    """The split of every cell of a plan, and its file in the cache."""
    splits = run_splits(clips, plan.settings)
    split = {cell: split_of(cell, splits, clips, plan.settings.seed) for cell in cells_of(plan, clips)}
    keys = {cell: cell_key(cell, clips, part, plan.settings, plan.recipe, device) for cell, part in split.items()}
    return split, {cell: cache / f"{key}.npz" for cell, key in keys.items()}


def num_cached(plan: OrderPlan, clips: Clips, cache: Path, device: str = "cpu") -> int:
    """Trainings of a plan that the cache holds already."""
    return sum(path.is_file() for path in _placed(plan, clips, cache, device)[1].values())


def _finished(
    cells: Sequence[Cell],
    paths: dict[Cell, Path],
    split: dict[Cell, RunSplit],
    plan: OrderPlan,
    clips: Clips,
    num_processes: int,
    devices: Sequence[str],
) -> Iterator[int]:
    """Train cells and yield 1 for each that is done."""
    job = partial(_train_and_keep, settings=plan.settings, recipe=plan.recipe)
    jobs = [(cell, split[cell], paths[cell], devices[n % len(devices)]) for n, cell in enumerate(cells)]
    if num_processes <= 1:
        with _one_thread():
            for arguments in jobs:
                job(*arguments, clips=clips)
                yield 1
        return
    with ProcessPoolExecutor(num_processes, get_context("spawn"), _start_worker, (clips,)) as pool:
        running: list[Future[None]] = []
        try:
            running += [pool.submit(_in_worker, job, *arguments) for arguments in jobs]
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


def _train_and_keep(
    cell: Cell, split: RunSplit, path: Path, device: str, *, clips: Clips, settings: Any, recipe: Any
) -> None:
    with _quiet():
        write_outcome(path, train_cell(cell, clips, split, settings, recipe, device))


_clips: Clips | None = None


def _start_worker(clips: Clips) -> None:
    global _clips
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: what runs is finished and kept.
    _clips = clips
    torch.set_num_threads(1)  # Small matrices gain nothing from more, and the bits stay.


def _in_worker(job: Callable[..., None], *arguments: Any) -> None:
    job(*arguments, clips=_clips)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
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
