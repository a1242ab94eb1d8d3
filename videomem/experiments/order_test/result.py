"""The order card: everything that an order test found, as plain data. `order.json` is this, written out.

Accuracies, differences and margins are shares of 1. Cells are named XY: trained in arm X, tested in condition Y.
Arms: O in order; F one fixed permutation per clip; S reshuffled every epoch; C one permutation common to all clips;
W frames shuffled within windows, B blocks of frames shuffled, each fixed per clip. Conditions: O in order; S shuffled;
R reversed; C, W, B as the arms of that name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields

from videomem.errors import VideomemError, one_line
from videomem.experiments.order_test.strict_json import read, refuse_constant, to_plain
from videomem.statistics.results import ChiralPairs, ClassGain, Estimate, Randomization, Verdict

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class PerturbationResult:
    """One perturbation of the test clips, applied to models trained in order.

    Attributes:
        name: Kind of perturbation, such as `shuffle`, `windows`, `blocks`, `reverse`, `rotate`, `frozen`, `subsample`.
        label: Name with its parameter, such as `windows of 4`.
        displacement: Mean |i - pi(i)| / T.
        kendall_tau: Kendall's tau-b between shown place and true place; None where it is not defined (frozen).
        adjacency: Share of adjacent pairs of frames that stay adjacent, in either direction.
        accuracy: Accuracy of models trained in order.
        reliance: Accuracy in order minus accuracy here.
        retrained: Accuracy in order minus that of models trained and tested here; None where not retrained.
    """

    name: str
    label: str
    displacement: float
    kendall_tau: float | None
    adjacency: float
    accuracy: Estimate
    reliance: Estimate
    retrained: Estimate | None = None


@dataclass(frozen=True)
class SizePoint:
    """Value of order at a share of the training groups.

    Attributes:
        fraction: Share of the training groups that was trained on.
        num_clips: Training clips of one run, mean over runs.
        accuracy: Accuracy in order (OO).
        value_of_order: OO - FS.
    """

    fraction: float
    num_clips: int
    accuracy: Estimate
    value_of_order: Estimate


@dataclass(frozen=True)
class MemoryResult:
    """One memory, all of its arms.

    Attributes:
        name: Name of the memory, of `configs/head/<name>.yaml` or given.
        label: The memory with its parameters.
        is_control: Whether no order can matter to it (no memory, mean readout): its OO - FS is the noise floor.
        num_parameters: Learned numbers of one head.
        cells: Accuracy of each cell that was measured: OO, OS, OR, FS, FO, SS, SO, CC, WW, BB.
        value_of_order: OO - FS, the primary contrast.
        p_holm: Its p-value, Holm-adjusted over memories.
        verdict: Judged from `value_of_order` and the margin.
        augmentation: SS - FS.
        reliance: OO - OS.
        reliance_test: Its randomisation test; None for a control, whose reliance is exactly 0.
        shift: SS - OS.
        practical_gain: OO minus the best order-blind arm; which is best was seen on the same clips, so it errs low.
        best_order_blind: Which arm that is, such as `SS` or `none OO`.
        common: OO - CC: smoothness without order taken away.
        normalized: (OO - FS) / (OO - chance); None unless the lower end of OO is above chance.
        suite: Reliance under each perturbation.
        classes: Gain (OO - FS) of each class.
        chiral: Pairs of classes that time reversal turns into each other.
        confusion_ordered: Clips (C, C) of all runs, OO: rows true, columns named.
        confusion_shuffled: The same of OS, mean over permutations.
        mcnemar_p: McNemar's test of in order against shuffled once, first run; only where each group has one clip.
        sizes: Value of order against training size, where asked for.
        sensitivity: OO - FS with another readout (`last`) or `equal parameters`, where asked for.
        max_logit_change: Largest change of a logit by shuffling, frames' terms permuted by index.
        max_logit_change_forward: The same by a plain forward on shuffled features; None where not run.
    """

    name: str
    label: str
    is_control: bool
    num_parameters: int
    cells: dict[str, Estimate]
    value_of_order: Estimate
    p_holm: float | None
    verdict: Verdict | None
    augmentation: Estimate | None
    reliance: Estimate
    reliance_test: Randomization | None
    shift: Estimate | None
    practical_gain: Estimate | None
    best_order_blind: str
    common: Estimate | None
    normalized: float | None
    suite: tuple[PerturbationResult, ...]
    classes: tuple[ClassGain, ...]
    chiral: ChiralPairs | None
    confusion_ordered: tuple[tuple[float, ...], ...]
    confusion_shuffled: tuple[tuple[float, ...], ...]
    mcnemar_p: float | None = None
    sizes: tuple[SizePoint, ...] = ()
    sensitivity: dict[str, Estimate] = field(default_factory=dict)
    max_logit_change: float | None = None
    max_logit_change_forward: float | None = None


@dataclass(frozen=True)
class Controls:
    """What needs no memory, all of the frame-averaging head trained in order.

    Attributes:
        majority: Accuracy of always naming the most frequent class of the training clips.
        random_frame: Accuracy from one frame, mean over its position.
        best_frame: Accuracy from the one position that is best on the training clips.
        best_frame_position: That position of the first run, from 0.
        oracle_frame: Share of clips with any frame that is classified rightly: an upper bound, it uses the label.
        average: Accuracy of the mean over frames (its OO).
    """

    majority: float
    random_frame: float
    best_frame: float
    best_frame_position: int
    oracle_frame: float
    average: float


@dataclass(frozen=True)
class DataFacts:
    """The data that was tested on.

    Attributes:
        catalog: Name of the catalog.
        class_names: Classes, in the order of the rows of the confusion matrices.
        num_clips: Clips with features, of all splits.
        num_groups: Groups of clips that belong together, such as takes of one recording.
        num_train_clips: Training clips of one run.
        num_test_clips: Test clips of one run.
        num_test_groups: Groups that are tested in any run.
        split: `random` for group-disjoint splits drawn per run, `fixed` for the catalog's own split.
        num_frames: Frames per clip, as `16` or `8 to 64`.
        feature_dim: Numbers per frame.
        features: Network, weights and layer that gave them.
        num_failed: Clips that are in the failure table and in no batch.
        num_straddling: Groups with clips in training and in test, which only a fixed split can have.
    """

    catalog: str
    class_names: tuple[str, ...]
    num_clips: int
    num_groups: int
    num_train_clips: int
    num_test_clips: int
    num_test_groups: int
    split: str
    num_frames: str
    feature_dim: int
    features: str
    num_failed: int
    num_straddling: int = 0


@dataclass(frozen=True)
class OrderCard:
    """The whole result.

    Attributes:
        schema_version: Version of this description; a reader refuses another.
        plan: The analysis plan as frozen before the first training.
        plan_sha256: Hash of the plan's file.
        data: What was tested on.
        verdict: Of the data set, for the tested learners.
        memories: The learners, a control among them where one was trained.
        controls: What needs no memory; None without the control.
        noise_floor: OO - FS of the control, whose F has another seed: what retraining alone does; None without control.
        margin: A value of order within -margin..margin counts as none.
        num_runs: Trainings of each arm, each with a split and a seed of its own.
        seeds: Their seeds.
        num_permutations: Shuffles of each test clip.
        failures: Rows of the failure table: (path, reason).
        command: The command line that made it.
        versions: Of the libraries.
        device: What it was trained on.
        seconds: Wall time of the last run; cells from the cache cost none.
        seconds_training: Sum of the times of all trainings, whenever they ran.
        num_trainings: Trainings of the plan.
        num_trained_before: Of them, how many the cache held from other plans when this one was frozen.
    """

    schema_version: int
    plan: dict[str, object]
    plan_sha256: str
    data: DataFacts
    verdict: Verdict
    memories: tuple[MemoryResult, ...]
    controls: Controls | None
    noise_floor: Estimate | None
    margin: float
    num_runs: int
    seeds: tuple[int, ...]
    num_permutations: int
    failures: tuple[tuple[str, str], ...]
    command: str
    versions: dict[str, str]
    device: str
    seconds: float
    seconds_training: float
    num_trainings: int = 0
    num_trained_before: int = 0


def card_to_json(card: OrderCard) -> str:
    """The card as strict JSON, the same text for the same card; numbers keep every bit.

    A number that JSON lacks is written as one of the strings `NaN`, `Infinity` and `-Infinity`.

    Raises:
        VideomemError: If the plan holds what JSON cannot hold.
    """
    content = {item.name: to_plain(getattr(card, item.name)) for item in fields(card) if item.name != "plan"}
    try:
        plan = json.loads(json.dumps(card.plan, allow_nan=False))
        return json.dumps({"schema_version": card.schema_version, "plan": plan} | content, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise VideomemError(f"order card: the plan cannot be written as JSON: {one_line(error)}") from error


def card_from_json(text: str) -> OrderCard:
    """The card of `card_to_json`.

    Raises:
        VideomemError: If the text is damaged, of another schema version, or lacks a field.
    """
    try:
        content = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise VideomemError(f"order card: not JSON: {one_line(error)}; make the card again") from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise VideomemError("order card: no schema_version; this is not an order.json, or it is damaged")
    if content["schema_version"] != SCHEMA_VERSION:
        raise VideomemError(
            f"order card: schema version {one_line(repr(content['schema_version']))}, but this videomem reads "
            f"{SCHEMA_VERSION}; install the videomem that wrote it, or make the card again"
        )
    card = read(OrderCard, content, "order card")
    assert isinstance(card, OrderCard)
    return card
