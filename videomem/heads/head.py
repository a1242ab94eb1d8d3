"""The head: FeatureNorm -> Memory -> Readout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import dropwhile
from typing import NamedTuple

import torch
from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.heads.memory import Memory, State
from videomem.heads.readout import MeanReadout, Readout

# Builds one memory layer from its input size D: a class with its other arguments bound.
MemoryFactory = Callable[[int], Memory]
# Builds the readout from the number of classes C, likewise.
ReadoutFactory = Callable[[int], Readout]

MAX_DEVIATIONS = 10.0  # Limit of a standardized feature, in standard deviations.


class FeatureNorm(nn.Module):
    """Standardize features with the mean and standard deviation of the training set.

    A feature that is constant in training carries no information and is set to zero. A feature that is rarely active in
    training can be a thousand standard deviations from the mean when it is active, and would then dominate all others.
    Standardized features are therefore clamped to +-`MAX_DEVIATIONS`.

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
        # Because of rounding, the computed deviation of a constant feature is about 1e-7 of its value, not 0.
        varies = std_D > 1e-6 * mean_D.abs().clamp(min=1e-6)
        self.scale.copy_(torch.where(varies, 1 / std_D, 0))

    def forward(self, x: Tensor) -> Tensor:
        centered = x.to(self.mean.dtype) - self.mean
        return centered.mul_(self.scale).clamp(-MAX_DEVIATIONS, MAX_DEVIATIONS)  # vmap has no rule for `clamp_`.


class HeadState(NamedTuple):
    """State carried from frame to frame of a stream: one state per memory layer, and the readout's."""

    layers: tuple[State, ...]
    readout: Tensor


class Head(nn.Module):
    """Classify a clip from its frame features: `FeatureNorm`, memory layers, a linear layer, then the readout.

        outputs_t = V phi(h_t) + b

    where h_t is the state of the last memory layer after frame t and phi is its activation. The outputs are logits, and
    whatever else the readout needs of each frame.

    Args:
        memory: Builds a memory layer from its input size.
        feature_dim: D, features per frame.
        num_classes: C.
        num_layers: Number of memory layers; the input of each is phi(h_t) of the layer below.
        readout: Builds the readout, which combines the outputs of the frames, from C. Default: `MeanReadout`.
        dropout: Fraction of values dropped in training, before each memory layer and before V.
        projection_dim: Output size of a linear layer before the memory, so that all memories read an input of the same
            size and differ only in their recurrence. None: no such layer.
    Raises:
        VideomemError: If an argument is outside its range.
    Shape:
        x (B, T, D), lengths (B,) -> logits (B, C)
    """

    def __init__(
        self,
        memory: MemoryFactory,
        feature_dim: int,
        num_classes: int,
        num_layers: int = 1,
        readout: ReadoutFactory | None = None,
        dropout: float = 0.0,
        projection_dim: int | None = None,
    ) -> None:
        super().__init__()
        if projection_dim is not None and projection_dim < 1:
            raise VideomemError(
                f"model.projection_dim is {projection_dim}, but must be at least 1, or null for no projection"
            )
        if num_layers < 1:
            raise VideomemError(f"model.num_layers is {num_layers}, but must be at least 1")
        if not 0 <= dropout < 1:
            raise VideomemError(f"model.dropout is {dropout}, but must be in [0, 1)")
        self.norm = FeatureNorm(feature_dim)
        self.projection = nn.Identity() if projection_dim is None else nn.Linear(feature_dim, projection_dim)
        layers = [memory(projection_dim or feature_dim)]
        layers += [memory(layers[0].hidden_dim) for _ in range(num_layers - 1)]
        self.layers = nn.ModuleList(layers)
        self.dropout = dropout
        self.readout = (readout or MeanReadout)(num_classes)
        self.classify = nn.Linear(layers[-1].hidden_dim, self.readout.num_outputs)

    @property
    def feature_dim(self) -> int:
        return len(self.norm.mean)

    @property
    def memories(self) -> list[Memory]:
        return [layer for layer in self.layers if isinstance(layer, Memory)]

    @property
    def label(self) -> str:
        """Name for tables and plots: the memory, then the number of layers and the readout if not the default.

        An order-blind head other than the frame-averaging one is named after its readout alone.
        """
        layers = f" x{len(self.layers)}" if len(self.layers) > 1 else ""
        if self.order_blind and self.readout.label:
            return self.readout.label + layers
        return " ".join([self.memories[0].label + layers, self.readout.label]).strip()

    @property
    def order_blind(self) -> bool:
        """Whether the logits are bit-identical for every frame order."""
        return self.readout.order_blind and all(memory.memoryless for memory in self.memories)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Logits (B, C) of clips; for `masks` see `frame_outputs`."""
        return self.readout(self.frame_outputs(x_BTD, lengths_B, masks), lengths_B)

    def frame_outputs(self, x_BTD: Tensor, lengths_B: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Outputs (B, T, K) after each frame, before the readout. In most readouts the first C are logits.

        Args:
            x_BTD: Features.
            lengths_B: Number of frames of each clip.
            masks: The result of `dropout_masks`. None: drawn in training, and no dropout otherwise.
        """
        self._check(x_BTD, lengths_B)
        if masks is None and self.training and self.dropout:
            masks = self.dropout_masks(len(x_BTD))
        mask_of = iter(masks or [])
        y = self.projection(_dropped(self.norm(x_BTD), next(mask_of, None)))
        for memory in self.memories:
            h_BTH, _ = memory(y, lengths_B)
            y = _dropped(memory.activation(h_BTH), next(mask_of, None))
        return self.classify(y)

    def dropout_masks(self, num_clips: int) -> list[Tensor]:
        """Draw dropout masks from the global generator: (B, 1, D) for the features, and (B, 1, H) for each layer.

        A value dropped in one frame is dropped in all frames of the clip. The values of a mask are 0 or 1 / (1 - p).

        Reference:
            Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural networks".
        """
        sizes = [self.feature_dim, *(memory.hidden_dim for memory in self.memories)]
        kept = 1 - self.dropout
        return [self.norm.mean.new_empty(num_clips, 1, size).bernoulli_(kept).div_(kept) for size in sizes]

    def step(self, x_BD: Tensor, state: HeadState | None = None) -> tuple[Tensor, HeadState]:
        """Process one frame of a stream.

        Args:
            x_BD: Features of the frame.
            state: The state returned by the previous step; None before the first frame.
        Returns:
            Logits (B, C) of the clip up to this frame, and the new state.
        """
        y = self.projection(self.norm(x_BD))
        layers = []
        for number, memory in enumerate(self.memories):
            h_BH, carried = memory.step(y, None if state is None else state.layers[number])
            layers.append(carried)
            y = memory.activation(h_BH)
        outputs_BK = self.classify(y)
        logits_BC, read = self.readout.step(
            outputs_BK, self.readout.initial_state(outputs_BK) if state is None else state.readout
        )
        return logits_BC, HeadState(tuple(layers), read)

    def project(self, x_BTD: Tensor) -> Tensor:
        """Compute everything that depends on single frames only, (B, T, K).

        To permute the frames of a clip, permute this result by index and call `forward_projected`. Memoryless layers
        are included; if all layers are memoryless, the result is the outputs of the frames.
        """
        y = self.projection(self.norm(x_BTD))
        for memory in self.memories:
            terms = memory.project(y)
            if not memory.memoryless:
                return terms
            y = memory.activation(terms)
        return self.classify(y)

    def forward_projected(self, terms_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, C) from the result of `project`: runs the recurrence and the layers above it."""
        remaining = list(dropwhile(lambda memory: memory.memoryless, self.memories))
        if not remaining:
            return self.readout(terms_BTK, lengths_B)
        first, *above = remaining
        h_BTH, _ = first.unroll(terms_BTK, lengths_B)
        y = first.activation(h_BTH)
        for memory in above:
            h_BTH, _ = memory(y, lengths_B)
            y = memory.activation(h_BTH)
        return self.readout(self.classify(y), lengths_B)

    def _check(self, x_BTD: Tensor, lengths_B: Tensor) -> None:
        if x_BTD.ndim != 3 or x_BTD.shape[2] != self.feature_dim:
            raise VideomemError(
                f"features have shape {tuple(x_BTD.shape)}, but the head takes (B, T, {self.feature_dim}); "
                "use the feature store and layer that it was trained on"
            )
        if lengths_B.shape != x_BTD.shape[:1]:
            raise VideomemError(f"lengths have shape {tuple(lengths_B.shape)}, but there are {len(x_BTD)} videos")


def _dropped(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask.to(x.dtype)
