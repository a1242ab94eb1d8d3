"""Training of heads: train one in one condition of a run, classify its test clips, and do so for all jobs of a plan."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.clips import Clips, projected
from videomem.experiments.frame_order_predictions import permute_frames, predict_orders
from videomem.experiments.order_test.data import (
    ConditionData,
    RunSplit,
    common_order,
    perturbations,
    plain_batches,
    test_orders,
    test_perturbation,
)
from videomem.experiments.order_test.jobs import (
    TrainingJob,
    TrainingResult,
    in_cache,
    job_seed,
    read_training_results,
    write_training_result,
)
from videomem.experiments.order_test.plan import MODEL_SETTINGS, OrderPlan, OrderSettings, Recipe
from videomem.heads import MeanReadout
from videomem.training.lit_classifier import LitClassifier
from videomem.utils.parallel_jobs import run_cached
from videomem.utils.plain_data import from_plain

NUM_FORWARD = 2  # permutations that a plain forward pass is measured on as well
# The settings of `barebones`, except that metrics are kept, because validation needs them.
_SILENT = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
           "num_sanity_val_steps": 0}  # fmt: skip


def run_jobs(
    plan: OrderPlan,
    clips: Clips,
    cache: Path,
    num_processes: int = 1,
    devices: Sequence[str] = ("cpu",),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[TrainingJob, TrainingResult]:
    """Train all jobs without a result in the cache, and return the results of all jobs.

    Args:
        plan: The plan.
        clips: The clips of the plan.
        cache: Folder of training results. Each is written when its job finishes, so an interrupted test can resume.
        num_processes: Training jobs in parallel; 1 trains in this process.
        devices: Devices that training jobs are assigned to in turn.
        progress: Called with the number of finished jobs and the number of all jobs.
    Raises:
        VideomemError: If a training diverges, or a process is killed.
    """
    jobs = in_cache(plan, clips, cache, devices[0])
    train = partial(_train_and_write, settings=plan.settings, recipe=plan.recipe)
    calls = {path: (job, split) for job, (split, path) in jobs.items()}
    run_cached(train, calls, clips, num_processes, progress, in_turn=devices)
    return read_training_results(plan, clips, jobs)


def _train_and_write(
    job: TrainingJob, split: RunSplit, device: str, path: Path, clips: Clips, *, settings: OrderSettings, recipe: Recipe
) -> None:
    write_training_result(path, train_job(job, clips, split, settings, recipe, device))


def train_job(
    job: TrainingJob, clips: Clips, split: RunSplit, settings: OrderSettings, recipe: Recipe, device: str = "cpu"
) -> TrainingResult:
    """Train one head and test it in the test conditions of its training condition.

    Raises:
        VideomemError: If training diverges.
    """
    started, seed = time.perf_counter(), job_seed(job, settings)
    if settings.projection == "pca":
        clips = projected(clips, split.train, settings.projection_dim)
    torch.manual_seed(seed)
    classifier = new_classifier(job, clips, split, settings, recipe, seed)
    data = ConditionData(clips, split, job.condition, settings, seed, recipe.batch_size, recipe.balanced_sampling)
    best = _KeepBest() if settings.selection == "validation" else None
    losses = _recorded_losses(classifier, recipe.epochs)
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
    means = [float(torch.stack(one).mean()) for one in losses]
    return _test(job, classifier.eval().to(device), clips, split, settings, epochs, means, started)


def new_classifier(
    job: TrainingJob, clips: Clips, split: RunSplit, settings: OrderSettings, recipe: Recipe, seed: int
) -> LitClassifier:
    """Returns the untrained classifier of a job."""
    counts = np.bincount(clips.labels[split.train], minlength=len(clips.class_names))
    arguments = {
        **job.head,
        "feature_dim": clips.feature_dim,
        "class_names": list(clips.class_names),
        "class_counts": counts.tolist(),
        "projection_dim": settings.projection_dim if settings.projection == "learned" else None,
        "seed": seed,
        **{name: getattr(recipe, name) for name in MODEL_SETTINGS},
    }
    classifier = from_plain(LitClassifier, arguments)
    assert isinstance(classifier, LitClassifier)
    return classifier


def _recorded_losses(classifier: LitClassifier, epochs: int) -> list[list[Tensor]]:
    """The training losses of each epoch, filled in by a hook, because a barebones trainer has no callbacks."""
    losses: list[list[Tensor]] = [[] for _ in range(epochs)]

    def record(_: object, __: object, loss: Tensor) -> None:
        if classifier.training:
            losses[classifier.current_epoch].append(loss.detach())

    classifier.loss.register_forward_hook(record)
    return losses


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
    losses: list[float],
    started: float,
) -> TrainingResult:
    head, trained = classifier.head, time.perf_counter()
    changes: tuple[list[Tensor], list[Tensor]] = ([], [])
    parts = [_predict(job, classifier, clips, batch, settings, *changes) for batch in plain_batches(clips, split.test)]
    largest, largest_forward = (float(torch.stack(values).max()) if values else float("nan") for values in changes)
    averaging = head.order_blind and isinstance(head.readout, MeanReadout) and job.has_suite
    return TrainingResult(
        predicted={name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]},
        frame_right=_frame_right(classifier, clips, split.test) if averaging else None,
        best_position=int(_frame_right(classifier, clips, split.train).sum(0).argmax()) if averaging else -1,
        max_logit_change=largest,
        max_logit_change_forward=largest_forward,
        num_parameters=sum(parameter.numel() for parameter in head.parameters()),
        label=head.label,
        order_blind=head.order_blind,
        losses=losses,
        epochs=epochs,
        seconds=time.perf_counter() - started,
        seconds_testing=time.perf_counter() - trained,
    )


def _predict(
    job: TrainingJob,
    classifier: LitClassifier,
    clips: Clips,
    batch: VideoBatch,
    settings: OrderSettings,
    changes: list[Tensor],
    changes_forward: list[Tensor],
) -> dict[str, NDArray[np.int32]]:
    """Predicted classes (K, B) of a batch by frame order.

    If the job was trained in order, the largest changes of a logit by each shuffle are appended to the last arguments.
    """
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
            changes += [(logits - logits_BC).abs().max() for logits in permuted]
            forward, plain_BC = partial(head, lengths_B=batch.lengths), head(batch.x, batch.lengths)
            whole = predict_orders(forward, partial(permute_frames, batch.x), orders_KBT[:NUM_FORWARD])
            changes_forward += [(moved_BC - plain_BC).abs().max() for moved_BC in whole]
    return {name: value.cpu().numpy().astype(np.int32) for name, value in predicted.items()}


def _frame_orders(
    job: TrainingJob, clips: Clips, rows: list[int], num_frames: int, settings: OrderSettings
) -> dict[str, Tensor]:
    """Frame orders (K, B, T) of each perturbation that a job is tested on, in addition to the frames in order."""
    if job.condition == "common_permutation":
        seed = settings.seed + job.run
        orders = {job.condition: [common_order(int(clips.lengths[row]), num_frames, seed) for row in rows]}
    else:
        own = test_perturbation(job.condition, clips.max_frames, settings)
        orders = {
            one.label: [test_orders(clips, row, one, settings.num_permutations)[:, :num_frames] for row in rows]
            for one in (perturbations(clips.max_frames, settings) if job.has_suite else (own,))
        }
    return {label: torch.from_numpy(np.stack(of_clips, axis=1)) for label, of_clips in orders.items()}


def _frame_right(classifier: LitClassifier, clips: Clips, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each single frame is classified correctly, (N, T); False on padding."""
    parts = []
    for batch in plain_batches(clips, rows):
        batch = VideoBatch(*(part.to(classifier.device) for part in batch))
        logits_BTC = classifier.head.frame_outputs(batch.x, batch.lengths)
        right = (logits_BTC.argmax(2) == batch.labels[:, None]).cpu().numpy()
        right[np.arange(right.shape[1])[None] >= batch.lengths.cpu().numpy()[:, None]] = False
        parts.append(np.pad(right, ((0, 0), (0, clips.max_frames - right.shape[1]))))
    return np.concatenate(parts)
