"""The head: FeatureNorm -> Memory -> Readout."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.heads.memory import Memory, State
from videomem.heads.readout import MeanReadout, Readout

# Builds one layer of memory from its input size D: a class with its other arguments bound.
MemoryFactory = Callable[[int], Memory]


MOST = 10.0  # standard deviations of a standardised feature


class FeatureNorm(nn.Module):
    """Standardise features with the mean and standard deviation of the training set.

    A unit that never varies in training says nothing, and is set to zero. One that hardly ever fired there may come out
    a thousand standard deviations away where it does, and drown all others; so nothing goes beyond `MOST`.

    Shape:
        x (..., D) -> (..., D)
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))

    def set_statistics(self, mean_D: Tensor, std_D: Tensor) -> None:
        self.mean.copy_(mean_D)
        # Rounding alone makes a constant unit vary by some 1e-7 of its value.
        varies = std_D > 1e-6 * mean_D.abs().clamp(min=1e-6)
        self.scale.copy_(torch.where(varies, 1 / std_D, 0))

    def forward(self, x: Tensor) -> Tensor:
        return ((x.to(self.mean.dtype) - self.mean) * self.scale).clamp(-MOST, MOST)


class ClipDropout(nn.Module):
    """Dropout with one mask per clip for all its frames, so that what is dropped is dropped from the memory too.

    Args:
        p: Share of values dropped in training.
    Shape:
        x (B, T, D) -> (B, T, D)
    Reference:
        Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural networks".
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x_BTD: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x_BTD
        return x_BTD * nn.functional.dropout(x_BTD.new_ones(len(x_BTD), 1, x_BTD.shape[2]), self.p)


class HeadState(NamedTuple):
    """What a stream carries from frame to frame: a state per layer of memory, and the readout's."""

    layers: tuple[State, ...]
    readout: Tensor


class Head(nn.Module):
    """Features of a clip to logits of its classes: logits_t = V phi(h_t) + b, then the readout.

    Args:
        memory: Builds a layer of memory from its input size.
        feature_dim: D.
        num_classes: C.
        num_layers: Layers of memory; each sees phi(h_t) of the one below.
        readout: How the frames' logits become the clip's.
        dropout: Share of values dropped in training, before each layer and before V.
        projection_dim: P of a linear map D -> P before the memory, of the same size for every memory, so that they
            differ in their recurrence and not in how much of D they read; None has none.
    Shape:
        x (B, T, D), lengths (B,) -> logits (B, C)
    """

    def __init__(
        self,
        memory: MemoryFactory,
        feature_dim: int,
        num_classes: int,
        num_layers: int = 1,
        readout: Readout | None = None,
        dropout: float = 0.0,
        projection_dim: int | None = None,
    ) -> None:
        super().__init__()
        if projection_dim is not None and projection_dim < 1:
            raise VideomemError(f"model.projection_dim is {projection_dim}, but must be at least 1, or null for none")
        if num_layers < 1:
            raise VideomemError(f"model.num_layers is {num_layers}, but must be at least 1")
        if not 0 <= dropout < 1:
            raise VideomemError(f"model.dropout is {dropout}, but must be in [0, 1)")
        self.norm = FeatureNorm(feature_dim)
        self.projection = nn.Identity() if projection_dim is None else nn.Linear(feature_dim, projection_dim)
        layers = [memory(projection_dim or feature_dim)]
        layers += [memory(layers[0].hidden_dim) for _ in range(num_layers - 1)]
        self.layers = nn.ModuleList(layers)
        self.dropout = ClipDropout(dropout)
        self.classify = nn.Linear(layers[-1].hidden_dim, num_classes)
        self.readout = readout or MeanReadout()

    @property
    def feature_dim(self) -> int:
        return len(self.norm.mean)

    @property
    def memories(self) -> list[Memory]:
        return [layer for layer in self.layers if isinstance(layer, Memory)]

    @property
    def label(self) -> str:
        """Name for tables and plots: the memory's, its layers and its readout where they are not the default."""
        layers = f" x{len(self.layers)}" if len(self.layers) > 1 else ""
        readout = "" if isinstance(self.readout, MeanReadout) else " last"
        return self.memories[0].label + layers + readout

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, C) of whole clips."""
        return self.readout(self.frame_logits(x_BTD, lengths_B), lengths_B)

    def frame_logits(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits of every frame (B, T, C), each after the frames up to it."""
        self._check(x_BTD, lengths_B)
        y = self.projection(self.dropout(self.norm(x_BTD)))
        for memory in self.memories:
            h_BTH, _ = memory(y, lengths_B)
            y = self.dropout(memory.activation(h_BTH))
        return self.classify(y)

    def step(self, x_BD: Tensor, state: HeadState | None = None) -> tuple[Tensor, HeadState]:
        """The clip's logits (B, C) after one more frame, and the state to hand to the next step."""
        y = self.projection(self.norm(x_BD))
        layers = []
        for number, memory in enumerate(self.memories):
            h_BH, carried = memory.step(y, None if state is None else state.layers[number])
            layers.append(carried)
            y = memory.activation(h_BH)
        logits_BC, read = self.readout.step(self.classify(y), None if state is None else state.readout)
        return logits_BC, HeadState(tuple(layers), read)

    def project(self, x_BTD: Tensor) -> Tensor:
        """What depends on one frame only, (B, T, K): it can be permuted by index instead of being computed again.

        Layers without memory are passed through; a head of only such layers is projected up to its frames' logits.
        """
        y = self.projection(self.norm(x_BTD))
        for memory in self.memories:
            terms = memory.project(y)
            if not memory.memoryless:
                return terms
            y = memory.activation(terms)
        return self.classify(y)

    def forward_projected(self, terms_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, C) from what `project` gave: only the recurrence and what lies above it."""
        remaining = self.memories
        while remaining and remaining[0].memoryless:
            remaining = remaining[1:]
        if not remaining:
            return self.readout(terms_BTK, lengths_B)
        h_BTH, _ = remaining[0].unroll(terms_BTK, lengths_B)
        y = remaining[0].activation(h_BTH)
        for memory in remaining[1:]:
            h_BTH, _ = memory(y, lengths_B)
            y = memory.activation(h_BTH)
        return self.readout(self.classify(y), lengths_B)

    def _check(self, x_BTD: Tensor, lengths_B: Tensor) -> None:
        if x_BTD.ndim != 3 or x_BTD.shape[2] != self.feature_dim:
            raise VideomemError(
                f"features have shape {tuple(x_BTD.shape)}, but the head takes (B, T, {self.feature_dim}); "
                "use the store and layer that it was trained on"
            )
        if lengths_B.shape != x_BTD.shape[:1]:
            raise VideomemError(f"lengths have shape {tuple(lengths_B.shape)}, but there are {len(x_BTD)} videos")
