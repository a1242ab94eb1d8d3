"""Shared by the parts of `benchmarks/gpu.py`: the device, comparisons with the CPU, measurements."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
PLANTED = 1.5  # Factor applied to parameters on the device with `--plant-error`.


@dataclass(frozen=True)
class Part:
    """A part that is running.

    Attributes:
        device: The device under test, `cuda` or `cpu`.
        folder: An empty folder for files.
        rows: File that every result is appended to at once, as a line of JSON, so that a killed part keeps its results.
        planted: Make every comparison wrong on purpose, to show that it can fail.
    """

    device: str
    folder: Path
    rows: Path
    planted: bool

    @property
    def is_gpu(self) -> bool:
        return self.device != "cpu"

    def moved(self, module: Module) -> Module:
        """A copy of a module on the device."""
        there = copy.deepcopy(module).to(self.device)
        if self.planted:
            with torch.no_grad():
                for parameter in there.parameters():
                    parameter.mul_(PLANTED)
        return there

    def compare(
        self, name: str, found: Tensor | Sequence[Tensor] | float, expected: Tensor | Sequence[Tensor] | float,
        limit: float,
    ) -> None:  # fmt: skip
        """Record the relative error of results of the device, and whether it is within the limit."""
        error = relative_error(_tensors(found), _tensors(expected))
        self._write(kind="comparison", name=name, error=error, limit=limit, ok=error <= limit)

    def figure(self, name: str, value: float, unit: str, least: float = -math.inf, most: float = math.inf) -> None:
        """Record a measurement, with the least or the most that it should be on a GPU, if that is stated."""
        aims = [f"{sign} {aim:g}" for sign, aim in ((">=", least), ("<=", most)) if math.isfinite(aim)]
        aim = {"aim": " and ".join(aims), "met": least <= value <= most} if aims else {}
        self._write(kind="figure", name=name, value=value, unit=unit, **aim)

    def note(self, text: str) -> None:
        """Record that a check is left out."""
        self._write(kind="note", name=text)

    def skip(self, reason: str) -> None:
        """Record that the part, or its rest, cannot run on this machine."""
        self._write(kind="skipped", name=reason)

    def _write(self, **row: Any) -> None:
        with self.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _tensors(answers: Tensor | Sequence[Tensor] | float) -> list[Tensor]:
    if isinstance(answers, Tensor):
        return [answers]
    return [torch.as_tensor(answers)] if isinstance(answers, int | float) else list(answers)


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative error over pairs of tensors: the largest difference over the largest expected magnitude.

    It is infinite where shapes differ, and where an answer is not finite though a finite one is expected.
    """
    if [tuple(part.shape) for part in found] != [tuple(part.shape) for part in expected] or not found:
        return math.inf
    errors = []
    for one, other in zip(found, expected, strict=True):
        one, other = (part.detach().cpu().double() for part in (one, other))
        scale = float(other.abs().max()) or 1.0
        errors.append(float((one - other).abs().max()) / scale)
    return math.inf if any(math.isnan(error) for error in errors) else max(errors)
