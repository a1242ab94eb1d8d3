"""The analysis plan of an order test: everything that is decided before the first training, and its hash."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Literal

from videomem.errors import VideomemError

Arm = Literal["O", "F", "S", "C", "W", "B"]
ARMS: dict[str, str] = {
    "O": "in order",
    "F": "one fixed permutation per clip",
    "S": "reshuffled every epoch",
    "C": "one permutation common to all clips",
    "W": "shuffled within windows, fixed per clip",
    "B": "blocks of frames shuffled, fixed per clip",
}
PRIMARY = ("O", "F")
SENSITIVITY = ("last", "equal_parameters")
READOUTS = tuple(f"videomem.heads{module}.{kind}Readout" for module in ("", ".readout") for kind in ("Mean", "Last"))


@dataclass(frozen=True)
class OrderSettings:
    """The protocol of `videomem order`.

    Args:
        memories: Heads by the names of `configs/head/`, or paths of such YAML files. `none` is the control.
        arms: Ways to train: O in order and F fixed shuffle, which the verdict needs; S reshuffled every epoch, C one
            permutation for all clips, W shuffled within windows, B blocks shuffled.
        runs: Runs, each a split and a seed.
        split: `random` draws group-disjoint folds, repeated until there are enough; `fixed` takes the catalog's train
            and test splits, and the verdict is conditional on this training set.
        folds: Folds of a random split, each run tests on one; fewer where a class has fewer groups. More folds train
            on more, and training sets that overlap more widen the interval less.
        margin: What is negligible, as a share of accuracy: 0.02 is 2 points.
        num_permutations: K, shuffles of each test clip.
        hidden_dim: State size of every memory.
        projection: The map D -> P before every memory: `pca`, principal components of the run's training frames, one
            for all memories and arms; or `learned`, a linear layer that each head learns; or `none`.
        projection_dim: P.
        selection: `last` takes the last epoch; `validation` each arm's best epoch on clips held out from
            training, in its own condition.
        sizes: Shares of the training groups, in (0, 1), at which the value of order is measured too.
        sensitivity: Further analyses of O and F: `last` with the other readout, `equal_parameters` with state
            sizes that give every memory the parameters of the largest.
        windows: Frames in a window of arm W.
        blocks: Frames in a block of arm B.
        seed: First seed; run r has seed + r.
    """

    memories: tuple[str, ...] = ("none", "leaky", "rnn", "gated", "gru", "lstm")
    arms: tuple[Arm, ...] = ("O", "F", "S", "C", "W", "B")
    runs: int = 10
    split: Literal["random", "fixed"] = "random"
    folds: int = 10
    margin: float = 0.02
    num_permutations: int = 20
    hidden_dim: int = 64
    projection: Literal["pca", "learned", "none"] = "pca"
    projection_dim: int = 64
    selection: Literal["last", "validation"] = "last"
    sizes: tuple[float, ...] = ()
    sensitivity: tuple[Literal["last", "equal_parameters"], ...] = ()
    windows: int = 4
    blocks: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        least = {
            "runs": 1,
            "folds": 2,
            "num_permutations": 1,
            "hidden_dim": 1,
            "projection_dim": 1,
            "windows": 2,
            "blocks": 2,
            "seed": 0,
        }
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise VideomemError(f"order.{name} is {getattr(self, name)}, but must be at least {limit}")
        if not 0 < self.margin < 1:
            raise VideomemError(f"order.margin is {self.margin}, but must be in (0, 1): 0.02 is 2 points of accuracy")
        if bad := [size for size in self.sizes if not 0 < size < 1]:
            raise VideomemError(f"order.sizes has {bad[0]}, but shares of the training groups must be in (0, 1)")
        for name in ("memories", "arms", "sizes", "sensitivity"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise VideomemError(f"order.{name} names something twice: {', '.join(map(str, values))}")
        for name, known in (("arms", ARMS), ("sensitivity", SENSITIVITY)):
            if unknown := [value for value in getattr(self, name) if value not in known]:
                raise VideomemError(f"order.{name} has {unknown[0]!r}, but knows {', '.join(known)}")
        if self.selection == "validation" and self.split == "random" and self.folds < 3:
            raise VideomemError(
                f"order.folds is {self.folds}, but order.selection is validation, which needs 3: train, validate, test"
            )
        if missing := [arm for arm in PRIMARY if arm not in self.arms]:
            raise VideomemError(f"order.arms lacks {missing[0]}; the value of order is OO - FS and needs arms O and F")
        if not self.memories:
            raise VideomemError("order.memories is empty; name heads of configs/head/, such as gru")


@dataclass(frozen=True)
class Recipe:
    """How every head is trained: the `model` and `trainer` sections of the configs that `fit` reads too.

    Args:
        epochs: Passes over the training clips.
        batch_size: Clips per batch.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, on matrices only.
        dropout: Share of values dropped in training.
        num_layers: Layers of memory.
        class_weighting: `none` or `balanced`.
        balanced_sampling: Draw training clips so that classes are equally frequent.
        gradient_clip_val: Largest norm of the gradient; null for no limit.
        readout: Class path of the primary readout.
    """

    epochs: int = 20
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
        for name in ("epochs", "batch_size", "num_layers"):
            if getattr(self, name) < 1:
                raise VideomemError(f"{name} is {getattr(self, name)}, but must be at least 1")
        if self.readout not in READOUTS:
            raise VideomemError(f"model.readout is {self.readout}, but the order test knows {', '.join(READOUTS[:2])}")

    @property
    def reads_mean(self) -> bool:
        """Whether the readout is the mean over frames, which alone leaves a head without memory blind to order."""
        return self.readout.endswith(".MeanReadout")


@dataclass(frozen=True)
class OrderPlan:
    """Frozen before the first training and hashed into the report.

    Attributes:
        contrast: What the verdict is judged from.
        settings: The protocol.
        recipe: How heads are trained.
        memories: Plain description of each memory, state size included.
        num_clips: Clips of the data.
        data_sha256: Hash over what every clip's features, label, group and split are.
    """

    contrast: str
    settings: OrderSettings
    recipe: Recipe
    memories: dict[str, dict[str, Any]]
    num_clips: int
    data_sha256: str

    def as_plain(self) -> dict[str, Any]:
        return dict(json.loads(self.as_json()))

    def as_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, indent=1) + "\n"

    @property
    def sha256(self) -> str:
        """Hash of `plan.json`, byte for byte."""
        return sha256(self.as_json().encode()).hexdigest()
