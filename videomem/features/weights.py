"""Weights of networks from files, which may hold tensors and nothing else."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from videomem.errors import VideomemError


def read_state(path: Path, option: str) -> dict[str, Tensor]:
    """The tensors of a saved state_dict, or of the `state_dict` within a checkpoint; no code in the file is run.

    Args:
        path: The file.
        option: The setting that names it, for errors.
    Raises:
        VideomemError: If the file is missing, is no state_dict of tensors, or holds values that are not finite.
    """
    if not path.is_file():
        raise VideomemError(f"{option}: {path}: no such file (nor is it the name of weights, nor `random`)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its own, pickle's, zip's and plain RuntimeErrors here
        raise VideomemError(f"{option}: {path}: not a saved state_dict ({type(error).__name__})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise VideomemError(f"{option}: {path}: not a state_dict of tensors")
    if bad := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise VideomemError(f"{option}: {path}: {bad[0]} has values that are not finite")
    return state


def load_state(network: nn.Module, state: dict[str, Tensor], path: str, name: str, option: str) -> None:
    """Fill a network with a state_dict that has all of its tensors, of its shapes, and no others.

    Raises:
        VideomemError: If it has not.
    """
    expected = network.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        ours, theirs = expected.get(key), state.get(key)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (ours, theirs)]
            raise VideomemError(
                f"{option}: {path}: not the weights of {name}: {key} is {shapes[1]} there, {shapes[0]} here"
            )
    network.load_state_dict(state)


def nearest(word: str, choices: Sequence[str]) -> str:
    """Choices that resemble a word most, for error messages."""
    near = difflib.get_close_matches(word, choices, n=5, cutoff=0.3)
    return ", ".join([*near, *choices[-3:]][:6])
