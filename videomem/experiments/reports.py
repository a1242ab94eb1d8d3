"""What the reports of all experiments share: standard JSON, and labels that distinguish heads."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Sequence
from typing import Any


def finite(value: Any) -> Any:
    """Returns plain data with lists instead of tuples, and None for NaN and infinity, which JSON cannot represent."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_bytes(value: Any) -> bytes:
    """Returns plain data as indented JSON, with null for numbers that are not finite."""
    return f"{json.dumps(finite(value), indent=1, allow_nan=False)}\n".encode("utf-8", "replace")


def distinct_labels(labels: Sequence[str], kinds: Sequence[Hashable], names: Sequence[str] | None = None) -> list[str]:
    """Returns one label per head. Heads of the same kind share a label; heads of different kinds do not.

    Args:
        labels: Label of each head, such as `gru`.
        kinds: Everything in which heads of one label may differ, for each head.
        names: Replacement for a label that several kinds have. By default the label is followed by the number of the
            kind, as in `gru #2`, in order of first appearance.
    """
    kinds_of: dict[str, list[Hashable]] = {}
    for label, kind in zip(labels, kinds, strict=True):
        known = kinds_of.setdefault(label, [])
        if kind not in known:
            known.append(kind)
    if names is None:
        names = [f"{label} #{kinds_of[label].index(kind) + 1}" for label, kind in zip(labels, kinds, strict=True)]
    return [name if len(kinds_of[label]) > 1 else label for label, name in zip(labels, names, strict=True)]
