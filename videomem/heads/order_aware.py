"""Memories without recurrence: a code of the frame's position, and a convolution over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from videomem.batch import last_frames, without_padding
from videomem.errors import VideomemError
from videomem.heads.memory import Memory, State, Update

LONGEST_PERIOD = 10_000.0  # Of the sinusoids, as a multiple of 2 pi frames (Vaswani et al. 2017).


class Position(Memory):
    """Content and position of single frames: h_t = W x_t + W_p e(t), with a sinusoidal code e(t) of the position t.

    Every frame is seen with its position in the clip, but no two frames are seen together. With `AttentionReadout` this
    is attention pooling with position encoding, a usual probe of frozen video encoders.

    The state carries the number of frames so far, (B, 1). Nothing of their content is kept.

    Args:
        input_dim: D.
        hidden_dim: H.
    Reference:
        Vaswani et al. 2017, section 3.5 (the code); Yuan et al. 2023, "VideoGLUE" (the probe).
    """

    def __init__(self, input_dim: int, hidden_dim: int = 128) -> None:
        super().__init__(input_dim, hidden_dim)
        self.input = nn.Linear(input_dim, hidden_dim)
        self.position = nn.Linear(hidden_dim + hidden_dim % 2, hidden_dim, bias=False)

    def encode(self, count: Tensor) -> Tensor:
        """W_p e(t) of the numbers of frames so far, 1 for the first: (..., 1) -> (..., H)."""
        pairs = self.position.in_features // 2
        exponents = torch.arange(pairs, device=count.device, dtype=torch.float32) / pairs
        angles = (count.float() - 1) * torch.exp(-math.log(LONGEST_PERIOD) * exponents)
        return self.position(torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.position.weight.dtype))

    def project(self, x: Tensor) -> Tensor:
        return self.input(x)

    def initial_state(self, terms_BK: Tensor) -> State:
        num_clips = terms_BK.shape[0]  # `len` would make it constant in an exported graph.
        return terms_BK.new_zeros(num_clips, self.hidden_dim), terms_BK.new_zeros(num_clips, 1).float()

    def update(self, terms_BK: Tensor, state: State) -> Update:
        return Update(None, self.cell(terms_BK, state)[0])

    def cell(self, terms_BK: Tensor, state: State) -> State:
        count_B1 = state[-1].detach() + 1  # It is counted, so a small change of it has no meaning.
        return terms_BK + self.encode(count_B1), count_B1

    def unroll(self, terms_BTK: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        before_B1 = self.initial_state(terms_BTK[:, 0])[-1] if state is None else state[-1]
        count_BT = before_B1 + torch.arange(1, terms_BTK.shape[1] + 1, device=terms_BTK.device)
        h_BTH = without_padding(terms_BTK + self.encode(count_BT.unsqueeze(2)), lengths_B)
        return h_BTH, (last_frames(h_BTH, lengths_B), before_B1 + lengths_B.unsqueeze(1))


class TemporalConv(Memory):
    """Causal convolution over time: h_t = sum_k W_k x_{t-k}, k = 0 ... `kernel_size` - 1.

    Frames before the first count as 0. The state holds what past frames contribute to the `kernel_size` - 1 states to
    come.

    Args:
        input_dim: D.
        hidden_dim: H.
        kernel_size: Number of frames that a state depends on.
    Raises:
        VideomemError: If `kernel_size` is below 2; with 1, use `NoMemory`.
    Reference:
        Bai et al. 2018, "An empirical evaluation of generic convolutional and recurrent networks for sequence
        modeling".
    """

    def __init__(self, input_dim: int, hidden_dim: int = 128, kernel_size: int = 5) -> None:
        super().__init__(input_dim, hidden_dim)
        if kernel_size < 2:
            raise VideomemError(f"memory.kernel_size is {kernel_size}, but must be at least 2; for 1, use NoMemory")
        self.kernel_size = kernel_size
        self.input = nn.Linear(input_dim, hidden_dim * kernel_size)

    @property
    def label(self) -> str:
        return "conv"

    def project(self, x: Tensor) -> Tensor:
        return self.input(x)

    def initial_state(self, terms_BK: Tensor) -> State:
        return (terms_BK.new_zeros(terms_BK.shape[0], self.hidden_dim),) * self.kernel_size

    def update(self, terms_BK: Tensor, state: State) -> Update:
        return Update(None, self.cell(terms_BK, state)[0])

    def cell(self, terms_BK: Tensor, state: State) -> State:
        now_BH, *later = terms_BK.chunk(self.kernel_size, dim=-1)
        # state[k] for k >= 1 is the sum of the contributions of past frames to the state k - 1 frames from now.
        pending = [*state[1:], torch.zeros_like(state[0])]
        return now_BH + pending[0], *(own + old for own, old in zip(later, pending[1:], strict=True))

    def unroll(self, terms_BTK: Tensor, lengths_B: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        state = self.initial_state(terms_BTK[:, 0]) if state is None else state
        later = self.kernel_size - 1
        # The part for a delay of k frames is shifted by k frames: each part is padded to one frame more than there are
        # sums, so that regrouping the frames into rows of `num_sums` moves each part one frame further.
        num_sums = terms_BTK.shape[1] + later
        parts_BKTH = without_padding(terms_BTK, lengths_B).unflatten(-1, (self.kernel_size, -1)).transpose(1, 2)
        shifted = nn.functional.pad(parts_BKTH, (0, 0, 0, self.kernel_size)).flatten(1, 2)[:, : -self.kernel_size]
        sums_BSH = shifted.unflatten(1, (self.kernel_size, num_sums)).sum(1)
        pending_BSH = torch.stack(state[1:], dim=1)
        sums_BSH = sums_BSH + nn.functional.pad(pending_BSH, (0, 0, 0, sums_BSH.shape[1] - later))
        index_BS = lengths_B.unsqueeze(1) - 1 + torch.arange(self.kernel_size, device=lengths_B.device)
        ends_BSH = sums_BSH.gather(1, index_BS.unsqueeze(2).expand(-1, -1, self.hidden_dim))
        return without_padding(sums_BSH[:, : terms_BTK.shape[1]], lengths_B), ends_BSH.unbind(1)
