"""The training jobs of an order test, their keys, and their results in the cache: one file per job."""

from __future__ import annotations

import json
import zipfile
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from videomem.errors import VideomemError, one_line
from videomem.experiments.clips import Clips
from videomem.experiments.order_test.data import RunSplit, perturbations, run_splits, test_perturbation, training_share
from videomem.experiments.order_test.plan import PRIMARY, OrderPlan, OrderSettings, Recipe
from videomem.heads import Head
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.atomic import write_atomic
from videomem.utils.plain_data import from_plain
from videomem.utils.proportion import is_out_of_proportion

SCHEMA = 4  # Raise it when a change of code changes training results.
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


# Results.


@dataclass(frozen=True)
class TrainingResult:
    """Predictions of a trained head on the N test clips of its run.

    Attributes:
        predicted: Predicted classes (K, N) by frame order: `ordered`, `common_permutation`, or the label of a
            perturbation.
        frame_right: Whether each single frame is classified correctly (N, T), for a frame-averaging head trained in
            order; else None.
        best_position: Frame position that is classified correctly most often on the training clips; -1 if not measured.
        max_logit_change: Largest change of a logit under permutation, with the terms of each frame permuted by index;
            NaN if not measured.
        max_logit_change_forward: The same by a plain forward pass on permuted features.
        num_parameters: Number of learned parameters of the head.
        label: The memory with its parameters.
        order_blind: Whether the logits of the head are bit-identical for every frame order.
        losses: Mean training loss of each epoch.
        epochs: Epochs of training of the tested weights.
        seconds: Time to train and test, in seconds.
        seconds_testing: Time to test, in seconds.
    """

    predicted: dict[str, NDArray[np.int32]]
    frame_right: NDArray[np.bool_] | None
    best_position: int
    max_logit_change: float
    max_logit_change_forward: float
    num_parameters: int
    label: str
    order_blind: bool
    losses: list[float]
    epochs: int
    seconds: float
    seconds_testing: float


def write_training_result(path: Path, result: TrainingResult) -> None:
    """Write a training result to the file that is named for the key of its job."""
    buffer = BytesIO()
    facts = {name: value for name, value in vars(result).items() if name not in ("predicted", "frame_right")}
    arrays: dict[str, Any] = {f"predicted {name}": value for name, value in result.predicted.items()}
    if result.frame_right is not None:
        arrays["frame_right"] = result.frame_right
    facts |= {"key": path.stem, "checksums": _checksums(arrays)}  # NumPy does not notice that an array is missing.
    np.savez_compressed(buffer, facts=np.array(json.dumps(facts)), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read_training_results(
    plan: OrderPlan, clips: Clips, jobs: Mapping[TrainingJob, tuple[RunSplit, Path]]
) -> dict[TrainingJob, TrainingResult]:
    """Read the results of the jobs of a plan, given as `in_cache` returns them.

    Raises:
        VideomemError: If a file is damaged, is that of another job, or does not fit the plan.
    """
    results = {}
    for job, (split, path) in jobs.items():
        results[job] = read_training_result(path)
        if problem := _misfit(results[job], job, split, plan, clips):
            raise VideomemError(f"{path}: a training result that does not fit the plan ({problem}); delete it and run "
                                "again")  # fmt: skip
    return results


def _misfit(result: TrainingResult, job: TrainingJob, split: RunSplit, plan: OrderPlan, clips: Clips) -> str | None:
    """Returns what does not fit, or None."""
    if lacking := [name for name in _frame_orders(job, plan, clips) if name not in result.predicted]:
        return f"no predictions for {lacking[0]}"
    shapes = {array.shape[1] for array in result.predicted.values()}
    if shapes != {len(split.test)}:
        return f"predictions of {min(shapes)} clips, but {len(split.test)} are tested"
    classes = np.unique(np.concatenate([array.ravel() for array in result.predicted.values()]))
    if not set(classes.tolist()) <= set(range(len(clips.class_names))):
        return f"a predicted class outside 0..{len(clips.class_names) - 1}"
    if len(result.losses) != plan.recipe.epochs or not -1 <= result.best_position < clips.max_frames:
        return f"{len(result.losses)} losses and best position {result.best_position}"
    is_wide = result.frame_right is not None and result.frame_right.shape[1] != clips.max_frames
    return f"frame_right has {result.frame_right.shape[1]} frames" if is_wide else None  # type: ignore[union-attr]


def _frame_orders(job: TrainingJob, plan: OrderPlan, clips: Clips) -> list[str]:
    """The frame orders that a job is tested in, as they are named in its result."""
    if job.condition == "common_permutation":
        return ["ordered", job.condition]
    suite = perturbations(clips.max_frames, plan.settings)
    own = test_perturbation(job.condition, clips.max_frames, plan.settings)
    return ["ordered", *(one.label for one in (suite if job.has_suite else [own]))]


def read_training_result(path: Path) -> TrainingResult:
    """Read a training result. Nothing in the file is unpickled, and its arrays are compared with their checksums.

    Raises:
        VideomemError: If the file is damaged, or is that of another job.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(record.file_size for record in archive.infolist())
        if is_out_of_proportion(num_bytes, path.stat().st_size):
            raise ValueError(f"it would take {num_bytes} bytes")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(str(arrays.pop("facts")))
        if facts.pop("checksums") != _checksums(arrays):
            raise ValueError("the checksums of its arrays differ")
        key, frame_right = facts.pop("key"), arrays.pop("frame_right", None)
        predicted = {name.removeprefix("predicted "): array for name, array in arrays.items()}
        result = TrainingResult(predicted, frame_right, **facts)
        _check_types(result)
    except Exception as error:
        raise VideomemError(
            f"{path}: a damaged training result ({type(error).__name__}: {one_line(error)}); delete it and run again"
        ) from error
    if key != path.stem:
        raise VideomemError(f"{path}: the training result of another job ({key!r:.40}); delete it and run again")
    return result


def _checksums(arrays: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    return {name: crc32(np.ascontiguousarray(array).data) for name, array in arrays.items()}


def _check_types(result: TrainingResult) -> None:
    """Raise if a field has another type or an array has another shape than documented."""
    num_clips = {array.shape[1] for array in result.predicted.values()}
    if len(num_clips) != 1 or any(array.dtype != np.int32 or array.ndim != 2 for array in result.predicted.values()):
        raise TypeError("predictions that are not int32 (K, N)")
    of_frames = result.frame_right
    if of_frames is not None and (
        of_frames.dtype != np.bool_ or of_frames.ndim != 2 or len(of_frames) not in num_clips
    ):
        raise TypeError("frame_right is not bool (N, T)")
    of_type: dict[Any, Any] = {"int": int, "str": str, "bool": bool, "float": (float, int)}
    for name, kind in TrainingResult.__annotations__.items():
        if kind in of_type and not isinstance(getattr(result, name), of_type[kind]):
            raise TypeError(f"{name} is not of type {kind}")
    if not isinstance(result.losses, list) or not all(isinstance(loss, float | int) for loss in result.losses):
        raise TypeError("losses are not numbers")
