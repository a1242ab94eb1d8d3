"""Accuracy of trained heads on ordered, shuffled and reversed frames of the test split.

The backbone processes each frame alone, so permuting features is equivalent to permuting frames. What depends on a
single frame is computed once and permuted by index; only the recurrence runs again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import move_data_to_device
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.frame_order_predictions import compare, permute_frames
from videomem.experiments.permutations import SHUFFLE_SUITE
from videomem.experiments.tables import Column, Plain, Table, csv_text
from videomem.heads import Head
from videomem.statistics.contrasts import estimate_mean
from videomem.training.checkpoint import Checkpoint
from videomem.training.data_module import VideoDataModule

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
Interval = tuple[float, float]


class Evaluation(NamedTuple):
    """Measurements of one head, and the share of correct predictions of each clip (N,) by condition."""

    rows: list[Measurement]
    clips_N: list[int]
    correct_N: dict[str, NDArray[np.float64]]


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
        head: A trained head; it is put into evaluation mode.
        batches: Batches of features.
        seed: Training seed of the head, for the rows of the result.
        num_permutations: K, number of permutations of each clip.
        num_forward: Number of permutations for which the plain `forward` is run as well.
        permutation_seed: Seed of the permutations. Clip c is permuted with the seed (permutation_seed, c), whatever its
            batch.
        checkpoint: Name of the checkpoint, for the rows of the result.
        epoch: Number of epochs of the checkpoint, likewise.
    Returns:
        1 + K + 1 measurements: ordered, shuffled (one per permutation), reversed; and the results of the clips.
    Raises:
        VideomemError: If the logits of the head are not finite.
    """
    head.eval()
    names = [("ordered", 0), *(("shuffled", k) for k in range(num_permutations)), ("reversed", 0)]
    with_forward = {*range(1, 1 + min(num_forward, num_permutations)), num_permutations + 1}
    # Scalars on the head's device, so that a GPU is synchronised once, at the end.
    totals = torch.zeros(4, len(names), dtype=torch.float64, device=head.norm.mean.device)
    flipped_K, divergence_K, change_K, change_forward_K = totals
    change_forward_K.fill_(-1)  # not measured
    clips: list[int] = []
    correct: list[Tensor] = []
    for batch in batches:
        terms_BTK, forward_BC = head.project(batch.x), head(batch.x, batch.lengths)
        if not torch.isfinite(forward_BC).all():
            raise VideomemError(f"{head.label} (seed {seed}): logits are not finite; its training diverged")
        ordered_BC = head.forward_projected(terms_BTK, batch.lengths)
        clips += batch.clip.tolist()
        correct.append(torch.zeros(len(names), len(batch.labels), device=totals.device))
        for k, indices_BT in enumerate(_orders(batch, num_permutations, permutation_seed)):
            logits_BC = head.forward_projected(permute_frames(terms_BTK, indices_BT), batch.lengths)
            compared = compare(logits_BC, ordered_BC, batch.labels)
            correct[-1][k] = compared.correct_B
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
    return Evaluation(rows, clips, {name: correct_KN[these].mean(0) for name, these in rows_of.items()})


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
    name: str = "",
) -> tuple[list[Measurement], Summary, list[tuple[Plain, ...]]]:
    """Returns the measurements of one checkpoint on the test split of its data, their summary, and rows of clips.

    A row has the path, interval, label and group of a clip, and its share of correct predictions in each condition.
    """
    data.setup("test")
    classifier = checkpoint.classifier().to(device)
    batches = (
        data.on_after_batch_transfer(move_data_to_device(batch, torch.device(device)), 0)
        for batch in data.test_dataloader()
    )
    evaluation = measure_order(classifier.head, batches, classifier.seed, num_permutations, num_forward,
                               permutation_seed, name, checkpoint.content["epoch"] + 1)  # fmt: skip
    clips = [data.clips[row] for row in evaluation.clips_N]
    correct_NA = np.stack([evaluation.correct_N[name] for name in CONDITIONS], axis=1).tolist()
    of_clips = [(*clip.location, clip.label, clip.group, *right) for clip, right in zip(clips, correct_NA, strict=True)]
    summary = summarize(evaluation, [clip.group for clip in clips], classifier.head.order_blind)
    return evaluation.rows, summary, of_clips


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
    """Results of one checkpoint: means over clips and permutations.

    Attributes:
        head, checkpoint, epoch, seed: As in `Measurement`.
        accuracy: Accuracy by condition.
        interval: 95 % interval of the accuracy over groups of clips, by condition; None with one group only.
        reliance: Accuracy in order minus accuracy shuffled.
        reliance_interval: 95 % interval of `reliance`; None also if it is 0 by construction (order-blind).
    """

    head: str
    checkpoint: str
    epoch: int
    seed: int
    accuracy: dict[str, float]
    interval: dict[str, Interval | None]
    reliance: float
    reliance_interval: Interval | None
    flip_rate: float
    js_divergence: float
    max_logit_change: float
    max_logit_change_forward: float | None


def summarize(evaluation: Evaluation, groups_N: Sequence[str], order_blind: bool) -> Summary:
    """Summarizes the measurements of one checkpoint; `groups_N` are the groups of its clips."""
    first, correct_N = evaluation.rows[0], evaluation.correct_N
    shuffled = [row for row in evaluation.rows if row.condition == "shuffled"]
    forward = [row.max_logit_change_forward for row in shuffled if row.max_logit_change_forward is not None]
    difference_N = correct_N["ordered"] - correct_N["shuffled"]
    return Summary(
        head=first.head,
        checkpoint=first.checkpoint,
        epoch=first.epoch,
        seed=first.seed,
        accuracy={name: float(values_N.mean()) for name, values_N in correct_N.items()},
        interval={name: _interval(values_N, groups_N, (0.0, 1.0)) for name, values_N in correct_N.items()},
        reliance=float(difference_N.mean()),
        reliance_interval=None if order_blind else _interval(difference_N, groups_N, (-1.0, 1.0)),
        flip_rate=fmean(row.flip_rate for row in shuffled),
        js_divergence=fmean(row.js_divergence for row in shuffled),
        max_logit_change=max(row.max_logit_change for row in shuffled),
        max_logit_change_forward=max(forward, default=None),
    )


def _interval(values_N: NDArray[np.float64], groups_N: Sequence[str], limits: Interval) -> Interval | None:
    groups, codes_N = np.unique(groups_N, return_inverse=True)
    if len(groups) < 2:
        return None
    estimate = estimate_mean(values_N, codes_N, np.zeros_like(codes_N), limits=limits)
    return estimate.low, estimate.high


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Returns a row per checkpoint: accuracies and reliance with 95 % intervals, and the changes by shuffling."""
    own = ("head", "checkpoint", "epoch", "seed")
    changes = ("flip_rate", "js_divergence", "max_logit_change", "max_logit_change_forward")
    measured = (*CONDITIONS, "reliance")
    names = [*own, *(f"{name}{end}" for name in measured for end in ("", ": low", ": high")), *changes]
    rows = []
    for one in summaries:
        values = {**one.accuracy, "reliance": one.reliance}
        intervals = {**one.interval, "reliance": one.reliance_interval}
        with_ends = [value for name in measured for value in (values[name], *(intervals[name] or (None, None)))]
        rows.append((*(getattr(one, name) for name in own), *with_ends, *(getattr(one, name) for name in changes)))
    return Table("shuffle_summary", tuple(map(Column, names)), tuple(rows))


def clips_table(summaries: Sequence[Summary], of_clips: Sequence[list[tuple[Plain, ...]]]) -> Table:
    """Returns the data of the intervals: a row per checkpoint and clip, as `measure_checkpoint` returns them."""
    names = ("head", "checkpoint", "path", "start_s", "end_s", "label", "group", *CONDITIONS)
    rows = [(one.head, one.checkpoint, *row) for one, rows in zip(summaries, of_clips, strict=True) for row in rows]
    return Table("shuffle_clips", tuple(map(Column, names)), tuple(rows))


def change_text(change: float | None) -> str:
    """Formats a change of logits: `0` only for exactly zero, empty if not measured."""
    return "" if change is None else f"{change:.2g}"
