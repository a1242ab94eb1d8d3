"""Recall against the training budget: which weights are kept, when training has converged, and when a delay is learned.

During training, the loss and the accuracy at each delay are measured on held-out sequences at regular checkpoints. The
head that a budget of s steps gives is the one with the lowest held-out loss among the checkpoints up to s, because the
loss of a single checkpoint can be several times that of its neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videomem.experiments.memory_horizon.recall_tasks import CHANCE
from videomem.statistics.group_tables import Floats
from videomem.statistics.horizons import LEVEL, chance_corrected

LOSS_AT_CHANCE = float(-np.log(CHANCE))  # cross-entropy of guessing, in nats


@dataclass(frozen=True)
class LearningCurve:
    """One training, measured at its checkpoints.

    Attributes:
        steps: Number of training steps at each checkpoint, ascending.
        loss: Held-out loss at each checkpoint, the mean over delays, in nats.
        accuracy: Held-out accuracy (S, X) at each checkpoint and delay.
        converged: Whether training ended because the loss had converged, and not because the budget was spent.
    """

    steps: list[int]
    loss: list[float]
    accuracy: list[list[float]]
    converged: bool

    def accuracy_of_kept(self, steps: Sequence[int]) -> Floats:
        """Returns the held-out accuracy (S, X) of the head that each budget of `steps` gives.

        A budget beyond the end of the training gives the same head as the end.
        """
        last = np.searchsorted(self.steps, steps, side="right") - 1
        return np.array(self.accuracy)[kept(self.loss)[last]]


def kept(loss: Sequence[float]) -> np.ndarray:
    """Returns for each checkpoint the number (S,) of the checkpoint with the lowest loss so far."""
    return np.array([int(np.argmin(loss[: end + 1])) for end in range(len(loss))])


def has_converged(steps: Sequence[int], loss: Sequence[float], min_steps: int, tolerance: float) -> bool:
    """Whether doubling the steps lowered the lowest loss by less than a tolerance, or the loss is below the tolerance.

    A recurrent network can stay on a plateau for hundreds of steps before it learns a longer delay, so no rule of this
    kind proves that more steps would not help. This one waits as long again as the training took so far.

    Args:
        steps: Number of steps at each checkpoint.
        loss: Held-out loss at each checkpoint, in nats.
        min_steps: Least number of steps, unless the loss is below the tolerance.
        tolerance: Smallest relevant improvement, a share of the loss of guessing.
    """
    limit = tolerance * LOSS_AT_CHANCE
    if min(loss) < limit:
        return True
    earlier = [value for step, value in zip(steps, loss, strict=True) if step <= steps[-1] / 2]
    return steps[-1] >= min_steps and bool(earlier) and min(earlier) - min(loss) < limit


def steps_to_learn(steps: Sequence[int], accuracy: Sequence[float] | Floats) -> int | None:
    """Returns the first step from which the chance-corrected accuracy at a delay stays at or above that of a horizon.

    None if it is below at the last step: then the number of steps is censored.
    """
    learned = chance_corrected(accuracy, CHANCE) >= LEVEL
    if not learned[-1]:
        return None
    below = np.flatnonzero(~learned)
    return int(steps[below[-1] + 1 if len(below) else 0])
