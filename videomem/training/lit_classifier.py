"""The LightningModule that trains a head on features. It is independent of videos and of the source of the features."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from videomem.batch import IGNORED, VideoBatch
from videomem.errors import VideomemError
from videomem.heads import Head, MemoryFactory, ReadoutFactory
from videomem.utils.plain_data import as_plain

# Arguments of `LitClassifier` that trainings of many heads at once do not have.
TRAINING_OPTIONS = ("optimizer", "momentum", "lr_schedule", "warmup_epochs", "label_smoothing")


class BalancedAccuracy(MulticlassConfusionMatrix):
    """Mean over the classes that have clips of the accuracy on the clips of the class.

    The macro average of torchmetrics counts a class that is predicted but has no clips as one with accuracy 0.
    """

    def compute(self) -> Tensor:
        counts_CC = super().compute()
        clips_C = counts_CC.sum(1)
        return (counts_CC.diag() / clips_C)[clips_C > 0].mean()


class WeightedMean(Metric):
    """Sum of weighted values, divided by the sum of their weights. `MeanMetric` drops NaN, or else the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: Tensor
        self.add_state("sums", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, weighted_B: Tensor, weights_B: Tensor) -> None:
        self.sums += torch.stack([weighted_B.sum(), weights_B.sum()])

    def compute(self) -> Tensor:
        return self.sums[0] / self.sums[1]


class LitClassifier(LightningModule):
    """A head, its loss and its metrics.

    Args:
        memory: The memory: a class of `videomem.heads` and its arguments, without the input size.
        feature_dim: D; set from the data.
        class_names: Names of the C classes; set from the data.
        class_counts: Number of training clips of each class; set from the data.
        num_layers: Number of memory layers.
        readout: How the outputs of the frames are combined, by default their mean: a class of `videomem.heads` and its
            arguments, without the number of classes.
        dropout: Fraction of values dropped in training, before each memory layer and before the classifier.
        learning_rate: Learning rate of the optimizer, after the warm-up.
        weight_decay: Weight decay of the optimizer, applied to matrices only.
        optimizer: `adamw` or `sgd` of `torch.optim`.
        momentum: Momentum of SGD.
        lr_schedule: `constant`, or `cosine`, with which the learning rate falls to 0 along half a cosine.
        warmup_epochs: Epochs at the start in which the learning rate rises linearly, at every step.
        label_smoothing: Share of the target of the training loss that is spread evenly over the classes.
        class_weighting: `balanced` weights the loss of each clip by the inverse frequency of its class.
        projection_dim: Output size of a linear layer before the memory; null for no such layer.
        seed: Seed of dropout. The order of training clips is set by the seed of the data.
    Raises:
        VideomemError: If an argument is outside its range.
    """

    def __init__(
        self,
        memory: MemoryFactory,
        feature_dim: int,
        class_names: list[str],
        class_counts: list[int],
        num_layers: int = 1,
        readout: ReadoutFactory | None = None,
        dropout: float = 0.0,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        momentum: float = 0.0,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        warmup_epochs: int = 0,
        label_smoothing: float = 0.0,
        class_weighting: Literal["none", "balanced"] = "none",
        projection_dim: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(as_plain(locals()))
        num_classes = len(class_names)
        if num_classes < 2:
            raise VideomemError(f"{num_classes} class(es), but a classifier needs at least 2")
        for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
            if not 0 <= value < float("inf"):
                raise VideomemError(f"model.{name} is {value}, but must be finite and not negative")
        for name, value in (("momentum", momentum), ("label_smoothing", label_smoothing)):
            if not 0 <= value < 1:
                raise VideomemError(f"model.{name} is {value}, but must be in [0, 1)")
        if momentum and optimizer != "sgd":
            raise VideomemError(f"model.momentum is {momentum}, but model.optimizer is {optimizer}; set it to sgd")
        if warmup_epochs < 0:
            raise VideomemError(f"model.warmup_epochs is {warmup_epochs}, but must not be negative")
        self.head = Head(memory, feature_dim, num_classes, num_layers, readout, dropout, projection_dim)
        self.class_names = list(class_names)
        self.learning_rate, self.weight_decay, self.seed = learning_rate, weight_decay, seed
        self.optimizer, self.momentum, self.lr_schedule, self.warmup_epochs = (
            optimizer, momentum, lr_schedule, warmup_epochs)  # fmt: skip
        self._warmup_steps, self._num_steps = 0, math.inf
        weights = balanced_weights(class_counts) if class_weighting == "balanced" else torch.ones(num_classes)
        self.loss = nn.CrossEntropyLoss(weights, reduction="none", label_smoothing=label_smoothing)
        micro = partial(MulticlassAccuracy, num_classes, average="micro", ignore_index=IGNORED)
        of_all: dict[str, Metric | MetricCollection] = {
            "accuracy": micro(),
            "accuracy_macro": BalancedAccuracy(num_classes, ignore_index=IGNORED),
        }
        if num_classes > 5:  # With fewer classes, the five most probable ones are all of them.
            of_all["accuracy_top5"] = micro(top_k=5)
        metrics = MetricCollection(of_all)
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        self.evaluation_loss = WeightedMean()
        self.confusion = MulticlassConfusionMatrix(num_classes, ignore_index=IGNORED)
        self._confusion_counts_CC: Tensor | None = None

    @property
    def class_weights(self) -> Tensor:
        """Loss weights (C,)."""
        assert self.loss.weight is not None
        return self.loss.weight

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits (B, C) of features."""
        return self.head(x_BTD, lengths_B)

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.head.norm.set_statistics(*self.trainer.datamodule.feature_statistics())  # type: ignore[attr-defined]

    def on_train_start(self) -> None:
        if self.lr_schedule == "constant" and not self.warmup_epochs:
            return
        trainer = self.trainer
        self._num_steps = trainer.estimated_stepping_batches
        self._warmup_steps = self.warmup_epochs * math.ceil(
            trainer.num_training_batches / trainer.accumulate_grad_batches
        )
        if self.lr_schedule != "constant" and self._num_steps == math.inf:
            raise VideomemError(f"model.lr_schedule is {self.lr_schedule}, but the training has no end; set "
                                "trainer.max_epochs")  # fmt: skip
        if self._warmup_steps >= self._num_steps:
            raise VideomemError(f"model.warmup_epochs is {self.warmup_epochs}, which is all of the training; raise "
                                "trainer.max_epochs")  # fmt: skip

    def on_train_batch_start(self, batch: VideoBatch, batch_idx: int) -> None:
        self.seed_step(self.global_step)
        if self._num_steps < math.inf or self._warmup_steps:  # From the step alone, so that a resumed run has the same.
            learning_rate = self.learning_rate * self.schedule_factor(self.global_step)
            for group in self.optimizers().param_groups:  # type: ignore[union-attr]
                group["lr"] = learning_rate

    def schedule_factor(self, step: int) -> float:
        """The learning rate at a step, as a share of `learning_rate`."""
        if step < self._warmup_steps:
            return (step + 1) / self._warmup_steps
        if self.lr_schedule == "constant":
            return 1.0
        return 0.5 + 0.5 * math.cos(math.pi * (step - self._warmup_steps) / (self._num_steps - self._warmup_steps))

    def seed_step(self, step: int) -> None:
        """Seed the global generator, which dropout draws from, so that a resumed run draws the same masks."""
        # On a CPU `torch.manual_seed` takes a millisecond, because it seeds the generators of all other devices.
        seed = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        seed(self.seed * 1_000_003 + step)

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        """The weighted mean loss over the batch of all processes.

        With several, it is the share of this process in it, times their number: DDP averages gradients over processes.
        """
        world_size, weights_B = self.trainer.world_size, self._clip_weights(batch.labels)
        num_clips, total_weight = len(batch.labels), weights_B.sum()
        masks = None
        if world_size > 1:
            sums = torch.stack([(batch.labels != IGNORED).sum(), total_weight])
            all_clips, total_weight = self.trainer.strategy.reduce(sums, reduce_op="sum")
            num_clips = int(all_clips)
            masks = self._shared_dropout_masks(num_clips, len(batch.labels))
        logits_BC = self.head(batch.x, batch.lengths, masks)
        loss: Tensor = self.loss(logits_BC, batch.labels).sum() * (world_size / total_weight)
        if not self.trainer.barebones:  # A barebones trainer ignores metrics and would warn at every step.
            accuracy = (logits_BC.argmax(1) == batch.labels).sum() * (world_size / num_clips)
            self.log_dict({"train/loss": loss, "train/accuracy": accuracy}, on_epoch=True, on_step=False,
                          batch_size=num_clips, sync_dist=True)  # fmt: skip
        return loss

    def _clip_weights(self, labels_B: Tensor) -> Tensor:
        """Loss weights (B,) of clips; 0 for ignored ones."""
        return self.class_weights[labels_B.clamp(min=0)] * (labels_B != IGNORED)

    def _shared_dropout_masks(self, num_clips: int, num_own: int) -> list[Tensor]:
        """The rows of this process of the masks that one process draws for a batch of all processes."""
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        own = [mask[rank::world_size] for mask in self.head.dropout_masks(num_clips)]
        return [nn.functional.pad(mask, (0, 0, 0, 0, 0, num_own - len(mask))) for mask in own]

    def on_train_epoch_end(self) -> None:
        # Checked here, before the checkpoint of the epoch is written: a check at every step would wait for the GPU.
        self._refuse_not_finite("train/loss")

    def on_validation_epoch_end(self) -> None:
        self._on_evaluation_end("val/loss")

    def on_test_epoch_end(self) -> None:
        self._on_evaluation_end("test/loss")

    def _on_evaluation_end(self, loss_name: str) -> None:
        self._confusion_counts_CC = self.confusion.compute()  # Here, where all processes take part.
        self._refuse_not_finite(loss_name)

    def _refuse_not_finite(self, name: str) -> None:
        loss = self.trainer.callback_metrics.get(name)
        if loss is None or torch.isfinite(loss):
            return
        if self.trainer.state.fn == "fit":
            raise VideomemError(f"{name} is {float(loss)} in epoch {self.current_epoch}: training diverged; lower "
                                "model.learning_rate")  # fmt: skip
        raise VideomemError(f"{name} is {float(loss)}: weights or features are not finite; train again")

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        self._evaluate(batch, self.val_metrics, "val/loss")

    def test_step(self, batch: VideoBatch, batch_idx: int) -> None:
        self._evaluate(batch, self.test_metrics, "test/loss")

    def _evaluate(self, batch: VideoBatch, metrics: MetricCollection, loss_name: str) -> None:
        logits_BC, weights_B = self(batch.x, batch.lengths), self._clip_weights(batch.labels)
        loss_B = nn.functional.cross_entropy(logits_BC, batch.labels, self.class_weights, reduction="none")
        self.evaluation_loss.update(loss_B, weights_B)
        metrics.update(logits_BC, batch.labels)
        self.confusion.update(logits_BC, batch.labels)
        self.log(loss_name, self.evaluation_loss, on_epoch=True, batch_size=len(batch.labels))
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(batch.labels))

    def on_validation_epoch_start(self) -> None:
        self.confusion.reset()

    def on_test_epoch_start(self) -> None:
        self.confusion.reset()

    def confusion_counts(self) -> Tensor | None:
        """Confusion matrix (C, C) of the last evaluation, if any: rows are true, columns are predicted classes."""
        return self._confusion_counts_CC

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "sgd":
            groups = parameter_groups(self.parameters())
            return torch.optim.SGD(groups, self.learning_rate, self.momentum, weight_decay=self.weight_decay)
        return adamw(self.parameters(), self.learning_rate, self.weight_decay)


def adamw(
    parameters: Iterable[nn.Parameter],
    learning_rate: float,
    weight_decay: float,
    matrix_dims: int = 2,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """AdamW with weight decay of matrices only; see `parameter_groups`."""
    groups = parameter_groups(parameters, matrix_dims)
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay, fused=fused)


def parameter_groups(parameters: Iterable[nn.Parameter], matrix_dims: int = 2) -> list[dict[str, Any]]:
    """Groups for an optimizer that decays matrices only: parameters of at least `matrix_dims` dimensions."""
    learned = [p for p in parameters if p.requires_grad]
    matrices, others = ([p for p in learned if (p.ndim >= matrix_dims) == wanted] for wanted in (True, False))
    return [{"params": matrices}, {"params": others, "weight_decay": 0.0}]


def balanced_weights(class_counts: Sequence[int]) -> Tensor:
    """Loss weights (C,): the inverse frequency of each class, scaled to 1 for equally frequent classes."""
    counts = torch.tensor(class_counts, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts.clamp(min=1))
