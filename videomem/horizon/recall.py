"""Recall: how long after a cue a trained memory can still say what it was.

Two tasks, on sequences of rendered frames (`videomem.horizon.frames`). A cue is a marked frame, the distractors show the
same symbols without the mark, and the last frame is the query; only the logits there count, since a mean over frames
would let the cue's own logits give the answer away.

    latch    one cue, asked for after a delay
    update   the latest of several cues with different symbols: a sum over frames knows which there were, not the last

Reference:
    Hochreiter and Schmidhuber 1997, section 5 (long time lag problems among distractors); Arjovsky et al. 2016, section
    4.1 (the copying task, whose delay is varied).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from videomem.batch import VideoBatch
from videomem.classifier import Classifier
from videomem.heads import Head, LastReadout
from videomem.horizon.frames import NUM_SYMBOLS, FrameTable
from videomem.loading import mix_seed
from videomem.plain import class_path, from_plain

LEAD = 16  # frames up to the cue that is asked for
NUM_CUES = 3  # in the update task


class Sequences(NamedTuple):
    """Sequences as rows of a frame table.

    Attributes:
        rows_BT: Row of each frame, the query last.
        labels_B: Symbol of the cue that is asked for.
    """

    rows_BT: NDArray[np.int64]
    labels_B: NDArray[np.int64]


Task = Callable[[np.random.Generator, FrameTable, NDArray[np.int64], int, int], Sequences]


def latch(rng: np.random.Generator, table: FrameTable, variants: NDArray[np.int64], delay: int, num: int) -> Sequences:
    """One cue, `delay` frames before the query."""
    return _compose(rng, table, variants, delay, rng.integers(NUM_SYMBOLS, size=(num, 1)))


def update(rng: np.random.Generator, table: FrameTable, variants: NDArray[np.int64], delay: int, num: int) -> Sequences:
    """Several cues with different symbols, the latest `delay` frames before the query."""
    symbols = rng.permuted(np.tile(np.arange(NUM_SYMBOLS), (num, 1)), axis=1)
    return _compose(rng, table, variants, delay, symbols[:, :NUM_CUES])


TASKS: dict[str, Task] = {"latch": latch, "update": update}


def _compose(
    rng: np.random.Generator, table: FrameTable, variants: NDArray[np.int64], delay: int, cues_BN: NDArray[np.int64]
) -> Sequences:
    """Distractors, cues among the first `LEAD` frames with the last of them at its end, and the query."""
    num, num_cues = cues_BN.shape
    symbols = rng.integers(NUM_SYMBOLS, size=(num, LEAD + delay))
    marked = np.zeros_like(symbols, dtype=bool)
    earlier = rng.permuted(np.tile(np.arange(LEAD - 1), (num, 1)), axis=1)[:, : num_cues - 1]
    places = np.concatenate([earlier, np.full((num, 1), LEAD - 1)], axis=1)
    np.put_along_axis(symbols, places, cues_BN, axis=1)
    np.put_along_axis(marked, places, True, axis=1)
    rows = table.rows(symbols, marked, rng.choice(variants, size=symbols.shape))
    rows[:, -1] = table.query_rows(rng.choice(variants, size=num))
    return Sequences(rows, cues_BN[:, -1])


@dataclass(frozen=True)
class RecallRecipe:
    """How heads learn to recall.

    Attributes:
        num_steps: Batches.
        batch_size: Sequences of a batch, which all have the same delay.
        max_delay: Training delays are drawn log-uniformly from 1 to this, in frames.
        learning_rate: Of AdamW.
        hidden_dim: H.
    """

    num_steps: int = 1500
    batch_size: int = 32
    max_delay: int = 512
    learning_rate: float = 3e-3
    hidden_dim: int = 64


class _Batches(IterableDataset[VideoBatch]):
    def __init__(self, task: Task, table: FrameTable, variants: NDArray[np.int64], x_ND: Tensor, recipe: RecallRecipe,
                 seed: int) -> None:  # fmt: skip
        self._task, self._table, self._variants, self._x_ND = task, table, variants, x_ND
        self._recipe, self._seed = recipe, seed

    def __iter__(self) -> Iterator[VideoBatch]:
        for step in range(self._recipe.num_steps):
            rng = np.random.default_rng(mix_seed(self._seed, step))
            delay = int(np.exp(rng.uniform(0, np.log(self._recipe.max_delay + 1))))
            sequences = self._task(rng, self._table, self._variants, delay, self._recipe.batch_size)
            yield as_batch(sequences, self._x_ND)


def as_batch(sequences: Sequences, x_ND: Tensor) -> VideoBatch:
    """The features of sequences, composed by index."""
    num, num_frames = sequences.rows_BT.shape
    x_BTD = x_ND[torch.from_numpy(sequences.rows_BT)]
    return VideoBatch(x_BTD, torch.full((num,), num_frames), torch.from_numpy(sequences.labels_B), torch.arange(num))


class RecallData(LightningDataModule):
    """Training batches of a recall task."""

    def __init__(self, batches: _Batches, statistics: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self._batches = batches
        self._statistics = statistics

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._batches, batch_size=None)

    def feature_statistics(self) -> tuple[Tensor, Tensor]:
        return self._statistics


def train_recall(
    task: str, memory: dict[str, Any], table: FrameTable, variants: NDArray[np.int64], x_ND: Tensor, recipe: RecallRecipe,
    seed: int,
) -> Classifier:  # fmt: skip
    torch.manual_seed(seed)
    arguments = {
        "memory": memory,
        "feature_dim": x_ND.shape[1],
        "class_names": [str(symbol) for symbol in range(NUM_SYMBOLS)],
        "class_counts": [1] * NUM_SYMBOLS,
        "readout": {"class_path": class_path(LastReadout)},
        "learning_rate": recipe.learning_rate,
        "seed": seed,
    }
    classifier = from_plain(Classifier, arguments)
    statistics = x_ND.mean(0), x_ND.std(0)
    data = RecallData(_Batches(TASKS[task], table, variants, x_ND, recipe, seed), statistics)
    Trainer(max_steps=recipe.num_steps, max_epochs=-1, accelerator="cpu", gradient_clip_val=1.0, barebones=True).fit(
        classifier, datamodule=data
    )
    return classifier.eval()


@torch.inference_mode()
def recall_accuracy(
    head: Head, task: str, table: FrameTable, variants: NDArray[np.int64], x_ND: Tensor, delays: Sequence[int], num: int,
    seed: int,
) -> list[float]:  # fmt: skip
    found = []
    for delay in delays:
        rng = np.random.default_rng([seed, delay])
        batch = as_batch(TASKS[task](rng, table, variants, delay, num), x_ND)
        found.append(float((head(batch.x, batch.lengths).argmax(1) == batch.labels).float().mean()))
    return found
