"""Names of heads: memories read from head configs by name, and labels that distinguish heads."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from videomem.errors import VideomemError
from videomem.heads import MEMORIES
from videomem.utils.folders import config_folder
from videomem.utils.plain_data import class_path


def read_memories(names: Sequence[str], hidden_dim: int) -> dict[str, dict[str, Any]]:
    """Read the class path and the arguments of memories, by name.

    Args:
        names: Heads of `configs/head/`, or paths of such YAML files.
        hidden_dim: State size of every memory.
    Raises:
        VideomemError: If a file is missing or does not name a memory of videomem.
    """
    memories = {}
    for name in names:
        path = Path(name) if name.endswith((".yaml", ".yml")) else config_folder() / "head" / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in (config_folder() / "head").glob("*.yaml")))
            raise VideomemError(f"{name!r} is not a head; choose from {known}, or give the path of a YAML file")
        try:
            memory = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["memory"]
            kind, arguments = memory["class_path"], dict(memory.get("init_args") or {})
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise VideomemError(
                f"{path}: has no model.memory with a class_path; write it as in configs/head/"
            ) from error
        short = kind.rsplit(".", 1)[-1]
        if short not in MEMORIES or kind not in (f"videomem.heads.{short}", class_path(MEMORIES[short])):
            raise VideomemError(
                f"{path}: names {kind}, which is not a memory of videomem; choose from {', '.join(MEMORIES)}"
            )
        if path.stem in memories:
            raise VideomemError(f"{path}: another memory has the name {path.stem!r}; rename the file")
        memories[path.stem] = {
            "class_path": class_path(MEMORIES[short]),
            "init_args": {**arguments, "hidden_dim": hidden_dim},
        }
    return memories


def distinct_labels(labels: Sequence[str], kinds: Sequence[Hashable], names: Sequence[str] | None = None) -> list[str]:
    """Returns one label per head. Heads of the same kind share a label; heads of different kinds do not.

    Args:
        labels: Label of each head, such as `gru`.
        kinds: Everything in which heads of one label may differ, for each head.
        names: Replacement for a label that several kinds have. By default the label is followed by the number of the
            kind, as in `gru #2`, in order of first appearance.
    """
    kinds_of: dict[str, dict[Hashable, int]] = {}
    for label, kind in zip(labels, kinds, strict=True):
        kinds_of.setdefault(label, {}).setdefault(kind, len(kinds_of[label]) + 1)
    if names is None:
        names = [f"{label} #{kinds_of[label][kind]}" for label, kind in zip(labels, kinds, strict=True)]
    return [name if len(kinds_of[label]) > 1 else label for label, name in zip(labels, names, strict=True)]
