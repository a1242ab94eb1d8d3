"""Run the training jobs of an order test, in parallel processes, except those with a result in the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from videomem.experiments.clips import Clips
from videomem.experiments.order_test.conditions import PRIMARY
from videomem.experiments.order_test.folds import RunSplit, run_splits, training_share
from videomem.experiments.order_test.heads_of_plan import build_head, is_control, with_parameters_of_largest
from videomem.experiments.order_test.jobs import TrainingJob, job_key, train_job
from videomem.experiments.order_test.plan import OrderPlan, OrderSettings, Recipe
from videomem.experiments.order_test.training_results import TrainingResult, read_training_result, write_training_result
from videomem.utils.parallel_jobs import run_cached


def jobs_of(plan: OrderPlan, clips: Clips) -> list[TrainingJob]:
    """The training jobs of a plan, ordered by run, so that an interrupted test has complete runs.

    A memoryless control is trained in the two primary conditions only, for the noise floor.
    """
    settings, memories = plan.settings, plan.memories
    resized = memories
    if "equal_parameters" in settings.sensitivity:
        learned = settings.projection_dim if settings.projection == "learned" else None
        dim = min(clips.feature_dim, settings.projection_dim) if settings.projection == "pca" else clips.feature_dim
        sizes = (dim, len(clips.class_names), plan.recipe.num_layers, learned)
        resized = with_parameters_of_largest(memories, lambda memory: build_head(memory, *sizes))
    further = [str(size) for size in settings.sizes] + list(settings.sensitivity)
    jobs = []
    for run in range(settings.runs):
        for name, memory in memories.items():
            if is_control(memory, plan.recipe):
                jobs += [TrainingJob(name, memory, condition, run) for condition in PRIMARY]
                continue
            jobs += [TrainingJob(name, memory, condition, run) for condition in settings.training_conditions]
            for analysis in further:
                other = resized[name] if analysis == "equal_parameters" else memory
                jobs += [TrainingJob(name, other, condition, run, analysis) for condition in PRIMARY]
    return jobs


def split_of(job: TrainingJob, splits: Sequence[RunSplit], clips: Clips, seed: int) -> RunSplit:
    """The split of the job's run, with a share of its training groups if `analysis` is a share."""
    split = splits[job.run]
    try:
        share = float(job.analysis)
    except ValueError:
        return split
    return replace(split, train=training_share(clips, split.train, share, seed + job.run))


def run_jobs(
    plan: OrderPlan,
    clips: Clips,
    cache: Path,
    num_processes: int = 1,
    devices: Sequence[str] = ("cpu",),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[TrainingJob, TrainingResult]:
    """Train all jobs without a result in the cache, and return the results of all jobs.

    Args:
        plan: The plan.
        clips: The clips of the plan.
        cache: Folder of training results. Each is written when its job finishes, so an interrupted test can resume.
        num_processes: Training jobs in parallel; 1 trains in this process.
        devices: Devices that training jobs are assigned to in turn.
        progress: Called with the number of finished jobs and the number of all jobs.
    Raises:
        VideomemError: If a training diverges, or a process is killed.
    """
    split, paths = _placed(plan, clips, cache, devices[0])
    train = partial(_train_and_write, settings=plan.settings, recipe=plan.recipe)
    calls = {path: (job, split[job]) for job, path in paths.items()}
    run_cached(train, calls, clips, num_processes, progress, in_turn=devices)
    return {job: read_training_result(path) for job, path in paths.items()}


def _placed(
    plan: OrderPlan, clips: Clips, cache: Path, device: str
) -> tuple[dict[TrainingJob, RunSplit], dict[TrainingJob, Path]]:
    """The split of every job of a plan, and the path of its result in the cache."""
    splits = run_splits(clips, plan.settings)
    split = {job: split_of(job, splits, clips, plan.settings.seed) for job in jobs_of(plan, clips)}
    keys = {job: job_key(job, clips, part, plan.settings, plan.recipe, device) for job, part in split.items()}
    return split, {job: cache / f"{key}.npz" for job, key in keys.items()}


def num_cached(plan: OrderPlan, clips: Clips, cache: Path, device: str = "cpu") -> int:
    """Number of training jobs of a plan that have a result in the cache."""
    return sum(path.is_file() for path in _placed(plan, clips, cache, device)[1].values())


def _train_and_write(
    job: TrainingJob, split: RunSplit, device: str, path: Path, clips: Clips, *, settings: OrderSettings, recipe: Recipe
) -> None:
    write_training_result(path, train_job(job, clips, split, settings, recipe, device))
