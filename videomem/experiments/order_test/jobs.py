"""One cell of an order test: a head trained in one arm of one run, and what it says of the run's test clips."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.clips import Clips
from videomem.experiments.frame_order_predictions import permute_frames
from videomem.experiments.order_test.conditions import (
    ArmData,
    common_order,
    condition_of,
    perturbations,
    plain_batches,
    test_orders,
)
from videomem.experiments.order_test.folds import RunSplit
from videomem.experiments.order_test.heads_of_plan import is_control
from videomem.experiments.order_test.plan import OrderSettings, Recipe
from videomem.experiments.projection import projected
from videomem.heads import LastReadout, MeanReadout
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.atomic import write_atomic
from videomem.utils.plain_data import class_path, from_plain

SCHEMA = 2  # Raise it when a change of code changes what a cell is.
NUM_FORWARD = 2  # shuffles that are also measured by a plain forward
CONTROL_SEED = 1_000_003  # added to the seed of a control's arm F


@dataclass(frozen=True)
class Cell:
    """What to train: everything that decides its outcome, but for the clips.

    Attributes:
        name: The memory's name.
        memory: Plain description of the memory.
        arm: One of `plan.ARMS`.
        run: Number of the run.
        analysis: `primary`, `last`, `equal_parameters`, or a share of the training groups such as `0.5`.
    """

    name: str
    memory: dict[str, Any]
    arm: str
    run: int
    analysis: str = "primary"

    def __hash__(self) -> int:
        return hash((self.name, self.arm, self.run, self.analysis))

    @property
    def is_primary(self) -> bool:
        return self.analysis == "primary"


@dataclass(frozen=True)
class Outcome:
    """What a trained head says of its run's test clips, N of them.

    Attributes:
        predicted: Classes named, (K, N), by condition: `ordered`, `common`, or a label of the perturbation suite.
        frame_right: Whether each frame alone gives the right class, (N, T), for an averaging head trained in order.
        best_position: The frame position that alone is right most often on the training clips; -1 where not asked.
        max_logit_change: Largest change of a logit by a shuffle, terms permuted by index; nan where not measured.
        max_logit_change_forward: The same by a plain forward.
        num_parameters: Learned numbers of the head.
        label: The memory with its parameters.
        memoryless: Whether it has no memory and a mean readout, so that no order can matter to it.
        epochs: Epochs that the kept weights had.
        seconds: Time to train and to test.
        seconds_testing: Of it, the time to test.
    """

    predicted: dict[str, NDArray[np.int32]]
    frame_right: NDArray[np.bool_] | None
    best_position: int
    max_logit_change: float
    max_logit_change_forward: float
    num_parameters: int
    label: str
    memoryless: bool
    epochs: int
    seconds: float
    seconds_testing: float


def cell_key(
    cell: Cell, clips: Clips, split: RunSplit, settings: OrderSettings, recipe: Recipe, device: str = "cpu"
) -> str:
    """Hash of every cause of a cell's outcome: the name of its file."""
    parts = {"train": split.train.tolist(), "val": split.val.tolist(), "test": split.test.tolist()}
    rows = {name: [(clips.ids[row], int(clips.labels[row])) for row in part] for name, part in parts.items()}
    protocol = {name: value for name, value in asdict(settings).items() if name in _CAUSES}
    seed = cell_seed(cell, settings, recipe)
    causes = [SCHEMA, torch.__version__, cell.memory, cell.arm, cell.analysis, seed, protocol, asdict(recipe),
              len(clips.class_names), clips.max_frames, rows]  # fmt: skip
    if device.startswith("cuda"):
        causes.append("cuda")
    return sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()[:32]


_CAUSES = ("num_permutations", "hidden_dim", "projection", "projection_dim", "selection", "windows", "blocks")


def cell_seed(cell: Cell, settings: OrderSettings, recipe: Recipe) -> int:
    """Seed of start, dropout and order of clips: the same for all arms of a run.

    But a control's arm F has another: with the same seed it would be the same training, and would not show what
    training again does.
    """
    again = cell.arm == "F" and is_control(cell.memory, recipe)
    return settings.seed + cell.run + (CONTROL_SEED if again else 0)


def train_cell(
    cell: Cell, clips: Clips, split: RunSplit, settings: OrderSettings, recipe: Recipe, device: str = "cpu"
) -> Outcome:
    """Train one head and test it in all conditions that its arm is asked for.

    Raises:
        VideomemError: If training diverges.
    """
    started, seed = time.perf_counter(), cell_seed(cell, settings, recipe)
    if settings.projection == "pca":
        clips = projected(clips, split.train, settings.projection_dim)
    torch.manual_seed(seed)
    classifier = new_classifier(cell, clips, split, settings, recipe, seed)
    data = ArmData(clips, split, cell.arm, settings, seed, recipe.batch_size, recipe.balanced_sampling)
    best = _KeepBest() if settings.selection == "validation" else None
    Trainer(
        max_epochs=recipe.epochs,
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=[int(device.partition(":")[2] or 0)] if device.startswith("cuda") else 1,
        gradient_clip_val=recipe.gradient_clip_val,
        deterministic=True,
        **({"callbacks": [best], **_SILENT} if best else {"barebones": True}),
    ).fit(classifier, datamodule=data)
    if best and best.state is not None:
        classifier.load_state_dict(best.state)
    epochs = best.epoch + 1 if best else recipe.epochs
    return _test(cell, classifier.eval().to(device), clips, split, settings, epochs, started)


def new_classifier(
    cell: Cell, clips: Clips, split: RunSplit, settings: OrderSettings, recipe: Recipe, seed: int
) -> LitClassifier:
    """The untrained classifier of a cell."""
    readout = recipe.readout
    if cell.analysis == "last":
        readout = class_path(LastReadout if recipe.reads_mean else MeanReadout)
    counts = np.bincount(clips.labels[split.train], minlength=len(clips.class_names))
    arguments = {
        "memory": cell.memory,
        "feature_dim": clips.feature_dim,
        "class_names": list(clips.class_names),
        "class_counts": counts.tolist(),
        "readout": {"class_path": readout},
        "projection_dim": settings.projection_dim if settings.projection == "learned" else None,
        "seed": seed,
        **{name: getattr(recipe, name) for name in _OF_RECIPE},
    }
    classifier = from_plain(LitClassifier, arguments)
    assert isinstance(classifier, LitClassifier)
    return classifier


# What `barebones` leaves out, but for the metrics that validation needs.
_SILENT = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
           "num_sanity_val_steps": 0}  # fmt: skip
_OF_RECIPE = ("num_layers", "dropout", "learning_rate", "weight_decay", "class_weighting")


class _KeepBest(Callback):
    """Keep the weights of the epoch with the best validation accuracy, the first of equals."""

    def __init__(self) -> None:
        self.best, self.epoch, self.state = -1.0, 0, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        accuracy = float(trainer.callback_metrics["val/accuracy"])
        if accuracy > self.best:
            self.best, self.epoch, self.state = accuracy, trainer.current_epoch, copy.deepcopy(pl_module.state_dict())  # type: ignore[assignment]


@torch.inference_mode()
def _test(
    cell: Cell,
    classifier: LitClassifier,
    clips: Clips,
    split: RunSplit,
    settings: OrderSettings,
    epochs: int,
    started: float,
) -> Outcome:
    head, device, trained = classifier.head, classifier.device, time.perf_counter()
    parts: list[dict[str, NDArray[np.int32]]] = []
    change: list[Tensor] = []
    change_forward: list[Tensor] = []
    for batch in plain_batches(clips, split.test):
        batch = VideoBatch(*(part.to(device) for part in batch))
        terms_BTK = head.project(batch.x)
        logits_BC = head.forward_projected(terms_BTK, batch.lengths)
        if not torch.isfinite(logits_BC).all():
            raise VideomemError(
                f"{cell.name}, arm {cell.arm}, run {cell.run}: logits are not finite, so its training diverged; "
                "lower model.learning_rate"
            )
        predicted = {"ordered": logits_BC.argmax(1).unsqueeze(0)}
        for name, orders_KBT in _conditions(cell, clips, batch.clip.tolist(), batch.x.shape[1], settings).items():
            orders_KBT = orders_KBT.to(device)
            answers = [head.forward_projected(permute_frames(terms_BTK, order), batch.lengths) for order in orders_KBT]
            predicted[name] = torch.stack([answer.argmax(1) for answer in answers])
            if name == "shuffle" and cell.arm == "O":
                plain_BC = head(batch.x, batch.lengths)
                change += [(answer - logits_BC).abs().max() for answer in answers]
                change_forward += [
                    (head(permute_frames(batch.x, order), batch.lengths) - plain_BC).abs().max()
                    for order in orders_KBT[:NUM_FORWARD]
                ]
        parts.append({name: value.cpu().numpy().astype(np.int32) for name, value in predicted.items()})
    blind = all(memory.memoryless for memory in head.memories) and isinstance(head.readout, MeanReadout)
    averaging = blind and cell.arm == "O" and cell.is_primary
    return Outcome(
        predicted={name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]},
        frame_right=_frame_right(classifier, clips, split.test) if averaging else None,
        best_position=_best_position(_frame_right(classifier, clips, split.train)) if averaging else -1,
        max_logit_change=_largest(change),
        max_logit_change_forward=_largest(change_forward),
        num_parameters=sum(parameter.numel() for parameter in head.parameters()),
        label=head.label,
        memoryless=blind,
        epochs=epochs,
        seconds=time.perf_counter() - started,
        seconds_testing=time.perf_counter() - trained,
    )


def _largest(values: list[Tensor]) -> float:
    return float(torch.stack(values).max()) if values else float("nan")


def _conditions(
    cell: Cell, clips: Clips, rows: list[int], num_frames: int, settings: OrderSettings
) -> dict[str, Tensor]:
    """Frame orders (K, B, T) of each condition that an arm is tested in, beside the clips in order."""
    if cell.arm == "C":
        seed = settings.seed + cell.run
        orders = [common_order(int(clips.lengths[row]), num_frames, seed) for row in rows]
        return {"common": torch.from_numpy(np.stack(orders, axis=1))}
    if cell.arm == "O" and cell.is_primary:
        wanted = perturbations(clips.max_frames, settings)
    else:
        wanted = (condition_of(cell.arm, clips.max_frames, settings),)
    orders_of = {
        one.label: [test_orders(clips, row, one, settings.num_permutations)[:, :num_frames] for row in rows]
        for one in wanted
    }
    return {label: torch.from_numpy(np.stack(orders, axis=1)) for label, orders in orders_of.items()}


def _frame_right(classifier: LitClassifier, clips: Clips, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each frame alone is classified rightly, (N, T); padding is False."""
    parts = []
    for batch in plain_batches(clips, rows):
        batch = VideoBatch(*(part.to(classifier.device) for part in batch))
        logits_BTC = classifier.head.frame_logits(batch.x, batch.lengths)
        right = (logits_BTC.argmax(2) == batch.labels[:, None]).cpu().numpy()
        right[np.arange(right.shape[1])[None] >= batch.lengths.cpu().numpy()[:, None]] = False
        parts.append(np.pad(right, ((0, 0), (0, clips.max_frames - right.shape[1]))))
    return np.concatenate(parts)


def _best_position(right_NT: NDArray[np.bool_]) -> int:
    return int(right_NT.sum(0).argmax())


# The cache: one file per cell, whole or not at all.


def write_outcome(path: Path, outcome: Outcome) -> None:
    buffer = BytesIO()
    facts = {name: value for name, value in vars(outcome).items() if name not in ("predicted", "frame_right")}
    arrays: dict[str, Any] = {f"predicted {name}": value for name, value in outcome.predicted.items()}
    if outcome.frame_right is not None:
        arrays["frame_right"] = outcome.frame_right
    np.savez_compressed(buffer, facts=np.array(json.dumps(facts)), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read_outcome(path: Path) -> Outcome:
    """An outcome as it was written; nothing in the file is unpickled.

    Raises:
        VideomemError: If the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            predicted = {
                name.removeprefix("predicted "): file[name] for name in file.files if name.startswith("predicted ")
            }
            return Outcome(predicted, file["frame_right"] if "frame_right" in file.files else None, **facts)
    except Exception as error:
        raise VideomemError(f"{path}: a damaged cell ({type(error).__name__}); delete it and run again") from error
