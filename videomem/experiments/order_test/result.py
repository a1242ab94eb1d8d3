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
from videomem.experiments.notebook import NotebookResult
from videomem.experiments.order_test.data_checks import DataCheck
from videomem.statistics.results import ChiralPairs, ClassGain, Estimate, Randomization, Verdict
from videomem.utils.result_models import Number, SharedPath, SharedText, Text, dump, parse, result_model

SCHEMA_VERSION = 3


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
        value_of_order: The value of order, as in `HeadResult`.
    """

    fraction: Number
    num_clips: int
    accuracy: Estimate
    value_of_order: Estimate


@result_model
class HeadResult:
    """All results of one head.

    Attributes:
        name: Name of the head: that of its config.
        label: The memory and readout with their parameters.
        is_order_blind: Whether the logits of the head are bit-identical for every frame order. Its value of order is
            the effect of retraining alone.
        num_parameters: Number of learned parameters of one head.
        accuracies: Accuracies by `<training condition>/<test condition>`, those that were measured.
        balanced_accuracy: Mean over classes of the accuracy `ordered/ordered` on the clips of the class.
        losses: Mean training loss of each epoch, trained in order, mean over runs.
        value_of_order: `ordered/ordered` minus `fixed_permutation/shuffled`, with intervals that hold for all learners
            together.
        verdict: The verdict from `value_of_order` and the margin; None for an order-blind head.
        augmentation: `reshuffled/shuffled` minus `fixed_permutation/shuffled`.
        reliance: `ordered/ordered` minus `ordered/shuffled`; None for an order-blind head, for which it is 0 by
            construction.
        reliance_test: Randomization test of `reliance`; None for an order-blind head.
        shift: `reshuffled/shuffled` minus `ordered/shuffled`.
        practical_gain: `ordered/ordered` minus the best order-blind learner, chosen for each run on other groups; None
            for an order-blind head.
        rotated: `rotated/rotated` minus `fixed_permutation/shuffled`: what remains of the value of order if clips are
            rotated by random offsets, so that frames keep their neighbors but not their position.
        common: `ordered/ordered` minus `common_permutation/common_permutation`: the loss of smoothness, while order can
            still be learned.
        normalized: `value_of_order` / (`ordered/ordered` - a), within [0, 1], with a the higher one of chance and the
            accuracy of the most frequent class (chance if balanced); None unless the head has learned.
        suite: Results under each perturbation of the suite.
        classes: Value of order of each class.
        chiral: Pairs of classes that are confused with each other when time is reversed; None for a control.
        confusion_ordered: Clips (C, C) of all runs for `ordered/ordered`; rows are true classes, columns predicted
            classes.
        confusion_shuffled: The same for `ordered/shuffled`, mean over permutations.
        mcnemar_p: p-value of McNemar's test, ordered against shuffled once, on the first run; None if a group has more
            than one clip.
        sizes: Value of order by training size, if `order.sizes` is set.
        sensitivity: Value of order with `equal_parameters`, if `order.sensitivity` is set.
        max_logit_change: Largest change of a logit when frames are shuffled, with the terms of each frame permuted by
            index.
        max_logit_change_forward: The same by a plain forward pass on shuffled features; None if not measured.
    """

    name: Text
    label: Text
    is_order_blind: bool
    num_parameters: int
    accuracies: dict[Text, Estimate]
    balanced_accuracy: Estimate
    losses: tuple[Number, ...]
    value_of_order: Estimate
    verdict: Verdict | None
    augmentation: Estimate | None
    reliance: Estimate | None
    reliance_test: Randomization | None
    shift: Estimate | None
    practical_gain: Estimate | None
    rotated: Estimate | None
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
class Information:
    """The accuracy that frame order adds to the set of frames: the best ordered minus the best order-blind learner.

    Both are chosen for each run by their accuracy on other groups than those the run tests. Ordered learners are
    trained and tested in order. Order-blind learners are order-blind heads, and other heads that were trained on
    permuted frames and tested on shuffled frames.

    Attributes:
        gain: The difference.
        ordered: The ordered learner that was chosen most often.
        order_blind: The order-blind learner that was chosen most often, such as `attention` or
            `gru reshuffled/shuffled`.
        chosen: Number of runs in which each learner was chosen.
        accuracy: Balanced accuracy of the better one of the two.
        rotated: The same difference for learners trained and tested on rotated clips; None if not measured.
    """

    gain: Estimate
    ordered: Text
    order_blind: Text
    chosen: dict[Text, int]
    accuracy: Estimate
    rotated: Estimate | None


@result_model
class Controls:
    """Accuracies without memory, from the frame-averaging head trained in order.

    Attributes:
        majority: Accuracy of always predicting the most frequent class of the training clips.
        chance: Balanced accuracy of any constant prediction, 1 / C.
        random_frame: Accuracy from a single frame, mean over its position.
        best_frame: Accuracy from the single frame position that is best on the training clips.
        best_frame_position: That position in the first run, from 0.
        oracle_frame: Share of clips with at least one frame that is classified correctly; an upper bound that uses the
            label.
        average: Accuracy of the mean over frames.
    """

    majority: Number
    chance: Number
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

    catalog: SharedPath
    class_names: tuple[Text, ...]
    num_clips: int
    num_groups: int
    num_train_clips: int
    num_test_clips: int
    num_test_groups: int
    split: Text
    num_frames: Text
    feature_dim: int
    features: SharedText
    num_failed: int
    num_straddling: int = 0


@result_model
class OrderTestResult(
    NotebookResult,
    overview="videomem.experiments.order_test.answers:overview",
    figure="videomem.experiments.order_test.figures:value_figure",
):
    """The result of an order test.

    Attributes:
        schema_version: Version of this schema; other versions are refused.
        plan: The analysis plan, as frozen before the first training.
        plan_sha256: SHA-256 of the plan's file.
        data: Facts about the data.
        metric: `accuracy` or `balanced`: what all accuracies and differences are, but for those of single classes.
        checks: What was found in the data that distorts results.
        verdict: The verdict on the data, from `information`.
        information: What frame order adds to the set of frames; None without both an ordered and an order-blind head.
        heads: Results of each head.
        controls: Accuracies without memory; None without a control.
        noise_floor: Value of order of the first order-blind head, which is trained again with another seed: the effect
            of retraining alone; None without an order-blind head.
        margin: A difference within (-margin, margin) is negligible.
        margin_share: The share of what the best head gains over a constant answer that the margin is; None if the
            margin was fixed in advance.
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
    metric: Text
    checks: tuple[DataCheck, ...]
    verdict: Verdict
    information: Information | None
    heads: tuple[HeadResult, ...]
    controls: Controls | None
    noise_floor: Estimate | None
    margin: Number
    margin_share: Number | None
    num_runs: int
    seeds: tuple[int, ...]
    num_permutations: int
    failures: tuple[tuple[SharedPath, SharedText], ...]
    command: SharedText
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
