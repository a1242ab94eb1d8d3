"""The result of one training job, and its file in the cache: one file per job, written atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videomem.errors import VideomemError
from videomem.utils.atomic import write_atomic


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
        memoryless: Whether the head has no memory and a mean readout, so that it is invariant to frame order.
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
    memoryless: bool
    epochs: int
    seconds: float
    seconds_testing: float


def write_training_result(path: Path, result: TrainingResult) -> None:
    buffer = BytesIO()
    facts = {name: value for name, value in vars(result).items() if name not in ("predicted", "frame_right")}
    arrays: dict[str, Any] = {f"predicted {name}": value for name, value in result.predicted.items()}
    if result.frame_right is not None:
        arrays["frame_right"] = result.frame_right
    np.savez_compressed(buffer, facts=np.array(json.dumps(facts)), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read_training_result(path: Path) -> TrainingResult:
    """Read a training result. Nothing in the file is unpickled.

    Raises:
        VideomemError: If the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            predicted = {
                name.removeprefix("predicted "): file[name] for name in file.files if name.startswith("predicted ")
            }
            return TrainingResult(predicted, file["frame_right"] if "frame_right" in file.files else None, **facts)
    except Exception as error:
        raise VideomemError(
            f"{path}: a damaged training result ({type(error).__name__}); delete it and run again"
        ) from error
