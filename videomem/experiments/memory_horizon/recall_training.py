"""Training of heads on the recall tasks, and tests of their recall at each delay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.memory_horizon.recall_tasks import NUM_SYMBOLS, TASKS, RecallFrames, Sequences
from videomem.heads import Head, LastReadout
from videomem.training.feature_sources import mix_seed
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.plain_data import class_path, from_plain
from videomem.utils.result_models import Number, result_model

NUM_SWAPPED = 64  # number of sequences per delay in which the cue is replaced
_TRAIN, _TEST = range(2)  # kinds of draws, which get different seeds


@result_model
class RecallRecipe:
    """Hyperparameters of the training on recall tasks.

    Attributes:
        num_steps: Number of batches.
        batch_size: Number of sequences per batch, which all have the same delay.
        max_delay: Longest training delay in frames; delays are drawn log-uniformly from 1 to `max_delay`.
        learning_rate: Learning rate of AdamW.
        hidden_dim: State size H.
        projection_dim: Number P of principal components of the frame features.
    """

    num_steps: int = 600
    batch_size: int = 64
    max_delay: int = 512
    learning_rate: Number = 3e-3
    hidden_dim: int = 64
    projection_dim: int = 64


def train_recall(
    task: str, memory: dict[str, Any], frames: RecallFrames, recipe: RecallRecipe, seed: int
) -> LitClassifier:
    """Trains a head on a task, with its prediction read at the query alone.

    Args:
        task: One of `recall_tasks.TASKS`.
        memory: The memory as plain data.
        frames: The frames.
        recipe: Hyperparameters.
        seed: Seed of the initial weights and of the training sequences.
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
    classifier = train_on_batches(arguments, _batches(task, frames, recipe, seed), frames.training_statistics())
    if not all(torch.isfinite(value).all() for value in classifier.state_dict().values()):
        raise VideomemError(f"{classifier.head.label}, {task}, seed {seed}: training diverged; lower --learning-rate")
    return classifier


def train_on_batches(
    arguments: dict[str, Any], batches: Iterable[VideoBatch], statistics: tuple[Tensor, Tensor]
) -> LitClassifier:
    """Trains a classifier on batches that are generated during training, on the CPU.

    Args:
        arguments: Arguments of `LitClassifier` as plain data, with the seed of the initial weights.
        batches: The batches.
        statistics: Mean and standard deviation (D,) of the features.
    """
    torch.manual_seed(arguments["seed"])
    classifier: LitClassifier = from_plain(LitClassifier, {**arguments, "feature_dim": len(statistics[0])})
    trainer = Trainer(max_epochs=1, accelerator="cpu", gradient_clip_val=1.0, deterministic=True, barebones=True)
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
    for step in range(recipe.num_steps):
        rng = np.random.default_rng(mix_seed(_TRAIN, seed, step))
        delay = int(np.exp(rng.uniform(0, np.log(recipe.max_delay + 1))))
        yield as_batch(TASKS[task](rng, frames.table, frames.train_variants, delay, recipe.batch_size), frames)


def as_batch(sequences: Sequences, frames: RecallFrames) -> VideoBatch:
    """Returns the features of sequences, looked up by index."""
    num, num_frames = sequences.rows_BT.shape
    x_BTD = frames.x_ND[torch.from_numpy(sequences.rows_BT)]
    return VideoBatch(x_BTD, torch.full((num,), num_frames), torch.from_numpy(sequences.labels_B), torch.arange(num))


def unseen_sequences(task: str, frames: RecallFrames, delay: int, num: int) -> Sequences:
    """Returns test sequences, which are the same for every head and use the test drawings alone."""
    rng = np.random.default_rng(mix_seed(_TEST, delay))
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
        accuracy.append(float((logits_BC.argmax(1) == batch.labels).float().mean()))
        followed.append(_followed(head, batch.x[:NUM_SWAPPED], logits_BC[:NUM_SWAPPED], sequences.cues_BN[0, -1]))
    return accuracy, followed


def _followed(head: Head, x_BTD: Tensor, logits_BC: Tensor, place: int) -> float:
    swapped_BTD = x_BTD.clone()
    swapped_BTD[:, place] = x_BTD.roll(1, 0)[:, place]
    changed_BC = head(swapped_BTD, torch.full((len(x_BTD),), x_BTD.shape[1])) - logits_BC
    apart_BC = logits_BC.roll(1, 0) - logits_BC
    return float(changed_BC.square().mean().sqrt() / apart_BC.square().mean().sqrt().clamp(min=1e-12))
