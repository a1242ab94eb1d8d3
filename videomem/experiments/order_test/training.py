"""Training of heads: train stacks of them, classify the test clips of each, and do so for all jobs of a plan."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from videomem.batch import VideoBatch
from videomem.errors import VideomemError
from videomem.experiments.clips import Clips, projected
from videomem.experiments.frame_order_predictions import permute_frames, predict_orders
from videomem.experiments.order_test.data import (
    ConditionData,
    common_order,
    perturbations,
    plain_batches,
    test_orders,
    test_perturbation,
)
from videomem.experiments.order_test.jobs import TrainingJob, in_cache, job_seed
from videomem.experiments.order_test.plan import MODEL_SETTINGS, OrderPlan, OrderSettings, Recipe
from videomem.experiments.order_test.run_splits import RunSplit
from videomem.experiments.order_test.training_results import (
    TrainingResult,
    read_training_result,
    read_training_results,
    write_training_result,
)
from videomem.heads import MeanReadout
from videomem.training.lit_classifier import LitClassifier
from videomem.training.stacked import StackedClassifiers
from videomem.utils.parallel_jobs import Runner, run_cached
from videomem.utils.plain_data import from_plain

NUM_FORWARD = 2  # permutations that a plain forward pass is measured on as well
MAX_STACK = 16  # heads trained at once; more are hardly faster, and need more memory
MAX_STACKED_VALUES = 2**24  # largest number of features in the batches of a step


def run_jobs(
    plan: OrderPlan,
    clips: Clips,
    cache: Path,
    num_processes: int = 1,
    devices: Sequence[str] = ("cpu",),
    progress: Callable[[int, int], None] = lambda done, total: None,
    finished: Callable[[TrainingJob, Mapping[str, float]], None] = lambda job, accuracies: None,
    runner: Runner | None = None,
) -> dict[TrainingJob, TrainingResult]:
    """Train all jobs without a result in the cache, and return the results of all jobs.

    Args:
        plan: The plan.
        clips: The clips of the plan.
        cache: Folder of training results. Each is written when it is tested, so an interrupted test can resume.
        num_processes: Stacks of training jobs in parallel; 1 trains in this process.
        devices: Devices that the stacks are assigned to in turn.
        progress: Called with the number of finished jobs and the number of all jobs.
        finished: Called with each job that is trained now, and its accuracy on the test clips of its run in each frame
            order.
        runner: Trains the stacks elsewhere, such as on a Ray cluster; None: on this machine.
    Raises:
        VideomemError: If a training diverges, or a process is killed.
    """
    jobs = in_cache(plan, clips, cache, devices[0])
    missing = {job: split for job, (split, path) in jobs.items() if not path.is_file()}
    largest = min(MAX_STACK, -(-len(missing) // num_processes) or 1)
    done = (path for job, (_, path) in jobs.items() if job not in missing)
    calls: dict[tuple[Path, ...], tuple[Any, ...]] = {(path,): () for path in done}
    for stack in stacks_of(missing, clips, plan, largest):
        calls[tuple(jobs[job][1] for job in stack)] = ({job: missing[job] for job in stack},)
    train = partial(_train_and_write, settings=plan.settings, recipe=plan.recipe)
    of_file = {path: (job, clips.labels[split.test]) for job, (split, path) in jobs.items()}

    def tell(paths: Sequence[Path]) -> None:
        for path in paths:
            job, labels = of_file[path]
            predicted = read_training_result(path).predicted
            finished(job, {name: float((answers == labels).mean()) for name, answers in predicted.items()})

    run_cached(train, calls, clips, num_processes, progress, devices, tell, runner)
    return read_training_results(plan, clips, jobs)


def stacks_of(
    jobs: Mapping[TrainingJob, RunSplit], clips: Clips, plan: OrderPlan, largest: int = MAX_STACK
) -> list[tuple[TrainingJob, ...]]:
    """Jobs that can be trained at once: heads of the same architecture, trained for the same number of steps.

    Stacks are ordered by run, so that an interrupted test has complete runs.
    """
    settings, batch_size = plan.settings, plan.recipe.batch_size
    groups: dict[tuple[str, str, int, int], list[TrainingJob]] = {}
    for job, split in jobs.items():
        dim = clips.feature_dim
        if settings.projection == "pca":
            dim = min(dim, settings.projection_dim, int(clips.lengths[split.train].sum()))
        key = (job.name, job.analysis, dim, plan.recipe.steps_per_epoch(len(split.train)))
        groups.setdefault(key, []).append(job)
    stacks = []
    for (_, _, dim, _), alike in groups.items():
        size = max(min(largest, MAX_STACKED_VALUES // (dim * clips.max_frames * batch_size)), 1)
        stacks += [tuple(alike[start : start + size]) for start in range(0, len(alike), size)]
    return sorted(stacks, key=lambda stack: stack[0].run)


def _train_and_write(
    jobs: Mapping[TrainingJob, RunSplit], device: str, paths: Sequence[Path], clips: Clips, *, settings: OrderSettings,
    recipe: Recipe,
) -> None:  # fmt: skip
    for path, result in zip(paths, train_jobs(jobs, clips, settings, recipe, device), strict=True):
        write_training_result(path, result)


def train_jobs(
    jobs: Mapping[TrainingJob, RunSplit], clips: Clips, settings: OrderSettings, recipe: Recipe, device: str = "cpu"
) -> Iterator[TrainingResult]:
    """Train heads of one stack at once, and test each in the test conditions of its training condition.

    Args:
        jobs: The jobs of a stack with their splits; see `stacks_of`.
        clips: The clips.
        settings: The protocol.
        recipe: How heads are trained.
        device: Device to train and test on.
    Raises:
        VideomemError: If a training diverges.
    """
    started = time.perf_counter()
    classifiers, parts = zip(*(untrained(*pair, clips, settings, recipe) for pair in jobs.items()), strict=True)
    best = _KeepBest(parts) if settings.selection == "validation" else None
    stack = StackedClassifiers(classifiers, best)
    on_gpu = device.startswith("cuda")
    Trainer(
        max_epochs=recipe.epochs,
        accelerator="gpu" if on_gpu else "cpu",
        devices=[int(device.partition(":")[2] or 0)] if on_gpu else 1,
        gradient_clip_val=recipe.gradient_clip_val,
        deterministic=on_gpu,  # On a CPU all operations are, and the setting would slow them down.
        barebones=True,
    ).fit(stack, datamodule=StackedData(parts))
    stack.unstack()
    losses_ME = torch.stack(stack.losses).unflatten(0, (recipe.epochs, -1)).mean(1).T.tolist()
    seconds = (time.perf_counter() - started) / len(jobs)
    for number, (job, split) in enumerate(jobs.items()):
        classifier, epochs = classifiers[number], recipe.epochs
        if best:
            classifier.head.load_state_dict(best.states[number])
            epochs = best.epochs[number]
        classifier = classifier.eval().to(device)
        yield _test(job, classifier, parts[number].clips, split, settings, epochs, losses_ME[number], seconds)


class StackedData(LightningDataModule):
    """The training batches of all parts, step by step."""

    def __init__(self, parts: Sequence[ConditionData]) -> None:
        super().__init__()
        self._parts = parts

    def train_dataloader(self) -> list[DataLoader[VideoBatch]]:
        for part in self._parts:
            part.trainer = self.trainer  # For the epoch.
        return [part.train_dataloader() for part in self._parts]


class _KeepBest:
    """Keeps the weights of each classifier's epoch with the best validation accuracy; the first of equal epochs."""

    def __init__(self, parts: Sequence[ConditionData]) -> None:
        self._batches = [list(part.val_dataloader()) for part in parts]
        self._accuracies, self.epochs = [-1.0] * len(parts), [0] * len(parts)
        self.states: list[dict[str, Tensor]] = [{} for _ in parts]

    @torch.inference_mode()
    def __call__(self, classifiers: Sequence[LitClassifier], epoch: int) -> None:
        for number, (classifier, batches) in enumerate(zip(classifiers, self._batches, strict=True)):
            head, device = classifier.head.eval(), classifier.head.norm.mean.device
            right = [
                head(batch.x.to(device), batch.lengths.to(device)).argmax(1).cpu() == batch.labels for batch in batches
            ]
            accuracy = float(torch.cat(right).float().mean())
            if accuracy > self._accuracies[number]:
                self._accuracies[number], self.epochs[number] = accuracy, epoch + 1
                self.states[number] = copy.deepcopy(head.state_dict())


def untrained(
    job: TrainingJob, split: RunSplit, clips: Clips, settings: OrderSettings, recipe: Recipe
) -> tuple[LitClassifier, ConditionData]:
    """Returns the untrained classifier of a job, and its data with the projection of the protocol."""
    seed = job_seed(job, settings)
    if settings.projection == "pca":
        clips = projected(clips, split.train, settings.projection_dim)
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
    torch.manual_seed(seed)
    classifier = from_plain(LitClassifier, arguments)
    assert isinstance(classifier, LitClassifier)
    data = ConditionData(clips, split, job.condition, settings, seed, recipe.batch_size, recipe.balanced_sampling)
    classifier.head.norm.set_statistics(*data.feature_statistics())
    return classifier, data


@torch.inference_mode()
def _test(
    job: TrainingJob,
    classifier: LitClassifier,
    clips: Clips,
    split: RunSplit,
    settings: OrderSettings,
    epochs: int,
    losses: list[float],
    seconds_training: float,
) -> TrainingResult:
    head, started = classifier.head, time.perf_counter()
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
        seconds=seconds_training + time.perf_counter() - started,
        seconds_testing=time.perf_counter() - started,
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
