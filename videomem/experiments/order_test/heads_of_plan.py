"""Heads of a plan: build them, recognize memoryless controls, and match their numbers of parameters."""

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
    """Returns an untrained head; does not change the state of the global random generator."""
    with torch.random.fork_rng(devices=[]):
        names = [str(number) for number in range(num_classes)]
        sizes = {"feature_dim": feature_dim, "num_layers": num_layers, "projection_dim": projection_dim}
        arguments = {"memory": memory, "class_names": names, "class_counts": [1] * num_classes, **sizes}
        return from_plain(LitClassifier, arguments).head


def is_control(memory: dict[str, Any], recipe: Recipe) -> bool:
    """Whether a head has no memory and a mean readout, so that it is invariant to frame order."""
    return recipe.reads_mean and _memoryless(json.dumps(memory, sort_keys=True))


@lru_cache
def _memoryless(memory: str) -> bool:
    return all(layer.memoryless for layer in build_head(json.loads(memory), 2, 2, 1, None).memories)


def with_parameters_of_largest(
    memories: dict[str, dict[str, Any]], head: Callable[[dict[str, Any]], Head]
) -> dict[str, dict[str, Any]]:
    """Choose state sizes so that all heads have about as many parameters as the largest one.

    Args:
        memories: Class path and arguments of each memory, by name.
        head: Function that builds the head of a memory.
    Returns:
        The memories with the new state sizes, by name.
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
