"""The heads of a plan: built untrained, told apart by whether they have a memory, and resized to be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from videomem.experiments.order_test.plan import Recipe
from videomem.heads import Head
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.plain_data import from_plain


def build_head(
    memory: dict[str, Any], feature_dim: int, num_classes: int, num_layers: int, projection_dim: int | None
) -> Head:
    """An untrained head of a memory; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        names = [str(number) for number in range(num_classes)]
        sizes = {"feature_dim": feature_dim, "num_layers": num_layers, "projection_dim": projection_dim}
        arguments = {"memory": memory, "class_names": names, "class_counts": [1] * num_classes, **sizes}
        return from_plain(LitClassifier, arguments).head


def is_control(memory: dict[str, Any], recipe: Recipe) -> bool:
    """Whether a head has no memory and reads the mean over frames, so that no order can matter to it."""
    return recipe.reads_mean and _memoryless(json.dumps(memory, sort_keys=True))


@lru_cache
def _memoryless(memory: str) -> bool:
    return all(layer.memoryless for layer in build_head(json.loads(memory), 2, 2, 1, None).memories)


def with_parameters_of_largest(
    memories: dict[str, dict[str, Any]], head: Callable[[dict[str, Any]], Head]
) -> dict[str, dict[str, Any]]:
    """The memories with the state sizes that bring their heads nearest to the parameters of the largest.

    Args:
        memories: Plain descriptions by name.
        head: Builds the head of a memory.
    """

    def count(memory: dict[str, Any]) -> int:
        return sum(parameter.numel() for parameter in head(memory).parameters())

    target = max(map(count, memories.values()))
    return {name: _resized(memory, count, target) for name, memory in memories.items()}


def _resized(memory: dict[str, Any], count: Callable[[dict[str, Any]], int], target: int) -> dict[str, Any]:
    def sized(hidden_dim: int) -> dict[str, Any]:
        return {**memory, "init_args": {**memory["init_args"], "hidden_dim": hidden_dim}}

    low, high = 1, 2
    while count(sized(high)) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(sized(middle)) >= target else (middle, high)
    return sized(min((low, high), key=lambda size: abs(count(sized(size)) - target)))
