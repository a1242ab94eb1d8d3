"""Names of heads: memories and readouts read from head configs by name, and labels that distinguish heads."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any

import yaml

from videomem.errors import VideomemError
from videomem.heads import MEMORIES, READOUTS
from videomem.utils.folders import config_folder
from videomem.utils.plain_data import class_path
from videomem.utils.yaml_numbers import load_yaml


def read_heads(names: Sequence[str], hidden_dim: int) -> dict[str, dict[str, Any]]:
    """Read the class paths and arguments of `memory` and, where the file names one, `readout`, by name of the head.

    Args:
        names: Heads of `configs/head/`, or paths of such YAML files.
        hidden_dim: State size of every memory.
    Raises:
        VideomemError: If a file is missing or does not name a memory and a readout of videomem.
    """
    heads: dict[str, dict[str, Any]] = {}
    for name in names:
        path = Path(name) if name.endswith((".yaml", ".yml")) else config_folder() / "head" / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in (config_folder() / "head").glob("*.yaml")))
            raise VideomemError(f"{name!r} is not a head; choose from {known}, or give the path of a YAML file")
        if path.stem in heads:
            raise VideomemError(f"{path}: another head has the name {path.stem!r}; rename the file")
        try:
            model = load_yaml(path.read_text(encoding="utf-8"))["model"]
            memory = _named(path, "memory", model["memory"], MEMORIES)
            heads[path.stem] = {"memory": memory}
            if "readout" in model:
                heads[path.stem]["readout"] = _named(path, "readout", model["readout"], READOUTS)
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise VideomemError(
                f"{path}: has no model.memory with a class_path; write it as in configs/head/"
            ) from error
        memory["init_args"]["hidden_dim"] = hidden_dim
    return heads


def read_memories(names: Sequence[str], hidden_dim: int) -> dict[str, dict[str, Any]]:
    """Read the class path and the arguments of the memories of heads, by name of the head; see `read_heads`.

    Raises:
        VideomemError: Also if a head names a readout, because these memories are read at the last frame.
    """
    heads = read_heads(names, hidden_dim)
    if named := [name for name, head in heads.items() if "readout" in head]:
        raise VideomemError(f"{named[0]!r} names a readout, which has no effect here; choose a head without one")
    return {name: head["memory"] for name, head in heads.items()}


def _named(path: Path, what: str, plain: dict[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    """Class path and arguments of a memory or readout of videomem."""
    kind, arguments = plain["class_path"], dict(plain.get("init_args") or {})
    short = kind.rsplit(".", 1)[-1]
    if short not in known or kind not in (f"videomem.heads.{short}", class_path(known[short])):
        raise VideomemError(f"{path}: names {kind}, which is not a {what} of videomem; choose from {', '.join(known)}")
    return {"class_path": class_path(known[short]), "init_args": arguments}


def head_sentence(head: Mapping[str, Any]) -> str:
    """What a head computes: the first sentences of the documentation of its memory and of its readout."""
    known = {**MEMORIES, **READOUTS}
    paths = [head[part]["class_path"] for part in ("memory", "readout") if part in head]
    classes = [known[name] for path in paths if (name := path.rsplit(".", 1)[-1]) in known]
    return " Readout: ".join(re.split(r"(?<=\.)\s", getdoc(cls) or "")[0] for cls in classes)


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
