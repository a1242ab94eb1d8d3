"""Weights of networks from files of `torch.save` and of safetensors."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from videomem.errors import VideomemError, one_line
from videomem.utils.torch_file import read_torch_file


def read_state(path: Path, option: str) -> dict[str, Tensor]:
    """The tensors of a saved state_dict, or of the `state_dict` in a checkpoint. No code in the file is run.

    A file called `*.safetensors` is read as such.

    Args:
        path: The file.
        option: The setting that names the file, for error messages.
    Raises:
        VideomemError: If the file is missing, is not a state_dict of tensors, or has values that are not finite.
    """
    if not path.is_file():
        raise VideomemError(f"{option}: {path}: no such file; give a file, the name of weights, or `random`")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else read_torch_file(path)
    except (VideomemError, SafetensorError, OSError) as error:
        raise VideomemError(f"{option}: {path}: not a saved state_dict: {one_line(error)}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise VideomemError(f"{option}: {path}: not a state_dict of tensors")
    if bad := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise VideomemError(f"{option}: {path}: {bad[0]} has values that are not finite")
    return state


def load_state(network: nn.Module, state: dict[str, Tensor], path: str, name: str, option: str) -> None:
    """Load a state_dict into a network.

    Raises:
        VideomemError: If a tensor is missing, unexpected, or of another shape.
    """
    expected = network.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        ours, theirs = expected.get(key), state.get(key)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (ours, theirs)]
            raise VideomemError(
                f"{option}: {path}: not the weights of {name}: {key} has shape {shapes[1]}, but {shapes[0]} is expected"
            )
    network.load_state_dict(state)
