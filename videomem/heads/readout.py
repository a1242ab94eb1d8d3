"""Readouts: combine the logits of the frames into the logits of the clip."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from videomem.batch import length_mask


class Readout(nn.Module, ABC):
    """Base class of readouts: logits of the frames (B, T, C) -> logits of the clip (B, C)."""

    @abstractmethod
    def forward(self, logits_BTC: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, C) of clips; padding is ignored."""

    @abstractmethod
    def step(self, logits_BC: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of a stream after one more frame, and the state for the next step."""

    def after_each(self, logits_BTC: Tensor) -> Tensor:
        """Logits (B, T, C) of the clip after each frame; all frames must be real."""
        answers, state = [], None
        for logits_BC in logits_BTC.unbind(1):
            answer_BC, state = self.step(logits_BC, state)
            answers.append(answer_BC)
        return torch.stack(answers, dim=1)


class MeanReadout(Readout):
    """Mean over the real frames. The result is bit-identical for every frame order.

    The values are sorted before they are summed, since the rounding of a plain float32 sum depends on the order.

    Reference:
        Donahue et al. 2015, section 4: predictions are averaged over the frames of a clip.
    """

    def forward(self, logits_BTC: Tensor, lengths_B: Tensor) -> Tensor:
        real_BT1 = length_mask(lengths_B, logits_BTC.shape[1]).unsqueeze(2)
        # Padding sorts behind every real value, where it is set to zero before the sum.
        ascending = logits_BTC.masked_fill(~real_BT1, torch.inf).sort(dim=1).values
        total_BC = ascending.masked_fill(~real_BT1, 0).sum(dim=1)
        return total_BC / lengths_B.unsqueeze(1)

    def step(self, logits_BC: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        count_and_sum = torch.cat([torch.ones_like(logits_BC[:, :1]), logits_BC], dim=1)
        state = count_and_sum if state is None else state + count_and_sum
        return state[:, 1:] / state[:, :1], state


class LastReadout(Readout):
    """The logits of the last real frame."""

    def forward(self, logits_BTC: Tensor, lengths_B: Tensor) -> Tensor:
        return logits_BTC[torch.arange(lengths_B.shape[0], device=lengths_B.device), lengths_B - 1]

    def step(self, logits_BC: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return logits_BC, logits_BC
