"""Results of trained heads on ordered, shuffled and reversed frames of the test split of their data.

`shuffle.json` is a `ShuffleResult` as JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import move_data_to_device

from videomem.errors import VideomemError
from videomem.experiments.shuffle.measurements import CONDITIONS, Evaluation, measure_order
from videomem.experiments.tables import Column, Plain, Table
from videomem.statistics.contrasts import estimate_mean
from videomem.statistics.planning import MIN_GROUPS
from videomem.statistics.results import Estimate
from videomem.statistics.verdict import points, reliance_sentence
from videomem.training.checkpoint import Checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.utils.result_models import Number, SharedText, Text, result_model

SCHEMA_VERSION = 1


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


def sentence(one: Summary, name: str) -> str:
    """A sentence on the reliance of a checkpoint, which is shown by this name."""
    if (estimate := one.reliance_estimate) is not None:
        few = f"; {estimate.num_groups} groups of test clips are few: the order test needs {MIN_GROUPS} for a verdict"
        return f"{reliance_sentence(name, estimate)}{few * (estimate.num_groups < MIN_GROUPS)}."
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
