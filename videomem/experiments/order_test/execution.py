"""All cells of an order test: in processes in parallel, and never one that the cache holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from videomem.experiments.clips import Clips
from videomem.experiments.order_test.folds import RunSplit, run_splits, training_share
from videomem.experiments.order_test.heads_of_plan import build_head, is_control, with_parameters_of_largest
from videomem.experiments.order_test.jobs import Cell, Outcome, cell_key, read_outcome, train_cell, write_outcome
from videomem.experiments.order_test.plan import PRIMARY, OrderPlan, OrderSettings, Recipe
from videomem.utils.parallel_jobs import run_parallel


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
        num_processes: Trainings in parallel; 1 trains in this process.
        devices: Where trainings run, in turn.
        tell: Called with the number of cells done and of all.
    Raises:
        VideomemError: If a training diverges, or a process is killed.
    """
    split, paths = _placed(plan, clips, cache, devices[0])
    todo = [cell for cell, path in paths.items() if not path.is_file()]
    done = len(paths) - len(todo)
    tell(done, len(paths))
    job = partial(_train_and_keep, settings=plan.settings, recipe=plan.recipe)
    calls = [(cell, split[cell], paths[cell], devices[n % len(devices)]) for n, cell in enumerate(todo)]
    for finished in run_parallel(job, calls, clips, min(num_processes, len(todo))):
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


def _train_and_keep(
    cell: Cell, split: RunSplit, path: Path, device: str, clips: Clips, *, settings: OrderSettings, recipe: Recipe
) -> None:
    write_outcome(path, train_cell(cell, clips, split, settings, recipe, device))
