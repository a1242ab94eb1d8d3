"""The memories of a plan: read from head configs, and resized so that they can be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import yaml

from videomem.classifier import LitClassifier
from videomem.errors import VideomemError
from videomem.heads import MEMORIES, Head
from videomem.order.plan import Recipe
from videomem.plain import class_path, config_folder, from_plain


def read_memories(names: Sequence[str], hidden_dim: int) -> dict[str, dict[str, Any]]:
    """Plain descriptions of memories by name, all with one state size.

    Args:
        names: Heads of `configs/head/`, or paths of such YAML files.
        hidden_dim: State size that all are given.
    Raises:
        VideomemError: If a file is missing or names no memory of videomem.
    """
    memories = {}
    for name in names:
        path = Path(name) if name.endswith((".yaml", ".yml")) else config_folder() / "head" / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in (config_folder() / "head").glob("*.yaml")))
            raise VideomemError(f"{name!r} is no head; there are {known}, and paths of YAML files")
        try:
            memory = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["memory"]
            kind, arguments = memory["class_path"], dict(memory.get("init_args") or {})
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise VideomemError(f"{path}: says no model.memory with a class_path") from error
        short = kind.rsplit(".", 1)[-1]
        if short not in MEMORIES or kind not in (f"videomem.heads.{short}", class_path(MEMORIES[short])):
            raise VideomemError(f"{path}: names {kind}, which is no memory of videomem; it has {', '.join(MEMORIES)}")
        if path.stem in memories:
            raise VideomemError(f"{path} has the name {path.stem!r} of another; rename the file")
        memories[path.stem] = {
            "class_path": class_path(MEMORIES[short]),
            "init_args": {**arguments, "hidden_dim": hidden_dim},
        }
    return memories


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
