"""How much any video classifier relies on the order of frames.

A trained model is evaluated on clips in order, shuffled, and under every other perturbation of a perturbation suite.
This measures what the trained model relies on, not whether frame order was useful for training it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Sized
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments import permutations
from videomem.experiments.frame_order_predictions import mean_measures
from videomem.experiments.model_sensitivity.clip_predictions import (
    ClipPredictions,
    Model,
    PredictionSettings,
    as_tensor,
    evaluation_mode,
    predict_clip,
    with_shuffle,
)
from videomem.experiments.model_sensitivity.sensitivity_result import (
    ClassSensitivity,
    OrderSensitivity,
    PerturbationSensitivity,
)
from videomem.experiments.permutations import Perturbation
from videomem.statistics.contrasts import estimate_mean
from videomem.statistics.randomization import reliance_test

Clips = Sequence[Tensor] | Sequence[NDArray[Any]]


class Indexable(Protocol):
    """A collection of clips that returns clip i for the index i."""

    def __getitem__(self, place: int, /) -> Tensor | NDArray[Any]: ...


def order_sensitivity(
    model: Model,
    clips: Clips | Indexable,
    labels: Sequence[int] | Sequence[str],
    groups: Sequence[Hashable],
    *,
    num_permutations: int = 20,
    batch_size: int = 8,
    seed: int = 0,
    device: str | torch.device | None = None,
    suite: Sequence[Perturbation] | None = None,
    class_names: Sequence[str] | None = None,
) -> OrderSensitivity:
    """Measures how much a model relies on the order of frames.

    Each clip is read once, and only one clip is in memory at a time. A batch holds distinct frame orders of one clip,
    so clips may differ in length and shape. If the model is a module, it is evaluated in evaluation mode and its
    previous mode is restored afterwards; a module that is wrapped in a function is used in its current mode.

    Args:
        model: Callable that returns logits (B, C) for clips (B, T, ...). The largest value is the prediction, so
            probabilities work too.
        clips: Clips as tensors or arrays (T_i, ...): a sequence, or any object that returns clip i for `clips[i]`.
        labels: Class of each clip, from 0 to C - 1, or its name if `class_names` is given.
        groups: Source of each clip, such as the video it was cut from. Clips of one group are not independent.
        num_permutations: Number of frame orders of each clip under each random perturbation.
        batch_size: Number of frame orders per batch.
        seed: Seed of the frame orders; those of clip i are drawn with the seed (seed, i).
        device: Device that clips are moved to; by default the device of the module's parameters.
        suite: Perturbations in addition to the shuffle; by default `permutations.suite` for the length of the first
            clip. With an empty sequence, only the shuffle is measured.
        class_names: Names of the outputs of the model.
    Raises:
        VideomemError: If labels, groups, clips or logits do not have the described form.
    """
    places = _class_places(labels, class_names)
    num_clips = len(clips) if isinstance(clips, Sized) else len(places)
    if not len(places) == len(groups) == num_clips:
        raise VideomemError(
            f"{num_clips} clips, {len(places)} labels, {len(groups)} groups; give one label and one group per clip"
        )
    check_groups(groups)
    first = [as_tensor(clips[0], 0)]
    perturbations = with_shuffle(permutations.suite(len(first[0])) if suite is None else suite)
    settings = PredictionSettings(
        num_permutations, batch_size, seed, device, None if class_names is None else len(class_names)
    )
    with evaluation_mode(model):
        predictions = [
            predict_clip(model, first.pop() if place == 0 else clips[place], label, place, perturbations, settings)
            for place, label in enumerate(places)
        ]
    return summarize(predictions, places, groups, perturbations, settings, class_names)


def check_groups(groups: Sequence[Hashable]) -> None:
    """Checks that there are enough groups to estimate the uncertainty, before the model is evaluated.

    Raises:
        VideomemError: If there are fewer than 2 groups.
    """
    if (num_groups := len(set(groups))) < 2:
        raise VideomemError(
            f"{len(groups)} clips of {num_groups} group(s), but at least 2 groups are needed; add clips"
        )


def summarize(
    predictions: Sequence[Sequence[ClipPredictions]],
    labels: Sequence[int],
    groups: Sequence[Hashable],
    perturbations: Sequence[Perturbation],
    settings: PredictionSettings,
    class_names: Sequence[str] | None = None,
) -> OrderSensitivity:
    """Summarizes `predictions`, which holds for each clip one result per perturbation."""
    number = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    groups_N = np.array([number[group] for group in groups])
    by_perturbation = list(zip(*predictions, strict=True))
    right = [np.array([one.correct_K.mean() for one in perturbation]) for perturbation in by_perturbation]
    correct_NA = np.stack(
        [np.concatenate([o.correct_K, s.correct_K]) for o, s in zip(*by_perturbation[:2], strict=True)]
    )
    counts = np.bincount(labels)
    classes = [
        ClassSensitivity(
            str(place) if class_names is None else class_names[place],
            int(counts[place]),
            *(float(right_N[np.array(labels) == place].mean()) for right_N in right[:2]),
        )
        for place in np.flatnonzero(counts).tolist()
    ]
    return OrderSensitivity(
        conditions=tuple(
            _condition(perturbation, found, right_N, right[0] - right_N, groups_N)
            for perturbation, found, right_N in zip(perturbations, by_perturbation, right, strict=True)
        ),
        reliance_test=reliance_test(correct_NA, groups_N, seed=settings.seed),
        classes=tuple(classes),
        majority=float(counts.max() / len(labels)),
        num_clips=len(labels),
        num_groups=len(number),
        num_permutations=settings.num_permutations,
        seed=settings.seed,
    )


def _condition(
    perturbation: Perturbation,
    found: Sequence[ClipPredictions],
    right_N: NDArray[np.float64],
    lost_N: NDArray[np.float64],
    groups_N: NDArray[np.int64],
) -> PerturbationSensitivity:
    runs_N = np.zeros_like(groups_N)
    return PerturbationSensitivity(
        perturbation.name,
        perturbation.label,
        *mean_measures(one.measures for one in found),
        accuracy=estimate_mean(right_N, groups_N, runs_N, limits=(0.0, 1.0)),
        reliance=None if perturbation.name == "order" else estimate_mean(lost_N, groups_N, runs_N),
        flip_rate=float(np.mean([one.flip_rate for one in found])),
        max_logit_change=max(one.max_logit_change for one in found),
    )


def _class_places(labels: Sequence[int] | Sequence[str], class_names: Sequence[str] | None) -> list[int]:
    """Returns the class index of each label."""
    known = {} if class_names is None else {name: place for place, name in enumerate(class_names)}
    places = []
    for label in labels:
        if isinstance(label, str) and label not in known:
            raise VideomemError(f"label {label!r} is none of class_names; give indices, or the names of all outputs")
        place = known[label] if isinstance(label, str) else int(label)
        if place < 0:
            raise VideomemError(f"label {place} is negative, but class indices start at 0")
        places.append(place)
    return places
