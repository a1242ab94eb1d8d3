"""Clips for tests of the order test, and a protocol small enough to train."""

from __future__ import annotations

import numpy as np

from videomem.experiments.clips import Clips, clips_of_arrays
from videomem.experiments.order_test.plan import OrderPlan, OrderSettings, Recipe
from videomem.experiments.order_test.run import make_plan

SMALL = OrderSettings(memories=("none", "gru"), runs=2, folds=4, num_permutations=3, hidden_dim=8, projection_dim=4)
SHORT = Recipe(epochs=2, batch_size=16, learning_rate=1e-2, dropout=0.1)


def drawn(groups: int = 24, per_group: int = 3, frames: int = 6, trend: float = 2.0, look: float = 0.3, seed: int = 0,
          ragged: bool = False) -> Clips:  # fmt: skip
    """Clips whose class a trend over time shows and, more weakly, a constant offset."""
    rng = np.random.default_rng(seed)
    features, labels, names = [], [], []
    for group in range(groups):
        for number in range(per_group):
            sign = 1 if (group + number) % 2 else -1
            length = frames - (group % 3 if ragged else 0)
            x_TD = rng.normal(0, 1, (length, 5)) + rng.normal(0, 0.2, 5)
            x_TD[:, 0] += sign * trend * np.linspace(-1, 1, length)
            x_TD[:, 1] += sign * look
            features.append(x_TD.astype(np.float32))
            labels.append("up" if sign > 0 else "down")
            names.append(f"g{group}")
    return clips_of_arrays(features, labels, names, name="drawn")


def planned(clips: Clips, protocol: OrderSettings = SMALL, recipe: Recipe = SHORT) -> OrderPlan:
    return make_plan(clips, protocol, recipe)
