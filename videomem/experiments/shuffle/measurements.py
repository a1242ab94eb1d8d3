"""Accuracy of trained heads on ordered, shuffled and reversed frames of the test split.

The backbone processes each frame alone, so permuting features is equivalent to permuting frames. What depends on a
single frame is computed once and permuted by index; only the recurrence runs again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from statistics import fmean, pstdev

import numpy as np
import torch
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.frame_order_predictions import compare, permute_frames
from videomem.experiments.permutations import SHUFFLE_SUITE
from videomem.experiments.tables import Column, Table, csv_text
from videomem.heads import Head
from videomem.training.checkpoint import Checkpoint
from videomem.training.data_module import VideoDataModule

CONDITIONS = ("ordered", "shuffled", "reversed")


@dataclass(frozen=True)
class Measurement:
    """One head in one test condition and permutation, over all clips; a row of `shuffle.csv`.

    Attributes:
        head: Label of the head.
        seed: Training seed of the head.
        condition: `ordered`, `shuffled` or `reversed`.
        permutation: Number of the permutation within its condition.
        accuracy: Share of correct predictions.
        flip_rate: Share of clips whose predicted class differs from the prediction in order.
        max_logit_change: Largest absolute change of any logit against the ordered clip, with projected terms permuted
            by index.
        max_logit_change_forward: The same with a plain `forward` on permuted features; None where it was not run.
        js_divergence: Mean Jensen-Shannon divergence between the class probabilities and those in order, in nats.
    """

    head: str
    seed: int
    condition: str
    permutation: int
    accuracy: float
    flip_rate: float
    max_logit_change: float
    max_logit_change_forward: float | None
    js_divergence: float


COLUMNS = tuple(field.name for field in fields(Measurement))


@torch.inference_mode()
def measure_order(
    head: Head,
    batches: Iterable[VideoBatch],
    seed: int,
    num_permutations: int = 100,
    num_forward: int = 3,
    permutation_seed: int = 0,
) -> list[Measurement]:
    """Evaluates a head on ordered, shuffled and reversed frames.

    Args:
        head: A trained head; it is put into evaluation mode.
        batches: Batches of features.
        seed: Training seed of the head, for the rows of the result.
        num_permutations: K, number of permutations of each clip.
        num_forward: Number of permutations for which the plain `forward` is run as well.
        permutation_seed: Seed of the permutations. Clip c is permuted with the seed (permutation_seed, c), whatever its
            batch.
    Returns:
        1 + K + 1 measurements: ordered, shuffled (one per permutation), reversed.
    Raises:
        VideomemError: If the logits of the head are not finite.
    """
    head.eval()
    names = [("ordered", 0), *(("shuffled", k) for k in range(num_permutations)), ("reversed", 0)]
    with_forward = {0, *range(1, 1 + min(num_forward, num_permutations)), num_permutations + 1}
    # Scalars on the head's device, so that a GPU is synchronised once, at the end.
    totals = torch.zeros(5, len(names), dtype=torch.float64, device=head.norm.mean.device)
    correct_K, flipped_K, divergence_K, change_K, change_forward_K = totals
    change_forward_K.fill_(-1)  # not measured
    num_clips = 0
    for batch in batches:
        terms_BTK, forward_BC = head.project(batch.x), head(batch.x, batch.lengths)
        if not torch.isfinite(forward_BC).all():
            raise VideomemError(f"{head.label} (seed {seed}): logits are not finite; its training diverged")
        ordered_BC = head.forward_projected(terms_BTK, batch.lengths)
        for k, indices_BT in enumerate(_orders(batch, num_permutations, permutation_seed)):
            logits_BC = head.forward_projected(permute_frames(terms_BTK, indices_BT), batch.lengths)
            compared = compare(logits_BC, ordered_BC, batch.labels)
            correct_K[k] += compared.correct_B.sum()
            flipped_K[k] += compared.flipped_B.sum()
            divergence_K[k] += js_divergence(ordered_BC, logits_BC).sum()
            change_K[k] = torch.maximum(change_K[k], compared.max_logit_change)
            if k in with_forward:
                plain_BC = head(permute_frames(batch.x, indices_BT), batch.lengths)
                change_forward_K[k] = torch.maximum(change_forward_K[k], (plain_BC - forward_BC).abs().max())
        num_clips += len(batch.labels)
    totals[:3] /= max(num_clips, 1)
    return [
        Measurement(
            head.label, seed, *name, accuracy, flip_rate, change, None if forward == -1 else forward, divergence
        )
        for name, (accuracy, flip_rate, divergence, change, forward) in zip(names, totals.T.tolist(), strict=True)
    ]


def _orders(batch: VideoBatch, num_permutations: int, seed: int) -> Tensor:
    """Returns the frame orders (K, B, T) of a batch: ordered, shuffled, reversed."""
    num_frames, clips = batch.x.shape[1], zip(batch.clip.tolist(), batch.lengths.tolist(), strict=True)
    of_clip = [
        [one.frame_orders(length, num_frames, num_permutations, (seed, clip)) for one in SHUFFLE_SUITE]
        for clip, length in clips
    ]
    return torch.from_numpy(np.stack([np.concatenate(orders) for orders in of_clip], axis=1)).to(batch.x.device)


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


def js_divergence(logits_BC: Tensor, other_BC: Tensor) -> Tensor:
    """Returns the Jensen-Shannon divergence (B,) of two softmax distributions in nats, between 0 and log 2.

    Reference:
        Lin 1991, "Divergence measures based on the Shannon entropy", eq. 3.3.
    """
    log_p, log_q = logits_BC.double().log_softmax(1), other_BC.double().log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - float(np.log(2))
    kl_p = (log_p.exp() * (log_p - log_m)).sum(1)
    kl_q = (log_q.exp() * (log_q - log_m)).sum(1)
    return ((kl_p + kl_q) / 2).clamp(min=0)


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


def as_csv(measurements: Sequence[Measurement]) -> str:
    """Returns the text of `shuffle.csv`: one row per measurement, with an empty field for a value not measured."""
    rows = tuple(tuple(vars(row).values()) for row in measurements)
    return csv_text(Table("shuffle", tuple(map(Column, COLUMNS)), rows))


@dataclass(frozen=True)
class Summary:
    """Results of one head over its seeds: mean accuracy per condition, and its standard deviation over seeds."""

    head: str
    num_seeds: int
    accuracy: dict[str, float]
    deviation: dict[str, float]
    flip_rate: float
    js_divergence: float
    max_logit_change: float
    max_logit_change_forward: float | None


def summarize(measurements: Sequence[Measurement]) -> list[Summary]:
    """Returns one summary per head, in order of first appearance: means over seeds of means over permutations."""
    return [_summary(head, measurements) for head in dict.fromkeys(row.head for row in measurements)]


def _summary(head: str, measurements: Sequence[Measurement]) -> Summary:
    rows = [row for row in measurements if row.head == head]
    seeds = sorted({row.seed for row in rows})
    of_seed = {
        name: [fmean(row.accuracy for row in rows if (row.condition, row.seed) == (name, seed)) for seed in seeds]
        for name in CONDITIONS
    }
    shuffled = [row for row in rows if row.condition == "shuffled"]
    forward = [row.max_logit_change_forward for row in shuffled if row.max_logit_change_forward is not None]
    return Summary(
        head=head,
        num_seeds=len(seeds),
        accuracy={condition: fmean(values) for condition, values in of_seed.items()},
        deviation={condition: pstdev(values) for condition, values in of_seed.items()},
        flip_rate=fmean(row.flip_rate for row in shuffled),
        js_divergence=fmean(row.js_divergence for row in shuffled),
        max_logit_change=max(row.max_logit_change for row in shuffled),
        max_logit_change_forward=max(forward, default=None),
    )


def change_text(change: float | None) -> str:
    """Formats a change of logits: `0` only for exactly zero, empty if not measured."""
    return "" if change is None else f"{change:.2g}"
