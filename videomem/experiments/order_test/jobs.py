"""The training jobs of an order test, and the keys of their results in the cache."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from videomem.experiments.clips import Clips
from videomem.experiments.order_test.plan import PRIMARY, OrderPlan, OrderSettings, Recipe
from videomem.experiments.order_test.run_splits import RunSplit, run_splits, training_share
from videomem.heads import Head
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.plain_data import from_plain

SCHEMA = 5  # Raise it when a change of code changes training results.
CONTROL_SEED = 1_000_003  # added to the seed of an order-blind head trained on fixed permutations
_CAUSES = ("num_permutations", "hidden_dim", "projection", "projection_dim", "selection", "windows", "blocks")


@dataclass(frozen=True)
class TrainingJob:
    """One head to train. Together with the clips, these fields determine the result.

    Attributes:
        name: Name of the head.
        head: Class paths and arguments of its memory and, if it is not that of the recipe, its readout.
        condition: Training condition, a key of `plan.CONDITIONS`.
        run: Number of the run.
        analysis: `primary`, `last`, `equal_parameters`, or a share of the training groups such as `0.5`.
    """

    name: str
    head: dict[str, Any] = field(hash=False)
    condition: str
    run: int
    analysis: str = "primary"

    @property
    def has_suite(self) -> bool:
        """Whether the head is tested under every perturbation of the suite."""
        return self.condition == "ordered" and self.analysis == "primary"


def jobs_of(plan: OrderPlan, clips: Clips) -> list[TrainingJob]:
    """The training jobs of a plan, ordered by run, so that an interrupted test has complete runs.

    An order-blind head is trained in the two primary conditions only, for the noise floor.
    """
    settings, heads = plan.settings, plan.heads
    variants: dict[str, dict[str, dict[str, Any]]] = {str(size): heads for size in settings.sizes}
    if "equal_parameters" in settings.sensitivity:
        learned = settings.projection_dim if settings.projection == "learned" else None
        dim = min(clips.feature_dim, settings.projection_dim) if settings.projection == "pca" else clips.feature_dim
        sizes = (dim, len(clips.class_names), plan.recipe.num_layers, learned)
        variants["equal_parameters"] = with_parameters_of_largest(heads, lambda head: build_head(head, *sizes))
    jobs = []
    for run in range(settings.runs):
        for name, head in heads.items():
            blind = is_order_blind(head)
            conditions = PRIMARY if blind else settings.training_conditions
            jobs += [TrainingJob(name, head, condition, run) for condition in conditions]
            for analysis, others in {} if blind else variants.items():
                jobs += [TrainingJob(name, others[name], condition, run, analysis) for condition in PRIMARY]
    return jobs


# Heads.


def build_head(
    head: dict[str, Any], feature_dim: int, num_classes: int, num_layers: int, projection_dim: int | None
) -> Head:
    """Returns an untrained head; does not change the state of the global random generator."""
    with torch.random.fork_rng(devices=[]):
        names = [str(number) for number in range(num_classes)]
        sizes = {"feature_dim": feature_dim, "num_layers": num_layers, "projection_dim": projection_dim}
        return from_plain(
            LitClassifier, {**head, "class_names": names, "class_counts": [1] * num_classes, **sizes}
        ).head


def is_order_blind(head: dict[str, Any]) -> bool:
    """Whether the logits of a head are bit-identical for every frame order."""
    return _is_order_blind(json.dumps(head, sort_keys=True))


@lru_cache
def _is_order_blind(head: str) -> bool:
    return build_head(json.loads(head), 2, 2, 1, None).order_blind


def with_parameters_of_largest(
    heads: dict[str, dict[str, Any]], build: Callable[[dict[str, Any]], Head]
) -> dict[str, dict[str, Any]]:
    """Choose state sizes so that all heads have about as many parameters as the largest one.

    Args:
        heads: Class paths and arguments of the memory and the readout of each head, by name.
        build: Function that builds a head.
    Returns:
        The heads with the new state sizes, by name.
    """

    def count(head: dict[str, Any]) -> int:
        return sum(parameter.numel() for parameter in build(head).parameters())

    def resized(head: dict[str, Any]) -> dict[str, Any]:
        def sized(hidden_dim: int) -> dict[str, Any]:
            memory = head["memory"]
            return {**head, "memory": {**memory, "init_args": {**memory["init_args"], "hidden_dim": hidden_dim}}}

        high = 2
        while count(sized(high)) < target:
            high *= 2
        least = bisect_left(range(high), target, lo=high // 2, key=lambda size: count(sized(size)))
        return sized(min((max(least - 1, 1), least), key=lambda size: abs(count(sized(size)) - target)))

    target = max(map(count, heads.values()))
    return {name: resized(head) for name, head in heads.items()}


# Keys.


def split_of(job: TrainingJob, splits: Sequence[RunSplit], clips: Clips, seed: int) -> RunSplit:
    """The split of the job's run, with a share of its training groups if `analysis` is a share."""
    split = splits[job.run]
    try:
        share = float(job.analysis)
    except ValueError:
        return split
    return replace(split, train=training_share(clips, split.train, share, seed + job.run))


def job_seed(job: TrainingJob, settings: OrderSettings) -> int:
    """Seed of initial weights, dropout and the order of clips, the same for all training conditions of a run.

    An order-blind head trained on fixed permutations has another seed. With the same seed it would repeat the ordered
    training exactly, and the difference would not show the variation between trainings.
    """
    again = job.condition == "fixed_permutation" and is_order_blind(job.head)
    return settings.seed + job.run + (CONTROL_SEED if again else 0)


def job_key(
    job: TrainingJob, clips: Clips, split: RunSplit, settings: OrderSettings, recipe: Recipe, device: str = "cpu"
) -> str:
    """Hash of everything that determines the result of a job; its file in the cache has this name."""
    parts = {"train": split.train.tolist(), "val": split.val.tolist(), "test": split.test.tolist()}
    rows = {name: [(clips.ids[row], int(clips.labels[row])) for row in part] for name, part in parts.items()}
    protocol = {name: value for name, value in asdict(settings).items() if name in _CAUSES}
    seed = job_seed(job, settings)
    causes = [SCHEMA, torch.__version__, job.head, job.condition, job.analysis, seed, protocol, asdict(recipe),
              len(clips.class_names), clips.max_frames, rows]  # fmt: skip
    if device.startswith("cuda"):
        causes.append("cuda")
    return sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()[:32]


def in_cache(
    plan: OrderPlan, clips: Clips, cache: Path, device: str = "cpu"
) -> dict[TrainingJob, tuple[RunSplit, Path]]:
    """The split of every job of a plan, and the path of its result in the cache."""
    splits = run_splits(clips, plan.settings)
    split = {job: split_of(job, splits, clips, plan.settings.seed) for job in jobs_of(plan, clips)}
    keys = {job: job_key(job, clips, part, plan.settings, plan.recipe, device) for job, part in split.items()}
    return {job: (part, cache / f"{keys[job]}.npz") for job, part in split.items()}


def num_cached(plan: OrderPlan, clips: Clips, cache: Path, device: str = "cpu") -> int:
    """Number of training jobs of a plan that have a result in the cache."""
    return sum(path.is_file() for _, path in in_cache(plan, clips, cache, device).values())
