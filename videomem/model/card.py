"""The model card: what a model is, what it was trained on, how good it is, what order is to it, and where it ends."""

from __future__ import annotations

from typing import Any


def model_card(config: dict[str, Any], label: str) -> str:
    """The README of an exported folder, with the front matter that model hubs read.

    Args:
        config: The content of `config.json`.
        label: Name of the head, such as `gru`.
    """
    return f"# {label}\n"
