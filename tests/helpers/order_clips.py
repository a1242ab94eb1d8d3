"""Clips for tests of the order test, and a protocol small enough to train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from videomem.experiments.clips import Clips, clips_of_arrays
from videomem.experiments.order_test.plan import PRIMARY, TRAINING_CONDITIONS, OrderPlan, OrderSettings, Recipe
from videomem.experiments.order_test.run import OrderTest, make_plan, run_order_test

SMALL = OrderSettings(heads=("none", "gru"), training_conditions=TRAINING_CONDITIONS, runs=2, folds=4,
                      num_permutations=3, hidden_dim=8, projection_dim=4)  # fmt: skip
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


def planned(clips: Clips, recipe: Recipe = SHORT, **protocol: Any) -> OrderPlan:
    """The plan of the small protocol with some settings changed."""
    return make_plan(clips, replace(SMALL, **protocol), recipe)


def run_with_gru(clips: Clips, cache: Path, recipe: Recipe = SHORT, **protocol: Any) -> OrderTest:
    """A test of one memory under the two conditions that a verdict needs."""
    protocol = {"heads": ("gru",), "training_conditions": PRIMARY, **protocol}
    return run_order_test(clips, planned(clips, recipe, **protocol), cache)


def with_fixed_split(clips: Clips) -> Clips:
    """The clips with every fourth group in the catalog's split `test`, and the others in `train`."""
    return replace(clips, splits=tuple("test" if group % 4 == 0 else "train" for group in clips.groups.tolist()))
