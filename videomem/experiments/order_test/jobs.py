"""One training job of an order test: train a head in one condition of one run, then classify the test clips."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.clips import Clips, projected
from videomem.experiments.frame_order_predictions import permute_frames, predict_orders
from videomem.experiments.order_test.folds import RunSplit
from videomem.experiments.order_test.frame_orders import (
    ConditionData,
    common_order,
    perturbations,
    plain_batches,
    test_orders,
    test_perturbation,
)
from videomem.experiments.order_test.heads_of_plan import is_control
from videomem.experiments.order_test.plan import OrderSettings, Recipe
from videomem.experiments.order_test.training_results import TrainingResult
from videomem.heads import LastReadout, MeanReadout
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.plain_data import class_path, from_plain

SCHEMA = 2  # Raise it when a change of code changes training results.
NUM_FORWARD = 2  # permutations that a plain forward pass is measured on as well
CONTROL_SEED = 1_000_003  # added to the seed of a control trained on fixed permutations


@dataclass(frozen=True)
class TrainingJob:
    """One head to train. Together with the clips, these fields determine the result.

    Attributes:
        name: Name of the memory.
        memory: Class path and arguments of the memory.
        condition: Training condition, a key of `conditions.TRAINING_CONDITIONS`.
        run: Number of the run.
        analysis: `primary`, `last`, `equal_parameters`, or a share of the training groups such as `0.5`.
    """

    name: str
    memory: dict[str, Any]
    condition: str
    run: int
    analysis: str = "primary"

    def __hash__(self) -> int:
        return hash((self.name, self.condition, self.run, self.analysis))

    @property
    def is_primary(self) -> bool:
        return self.analysis == "primary"


def job_key(
    job: TrainingJob, clips: Clips, split: RunSplit, settings: OrderSettings, recipe: Recipe, device: str = "cpu"
) -> str:
    """Hash of everything that determines the result of a job; its file in the cache has this name."""
    parts = {"train": split.train.tolist(), "val": split.val.tolist(), "test": split.test.tolist()}
    rows = {name: [(clips.ids[row], int(clips.labels[row])) for row in part] for name, part in parts.items()}
    protocol = {name: value for name, value in asdict(settings).items() if name in _CAUSES}
    seed = job_seed(job, settings, recipe)
    causes = [SCHEMA, torch.__version__, job.memory, job.condition, job.analysis, seed, protocol, asdict(recipe),
              len(clips.class_names), clips.max_frames, rows]  # fmt: skip
    if device.startswith("cuda"):
        causes.append("cuda")
    return sha256(json.dumps(causes, sort_keys=True).encode()).hexdigest()[:32]


_CAUSES = ("num_permutations", "hidden_dim", "projection", "projection_dim", "selection", "windows", "blocks")


def job_seed(job: TrainingJob, settings: OrderSettings, recipe: Recipe) -> int:
    """Seed of initial weights, dropout and the order of clips, the same for all training conditions of a run.

    A control trained on fixed permutations has another seed. With the same seed it would repeat the ordered training
    exactly, and the difference would not show the variation between trainings.
    """
    again = job.condition == "fixed_permutation" and is_control(job.memory, recipe)
    return settings.seed + job.run + (CONTROL_SEED if again else 0)


def train_job(
    job: TrainingJob, clips: Clips, split: RunSplit, settings: OrderSettings, recipe: Recipe, device: str = "cpu"
) -> TrainingResult:
    """Train one head and test it in the test conditions of its training condition.

    Raises:
        VideomemError: If training diverges.
    """
    started, seed = time.perf_counter(), job_seed(job, settings, recipe)
    if settings.projection == "pca":
        clips = projected(clips, split.train, settings.projection_dim)
    torch.manual_seed(seed)
    classifier = new_classifier(job, clips, split, settings, recipe, seed)
    data = ConditionData(clips, split, job.condition, settings, seed, recipe.batch_size, recipe.balanced_sampling)
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
    return _test(job, classifier.eval().to(device), clips, split, settings, epochs, started)


def new_classifier(
    job: TrainingJob, clips: Clips, split: RunSplit, settings: OrderSettings, recipe: Recipe, seed: int
) -> LitClassifier:
    """Returns the untrained classifier of a job."""
    readout = recipe.readout
    if job.analysis == "last":
        readout = class_path(LastReadout if recipe.reads_mean else MeanReadout)
    counts = np.bincount(clips.labels[split.train], minlength=len(clips.class_names))
    arguments = {
        "memory": job.memory,
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


# The settings of `barebones`, except that metrics are kept, because validation needs them.
_SILENT = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
           "num_sanity_val_steps": 0}  # fmt: skip
_OF_RECIPE = ("num_layers", "dropout", "learning_rate", "weight_decay", "class_weighting")


class _KeepBest(Callback):
    """Keeps the weights of the epoch with the best validation accuracy; the first of equal epochs."""

    def __init__(self) -> None:
        self.best, self.epoch, self.state = -1.0, 0, None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        accuracy = float(trainer.callback_metrics["val/accuracy"])
        if accuracy > self.best:
            self.best, self.epoch, self.state = accuracy, trainer.current_epoch, copy.deepcopy(pl_module.state_dict())  # type: ignore[assignment]


@torch.inference_mode()
def _test(
    job: TrainingJob,
    classifier: LitClassifier,
    clips: Clips,
    split: RunSplit,
    settings: OrderSettings,
    epochs: int,
    started: float,
) -> TrainingResult:
    head, trained = classifier.head, time.perf_counter()
    change = _LogitChange()
    parts = [_predict(job, classifier, clips, batch, settings, change) for batch in plain_batches(clips, split.test)]
    blind = all(memory.memoryless for memory in head.memories) and isinstance(head.readout, MeanReadout)
    averaging = blind and job.condition == "ordered" and job.is_primary
    return TrainingResult(
        predicted={name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]},
        frame_right=_frame_right(classifier, clips, split.test) if averaging else None,
        best_position=_best_position(_frame_right(classifier, clips, split.train)) if averaging else -1,
        max_logit_change=_largest(change.permuted_terms),
        max_logit_change_forward=_largest(change.forward),
        num_parameters=sum(parameter.numel() for parameter in head.parameters()),
        label=head.label,
        memoryless=blind,
        epochs=epochs,
        seconds=time.perf_counter() - started,
        seconds_testing=time.perf_counter() - trained,
    )


@dataclass(frozen=True)
class _LogitChange:
    """Largest changes of a logit by shuffling, one value per permutation and batch."""

    permuted_terms: list[Tensor] = field(default_factory=list)
    forward: list[Tensor] = field(default_factory=list)


def _predict(
    job: TrainingJob,
    classifier: LitClassifier,
    clips: Clips,
    batch: VideoBatch,
    settings: OrderSettings,
    change: _LogitChange,
) -> dict[str, NDArray[np.int32]]:
    """Predicted classes (K, B) of a batch by frame order; appends to `change` if the job was trained in order."""
    head, batch = classifier.head, VideoBatch(*(part.to(classifier.device) for part in batch))
    terms_BTK = head.project(batch.x)
    logits_BC = head.forward_projected(terms_BTK, batch.lengths)
    if not torch.isfinite(logits_BC).all():
        raise VideomemError(
            f"{job.name}, training condition {job.condition}, run {job.run}: logits are not finite, training diverged; "
            "lower model.learning_rate"
        )
    predicted = {"ordered": logits_BC.argmax(1).unsqueeze(0)}
    for name, orders_KBT in _frame_orders(job, clips, batch.clip.tolist(), batch.x.shape[1], settings).items():
        orders_KBT = orders_KBT.to(classifier.device)
        after_projection = partial(head.forward_projected, lengths_B=batch.lengths)
        permuted = list(predict_orders(after_projection, partial(permute_frames, terms_BTK), orders_KBT))
        predicted[name] = torch.stack([logits.argmax(1) for logits in permuted])
        if name == "shuffle" and job.condition == "ordered":
            plain_BC = head(batch.x, batch.lengths)
            change.permuted_terms.extend((logits - logits_BC).abs().max() for logits in permuted)
            whole = predict_orders(
                partial(head, lengths_B=batch.lengths), partial(permute_frames, batch.x), orders_KBT[:NUM_FORWARD]
            )
            change.forward.extend((moved_BC - plain_BC).abs().max() for moved_BC in whole)
    return {name: value.cpu().numpy().astype(np.int32) for name, value in predicted.items()}


def _largest(values: list[Tensor]) -> float:
    return float(torch.stack(values).max()) if values else float("nan")


def _frame_orders(
    job: TrainingJob, clips: Clips, rows: list[int], num_frames: int, settings: OrderSettings
) -> dict[str, Tensor]:
    """Frame orders (K, B, T) of each perturbation that a job is tested on, in addition to the frames in order."""
    if job.condition == "common_permutation":
        seed = settings.seed + job.run
        orders = [common_order(int(clips.lengths[row]), num_frames, seed) for row in rows]
        return {"common_permutation": torch.from_numpy(np.stack(orders, axis=1))}
    if job.condition == "ordered" and job.is_primary:
        wanted = perturbations(clips.max_frames, settings)
    else:
        wanted = (test_perturbation(job.condition, clips.max_frames, settings),)
    orders_of = {
        one.label: [test_orders(clips, row, one, settings.num_permutations)[:, :num_frames] for row in rows]
        for one in wanted
    }
    return {label: torch.from_numpy(np.stack(orders, axis=1)) for label, orders in orders_of.items()}


def _frame_right(classifier: LitClassifier, clips: Clips, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each single frame is classified correctly, (N, T); False on padding."""
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
