"""The result of an order test. `order.json` is this result as JSON.

Accuracies, differences and margins are shares of 1: 0.02 is 2 points. Accuracies are named
`<training condition>/<test condition>`, with the names of `plan.py`.
"""

from __future__ import annotations

import json
from dataclasses import field
from typing import Any

from videomem.errors import VideomemError, one_line
from videomem.experiments.frame_order_predictions import PerturbationEffect
from videomem.statistics.results import ChiralPairs, ClassGain, Estimate, Randomization, Verdict
from videomem.utils.result_models import Number, Text, dump, parse, result_model

SCHEMA_VERSION = 1


@result_model
class PerturbationResult(PerturbationEffect):
    """The effect of one perturbation of the test clips on models trained in order.

    Attributes:
        retrained: Accuracy in order minus that of models trained and tested under the perturbation; None if not
            measured.
    """

    retrained: Estimate | None = None


@result_model
class SizePoint:
    """The value of order for a share of the training groups.

    Attributes:
        fraction: Share of the training groups.
        num_clips: Training clips per run, mean over runs.
        accuracy: Accuracy trained and tested in order.
        value_of_order: The value of order, as in `MemoryResult`.
    """

    fraction: Number
    num_clips: int
    accuracy: Estimate
    value_of_order: Estimate


@result_model
class MemoryResult:
    """All results of one memory.

    Attributes:
        name: Name of the memory: the name of its head config.
        label: The memory with its parameters.
        is_control: Whether the head is invariant to frame order (no memory, mean readout). Its value of order is the
            noise floor.
        num_parameters: Number of learned parameters of one head.
        accuracies: Accuracies by `<training condition>/<test condition>`, those that were measured.
        value_of_order: `ordered/ordered` minus `fixed_permutation/shuffled`, the primary contrast.
        p_holm: p-value of `value_of_order`, Holm-adjusted over memories; None for a control.
        verdict: The verdict from `value_of_order` and the margin; None for a control.
        augmentation: `reshuffled/shuffled` minus `fixed_permutation/shuffled`.
        reliance: `ordered/ordered` minus `ordered/shuffled`.
        reliance_test: Randomisation test of `reliance`; None for a control, whose reliance is exactly 0.
        shift: `reshuffled/shuffled` minus `ordered/shuffled`.
        practical_gain: `ordered/ordered` minus `best_order_blind`. The best one was selected on the same clips, so the
            gain is biased downwards.
        best_order_blind: The most accurate order-blind learner: `reshuffled/shuffled` or `fixed_permutation/shuffled`
            of this memory, or a control such as `none ordered/ordered`.
        common: `ordered/ordered` minus `common_permutation/common_permutation`: the loss of smoothness, while order can
            still be learned.
        normalized: `value_of_order` / (`ordered/ordered` - chance); None unless the lower end of `ordered/ordered` is
            above chance.
        suite: Results under each perturbation of the suite.
        classes: Value of order of each class.
        chiral: Pairs of classes that are confused with each other when time is reversed; None for a control.
        confusion_ordered: Clips (C, C) of all runs for `ordered/ordered`; rows are true classes, columns predicted
            classes.
        confusion_shuffled: The same for `ordered/shuffled`, mean over permutations.
        mcnemar_p: p-value of McNemar's test, ordered against shuffled once, on the first run; None if a group has more
            than one clip.
        sizes: Value of order by training size, if `order.sizes` is set.
        sensitivity: Value of order with the other readout (`last`) or with `equal_parameters`, if `order.sensitivity`
            is set.
        max_logit_change: Largest change of a logit when frames are shuffled, with the terms of each frame permuted by
            index.
        max_logit_change_forward: The same by a plain forward pass on shuffled features; None if not measured.
    """

    name: Text
    label: Text
    is_control: bool
    num_parameters: int
    accuracies: dict[Text, Estimate]
    value_of_order: Estimate
    p_holm: Number | None
    verdict: Verdict | None
    augmentation: Estimate | None
    reliance: Estimate
    reliance_test: Randomization | None
    shift: Estimate | None
    practical_gain: Estimate | None
    best_order_blind: Text
    common: Estimate | None
    normalized: Number | None
    suite: tuple[PerturbationResult, ...]
    classes: tuple[ClassGain, ...]
    chiral: ChiralPairs | None
    confusion_ordered: tuple[tuple[Number, ...], ...]
    confusion_shuffled: tuple[tuple[Number, ...], ...]
    mcnemar_p: Number | None = None
    sizes: tuple[SizePoint, ...] = ()
    sensitivity: dict[Text, Estimate] = field(default_factory=dict)
    max_logit_change: Number | None = None
    max_logit_change_forward: Number | None = None


@result_model
class Controls:
    """Accuracies without memory, from the frame-averaging head trained in order.

    Attributes:
        majority: Accuracy of always predicting the most frequent class of the training clips.
        random_frame: Accuracy from a single frame, mean over its position.
        best_frame: Accuracy from the single frame position that is best on the training clips.
        best_frame_position: That position in the first run, from 0.
        oracle_frame: Share of clips with at least one frame that is classified correctly; an upper bound that uses the
            label.
        average: Accuracy of the mean over frames.
    """

    majority: Number
    random_frame: Number
    best_frame: Number
    best_frame_position: int
    oracle_frame: Number
    average: Number


@result_model
class DataFacts:
    """Facts about the data.

    Attributes:
        catalog: Name of the catalog.
        class_names: Classes, in the order of the rows of the confusion matrices.
        num_clips: Clips with features, in all splits.
        num_groups: Groups of clips that belong together, such as takes of one recording.
        num_train_clips: Training clips per run.
        num_test_clips: Test clips per run.
        num_test_groups: Groups that are tested in any run.
        split: `random` for group-disjoint splits drawn per run, `fixed` for the catalog's own split.
        num_frames: Frames per clip, as `16` or `8 to 64`.
        feature_dim: Dimension of the feature vector of a frame.
        features: Network, weights and layer of the features.
        num_failed: Clips in the failure table; they are in no batch.
        num_straddling: Groups with clips in both training and test, possible with a fixed split only.
    """

    catalog: Text
    class_names: tuple[Text, ...]
    num_clips: int
    num_groups: int
    num_train_clips: int
    num_test_clips: int
    num_test_groups: int
    split: Text
    num_frames: Text
    feature_dim: int
    features: Text
    num_failed: int
    num_straddling: int = 0


@result_model
class OrderTestResult:
    """The result of an order test.

    Attributes:
        schema_version: Version of this schema; other versions are refused.
        plan: The analysis plan, as frozen before the first training.
        plan_sha256: SHA-256 of the plan's file.
        data: Facts about the data.
        verdict: The verdict for all tested learners.
        memories: Results of each memory, including the control if one was trained.
        controls: Accuracies without memory; None without a control.
        noise_floor: Value of order of the control, which is trained again with another seed: the effect of retraining
            alone; None without a control.
        margin: A value of order within (-margin, margin) is negligible.
        num_runs: Runs, each with its own split and seed.
        seeds: Seed of each run.
        num_permutations: Random permutations of each test clip.
        failures: Rows of the failure table: (path, reason).
        command: The command line of the test.
        versions: Versions of the libraries.
        device: The device that was trained on.
        seconds: Wall time of the last call of the command; results in the cache take none.
        seconds_training: Sum of the times of all training jobs, including those in the cache.
        num_trainings: Training jobs of the plan.
        num_trained_before: Training jobs with a result in the cache, from other plans, when this plan was frozen.
    """

    schema_version: int
    plan: dict[str, Any]
    plan_sha256: Text
    data: DataFacts
    verdict: Verdict
    memories: tuple[MemoryResult, ...]
    controls: Controls | None
    noise_floor: Estimate | None
    margin: Number
    num_runs: int
    seeds: tuple[int, ...]
    num_permutations: int
    failures: tuple[tuple[Text, Text], ...]
    command: Text
    versions: dict[Text, Text]
    device: Text
    seconds: Number
    seconds_training: Number
    num_trainings: int = 0
    num_trained_before: int = 0


def to_json(result: OrderTestResult) -> str:
    """The result as strict JSON; see `videomem.utils.result_models`.

    Raises:
        VideomemError: If the plan has values that JSON cannot represent.
    """
    try:
        json.dumps(result.plan, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise VideomemError(f"order result: the plan cannot be written as JSON: {one_line(error)}") from error
    return dump(result)


def from_json(text: str) -> OrderTestResult:
    """Read the result that `to_json` wrote.

    Raises:
        VideomemError: If the text is damaged, has another schema version, or does not match the schema.
    """
    return parse(OrderTestResult, text, SCHEMA_VERSION, "order result")
