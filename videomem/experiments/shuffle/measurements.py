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
from videomem.statistics.results import Estimate
from videomem.statistics.verdict import points, reliance_sentence
from videomem.training.checkpoint import Checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.utils.result_models import Number, SharedText, Text, result_model

CONDITIONS = ("ordered", "shuffled", "reversed")
SCHEMA_VERSION = 1


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


class Measured(NamedTuple):
    """What `measure_checkpoint` finds.

    Attributes:
        evaluation: The measurements.
        summary: Their summary.
        of_clips: Path, interval, label and group of each clip, and its share of correct predictions by condition.
    """

    evaluation: Evaluation
    summary: Summary
    of_clips: list[tuple[Plain, ...]]


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


def measure_checkpoint(
    checkpoint: Checkpoint,
    data: VideoDataModule,
    num_permutations: int,
    num_forward: int,
    permutation_seed: int,
    device: str = "cpu",
    name: str = "",
) -> Measured:
    """Measures one checkpoint on the test split of its data."""
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
    return Measured(evaluation, summary, of_clips)


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


@result_model
class Summary:
    """Results of one checkpoint: means over clips and permutations.

    Attributes:
        head: Label of the head.
        checkpoint: Name of the checkpoint: its run and its file, without suffix.
        epoch: Number of epochs that the checkpoint was trained for.
        seed: Training seed of the head.
        accuracy: Accuracy by condition.
        estimate: The accuracy with its interval over groups of clips, by condition; None with one group only.
        reliance: Accuracy in order minus accuracy shuffled.
        reliance_estimate: The reliance with its interval; None also if it is 0 by construction (order-blind).
        flip_rate: Share of shuffled clips whose predicted class differs from the prediction in order.
        js_divergence: Mean Jensen-Shannon divergence by shuffling, in nats.
        max_logit_change: Largest absolute change of any logit by shuffling.
        max_logit_change_forward: The same with a plain `forward`; None where it was not run.
    """

    head: Text
    checkpoint: SharedText
    epoch: int
    seed: int
    accuracy: dict[Text, Number]
    estimate: dict[Text, Estimate | None]
    reliance: Number
    reliance_estimate: Estimate | None
    flip_rate: Number
    js_divergence: Number
    max_logit_change: Number
    max_logit_change_forward: Number | None


@result_model
class ShuffleResult:
    """The result of `videomem shuffle`, written to `shuffle.json`.

    Attributes:
        schema_version: Version of this schema; other versions are refused.
        command: Command line.
        num_permutations: Permutations of each clip.
        permutation_seed: Seed of the permutations.
        chance: Accuracy of always predicting the most frequent class.
        checkpoints: Results of each checkpoint.
        sentences: What each checkpoint relies on, with its interval, in words.
    """

    schema_version: int
    command: SharedText
    num_permutations: int
    permutation_seed: int
    chance: Number
    checkpoints: tuple[Summary, ...]
    sentences: tuple[Text, ...]


def sentence(one: Summary, name: str) -> str:
    """A sentence on the reliance of a checkpoint, which is shown by this name."""
    if one.reliance_estimate is not None:
        return f"{reliance_sentence(name, one.reliance_estimate)}."
    if one.max_logit_change == 0:
        return f"{name} loses nothing if its test clips are shuffled: it is order-blind by construction."
    return f"{name} loses {points(one.reliance)} if its test clips are shuffled (one group: no interval)."


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
        estimate={name: _estimate(values_N, groups_N, (0.0, 1.0)) for name, values_N in correct_N.items()},
        reliance=float(difference_N.mean()),
        reliance_estimate=None if order_blind else _estimate(difference_N, groups_N, (-1.0, 1.0)),
        flip_rate=fmean(row.flip_rate for row in shuffled),
        js_divergence=fmean(row.js_divergence for row in shuffled),
        max_logit_change=max(row.max_logit_change for row in shuffled),
        max_logit_change_forward=max(forward, default=None),
    )


def _estimate(values_N: NDArray[np.float64], groups_N: Sequence[str], limits: tuple[float, float]) -> Estimate | None:
    groups, codes_N = np.unique(groups_N, return_inverse=True)
    if len(groups) < 2:
        return None
    return estimate_mean(values_N, codes_N, np.zeros_like(codes_N), limits=limits)


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Returns a row per checkpoint: accuracies and reliance with 95 % intervals, and the changes by shuffling."""
    own = ("head", "checkpoint", "epoch", "seed")
    changes = ("flip_rate", "js_divergence", "max_logit_change", "max_logit_change_forward")
    measured = (*CONDITIONS, "reliance")
    names = [*own, *(f"{name}{end}" for name in measured for end in ("", ": low", ": high")), *changes]
    rows = []
    for one in summaries:
        values = {**one.accuracy, "reliance": one.reliance}
        estimates = {**one.estimate, "reliance": one.reliance_estimate}
        ends = {name: (found.low, found.high) if found else (None, None) for name, found in estimates.items()}
        with_ends = [value for name in measured for value in (values[name], *ends[name])]
        rows.append((*(getattr(one, name) for name in own), *with_ends, *(getattr(one, name) for name in changes)))
    return Table("shuffle_summary", tuple(map(Column, names)), tuple(rows))


def clips_table(summaries: Sequence[Summary], of_clips: Sequence[list[tuple[Plain, ...]]]) -> Table:
    """Returns the data of the intervals: a row per checkpoint and clip, as `measure_checkpoint` returns them."""
    names = ("head", "checkpoint", "path", "start_s", "end_s", "label", "group", *CONDITIONS)
    rows = [(one.head, one.checkpoint, *row) for one, rows in zip(summaries, of_clips, strict=True) for row in rows]
    return Table("shuffle_clips", tuple(map(Column, names)), tuple(rows))


def change_text(change: float | None) -> str:
    """Formats a change of logits: `0` only for exactly zero, empty if not measured."""
    return "" if change is None else f"{change:.3g}"
