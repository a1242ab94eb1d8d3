"""Training of heads on the recall tasks until they converge, and tests of their recall at each delay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.memory_horizon.learning_curves import LearningCurve, has_converged
from videomem.experiments.memory_horizon.recall_tasks import NUM_SYMBOLS, TASKS, RecallFrames, Sequences
from videomem.heads import Head, LastReadout
from videomem.training.lit_classifier import LitClassifier
from videomem.training.samplers import mix_seed
from videomem.utils.plain_data import class_path, from_plain
from videomem.utils.result_models import Number, result_model

NUM_SWAPPED = 64  # number of sequences per delay in which the cue is replaced
NUM_HELD_OUT = 64  # number of held-out sequences per delay at each checkpoint
_TRAIN, _TEST, _HELD_OUT = range(3)  # kinds of draws, which get different seeds


@result_model
class RecallRecipe:
    """Hyperparameters of the training on recall tasks. A training ends when it has converged, or after `max_steps`.

    Attributes:
        max_steps: Budget: largest number of batches.
        min_steps: Number of batches after which a training may end without having learned everything.
        check_every: Number of batches between two checkpoints.
        tolerance: Smallest improvement of the held-out loss over the last half of the steps that lets a training go
            on, a share of the loss of guessing; see `learning_curves.has_converged`.
        batch_size: Number of sequences per batch, which all have the same delay.
        max_delay: Longest training delay in frames; delays are drawn log-uniformly from 1 to `max_delay`.
        learning_rate: Learning rate of AdamW.
        hidden_dim: State size H.
        projection_dim: Number P of principal components of the frame features.
    """

    max_steps: int = 3000
    min_steps: int = 600
    check_every: int = 50
    tolerance: Number = 0.01
    batch_size: int = 64
    max_delay: int = 512
    learning_rate: Number = 3e-3
    hidden_dim: int = 64
    projection_dim: int = 64

    @property
    def equal_steps(self) -> int:
        """Number of steps after which all memories are compared."""
        return min(self.min_steps, self.max_steps)


def train_recall(
    task: str, memory: dict[str, Any], frames: RecallFrames, recipe: RecallRecipe, delays: Sequence[int], seed: int
) -> tuple[LitClassifier, LearningCurve]:
    """Trains a head on a task until it has converged, with its prediction read at the query alone.

    Args:
        task: One of `recall_tasks.TASKS`.
        memory: The memory as plain data.
        frames: The frames.
        recipe: Hyperparameters.
        delays: Delays at which each checkpoint is measured, on held-out sequences.
        seed: Seed of the initial weights and of the training sequences.
    Returns:
        The classifier with the weights of the checkpoint with the lowest held-out loss, and all checkpoints.
    Raises:
        VideomemError: If training diverges.
    """
    arguments = {
        "memory": {**memory, "init_args": {**memory.get("init_args", {}), "hidden_dim": recipe.hidden_dim}},
        "class_names": [str(symbol) for symbol in range(NUM_SYMBOLS)],
        "class_counts": [1] * NUM_SYMBOLS,
        "readout": {"class_path": class_path(LastReadout)},
        "learning_rate": recipe.learning_rate,
        "seed": seed,
    }
    checks = _Checkpoints(task, frames, recipe, delays)
    classifier = train_on_batches(
        arguments, _batches(task, frames, recipe, seed), frames.training_statistics(), [checks]
    )
    if not all(torch.isfinite(value).all() for value in classifier.state_dict().values()):
        raise VideomemError(f"{classifier.head.label}, {task}, seed {seed}: training diverged; lower --learning-rate")
    classifier.load_state_dict(checks.best)
    return classifier, checks.curve()


class _Checkpoints(Callback):
    """Measures the held-out loss and accuracy, keeps the best weights, and ends a training that has converged."""

    def __init__(self, task: str, frames: RecallFrames, recipe: RecallRecipe, delays: Sequence[int]) -> None:
        self._recipe, self._converged = recipe, False
        self._batches = [
            as_batch(unseen_sequences(task, frames, delay, NUM_HELD_OUT, _HELD_OUT), frames) for delay in delays
        ]
        self._steps: list[int] = []
        self._loss: list[float] = []
        self._accuracy: list[list[float]] = []
        self.best: dict[str, Tensor] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, recipe = batch_idx + 1, self._recipe
        if step % recipe.check_every and step != recipe.max_steps:
            return
        loss, accuracy = self._measure(pl_module)
        if not self._loss or loss < min(self._loss):
            self.best = deepcopy(pl_module.state_dict())
        self._steps.append(step)
        self._loss.append(loss)
        self._accuracy.append(accuracy)
        self._converged = has_converged(self._steps, self._loss, recipe.min_steps, recipe.tolerance)
        trainer.should_stop = self._converged

    @torch.no_grad()
    def _measure(self, classifier: LightningModule) -> tuple[float, list[float]]:
        classifier.eval()
        logits = [classifier(batch.x, batch.lengths) for batch in self._batches]
        classifier.train()
        pairs = [(logits_BC, batch.labels) for logits_BC, batch in zip(logits, self._batches, strict=True)]
        loss = float(np.mean([float(cross_entropy(*pair)) for pair in pairs]))
        return loss, [_accuracy(*pair) for pair in pairs]

    def curve(self) -> LearningCurve:
        return LearningCurve(self._steps, self._loss, self._accuracy, self._converged)


def _accuracy(logits_BC: Tensor, labels_B: Tensor) -> float:
    return float((logits_BC.argmax(1) == labels_B).float().mean())


def train_on_batches(
    arguments: dict[str, Any],
    batches: Iterable[VideoBatch],
    statistics: tuple[Tensor, Tensor],
    callbacks: Sequence[Callback] = (),
) -> LitClassifier:
    """Trains a classifier on batches that are generated during training, on the CPU.

    Args:
        arguments: Arguments of `LitClassifier` as plain data, with the seed of the initial weights.
        batches: The batches.
        statistics: Mean and standard deviation (D,) of the features.
        callbacks: Callbacks of the trainer.
    """
    torch.manual_seed(arguments["seed"])
    classifier: LitClassifier = from_plain(LitClassifier, {**arguments, "feature_dim": len(statistics[0])})
    trainer = Trainer(max_epochs=1, accelerator="cpu", gradient_clip_val=1.0, deterministic=True, barebones=True,
                      callbacks=list(callbacks))  # fmt: skip
    trainer.fit(classifier, datamodule=_GeneratedData(batches, statistics))
    return classifier.eval()


class _GeneratedData(LightningDataModule):
    def __init__(self, batches: Iterable[VideoBatch], statistics: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self._batches, self._statistics = batches, statistics

    def train_dataloader(self) -> Iterable[VideoBatch]:
        return self._batches

    def feature_statistics(self) -> tuple[Tensor, Tensor]:
        return self._statistics


def _batches(task: str, frames: RecallFrames, recipe: RecallRecipe, seed: int) -> Iterator[VideoBatch]:
    for step in range(recipe.max_steps):
        rng = np.random.default_rng(mix_seed(_TRAIN, seed, step))
        delay = int(np.exp(rng.uniform(0, np.log(recipe.max_delay + 1))))
        yield as_batch(TASKS[task](rng, frames.table, frames.train_variants, delay, recipe.batch_size), frames)


def as_batch(sequences: Sequences, frames: RecallFrames) -> VideoBatch:
    """Returns the features of sequences, looked up by index."""
    num, num_frames = sequences.rows_BT.shape
    x_BTD = frames.x_ND[torch.from_numpy(sequences.rows_BT)]
    return VideoBatch(x_BTD, torch.full((num,), num_frames), torch.from_numpy(sequences.labels_B), torch.arange(num))


def unseen_sequences(task: str, frames: RecallFrames, delay: int, num: int, kind: int = _TEST) -> Sequences:
    """Returns test or held-out sequences, which are the same for every head and use the test drawings alone."""
    rng = np.random.default_rng(mix_seed(kind, delay))
    return TASKS[task](rng, frames.table, frames.test_variants, delay, num)


@torch.inference_mode()
def recall(head: Head, task: str, frames: RecallFrames, delays: Sequence[int], num: int) -> tuple[list[float], ...]:
    """Tests the recall of a head at each delay, and how far its prediction follows the cue.

    Args:
        head: A trained head.
        task: One of `recall_tasks.TASKS`.
        frames: The frames.
        delays: Delays in frames.
        num: Number of sequences per delay.
    Returns:
        The accuracy at each delay, and the effect of the cue at each delay: the RMS change of the logits if the cue
        alone is replaced by that of the next sequence, divided by the RMS difference of the logits of both sequences.
    """
    accuracy, followed = [], []
    for delay in delays:
        sequences = unseen_sequences(task, frames, delay, num)
        batch = as_batch(sequences, frames)
        logits_BC = head(batch.x, batch.lengths)
        accuracy.append(_accuracy(logits_BC, batch.labels))
        followed.append(_followed(head, batch.x[:NUM_SWAPPED], logits_BC[:NUM_SWAPPED], sequences.cues_BN[0, -1]))
    return accuracy, followed


def _followed(head: Head, x_BTD: Tensor, logits_BC: Tensor, place: int) -> float:
    swapped_BTD = x_BTD.clone()
    swapped_BTD[:, place] = x_BTD.roll(1, 0)[:, place]
    changed_BC = head(swapped_BTD, torch.full((len(x_BTD),), x_BTD.shape[1])) - logits_BC
    apart_BC = logits_BC.roll(1, 0) - logits_BC
    return float(changed_BC.square().mean().sqrt() / apart_BC.square().mean().sqrt().clamp(min=1e-12))
