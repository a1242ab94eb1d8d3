"""What a plan can show and what it costs, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from videomem.experiments.clips import Clips
from videomem.experiments.order_test.conditions import PERTURBATION_FRAME_ORDERS, ArmData, perturbations, plain_batches
from videomem.experiments.order_test.execution import cells_of, split_of
from videomem.experiments.order_test.folds import overlap, run_splits
from videomem.experiments.order_test.jobs import Cell, new_classifier
from videomem.experiments.order_test.plan import OrderPlan
from videomem.experiments.projection import projected
from videomem.statistics.planning import Assumptions, detectable_effect, expected_se, groups_needed, runs_needed

TIMED_STEPS = 6


@dataclass(frozen=True)
class Forecast:
    """Figures of `videomem order --plan`.

    Attributes:
        num_groups: Groups that are tested in any run.
        clips_per_group: Mean number of their clips.
        assumed: What is assumed of the outcomes.
        se: Standard error to be expected of OO - FS.
        detectable: Smallest effect that is found with power 0.8.
        groups_needed: Groups that would show equivalence within the margin with power 0.8; None where no number does.
        runs_needed: Runs that would, with the groups that there are; None where no number does.
        num_steps: Steps of one training.
        num_cells: Trainings.
        seconds_training: Their time on one process, from a few timed steps of each memory.
    """

    num_groups: int
    clips_per_group: float
    assumed: Assumptions
    se: float
    detectable: float
    groups_needed: int | None
    runs_needed: int | None
    num_steps: int
    num_cells: int
    seconds_training: float


def forecast(plan: OrderPlan, clips: Clips, assumed: Assumptions, device: str = "cpu") -> Forecast:
    """What to expect of a plan on these clips.

    Args:
        plan: The plan.
        clips: Its clips.
        assumed: What is assumed of the outcomes; clips per group, runs and overlap are taken from the plan.
        device: Where the steps are timed.
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
    )
    cells, margin = cells_of(plan, clips), plan.settings.margin
    return Forecast(
        num_groups=len(sizes),
        clips_per_group=assumed.clips_per_group,
        assumed=assumed,
        se=expected_se(len(sizes), assumed),
        detectable=detectable_effect(len(sizes), assumed),
        groups_needed=groups_needed(margin, assumed),
        runs_needed=runs_needed(margin, len(sizes), assumed),
        num_steps=plan.recipe.epochs * -(-len(splits[0].train) // plan.recipe.batch_size),
        num_cells=len(cells),
        seconds_training=_seconds(cells, plan, clips, device),
    )


def _seconds(cells: Sequence[Cell], plan: OrderPlan, clips: Clips, device: str) -> float:
    """Time of all cells on one process: that of steps and of passes over test clips, each timed once per memory."""
    splits = run_splits(clips, plan.settings)
    timed: dict[tuple[str, str], tuple[float, float]] = {}
    total = 0.0
    for cell in cells:
        split = split_of(cell, splits, clips, plan.settings.seed)
        key = (cell.name, str(cell.memory))
        if key not in timed:
            timed[key] = _time_of(cell, plan, clips, device)
        step_s, clip_pass_s = timed[key]
        steps = plan.recipe.epochs * -(-len(split.train) // plan.recipe.batch_size)
        suite = (
            len(perturbations(clips.max_frames, plan.settings)) * PERTURBATION_FRAME_ORDERS
            if cell.arm == "O" and cell.is_primary
            else 0
        )
        total += steps * step_s + (plan.settings.num_permutations + suite) * len(split.test) * clip_pass_s
    return total


def _time_of(cell: Cell, plan: OrderPlan, clips: Clips, device: str) -> tuple[float, float]:
    """Seconds of one training step, and of passing one clip through the recurrence."""
    split, threads = run_splits(clips, plan.settings)[0], torch.get_num_threads()
    if plan.settings.projection == "pca":
        clips = projected(clips, split.train, plan.settings.projection_dim)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            classifier = new_classifier(cell, clips, split, plan.settings, plan.recipe, 0).to(device)
            rows = replace(split, train=split.train[: plan.recipe.batch_size * TIMED_STEPS])
            data = ArmData(clips, rows, "F", plan.settings, 0, plan.recipe.batch_size)
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
