"""Measurements of checkpoints on the test split of their own data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from pytorch_lightning.utilities import move_data_to_device

from videomem.errors import VideomemError
from videomem.experiments.shuffle.measurements import Measurement, measure_order
from videomem.training.checkpoint import Checkpoint
from videomem.training.data_module import VideoDataModule


def measure_checkpoint(
    checkpoint: Checkpoint,
    data: VideoDataModule,
    num_permutations: int,
    num_forward: int,
    permutation_seed: int,
    device: str = "cpu",
) -> list[Measurement]:
    """Returns the measurements of one checkpoint on the test split of its data."""
    data.setup("test")
    classifier = checkpoint.classifier().to(device)
    batches = (
        data.on_after_batch_transfer(move_data_to_device(batch, torch.device(device)), 0)
        for batch in data.test_dataloader()
    )
    return measure_order(classifier.head, batches, classifier.seed, num_permutations, num_forward, permutation_seed)


def check_same_test(checkpoints: Sequence[Checkpoint]) -> None:
    """Raises a VideomemError if the checkpoints were trained for different test clips."""
    first = checkpoints[0]
    for other in checkpoints[1:]:
        for name in ("catalog", "test_split", "reversed_pairs"):
            one, two = first.data_arguments[name], other.data_arguments[name]
            if one != two:
                raise VideomemError(
                    f"{first.path} and {other.path} differ in data.{name} ({one}, {two}); run the command for each"
                )


def chance(data: VideoDataModule) -> float:
    """Returns the share of the most frequent class in the test split."""
    labels = Counter(data.clips[row].label for row in data.rows(data.test_split))
    return max(labels.values()) / labels.total()
