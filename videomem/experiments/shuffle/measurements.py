"""Accuracy of a trained head on ordered, shuffled and reversed frames.

The backbone processes each frame alone, so permuting features is equivalent to permuting frames. What depends on a
single frame is computed once and permuted by index; only the recurrence runs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.frame_order_predictions import compare, permute_frames
from videomem.experiments.permutations import SHUFFLE_SUITE
from videomem.experiments.tables import Column, Table, csv_text
from videomem.heads import Head

CONDITIONS = ("ordered", "shuffled", "reversed")


@dataclass(frozen=True)
class Measurement:
    """One head in one test condition and permutation, over all clips; a row of `shuffle.csv`.

    Attributes:
        head: Label of the head.
        checkpoint: Name of the checkpoint: its run and its file, without suffix.
        epoch: Number of epochs that the checkpoint was trained for.
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
    checkpoint: str
    epoch: int
    seed: int
    condition: str
    permutation: int
    accuracy: float
    flip_rate: float
    max_logit_change: float
    max_logit_change_forward: float | None
    js_divergence: float


COLUMNS = tuple(field.name for field in fields(Measurement))


class Evaluation(NamedTuple):
    """Measurements of one head on N clips.

    Attributes:
        rows: The measurements.
        clips_N: Row of each clip in the data.
        correct_N: Share of correct predictions of each clip, by condition.
        predicted_KN: Predicted class of each clip: in order, in each of its permutations, and reversed.
    """

    rows: list[Measurement]
    clips_N: list[int]
    correct_N: dict[str, NDArray[np.float64]]
    predicted_KN: NDArray[np.int64]


@torch.inference_mode()
def measure_order(
    head: Head,
    batches: Iterable[VideoBatch],
    seed: int,
    num_permutations: int = 100,
    num_forward: int = 3,
    permutation_seed: int = 0,
    checkpoint: str = "",
    epoch: int = 0,
) -> Evaluation:
    """Evaluates a head on ordered, shuffled and reversed frames.

    Args:
        num_permutations: K, number of permutations of each clip.
        num_forward: Number of permutations for which the plain `forward` is run as well.
        permutation_seed: Seed of the permutations. Clip c is permuted with the seed (permutation_seed, c), whatever its
            batch.
    Returns:
        1 + K + 1 measurements: ordered, shuffled (one per permutation), reversed; and the results of the clips.
    Raises:
        VideomemError: If the logits of the head are not finite.
    """
    head.eval()
    names = [("ordered", 0), *(("shuffled", k) for k in range(num_permutations)), ("reversed", 0)]
    with_forward = {*range(1, 1 + min(num_forward, num_permutations)), num_permutations + 1}
    # Scalars on the head's device, so that a GPU is synchronized once, at the end.
    totals = torch.zeros(4, len(names), dtype=torch.float64, device=head.norm.mean.device)
    flipped_K, divergence_K, change_K, change_forward_K = totals
    change_forward_K.fill_(-1)  # not measured
    clips: list[int] = []
    correct: list[Tensor] = []
    predicted: list[Tensor] = []
    for batch in batches:
        terms_BTK, forward_BC = head.project(batch.x), head(batch.x, batch.lengths)
        if not torch.isfinite(forward_BC).all():
            raise VideomemError(f"{head.label} (seed {seed}): logits are not finite; its training diverged")
        ordered_BC = head.forward_projected(terms_BTK, batch.lengths)
        clips += batch.clip.tolist()
        correct.append(torch.zeros(len(names), len(batch.labels), device=totals.device))
        predicted.append(torch.zeros_like(correct[-1], dtype=torch.int64))
        for k, indices_BT in enumerate(_orders(batch, num_permutations, permutation_seed)):
            logits_BC = head.forward_projected(permute_frames(terms_BTK, indices_BT), batch.lengths)
            compared = compare(logits_BC, ordered_BC, batch.labels)
            correct[-1][k], predicted[-1][k] = compared.correct_B, logits_BC.argmax(1)
            flipped_K[k] += compared.flipped_B.sum()
            divergence_K[k] += js_divergence(ordered_BC, logits_BC).sum()
            change_K[k] = torch.maximum(change_K[k], compared.max_logit_change)
            if k in with_forward:
                plain_BC = head(permute_frames(batch.x, indices_BT), batch.lengths)
                change_forward_K[k] = torch.maximum(change_forward_K[k], (plain_BC - forward_BC).abs().max())
    totals[:2] /= max(len(clips), 1)
    correct_KN = torch.cat(correct, dim=1).cpu().double().numpy()
    rows = [
        Measurement(head.label, checkpoint, epoch, seed, *name, float(correct_N.mean()), flip_rate, change,
                    None if forward == -1 else forward, divergence)
        for name, correct_N, (flip_rate, divergence, change, forward) in zip(
            names, correct_KN, totals.T.tolist(), strict=True
        )
    ]  # fmt: skip
    rows_of = {condition: [k for k, (name, _) in enumerate(names) if name == condition] for condition in CONDITIONS}
    correct_N = {name: correct_KN[these].mean(0) for name, these in rows_of.items()}
    return Evaluation(rows, clips, correct_N, torch.cat(predicted, dim=1).cpu().numpy())


def _orders(batch: VideoBatch, num_permutations: int, seed: int) -> Tensor:
    """Returns the frame orders (K, B, T) of a batch: ordered, shuffled, reversed."""
    num_frames, clips = batch.x.shape[1], zip(batch.clip.tolist(), batch.lengths.tolist(), strict=True)
    of_clip = [
        [one.frame_orders(length, num_frames, num_permutations, (seed, clip)) for one in SHUFFLE_SUITE]
        for clip, length in clips
    ]
    return torch.from_numpy(np.stack([np.concatenate(orders) for orders in of_clip], axis=1)).to(batch.x.device)


def js_divergence(logits_BC: Tensor, other_BC: Tensor) -> Tensor:
    """Returns the Jensen-Shannon divergence (B,) of two softmax distributions in nats, between 0 and log 2.

    Reference:
        Lin 1991, "Divergence measures based on the Shannon entropy", eq. 3.3.
    """
    log_p, log_q = logits_BC.double().log_softmax(1), other_BC.double().log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - float(np.log(2))
    kl_p = (log_p.exp() * (log_p - log_m)).sum(1)
    kl_q = (log_q.exp() * (log_q - log_m)).sum(1)
    return torch.where((log_p == log_q).all(1), 0.0, ((kl_p + kl_q) / 2).clamp(min=0))


def as_csv(measurements: Sequence[Measurement]) -> str:
    """Returns the text of `shuffle.csv`: one row per measurement, with an empty field for a value not measured."""
    rows = tuple(tuple(vars(row).values()) for row in measurements)
    return csv_text(Table("shuffle", tuple(map(Column, COLUMNS)), rows))
