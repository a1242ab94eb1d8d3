"""The order test from beginning to end: make and freeze the plan, train, analyze, and return the result."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.clips import Clips, clips_of_arrays
from videomem.experiments.memories import read_heads
from videomem.experiments.order_test.analysis import analyze, controls_of
from videomem.experiments.order_test.data import check_sizes
from videomem.experiments.order_test.data_checks import DataCheck, data_checks, with_joined_groups
from videomem.experiments.order_test.information import information_of, verdict_of
from videomem.experiments.order_test.jobs import TrainingJob, num_cached
from videomem.experiments.order_test.plan import OrderPlan, OrderSettings, Recipe
from videomem.experiments.order_test.result import SCHEMA_VERSION, DataFacts, OrderTestResult
from videomem.experiments.order_test.run_splits import possible_folds, run_splits
from videomem.experiments.order_test.scores import Scores
from videomem.experiments.order_test.training import run_jobs
from videomem.utils.atomic import write_atomic
from videomem.utils.checked_json import dump_checked, read_checked
from videomem.utils.parallel_jobs import Runner
from videomem.utils.progress import interactive_console, training_progress

LIBRARIES = ("videomem", "torch", "pytorch-lightning", "numpy", "scipy", "statsmodels")


class OrderTest(NamedTuple):
    """The result, with the predictions that it was computed from."""

    result: OrderTestResult
    scores: Scores


def order_test(
    clips: Clips | Sequence[NDArray[np.floating] | Tensor],
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    settings: OrderSettings = OrderSettings(),
    recipe: Recipe = Recipe(),
    cache: Path | str = "order_training_results",
    num_processes: int = 1,
    name: str = "arrays",
    progress: bool = True,
) -> OrderTestResult:
    """Measure the value of frame order to learners trained on features, as `videomem order` does.

    Args:
        clips: The clips of `videomem.load_clips`, or one array of features (T, D) per clip; T may differ.
        labels: Class of each array.
        groups: Source of each array. Clips of a group stay on one side of a split, and statistics count groups, not
            clips.
        splits: `train` or `test` for each array; required if `settings.split` is `fixed`.
        settings: The protocol.
        recipe: How heads are trained.
        cache: Folder of training results; jobs with a result in it are not trained again.
        num_processes: Training jobs in parallel.
        name: Name of the arrays in the result.
        progress: Whether to show progress in a notebook or on a terminal.
    Raises:
        VideomemError: If the data do not satisfy the requirements of `make_plan`.
    """
    clips, joined = with_joined_groups(_as_clips(clips, labels, groups, splits, name))
    plan = make_plan(clips, settings, recipe)
    with training_progress(interactive_console() if progress else None) as tell:
        test = run_order_test(clips, plan, Path(cache), num_processes, progress=tell, checks=[joined] if joined else [])
    return test.result


def _as_clips(
    clips: Clips | Sequence[NDArray[np.floating] | Tensor],
    labels: Sequence[str] | None,
    groups: Sequence[str] | None,
    splits: Sequence[str] | None,
    name: str,
) -> Clips:
    if isinstance(clips, Clips):
        if labels is not None or groups is not None or splits is not None:
            raise VideomemError("labels, groups and splits belong to arrays, but clips have their own; leave them out")
        return clips
    if labels is None or groups is None:
        raise VideomemError(f"{'labels' if labels is None else 'groups'} are missing; give one per array of features")
    return clips_of_arrays(clips, labels, groups, splits, name)


def make_plan(clips: Clips, settings: OrderSettings, recipe: Recipe) -> OrderPlan:
    """Returns the plan for these clips.

    Raises:
        VideomemError: If clips are too short, there are too few groups, or a head is unknown.
    """
    if lost := [name for number, name in enumerate(clips.class_names) if number not in clips.labels]:
        raise VideomemError(
            f"class {lost[0]!r} has no usable clip, see the failure table; fix its videos or remove the class"
        )
    check_sizes(clips, settings)
    settings = replace(settings, folds=possible_folds(clips, settings))
    splits = run_splits(clips, settings)
    if (num_groups := min(len(np.unique(clips.groups[split.test])) for split in splits)) < 2:
        raise VideomemError(
            f"{clips.source}: a run tests {num_groups} group, but a standard error needs at least 2 and a verdict 20; "
            "lower order.folds, add videos, or use a finer `group`"
        )
    heads = read_heads(settings.heads, settings.hidden_dim)
    settings = replace(settings, heads=tuple(heads))  # A plan has the content of a head's file, not its path.
    rows = zip(clips.ids, clips.labels.tolist(), clips.groups.tolist(), clips.splits, strict=True)
    return OrderPlan(
        contrast="accuracy trained and tested in order, minus accuracy trained on one fixed permutation per clip and "
        "tested on shuffled clips",
        settings=settings,
        recipe=recipe.for_clips(len(splits[0].train)),
        heads={name: {"readout": {"class_path": recipe.readout}, **head} for name, head in heads.items()},
        num_clips=len(clips),
        data_sha256=sha256(json.dumps([clips.class_names, *rows]).encode()).hexdigest(),
    )


def freeze(plan: OrderPlan, out: Path, num_trained_before: int) -> int:
    """Write `plan.json` before the first training. An existing plan is never changed.

    Args:
        plan: The plan.
        out: Folder of the test.
        num_trained_before: Number of training results now in the cache; written to `frozen.json`.
    Returns:
        The number of training results that were in the cache when the plan was first frozen in this folder.
    Raises:
        VideomemError: If the folder contains another plan.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "plan.json", plan.as_json().encode(), exclusive=True)
    if not (out / "plan.json").is_file():
        raise VideomemError(f"{out / 'plan.json'}: not a regular file; choose another --out")
    there = (out / "plan.json").read_bytes()
    if there != plan.as_json().encode():
        raise VideomemError(
            f"{out / 'plan.json'}: another plan is frozen here (sha256 {sha256(there).hexdigest()[:12]}, now "
            f"{plan.sha256[:12]}); choose another --out, training jobs that both plans share are not repeated"
        )
    path, identity = out / "frozen.json", {"kind": "frozen plan", "plan": plan.sha256}
    write_atomic(path, dump_checked(identity, {"trained_before": num_trained_before}).encode(), exclusive=True)
    remedy = "choose another --out"
    facts = read_checked(path, identity, remedy)
    if not isinstance(facts, dict) or type(facts.get("trained_before")) is not int or facts["trained_before"] < 0:
        raise VideomemError(f"{path}: damaged (no number of training results); {remedy}")
    return int(facts["trained_before"])


def run_order_test(
    clips: Clips,
    plan: OrderPlan,
    cache: Path,
    num_processes: int = 1,
    devices: Sequence[str] = ("cpu",),
    progress: Callable[[int, int], None] = lambda done, total: None,
    command: str = "",
    failures: Sequence[tuple[str, str]] = (),
    num_trained_before: int | None = None,
    checks: Sequence[DataCheck] = (),
    finished: Callable[[TrainingJob, Mapping[str, float]], None] = lambda job, accuracies: None,
    runner: Runner | None = None,
) -> OrderTest:
    """Train the jobs without a result in the cache, and analyze all results as the plan says.

    Args:
        clips: The clips that the plan was made for.
        plan: The frozen plan.
        cache: Folder of training results; several plans may share it.
        num_processes: Training jobs in parallel.
        devices: Devices that training jobs are assigned to in turn.
        progress: Called with the number of finished jobs and the number of all jobs.
        command: Command line to record in the result.
        failures: Clips that could not be used, (path, reason), to record in the result.
        num_trained_before: Return value of `freeze`; by default the number of results now in the cache.
        checks: What was found in the data before the plan was made.
        finished: As in `run_jobs`.
        runner: Trains elsewhere, see `run_jobs`.
    """
    started = time.perf_counter()
    if num_trained_before is None:
        num_trained_before = num_cached(plan, clips, cache, devices[0])
    training_results = run_jobs(plan, clips, cache, num_processes, devices, progress, finished, runner)
    scores, settings = Scores(plan, clips, training_results), plan.settings
    results, information = analyze(scores), information_of(scores)
    checks = [*checks, *data_checks(clips, scores.splits, scores.overlap)]
    result = OrderTestResult(
        schema_version=SCHEMA_VERSION,
        plan=plan.as_plain(),
        plan_sha256=plan.sha256,
        data=_facts(scores, len(failures)),
        metric=scores.metric,
        checks=tuple(checks),
        verdict=verdict_of(information, results, scores, checks),
        information=information,
        heads=results,
        controls=controls_of(scores),
        noise_floor=next((one.value_of_order for one in results if one.is_order_blind), None),
        margin=scores.margin,
        margin_share=settings.margin if settings.margin_of == "attainable" else None,
        num_runs=settings.runs,
        seeds=tuple(settings.seed + run for run in range(settings.runs)),
        num_permutations=settings.num_permutations,
        failures=tuple(failures),
        command=command,
        versions={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        device=_devices(devices),
        seconds=time.perf_counter() - started,
        seconds_training=sum(one.seconds for one in training_results.values()),
        num_trainings=len(training_results),
        num_trained_before=num_trained_before,
    )
    return OrderTest(result, scores)


def _facts(scores: Scores, num_failed: int) -> DataFacts:
    clips, splits = scores.clips, scores.splits
    shortest, longest = int(clips.lengths.min()), clips.max_frames
    return DataFacts(
        catalog=clips.source,
        class_names=clips.class_names,
        num_clips=len(clips),
        num_groups=len(np.unique(clips.groups)),
        num_train_clips=round(float(np.mean([len(split.train) for split in splits]))),
        num_test_clips=round(float(np.mean([len(split.test) for split in splits]))),
        num_test_groups=len(np.unique(scores.groups)),
        split=scores.plan.settings.split,
        num_frames=str(longest) if shortest == longest else f"{shortest} to {longest}",
        feature_dim=clips.feature_dim,
        features=clips.made_of,
        num_failed=num_failed,
        num_straddling=len(np.intersect1d(clips.groups[splits[0].train], clips.groups[splits[0].test])),
    )


def _devices(devices: Sequence[str]) -> str:
    names = [torch.cuda.get_device_name(name) if name.startswith("cuda") else "CPU" for name in dict.fromkeys(devices)]
    return ", ".join(names)
