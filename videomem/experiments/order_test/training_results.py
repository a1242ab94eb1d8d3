"""The result of a training job of an order test, and its file in the cache."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from videomem.errors import VideomemError, one_line
from videomem.experiments.clips import Clips
from videomem.experiments.order_test.data import perturbations, test_perturbation
from videomem.experiments.order_test.jobs import TrainingJob
from videomem.experiments.order_test.plan import OrderPlan
from videomem.experiments.order_test.run_splits import RunSplit
from videomem.utils.atomic import write_atomic
from videomem.utils.proportion import is_out_of_proportion


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
        label: The memory and readout with their parameters.
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
