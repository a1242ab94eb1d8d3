"""Accuracy of a trained head on ordered, shuffled and reversed frames.

The backbone processes each frame alone, so permuting features is equivalent to permuting frames. What depends on a
single frame is computed once and permuted by index; only the recurrence runs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from statistics import fmean, pstdev

import numpy as np
import torch
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.frame_order_predictions import batch_orders, compare, permute_frames, predict_orders
from videomem.experiments.permutations import SHUFFLE_SUITE
from videomem.experiments.tables import Column, Table, csv_text
from videomem.heads import Head

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


@dataclass
class _Sums:
    """Sums over batches as scalars on the head's device, so that a GPU is synchronised once, at the end."""

    correct: Tensor
    flipped: Tensor
    divergence: Tensor
    change: Tensor
    change_forward: Tensor | None = None

    @classmethod
    def zeros(cls, device: torch.device) -> _Sums:
        kinds = (torch.int64, torch.int64, torch.float64, torch.float32)
        return cls(*(torch.zeros((), dtype=dtype, device=device) for dtype in kinds))

    def add(self, logits_BC: Tensor, ordered_BC: Tensor, labels_B: Tensor) -> None:
        compared = compare(logits_BC, ordered_BC, labels_B)
        self.correct += compared.correct_B.sum()
        self.flipped += compared.flipped_B.sum()
        self.change = torch.maximum(self.change, compared.max_logit_change)
        self.divergence += js_divergence(ordered_BC, logits_BC).sum()

    def add_forward(self, logits_BC: Tensor, ordered_BC: Tensor) -> None:
        change = (logits_BC - ordered_BC).abs().max()
        self.change_forward = change if self.change_forward is None else torch.maximum(self.change_forward, change)


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
    sums = [_Sums.zeros(head.norm.mean.device) for _ in range(num_permutations + 2)]
    with_forward = [0, *range(1, 1 + min(num_forward, num_permutations)), num_permutations + 1]
    num_clips = 0
    for batch in batches:
        num_clips += len(batch.labels)
        _add_batch(sums, head, batch, seed, with_forward, num_permutations, permutation_seed)
    names = [("ordered", 0), *(("shuffled", k) for k in range(num_permutations)), ("reversed", 0)]
    return [_measurement(head.label, seed, *name, total, num_clips) for name, total in zip(names, sums, strict=True)]


def _add_batch(
    sums: Sequence[_Sums],
    head: Head,
    batch: VideoBatch,
    seed: int,
    with_forward: Sequence[int],
    num_permutations: int,
    permutation_seed: int,
) -> None:
    terms_BTK, forward_BC = head.project(batch.x), head(batch.x, batch.lengths)
    if not torch.isfinite(forward_BC).all():
        raise VideomemError(f"{head.label} (seed {seed}): logits are not finite; its training diverged")
    clips, lengths, num_frames = batch.clip.tolist(), batch.lengths.tolist(), batch.x.shape[1]
    orders_KBT = batch_orders(SHUFFLE_SUITE, clips, lengths, num_frames, num_permutations, permutation_seed)
    orders_KBT = orders_KBT.to(batch.x.device)
    ordered_BC = head.forward_projected(terms_BTK, batch.lengths)
    permuted = predict_orders(
        lambda terms_BTK: head.forward_projected(terms_BTK, batch.lengths),
        partial(permute_frames, terms_BTK),
        orders_KBT,
    )
    for total, logits_BC in zip(sums, permuted, strict=True):
        total.add(logits_BC, ordered_BC, batch.labels)
    plain = predict_orders(
        lambda x_BTD: head(x_BTD, batch.lengths), partial(permute_frames, batch.x), orders_KBT[with_forward]
    )
    for k, logits_BC in zip(with_forward, plain, strict=True):
        sums[k].add_forward(logits_BC, forward_BC)


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


def _measurement(head: str, seed: int, condition: str, permutation: int, total: _Sums, num_clips: int) -> Measurement:
    clips = max(num_clips, 1)
    return Measurement(
        head,
        seed,
        condition,
        permutation,
        int(total.correct) / clips,
        int(total.flipped) / clips,
        float(total.change),
        None if total.change_forward is None else float(total.change_forward),
        float(total.divergence) / clips,
    )


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
        condition: [
            fmean(row.accuracy for row in rows if row.condition == condition and row.seed == seed) for seed in seeds
        ]
        for condition in CONDITIONS
    }
    shuffled_rows = [row for row in rows if row.condition == "shuffled"]
    forward = [row.max_logit_change_forward for row in shuffled_rows if row.max_logit_change_forward is not None]
    return Summary(
        head=head,
        num_seeds=len(seeds),
        accuracy={condition: fmean(values) for condition, values in of_seed.items()},
        deviation={condition: pstdev(values) for condition, values in of_seed.items()},
        flip_rate=fmean(row.flip_rate for row in shuffled_rows),
        js_divergence=fmean(row.js_divergence for row in shuffled_rows),
        max_logit_change=max(row.max_logit_change for row in shuffled_rows),
        max_logit_change_forward=max(forward) if forward else None,
    )


def change_text(change: float | None) -> str:
    """Formats a change of logits: `0` only for exactly zero, empty if not measured."""
    if change is None:
        return ""
    return f"{change:.2g}"
