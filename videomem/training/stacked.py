"""Training of several classifiers at once, which takes less time than training them one after another.

Heads are small, so a training step spends much of its time on launching operations. Here the parameters of M heads of
one architecture are stacked along a first axis, and each operation serves all of them. Every head keeps its own data,
dropout, gradient norm and optimizer state, so it is trained as it would be alone, up to rounding.

Axis letter: M classifiers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.heads.recurrent import GRU, LSTM
from videomem.training.lit_classifier import LitClassifier, adamw

_RECIPE = ("adamw", "constant", 0, 0.0)


class StackedClassifiers(LightningModule):
    """Classifiers of one architecture with stacked parameters. A training batch holds one `VideoBatch` for each.

    Args:
        classifiers: Classifiers (M,) that differ in their weights, seed, feature statistics and class weights only.
            They are not changed before `unstack`.
        after_epoch: Called after each epoch with the classifiers and the number of the epoch, from 0.
    Attributes:
        losses: Training losses (M,) of all steps.
    """

    def __init__(
        self,
        classifiers: Sequence[LitClassifier],
        after_epoch: Callable[[Sequence[LitClassifier], int], None] | None = None,
    ) -> None:
        super().__init__()
        first, self._after_epoch = classifiers[0], after_epoch
        if (first.optimizer, first.lr_schedule, first.warmup_epochs, first.loss.label_smoothing) != _RECIPE:
            raise VideomemError(
                "several heads at once are trained by AdamW with a constant learning rate and no label smoothing"
            )
        self.learning_rate, self.weight_decay = first.learning_rate, first.weight_decay
        self.losses: list[Tensor] = []
        # In a tuple, so that they are not submodules.
        self._classifiers, self._head = tuple(classifiers), (copy.deepcopy(first.head),)
        for memory in self._head[0].memories:
            if isinstance(memory, (GRU, LSTM)):
                memory.use_kernel = False
        weights, buffers = stack_module_state([classifier.head for classifier in classifiers])
        self._names, self._buffer_names = list(weights), list(buffers)
        self.weights = nn.ParameterList(weights.values())
        for number, buffer in enumerate(buffers.values()):
            self.register_buffer(f"buffer_{number}", buffer)
        self.class_weights_MC: Tensor
        self.register_buffer("class_weights_MC", torch.stack([classifier.class_weights for classifier in classifiers]))

    def forward(self, x_MBTD: Tensor, lengths_MB: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
        """Logits (M, B, C) of the clips of each classifier."""
        state = dict(zip(self._names, self.weights, strict=True))
        state |= {name: getattr(self, f"buffer_{number}") for number, name in enumerate(self._buffer_names)}
        head = self._head[0].train(self.training)
        logits_MBC: Tensor = vmap(partial(functional_call, head))(state, (x_MBTD, lengths_MB, list(masks)))
        return logits_MBC

    def on_fit_start(self) -> None:
        self._head[0].to(self.device)

    def training_step(self, batches: Sequence[VideoBatch], batch_idx: int) -> Tensor:
        masks = self._dropout_masks([len(batch.labels) for batch in batches])
        x_MBTD, lengths_MB, labels_MB, is_real_MB = stack_batches(batches)
        logits_MBC = self(x_MBTD, lengths_MB, masks)
        weight_MB = self.class_weights_MC.gather(1, labels_MB) * is_real_MB
        loss_MB = nn.functional.cross_entropy(logits_MBC.flatten(0, 1), labels_MB.flatten(), reduction="none")
        loss_M = (loss_MB.view_as(weight_MB) * weight_MB).sum(1) / weight_MB.sum(1)
        self.losses.append(loss_M.detach())
        return loss_M.sum()  # The gradient of each classifier's weights is that of its own loss.

    def on_train_epoch_end(self) -> None:
        if self._after_epoch:
            self._after_epoch(self.unstack(), self.current_epoch)

    def _dropout_masks(self, num_clips: Sequence[int]) -> list[Tensor]:
        """The masks that each classifier would draw in this step, zero for padding clips; none without dropout."""
        if not self._head[0].dropout:
            return []
        drawn = []
        for classifier, number in zip(self._classifiers, num_clips, strict=True):
            classifier.seed_step(self.global_step)
            drawn.append(self._head[0].dropout_masks(number))
        return [_padded(masks, max(num_clips)) for masks in zip(*drawn, strict=True)]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Limit the gradient norm of each classifier, as `torch.nn.utils.clip_grad_norm_` does."""
        if not gradient_clip_val:
            return
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        norms_M = torch.linalg.vector_norm(torch.stack([one.flatten(1).norm(dim=1) for one in gradients]), dim=0)
        factor_M = (gradient_clip_val / (norms_M + 1e-6)).clamp(max=1)
        for gradient in gradients:
            gradient.mul_(factor_M.view(-1, *[1] * (gradient.ndim - 1)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adamw(self.weights, self.learning_rate, self.weight_decay, matrix_dims=3, fused=True)

    def unstack(self) -> tuple[LitClassifier, ...]:
        """Copies the weights back into the classifiers, and returns these."""
        for number, classifier in enumerate(self._classifiers):
            for name, weight in zip(self._names, self.weights, strict=True):
                classifier.head.get_parameter(name).data.copy_(weight.data[number])
        return self._classifiers


def stack_batches(batches: Sequence[VideoBatch]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stack batches of features (B, T, D), padded to one shape.

    Returns:
        Features (M, B, T, D), lengths (M, B), 1 for padding clips, labels (M, B), and whether each clip is real (M, B).
    """
    num_clips, num_frames = (max(batch.x.shape[axis] for batch in batches) for axis in (0, 1))
    x_MBTD = batches[0].x.new_zeros(len(batches), num_clips, num_frames, batches[0].x.shape[2])
    lengths_MB = torch.ones(x_MBTD.shape[:2], dtype=torch.int64, device=x_MBTD.device)
    labels_MB, is_real_MB = torch.zeros_like(lengths_MB), torch.zeros_like(lengths_MB, dtype=torch.bool)
    for number, batch in enumerate(batches):
        size = len(batch.labels)
        x_MBTD[number, :size, : batch.x.shape[1]] = batch.x
        lengths_MB[number, :size], labels_MB[number, :size] = batch.lengths, batch.labels
        is_real_MB[number, :size] = True
    return x_MBTD, lengths_MB, labels_MB, is_real_MB


def _padded(parts: Sequence[Tensor], size: int) -> Tensor:
    """Tensors (B_m, ...) stacked and padded with zeros, (M, size, ...)."""
    if all(len(part) == size for part in parts):
        return torch.stack(list(parts))
    return torch.stack([nn.functional.pad(part, [0, 0] * (part.ndim - 1) + [0, size - len(part)]) for part in parts])
