"""How much any classifier of clips relies on the order of their frames, whatever it is made of.

A trained model is evaluated on clips in order, shuffled, and under every perturbation of a suite of
perturbations. That measures what the trained model relies on, not what order was worth in training.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments import permutations
from videomem.experiments.model_sensitivity.asking import (
    Asking,
    Model,
    Outcome,
    as_tensor,
    ask,
    evaluating,
    with_shuffle,
)
from videomem.experiments.permutations import Perturbation
from videomem.statistics.contrasts import estimate_mean
from videomem.statistics.randomization import reliance_test
from videomem.statistics.results import Estimate, Randomization

Clips = Sequence[Tensor] | Sequence[NDArray[Any]]


class Indexable(Protocol):
    """What clips may be: anything that gives clip i when asked for it."""

    def __getitem__(self, place: int, /) -> Tensor | NDArray[Any]: ...


@dataclass(frozen=True)
class Condition:
    """All clips under one perturbation.

    Attributes:
        name: Kind of perturbation, as `Perturbation.name`; `order` where nothing is perturbed.
        label: The kind with its parameter.
        displacement: Mean |i - pi(i)| / T.
        kendall_tau: Kendall's tau-b between shown place and true place; None where it is never defined.
        adjacency: Share of adjacent pairs of frames that stay adjacent, in either direction.
        accuracy: Share of clips classified rightly, mean over the frame orders of each.
        reliance: Accuracy in order minus accuracy here.
        flip_rate: Share of answers that are another class than in order.
        max_logit_change: Largest change of any logit against the clip in order.
    """

    name: str
    label: str
    displacement: float
    kendall_tau: float | None
    adjacency: float
    accuracy: Estimate
    reliance: Estimate
    flip_rate: float
    max_logit_change: float


@dataclass(frozen=True)
class ClassSensitivity:
    """One class: its clips, and the share of them classified rightly in order and shuffled."""

    name: str
    num_clips: int
    accuracy: float
    shuffled: float


@dataclass(frozen=True)
class OrderSensitivity:
    """What `order_sensitivity` found.

    Attributes:
        conditions: In order, shuffled, and the other perturbations of the perturbation suite.
        reliance_test: Randomisation test of shuffled against in order.
        classes: The classes that have clips.
        majority: Accuracy of always answering the most frequent class of these clips.
        num_permutations: Frame orders of each clip on each random perturbation.
        seed: Seed of the frame orders.
    """

    conditions: tuple[Condition, ...]
    reliance_test: Randomization
    classes: tuple[ClassSensitivity, ...]
    majority: float
    num_clips: int
    num_groups: int
    num_permutations: int
    seed: int

    @property
    def accuracy(self) -> Estimate:
        """Accuracy in order."""
        return self.conditions[0].accuracy

    @property
    def shuffled(self) -> Condition:
        """The frames shuffled."""
        return next(condition for condition in self.conditions if condition.name == "shuffle")

    @property
    def reliance(self) -> Estimate:
        """Accuracy in order minus accuracy shuffled."""
        return self.shuffled.reliance

    def table(self) -> list[dict[str, str | float | None]]:
        """A plain row for each condition, shares of 1, with the ends of the 95 % intervals."""
        return [
            {
                "name": row.name,
                "label": row.label,
                "accuracy": row.accuracy.value,
                "accuracy_low": row.accuracy.low,
                "accuracy_high": row.accuracy.high,
                "reliance": row.reliance.value,
                "reliance_low": row.reliance.low,
                "reliance_high": row.reliance.high,
                "flip_rate": row.flip_rate,
                "max_logit_change": row.max_logit_change,
                "displacement": row.displacement,
                "kendall_tau": row.kendall_tau,
                "adjacency": row.adjacency,
            }
            for row in self.conditions
        ]

    def as_plain(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts, as JSON has them."""
        plain = asdict(self)
        return {**plain, "conditions": list(plain["conditions"]), "classes": list(plain["classes"])}

    def sentence(self) -> str:
        """One plain sentence with the effect, its interval and p."""
        points = [100 * value for value in (self.reliance.value, self.reliance.low, self.reliance.high)]
        command = "changes" if points[0] == 0 else "lowers" if points[0] > 0 else "raises"
        sign = 1 if points[0] >= 0 else -1
        low, high = sorted(sign * end for end in points[1:])
        return (
            f"Shuffling the frames {command} accuracy by {sign * points[0]:.1f} points (95 % interval {low:.1f} to "
            f"{high:.1f}, p = {self.reliance_test.p:.2g}): from {self.accuracy.value:.3f} to "
            f"{self.shuffled.accuracy.value:.3f} on {self.num_clips} clips of {self.num_groups} groups."
        )


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
    """Measure how much a model relies on the order of frames.

    One clip is in memory at a time, and each is asked for once. A batch holds frame orders of one clip, those that are
    the same once only, so clips may differ in length and shape. A module is put into evaluation mode meanwhile; one
    that a function hides cannot be.

    Args:
        model: Anything that gives logits (B, C) of clips (B, T, ...); softmax or not, the largest is the answer.
        clips: Gives clip i (T_i, ...), a tensor or an array, when asked for `clips[i]`. Axis 0 is time.
        labels: Class of each clip, 0 to C - 1; or its name, with `class_names`.
        groups: Source of each clip, such as the video it was cut from: clips of one source are not independent.
        num_permutations: Frame orders of each clip on each random perturbation.
        batch_size: Frame orders at once.
        seed: Seed of the frame orders; clip i has those of (seed, i).
        device: Where clips are put; by default where the module's parameters are.
        suite: Perturbations beside the shuffle; by default `permutations.suite` of the first clip's length. Empty:
            none.
        class_names: Names of the model's outputs.
    Raises:
        VideomemError: If labels, groups, clips or logits are not as described.
    """
    places = _class_places(labels, class_names)
    num_clips = len(clips) if isinstance(clips, Sized) else len(places)
    if not len(places) == len(groups) == num_clips:
        raise VideomemError(
            f"{num_clips} clips, {len(places)} labels, {len(groups)} groups: there must be one for each"
        )
    check_groups(groups)
    first = [as_tensor(clips[0], 0)]
    perturbations = with_shuffle(permutations.suite(len(first[0])) if suite is None else suite)
    asking = Asking(num_permutations, batch_size, seed, device, None if class_names is None else len(class_names))
    with evaluating(model):
        outcomes = [
            ask(model, first.pop() if place == 0 else clips[place], label, place, perturbations, asking)
            for place, label in enumerate(places)
        ]
    return summarize(outcomes, places, groups, perturbations, asking, class_names)


def check_groups(groups: Sequence[Hashable]) -> None:
    """Refuse clips whose uncertainty cannot be told, before the model is asked.

    Raises:
        VideomemError: If there are fewer than 2 groups.
    """
    if (num_groups := len(set(groups))) < 2:
        raise VideomemError(
            f"{len(groups)} clips of {num_groups} group(s), but at least 2 groups are needed; add clips"
        )


def summarize(
    outcomes: Sequence[Sequence[Outcome]],
    labels: Sequence[int],
    groups: Sequence[Hashable],
    perturbations: Sequence[Perturbation],
    asking: Asking,
    class_names: Sequence[str] | None = None,
) -> OrderSensitivity:
    """All clips together: `outcomes` has those of each clip, one for each perturbation."""
    number = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    groups_N = np.array([number[group] for group in groups])
    by_perturbation = list(zip(*outcomes, strict=True))
    right = [np.array([outcome.right_K.mean() for outcome in perturbation]) for perturbation in by_perturbation]
    correct_NA = np.stack([np.concatenate([o.right_K, s.right_K]) for o, s in zip(*by_perturbation[:2], strict=True)])
    conditions = [
        _condition(perturbation, found, right_N, right[0] - right_N, groups_N)
        for perturbation, found, right_N in zip(perturbations, by_perturbation, right, strict=True)
    ]
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
        conditions=tuple(conditions),
        reliance_test=reliance_test(correct_NA, groups_N, seed=asking.seed),
        classes=tuple(classes),
        majority=float(counts.max() / len(labels)),
        num_clips=len(labels),
        num_groups=len(number),
        num_permutations=asking.num_permutations,
        seed=asking.seed,
    )


def _condition(
    perturbation: Perturbation,
    found: Sequence[Outcome],
    right_N: NDArray[np.float64],
    lost_N: NDArray[np.float64],
    groups_N: NDArray[np.int64],
) -> Condition:
    runs_N = np.zeros_like(groups_N)
    taus = [outcome.kendall_tau for outcome in found if outcome.kendall_tau is not None]
    return Condition(
        name=perturbation.name,
        label=perturbation.label,
        displacement=float(np.mean([outcome.displacement for outcome in found])),
        kendall_tau=float(np.mean(taus)) if taus else None,
        adjacency=float(np.mean([outcome.adjacency for outcome in found])),
        accuracy=estimate_mean(right_N, groups_N, runs_N),
        reliance=estimate_mean(lost_N, groups_N, runs_N),
        flip_rate=float(np.mean([outcome.flipped for outcome in found])),
        max_logit_change=max(outcome.max_logit_change for outcome in found),
    )


def _class_places(labels: Sequence[int] | Sequence[str], class_names: Sequence[str] | None) -> list[int]:
    """Labels as numbers of classes from 0."""
    known = {} if class_names is None else {name: place for place, name in enumerate(class_names)}
    places = []
    for label in labels:
        if isinstance(label, str) and label not in known:
            raise VideomemError(f"label {label!r} is none of class_names; give numbers, or the names of all outputs")
        place = known[label] if isinstance(label, str) else int(label)
        if place < 0:
            raise VideomemError(f"label {place} is negative; classes count from 0")
        places.append(place)
    return places
