"""Readouts: combine the outputs of the frames into the logits of the clip."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from videomem.batch import last_frames, length_mask, without_padding
from videomem.errors import VideomemError


class Readout(nn.Module, ABC):
    """Base class of readouts: outputs of the frames (B, T, K) -> logits of the clip (B, C).

    The linear layer before the readout computes K outputs for each frame. In most readouts they are logits, K = C.

    Args:
        num_classes: C.
    Attributes:
        label: Name for tables; empty for the default.
        order_blind: Whether the result is bit-identical for every frame order.
    Shape:
        The carried state is (B, S). Zeros are the state before the first frame.
    """

    label = ""
    order_blind = True

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    @property
    def num_outputs(self) -> int:
        """K."""
        return self.num_classes

    @abstractmethod
    def forward(self, outputs_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, C) of clips; padding is ignored."""

    def sum(self, values_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        """Sum over the real frames, (B, K), bit-identical for every frame order except in training."""
        if self.training:  # Without the sort, which takes half of the time of a training step of `SetReadout`.
            return without_padding(values_BTK, lengths_B).sum(dim=1)
        return sum_in_any_order(values_BTK, lengths_B)

    @property
    @abstractmethod
    def state_dim(self) -> int:
        """S."""

    def initial_state(self, outputs_BK: Tensor) -> Tensor:
        """The state before the first frame, zeros."""
        return outputs_BK.new_zeros(outputs_BK.shape[0], self.state_dim)

    @abstractmethod
    def step(self, outputs_BK: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of a stream after one more frame, and the state for the next step."""

    def of_frame(self, outputs_BK: Tensor) -> Tensor:
        """Logits (B, C) of clips that consist of one frame, from the outputs of that frame."""
        return self(outputs_BK.unsqueeze(1), torch.ones(len(outputs_BK), dtype=torch.int64, device=outputs_BK.device))

    def after_each(self, outputs_BTK: Tensor) -> Tensor:
        """Logits (B, T, C) of the clip after each frame; all frames must be real."""
        answers, state = [], self.initial_state(outputs_BTK[:, 0])
        for outputs_BK in outputs_BTK.unbind(1):
            answer_BC, state = self.step(outputs_BK, state)
            answers.append(answer_BC)
        return torch.stack(answers, dim=1)


class MeanReadout(Readout):
    """Mean of the logits over the real frames.

    Reference:
        Donahue et al. 2015, section 4: predictions are averaged over the frames of a clip.
    """

    def forward(self, outputs_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        return self.sum(outputs_BTK, lengths_B) / lengths_B.unsqueeze(1)

    @property
    def state_dim(self) -> int:
        """The number of frames, and the sum of the logits."""
        return 1 + self.num_classes

    def step(self, outputs_BK: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        return _running_mean(outputs_BK, state_BS)


class LastReadout(Readout):
    """The logits of the last real frame."""

    label = "last"
    order_blind = False

    def forward(self, outputs_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        return last_frames(outputs_BTK, lengths_B)

    @property
    def state_dim(self) -> int:
        """The logits of the last frame."""
        return self.num_classes

    def step(self, outputs_BK: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        return outputs_BK, outputs_BK


class MaxReadout(Readout):
    """The largest logit of each class over the real frames, as in multiple-instance learning."""

    label = "max"

    def forward(self, outputs_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        return outputs_BTK.masked_fill(_padding(outputs_BTK, lengths_B), -torch.inf).amax(dim=1)

    @property
    def state_dim(self) -> int:
        """1 after the first frame, and the largest logits."""
        return 1 + self.num_classes

    def step(self, outputs_BK: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        largest_BC = torch.where(state_BS[:, :1] > 0, torch.maximum(state_BS[:, 1:], outputs_BK), outputs_BK)
        return largest_BC, _with_one(largest_BC)


class AttentionReadout(Readout):
    """Attention pooling: mean of the logits with weights softmax_t(q . phi(h_t)), where q is a learned query.

    The classifier is linear, so this equals classifying the weighted mean of phi(h_t). The score q . phi(h_t) + c is
    one more output of each frame; c cancels in the softmax.

    Reference:
        Ilse et al. 2018, "Attention-based deep multiple instance learning", eq. 8; Yuan et al. 2023, "VideoGLUE".
    """

    label = "attention"

    @property
    def num_outputs(self) -> int:
        return self.num_classes + 1

    def forward(self, outputs_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        logits_BTC, score_BT1 = _logits_and_scores(outputs_BTK, lengths_B)
        weight_BT1 = (score_BT1 - score_BT1.amax(dim=1, keepdim=True)).exp()
        total_B1 = self.sum(weight_BT1, lengths_B)
        return self.sum(weight_BT1 * logits_BTC, lengths_B) / total_B1

    @property
    def state_dim(self) -> int:
        """The largest score, the sum of the weights relative to it, and the weighted sum of the logits."""
        return 2 + self.num_classes

    def step(self, outputs_BK: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        logits_BC, score_B1 = outputs_BK[:, :-1], outputs_BK[:, -1:]
        before_B1 = torch.where(state_BS[:, 1:2] > 0, state_BS[:, :1], score_B1)
        largest_B1 = torch.maximum(before_B1, score_B1)
        new = _with_one(logits_BC) * (score_B1 - largest_B1).exp()
        sums = state_BS[:, 1:] * (before_B1 - largest_B1).exp() + new
        return sums[:, 1:] / sums[:, :1], torch.cat([largest_B1, sums], dim=1)


class BestFrameReadout(Readout):
    """The logits of one frame per clip, that with the highest learned score: the atemporal probe.

    If several frames have the highest score, the mean of their logits, since the choice of one depends on their order.
    In training the selection is straight-through: hard in the forward pass, with the gradient of a softmax.

    Reference:
        Buch et al. 2022, "Revisiting the 'video' in video-language understanding", section 3.
    """

    label = "best frame"

    @property
    def num_outputs(self) -> int:
        return self.num_classes + 1

    def forward(self, outputs_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        logits_BTC, score_BT1 = _logits_and_scores(outputs_BTK, lengths_B)
        is_best_BT1 = score_BT1 == score_BT1.amax(dim=1, keepdim=True)
        chosen_BC = self.sum(logits_BTC.where(is_best_BT1, 0), lengths_B) / is_best_BT1.sum(dim=1)
        if not self.training:
            return chosen_BC
        soft_BC = (score_BT1.softmax(dim=1) * logits_BTC.detach()).sum(dim=1)
        return chosen_BC + soft_BC - soft_BC.detach()

    @property
    def state_dim(self) -> int:
        """The highest score, the number of frames that have it, and the sum of their logits."""
        return 2 + self.num_classes

    def step(self, outputs_BK: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        logits_BC, score_B1 = outputs_BK[:, :-1], outputs_BK[:, -1:]
        best_B1, sums = state_BS[:, :1], state_BS[:, 1:]
        is_new_B1 = ~(score_B1 <= best_B1) | (sums[:, :1] == 0)  # Also if the score is NaN.
        new = _with_one(logits_BC)
        sums = torch.where(is_new_B1, new, sums + new.where(score_B1 == best_B1, 0))
        return sums[:, 1:] / sums[:, :1], torch.cat([torch.where(is_new_B1, score_B1, best_B1), sums], dim=1)


class SetReadout(Readout):
    """Set network: a two-layer perceptron of the mean over frames of rectified outputs.

    With `NoMemory`, the outputs of a frame are a perceptron of its features, and the whole is a DeepSets network.

    Args:
        num_classes: C.
        hidden_dim: K, and the width of the hidden layer.
    Raises:
        VideomemError: If `hidden_dim` is below 1.
    Reference:
        Zaheer et al. 2017, "Deep sets", theorem 2.
    """

    label = "set"

    def __init__(self, num_classes: int, hidden_dim: int = 128) -> None:
        super().__init__(num_classes)
        if hidden_dim < 1:
            raise VideomemError(f"readout.hidden_dim is {hidden_dim}, but must be at least 1")
        self.hidden_dim = hidden_dim
        self.hidden = nn.Linear(hidden_dim, hidden_dim)
        self.classify = nn.Linear(hidden_dim, num_classes)

    @property
    def num_outputs(self) -> int:
        return self.hidden_dim

    def _logits(self, mean_BK: Tensor) -> Tensor:
        logits_BC: Tensor = self.classify(self.hidden(mean_BK).relu())
        return logits_BC

    def forward(self, outputs_BTK: Tensor, lengths_B: Tensor) -> Tensor:
        return self._logits(self.sum(outputs_BTK.relu(), lengths_B) / lengths_B.unsqueeze(1))

    @property
    def state_dim(self) -> int:
        """The number of frames, and the sum of the rectified outputs."""
        return 1 + self.hidden_dim

    def step(self, outputs_BK: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
        mean_BK, state_BS = _running_mean(outputs_BK.relu(), state_BS)
        return self._logits(mean_BK), state_BS


def sum_in_any_order(values_BTK: Tensor, lengths_B: Tensor) -> Tensor:
    """Sum over the real frames, (B, K), bit-identical for every frame order.

    The values are sorted before they are summed, since the rounding of a plain float32 sum depends on the order.
    """
    padding_BT1 = _padding(values_BTK, lengths_B)
    # Padding sorts behind every real value, where it is set to zero before the sum.
    ascending = values_BTK.masked_fill(padding_BT1, torch.inf).sort(dim=1).values
    return ascending.masked_fill(padding_BT1, 0).sum(dim=1)


def _logits_and_scores(outputs_BTK: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, T, C) and the score of each frame (B, T, 1), which is the last output; -inf at padding."""
    padding_BT1 = _padding(outputs_BTK, lengths_B)
    return outputs_BTK[..., :-1], outputs_BTK[..., -1:].masked_fill(padding_BT1, -torch.inf)


def _padding(values_BTK: Tensor, lengths_B: Tensor) -> Tensor:
    return ~length_mask(lengths_B, values_BTK.shape[1]).unsqueeze(2)


def _with_one(values_BK: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(values_BK[:, :1]), values_BK], dim=1)


def _running_mean(values_BK: Tensor, state_BS: Tensor) -> tuple[Tensor, Tensor]:
    state_BS = state_BS + _with_one(values_BK)
    return state_BS[:, 1:] / state_BS[:, :1], state_BS
