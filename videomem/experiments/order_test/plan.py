"""The training and test conditions of an order test, and its plan: every choice made before the first training.

An accuracy is named `<training condition>/<test condition>`, such as `ordered/shuffled`. Dense tables use the two
letters instead: OS.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from typing import Any, Literal, NamedTuple, get_args

from videomem.errors import VideomemError

TrainingCondition = Literal[
    "ordered", "fixed_permutation", "reshuffled", "rotated", "common_permutation", "windows", "blocks"
]


class Condition(NamedTuple):
    """Letter and descriptions of a condition in tables; a description is empty if the condition is not used there."""

    letter: str
    training: str
    test: str


TRAINING_CONDITIONS: tuple[TrainingCondition, ...] = get_args(TrainingCondition)
CONDITIONS = {
    "ordered": Condition("O", "frames in order", "frames in order"),
    "fixed_permutation": Condition("F", "one fixed permutation per clip", ""),
    "reshuffled": Condition("S", "a new permutation in every epoch", ""),
    "rotated": Condition("T", "rotated by a random offset in every epoch", "rotated by random offsets"),
    "common_permutation": Condition("C", "one permutation common to all clips", "the permutation common to all clips"),
    "windows": Condition("W", "frames shuffled within windows, fixed per clip", "frames shuffled within windows"),
    "blocks": Condition("B", "blocks of frames shuffled, fixed per clip", "blocks of frames shuffled"),
    "shuffled": Condition("S", "", "frames shuffled"),
    "reversed": Condition("R", "", "frames reversed"),
}
assert {name for name, condition in CONDITIONS.items() if condition.training} == set(TRAINING_CONDITIONS)

PRIMARY: tuple[TrainingCondition, TrainingCondition] = ("ordered", "fixed_permutation")

# Accuracies that the contrasts are made of, in the order of tables.
ORDERED, SHUFFLED, REVERSED = "ordered/ordered", "ordered/shuffled", "ordered/reversed"
FIXED, FIXED_ORDERED = "fixed_permutation/shuffled", "fixed_permutation/ordered"
RESHUFFLED, RESHUFFLED_ORDERED = "reshuffled/shuffled", "reshuffled/ordered"
ROTATED, COMMON = "rotated/rotated", "common_permutation/common_permutation"
WINDOWS, BLOCKS = "windows/windows", "blocks/blocks"
PAIRS = (ORDERED, SHUFFLED, REVERSED, RESHUFFLED, RESHUFFLED_ORDERED, FIXED, FIXED_ORDERED, ROTATED, COMMON, WINDOWS,
         BLOCKS)  # fmt: skip


def letters(pair: str) -> str:
    """The two letters of an accuracy's name: OS of `ordered/shuffled`."""
    return "".join(CONDITIONS[condition].letter for condition in pair.split("/"))


def described(pair: str) -> tuple[str, str]:
    """Descriptions of the training condition and of the test condition of an accuracy's name."""
    training, test = pair.split("/")
    return CONDITIONS[training].training, CONDITIONS[test].test


def spelled_out(name: str) -> str:
    """The name of a setting or a condition, for people: `fixed permutation` for `fixed_permutation`."""
    return name.replace("_", " ")


# Order-blind heads, recurrent heads, and order-aware heads without recurrence.
DEFAULT_HEADS = (
    *("none", "attention", "set", "best_frame"),
    *("rnn", "gated", "gru", "gru_last", "lstm", "lstm_last"),
    *("conv", "position_attention"),
)
IMBALANCE = 1.5
MIN_EPOCHS = 20
MIN_STEPS = 500  # with fewer, accuracies still rise (benchmarks/learning_curves.py)
MIN_ATTAINABLE = 0.01  # least gain over a constant answer that a margin of `margin_of: attainable` is a share of
SENSITIVITY = ("equal_parameters",)
_MINIMUM = {
    **dict.fromkeys(("runs", "num_permutations", "hidden_dim", "projection_dim"), 1),
    **dict.fromkeys(("folds", "windows", "blocks"), 2),
    "seed": 0,
}
# Settings of the `model` section that are in the recipe, and arguments of `LitClassifier`, under the same name.
MODEL_SETTINGS = ("num_layers", "dropout", "learning_rate", "weight_decay", "class_weighting")


@dataclass(frozen=True)
class OrderSettings:
    """The protocol of `videomem order`.

    Args:
        heads: Heads of `configs/head/` by name, or paths of such YAML files. At least one order-blind head, such as
            `none` or `attention`, is needed for the verdict on the data.
        training_conditions: Frame orders to train on. `ordered` and `fixed_permutation` (one per clip) are required for
            the verdict; `reshuffled` draws new permutations in every epoch, `rotated` new offsets by which the
            frames of a clip are rotated, `common_permutation` one permutation for all clips, `windows` shuffles within
            windows, and `blocks` shuffles blocks of frames.
        runs: Number of runs; each has its own split and seed.
        split: `random` draws group-disjoint folds and draws them again until there are enough; `fixed` takes the
            catalog's train and test splits, so that the verdict is conditional on this training set.
        folds: Folds of a random split; each run tests one of them. Reduced if a class has fewer groups. More folds
            give larger training sets, and training sets with more overlap widen the interval less.
        margin: Largest difference in accuracy that counts as negligible: 0.02 is 2 points.
        margin_of: With `attainable`, the margin is a share of the accuracy that the best head gains over chance and the
            most frequent class; useful where accuracies are low. It is then an estimate, not fixed in advance.
        metric: `accuracy`, or `balanced`: the mean over classes of the accuracy on the clips of the class. `auto` is
            `balanced` if the most frequent class has more than 1.5 times as many clips as the rarest one.
        num_permutations: Random permutations of each test clip, K.
        hidden_dim: State size of every head.
        projection: The map D -> P before every head: `pca`, principal components of the run's training frames, the
            same for all heads and training conditions; `learned`, a linear layer trained with each head; or `none`.
        projection_dim: Dimension P after the projection.
        selection: Epoch to test: `last`, or with `validation` the best epoch of each training job on clips held out
            from training, shown in its own training condition.
        sizes: Shares of the training groups, in (0, 1), at which the value of order is measured as well.
        sensitivity: Additional analyses of the value of order: `equal_parameters` with state sizes that give every head
            as many parameters as the largest one.
        windows: Frames per window of the condition `windows`.
        blocks: Frames per block of the condition `blocks`.
        seed: Seed of the first run; run r has seed + r.
    """

    heads: tuple[str, ...] = DEFAULT_HEADS
    training_conditions: tuple[TrainingCondition, ...] = ("ordered", "fixed_permutation", "reshuffled", "rotated")
    runs: int = 10
    split: Literal["random", "fixed"] = "random"
    folds: int = 5
    margin: float = 0.02
    margin_of: Literal["accuracy", "attainable"] = "accuracy"
    metric: Literal["auto", "accuracy", "balanced"] = "auto"
    num_permutations: int = 20
    hidden_dim: int = 64
    projection: Literal["pca", "learned", "none"] = "pca"
    projection_dim: int = 64
    selection: Literal["last", "validation"] = "last"
    sizes: tuple[float, ...] = ()
    sensitivity: tuple[Literal["equal_parameters"], ...] = ()
    windows: int = 4
    blocks: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, limit in _MINIMUM.items():
            if getattr(self, name) < limit:
                raise VideomemError(f"order.{name} is {getattr(self, name)}, but must be at least {limit}")
        if not 0 < self.margin < 1:
            raise VideomemError(f"order.margin is {self.margin}, but must be in (0, 1): 0.02 is 2 points of accuracy")
        if bad := [size for size in self.sizes if not 0 < size < 1]:
            raise VideomemError(f"order.sizes has {bad[0]}, but shares of the training groups must be in (0, 1)")
        self._check_names()
        if self.selection == "validation" and self.split == "random" and self.folds < 3:
            raise VideomemError(
                f"order.folds is {self.folds}, but order.selection is validation, which needs 3: train, validate, test"
            )

    def negligible(self, attainable: float) -> float:
        """Largest negligible difference, a share of 1, if the best head gains `attainable` over a constant answer."""
        return self.margin * (1.0 if self.margin_of == "accuracy" else max(attainable, MIN_ATTAINABLE))

    def _check_names(self) -> None:
        if not self.heads:
            raise VideomemError("order.heads is empty; name heads of configs/head/, such as gru")
        for name in ("heads", "training_conditions", "sizes", "sensitivity"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise VideomemError(f"order.{name} has duplicates: {', '.join(map(str, values))}; remove them")
        for name, known in (("training_conditions", TRAINING_CONDITIONS), ("sensitivity", SENSITIVITY)):
            if unknown := [value for value in getattr(self, name) if value not in known]:
                raise VideomemError(f"order.{name} has {unknown[0]!r}, but must be among {', '.join(known)}")
        if missing := [condition for condition in PRIMARY if condition not in self.training_conditions]:
            raise VideomemError(
                f"order.training_conditions lacks {missing[0]}; the value of order compares {' and '.join(PRIMARY)}"
            )


@dataclass(frozen=True)
class Recipe:
    """How every head is trained, from the `model` and `trainer` sections of the configs, which `fit` uses as well.

    Args:
        epochs: Passes over the training clips. 0: `MIN_EPOCHS`, or as many as give `MIN_STEPS` steps.
        batch_size: Clips per batch.
        learning_rate: Learning rate of AdamW.
        weight_decay: Weight decay of AdamW, applied to matrices only.
        dropout: Probability of dropping a value in training.
        num_layers: Number of memory layers.
        class_weighting: `none` or `balanced`.
        balanced_sampling: Whether to draw training clips so that all classes are equally frequent.
        gradient_clip_val: Maximum norm of the gradient; None for no limit.
        readout: Class path of the readout of heads whose file names none.
    """

    epochs: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.5
    num_layers: int = 1
    class_weighting: Literal["none", "balanced"] = "none"
    balanced_sampling: bool = False
    gradient_clip_val: float | None = 1.0
    readout: str = "videomem.heads.readout.MeanReadout"

    def __post_init__(self) -> None:
        for name, limit in (("epochs", 0), ("batch_size", 1), ("num_layers", 1)):
            if getattr(self, name) < limit:
                raise VideomemError(f"{name} is {getattr(self, name)}, but must be at least {limit}")

    def for_clips(self, num_clips: int) -> Recipe:
        """The recipe with the number of epochs for a number of training clips."""
        enough = math.ceil(MIN_STEPS / self.steps_per_epoch(num_clips))
        return replace(self, epochs=self.epochs or max(MIN_EPOCHS, enough))

    def steps_per_epoch(self, num_clips: int) -> int:
        """The batches of an epoch of `num_clips` training clips."""
        return math.ceil(num_clips / self.batch_size)

    def num_steps(self, num_clips: int) -> int:
        """The training steps of one training job on `num_clips` clips."""
        return self.epochs * self.steps_per_epoch(num_clips)


@dataclass(frozen=True)
class OrderPlan:
    """The plan that is frozen before the first training; the report states its hash.

    Attributes:
        contrast: The contrast that the verdict is based on.
        settings: The protocol.
        recipe: How heads are trained.
        heads: Class paths and arguments of the memory and, if it is not that of the recipe, the readout of each head.
        num_clips: Number of clips.
        data_sha256: Hash of the features, label, group and split of every clip.
    """

    contrast: str
    settings: OrderSettings
    recipe: Recipe
    heads: dict[str, dict[str, Any]]
    num_clips: int
    data_sha256: str

    def as_plain(self) -> dict[str, Any]:
        return dict(json.loads(self.as_json()))

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, indent=1) + "\n"

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes of `plan.json`."""
        return sha256(self.as_json().encode()).hexdigest()
