"""Forecast of the precision and the cost of a plan, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import torch

from videomem.batch import VideoBatch
from videomem.experiments.clips import Clips
from videomem.experiments.order_test.data import PERTURBATION_FRAME_ORDERS, perturbations, plain_batches
from videomem.experiments.order_test.jobs import TrainingJob, jobs_of, split_of
from videomem.experiments.order_test.plan import MIN_STEPS, OrderPlan, spelled_out
from videomem.experiments.order_test.run_splits import RunSplit, overlap, run_splits
from videomem.experiments.order_test.training import stacks_of, untrained
from videomem.statistics.planning import (
    MIN_GROUPS,
    MIN_RUNS,
    Assumptions,
    detectable_effect,
    groups_to_decide,
    lacking_for_verdict,
    runs_to_decide,
)
from videomem.training.stacked import StackedClassifiers
from videomem.utils.parallel_jobs import one_thread

TIMED_STEPS = 6


@dataclass(frozen=True)
class Forecast:
    """The numbers that `videomem order --plan` prints.

    Attributes:
        num_groups: Groups that are tested in any run.
        assumed: Assumptions about accuracies and their correlations.
        se: Expected standard error of a difference in accuracy.
        margin: Largest negligible difference, for the assumed accuracy.
        detectable: Smallest difference that the 95 % interval shows with power 0.8.
        groups_needed: Groups that show with power 0.8 that order carries no information beyond the margin; None if no
            number of groups does.
        runs_needed: Runs that do so with the available groups; None if no number of runs does.
        num_steps: Training steps of one training job.
        num_jobs: Training jobs.
        seconds_training: Time of all training jobs in one process, estimated from a few steps of each head.
    """

    num_groups: int
    assumed: Assumptions
    se: float
    margin: float
    detectable: float
    groups_needed: int | None
    runs_needed: int | None
    num_steps: int
    num_jobs: int
    seconds_training: float


def forecast(plan: OrderPlan, clips: Clips, assumed: Assumptions, device: str = "cpu") -> Forecast:
    """Estimate the precision and the cost of a plan.

    Args:
        assumed: Assumptions; clips per group, runs and overlap are replaced by those of the plan.
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
    jobs = jobs_of(plan, clips)
    margin = plan.settings.negligible(assumed.accuracy - 1 / len(clips.class_names))
    return Forecast(
        num_groups=len(sizes),
        assumed=assumed,
        se=sqrt(design.variance(len(sizes))),
        margin=margin,
        detectable=detectable_effect(len(sizes), design),
        groups_needed=groups_to_decide(0.0, margin, design, one_sided=True),
        runs_needed=runs_to_decide(0.0, margin, len(sizes), design, one_sided=True),
        num_steps=plan.recipe.num_steps(len(splits[0].train)),
        num_jobs=len(jobs),
        seconds_training=_seconds(jobs, splits, plan, clips, device),
    )


def _seconds(jobs: Sequence[TrainingJob], splits: list[RunSplit], plan: OrderPlan, clips: Clips, device: str) -> float:
    """Time of all jobs in one process, in seconds, from one timing of training and testing per head."""
    suite = len(perturbations(clips.max_frames, plan.settings)) * PERTURBATION_FRAME_ORDERS
    split_of_job = {job: split_of(job, splits, clips, plan.settings.seed) for job in jobs}
    timed: dict[str, tuple[float, float]] = {}
    total = 0.0
    for stack in stacks_of(split_of_job, clips, plan):
        if (key := f"{stack[0].name} {stack[0].head}") not in timed:
            timed[key] = _time_of(stack, splits[0], plan, clips, device)
        step_s, clip_pass_s = timed[key]
        for job in stack:
            split, passes = split_of_job[job], plan.settings.num_permutations + suite * job.has_suite
            total += plan.recipe.num_steps(len(split.train)) * step_s + passes * len(split.test) * clip_pass_s
    return total


def _time_of(
    stack: Sequence[TrainingJob], split: RunSplit, plan: OrderPlan, clips: Clips, device: str
) -> tuple[float, float]:
    """Time of one training step of one of the stacked heads, and of the recurrence on one clip, in seconds."""
    rows = replace(split, train=split.train[: plan.recipe.batch_size * TIMED_STEPS])
    with torch.random.fork_rng(devices=[]), one_thread():
        pairs = [untrained(job, rows, clips, plan.settings, plan.recipe) for job in stack]
        classifiers, parts = zip(*pairs, strict=True)
        stacked, times = StackedClassifiers(classifiers).to(device), []
        optimizer = stacked.configure_optimizers()
        for batches in zip(*(part.train_dataloader() for part in parts), strict=True):
            started = time.perf_counter()
            on_device = [VideoBatch(*(value.to(device) for value in batch)) for batch in batches]
            stacked.training_step(on_device, 0).backward()
            optimizer.step()
            optimizer.zero_grad()
            stacked.losses[-1].tolist()
            times.append((time.perf_counter() - started) / len(stack))
        with torch.inference_mode():
            head, test = classifiers[0].head.eval().to(device), plain_batches(parts[0].clips, split.test[:256])[0]
            terms = head.project(test.x.to(device))
            started = time.perf_counter()
            head.forward_projected(terms, test.lengths.to(device)).sum().item()
            return float(np.median(times)), (time.perf_counter() - started) / len(test.labels)


def forecast_text(plan: OrderPlan, expected: Forecast, num_processes: int) -> str:
    """Returns the text that `--plan` prints."""
    assumed, settings = expected.assumed, plan.settings
    splits = f"{settings.folds} folds of groups" if settings.split == "random" else "the catalog's own split"
    needed = []
    if expected.groups_needed and settings.runs >= MIN_RUNS:
        needed.append(f"{expected.groups_needed} groups with these runs")
    if expected.runs_needed and expected.num_groups >= MIN_GROUPS:
        needed.append(f"{expected.runs_needed} runs with these groups")
    needed = needed or ["both more groups and more runs"]
    lacks = lacking_for_verdict(expected.num_groups, settings.runs)
    verdict = {"verdict": f"none is possible with this plan: a verdict needs at least {lacks}"} if lacks else {}
    alone = assumed.clips_per_group == 1
    ungrouped = "; each clip is a group of its own: if several show one source, this promises too much" if alone else ""
    lines = {
        "plan": f"{plan.sha256[:16]}: {plan.contrast}",
        "data": f"{plan.num_clips} clips; {expected.num_groups} test groups of {assumed.clips_per_group:.1f} clips"
        f"{ungrouped}",
        "heads": f"{', '.join(plan.heads)}; trained {', '.join(map(spelled_out, settings.training_conditions))}",
        "runs": f"{settings.runs} on {splits}; n_test / n_train {assumed.overlap:.2f}",
        **verdict,
        "training": training_text(plan, expected.num_steps),
        "assumed": f"accuracy {assumed.accuracy:g}, correlation in groups {assumed.correlation:g}, SD of runs "
        f"{100 * assumed.run_sd:g} points (--assume.accuracy, .correlation, .run_sd, .condition_correlation)",
        "precision": f"standard error {100 * expected.se:.1f} points; {100 * expected.detectable:.1f} points are "
        "detected with power 0.8",
        "margin": f"{100 * expected.margin:.3g} points; showing that order does not matter needs {' or '.join(needed)}",
        "cost": f"{expected.num_jobs} training jobs, {minutes(expected.seconds_training)} on one process, "
        f"{minutes(expected.seconds_training / num_processes)} on {num_processes}",
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def minutes(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def training_text(plan: OrderPlan, num_steps: int) -> str:
    """Returns how long each head is trained, and whether that is short."""
    few = ": few; raise trainer.max_epochs unless the heads converge this fast" if num_steps < MIN_STEPS else ""
    return f"{plan.recipe.epochs} epochs, {num_steps} steps{few}"
