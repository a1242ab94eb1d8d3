"""Forecast of the precision and the cost of a plan, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import torch

from videomem.experiments.clips import Clips, projected
from videomem.experiments.order_test.data import (
    PERTURBATION_FRAME_ORDERS,
    ConditionData,
    RunSplit,
    overlap,
    perturbations,
    plain_batches,
    run_splits,
)
from videomem.experiments.order_test.jobs import TrainingJob, jobs_of, split_of
from videomem.experiments.order_test.plan import OrderPlan
from videomem.experiments.order_test.training import new_classifier
from videomem.statistics.planning import Assumptions, detectable_effect, groups_to_decide, runs_to_decide

TIMED_STEPS = 6


@dataclass(frozen=True)
class Forecast:
    """The numbers that `videomem order --plan` prints.

    Attributes:
        num_groups: Groups that are tested in any run.
        assumed: Assumptions about accuracies and their correlations.
        se: Expected standard error of a difference in accuracy.
        detectable: Smallest difference that the 95 % interval shows with power 0.8.
        groups_needed: Groups that show with power 0.8 that order carries no information beyond the margin; None if no
            number of groups does.
        runs_needed: Runs that do so with the available groups; None if no number of runs does.
        num_steps: Training steps of one training job.
        num_jobs: Training jobs.
        seconds_training: Time of all training jobs in one process, estimated from a few steps of each memory.
    """

    num_groups: int
    assumed: Assumptions
    se: float
    detectable: float
    groups_needed: int | None
    runs_needed: int | None
    num_steps: int
    num_jobs: int
    seconds_training: float


def forecast(plan: OrderPlan, clips: Clips, assumed: Assumptions, device: str = "cpu") -> Forecast:
    """Estimate the precision and the cost of a plan.

    Args:
        plan: The plan.
        clips: The clips of the plan.
        assumed: Assumptions; clips per group, runs and overlap are replaced by those of the plan.
        device: Device on which training steps are timed.
    """
    splits = run_splits(clips, plan.settings)
    tested = np.unique(np.concatenate([split.test for split in splits]))
    sizes = np.unique(clips.groups[tested], return_counts=True)[1]
    assumed = replace(
        assumed,
        clips_per_group=float(sizes.mean()),
        num_runs=plan.settings.runs,
        overlap=overlap(splits, plan.settings.split == "fixed"),
        size_cv=float(sizes.std() / sizes.mean()),
        tested_share=1.0 if plan.settings.split == "fixed" else 1 / plan.settings.folds,
    )
    design = assumed.design()
    jobs, margin = jobs_of(plan, clips), plan.settings.margin
    return Forecast(
        num_groups=len(sizes),
        assumed=assumed,
        se=sqrt(design.variance(len(sizes))),
        detectable=detectable_effect(len(sizes), design),
        groups_needed=groups_to_decide(0.0, margin, design, one_sided=True),
        runs_needed=runs_to_decide(0.0, margin, len(sizes), design, one_sided=True),
        num_steps=_num_steps(splits[0], plan),
        num_jobs=len(jobs),
        seconds_training=_seconds(jobs, splits, plan, clips, device),
    )


def _num_steps(split: RunSplit, plan: OrderPlan) -> int:
    return plan.recipe.epochs * -(-len(split.train) // plan.recipe.batch_size)


def _seconds(jobs: Sequence[TrainingJob], splits: list[RunSplit], plan: OrderPlan, clips: Clips, device: str) -> float:
    """Time of all jobs in one process, in seconds, from one timing of training and testing per memory."""
    suite = len(perturbations(clips.max_frames, plan.settings)) * PERTURBATION_FRAME_ORDERS
    timed: dict[str, tuple[float, float]] = {}
    total = 0.0
    for job in jobs:
        if (key := f"{job.name} {job.head}") not in timed:
            timed[key] = _time_of(job, splits[0], plan, clips, device)
        step_s, clip_pass_s = timed[key]
        split = split_of(job, splits, clips, plan.settings.seed)
        passes = plan.settings.num_permutations + suite * job.has_suite
        total += _num_steps(split, plan) * step_s + passes * len(split.test) * clip_pass_s
    return total


def _time_of(job: TrainingJob, split: RunSplit, plan: OrderPlan, clips: Clips, device: str) -> tuple[float, float]:
    """Time of one training step, and of the recurrence on one clip, in seconds."""
    threads, batch_size = torch.get_num_threads(), plan.recipe.batch_size
    if plan.settings.projection == "pca":
        clips = projected(clips, split.train, plan.settings.projection_dim)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            classifier = new_classifier(job, clips, split, plan.settings, plan.recipe, 0).to(device)
            rows = replace(split, train=split.train[: batch_size * TIMED_STEPS])
            data = ConditionData(clips, rows, "fixed_permutation", plan.settings, 0, batch_size)
            optimizer, times = classifier.configure_optimizers(), []
            for batch in data.train_dataloader():
                started = time.perf_counter()
                batch = batch._replace(**{name: getattr(batch, name).to(device) for name in batch._fields})
                classifier.loss(classifier(batch.x, batch.lengths), batch.labels).backward()
                optimizer.step()
                optimizer.zero_grad()
                classifier.head.classify.bias[0].item()
                times.append(time.perf_counter() - started)
            with torch.inference_mode():
                test = plain_batches(clips, split.test[:256])[0]
                terms = classifier.head.project(test.x.to(device))
                started = time.perf_counter()
                classifier.head.forward_projected(terms, test.lengths.to(device)).sum().item()
                return float(np.median(times)), (time.perf_counter() - started) / len(test.labels)
    finally:
        torch.set_num_threads(threads)
