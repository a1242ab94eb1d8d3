"""W&B artifacts for data sets, checkpoints and exported folders, as inputs and outputs of runs.

W&B identifies a version of an artifact by name and content. A run that uses a checkpoint therefore refers to the
version that its training logged, whichever of the two runs is uploaded first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import wandb

from videomem.tracking.runs import Tracking, files_beside, folder_of, start_run, without_paths
from videomem.training.checkpoint import RUN_RECORD, Checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.utils.torch_file import read_torch_file
from videomem.video.catalog import Catalog, data_name
from videomem.video.catalog_files import write_catalog

Policy = Literal["mutable", "immutable"]


def use_artifact(run: wandb.Run, artifact: wandb.Artifact, alias: str = "latest") -> None:
    """Mark an artifact as an input of a run.

    `Run.use_artifact` fails offline, and waits for the server online. This function instead logs the artifact with the
    flag to use it after its upload. W&B, or a later `wandb sync`, uploads the content unless this version exists, and
    links the version to the run. W&B requires an alias.
    """
    with files_beside(run):
        run._log_artifact(artifact, aliases=[alias], is_user_created=True, use_after_commit=True)


def use_checkpoint(run: wandb.Run, path: Path) -> None:
    """Mark a checkpoint as an input of a run. Its alias is `used`, since training may have logged a later version."""
    use_artifact(run, checkpoint_artifact(path), alias="used")


def log_artifact(run: wandb.Run, artifact: wandb.Artifact, aliases: Sequence[str] = ("latest",)) -> None:
    """Log an artifact as an output of a run."""
    with files_beside(run):
        run.log_artifact(artifact, aliases=list(aliases))


def data_artifact(run: wandb.Run, data: VideoDataModule) -> wandb.Artifact:
    """The catalog as an artifact, with the identity of its features in the metadata.

    Paths are made relative to the catalog's folder; of paths outside it, only the file name is kept.
    """
    clips = data.catalog.clips
    metadata = {
        "num_clips": len(clips),
        "num_unusable": data.num_unusable,
        "splits": list(data.catalog.splits),
        "classes": data.class_names,
        "features": data.settings.identity,
    }
    folder = Path(data.catalog_path).absolute().parent
    table = folder_of(run) / "artifacts" / "catalog.csv"
    write_catalog(Catalog(tuple(replace(clip, path=_public_path(clip.path, folder)) for clip in clips)), table)
    return _artifact(f"data-{data_name(data.catalog_path)}", "dataset", {"catalog.csv": table}, metadata)


def checkpoint_artifact(path: Path, policy: Policy = "immutable") -> wandb.Artifact:
    """A checkpoint of `fit` as an artifact, with its metrics, epoch, step, memory and seed in the metadata.

    It is named by the id of the W&B run that wrote the checkpoint, or else by a hash of the file.

    Args:
        path: The .ckpt file.
        policy: `mutable` copies the file immediately, for files that training overwrites; `immutable` does not copy it.
    """
    content = read_torch_file(path)
    record, model = content.get(RUN_RECORD, {}), content.get("hyper_parameters", {})
    metadata = {
        **record.get("metrics", {}),
        "epoch": content.get("epoch"),
        "step": content.get("global_step"),
        "memory": model.get("memory"),
        "seed": model.get("seed"),
        "original_filename": path.name,
    }
    run_id = record.get("id")
    if not run_id:
        with path.open("rb") as file:
            run_id = hashlib.file_digest(file, "sha256").hexdigest()[:8]
    return _artifact(f"model-{run_id}", "model", {"model.ckpt": path}, metadata, policy)


def log_report(run: wandb.Run, name: str, folder: Path, files: Sequence[str]) -> None:
    """Log files of a result as one artifact, and an HTML page among them also as a panel.

    Args:
        name: What the result is of, such as `order`; the artifact is `<name>-<name of the run>`.
        files: Their names, without local paths in their content.
    """
    if run.disabled:
        return
    with files_beside(run):  # Copied there, because the command may be repeated before the run is uploaded.
        paths = {file: folder / file for file in files}
        log_artifact(run, _artifact(f"{name}-{run.name}", "result", paths, {}, policy="mutable"))
        for page in (path for path in paths.values() if path.suffix == ".html"):
            run.log({f"{name}/{page.stem}": wandb.Html(str(page), inject=False)})


def run_of_checkpoints(
    name: str, folder: Path, tracking: Tracking, checkpoints: Sequence[Checkpoint], job_type: str | None = None
) -> wandb.Run:
    """Start a run that evaluates trained heads, with their checkpoints as inputs.

    By default it is in the project and the group of their training, if that is the same for all.
    """
    projects, groups = set(map(_project, checkpoints)), set(map(_group, checkpoints))
    defaults = Tracking(
        project=projects.pop() if len(projects) == 1 else None, group=groups.pop() if len(groups) == 1 else None
    )
    run = start_run(tracking, folder, defaults, name=name, job_type=job_type or name)
    for checkpoint in checkpoints if not run.disabled else ():
        use_checkpoint(run, checkpoint.path)
    return run


def track_export(
    folder: Path,
    checkpoint: Checkpoint,
    tracking: Tracking = Tracking(),
    metrics: Mapping[str, float] | None = None,
    where: Path | None = None,
) -> None:
    """Record an export: a run with the checkpoint as input and the exported folder as output.

    Args:
        metrics: Metrics of the model; default: those in the checkpoint.
        where: Folder for the files of the run; default: the directory of the training run.
    """
    config = {"memory": checkpoint.model_arguments["memory"], **checkpoint.training_facts()}
    name = f"export-{checkpoint.run_dir.name}"
    defaults = Tracking(project=_project(checkpoint), group=_group(checkpoint))
    details = {"name": name, "job_type": "export", "config": config}
    run = start_run(tracking, where or checkpoint.run_dir, defaults, **details)
    if not run.disabled:
        use_checkpoint(run, checkpoint.path)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        found = dict(metrics if metrics is not None else checkpoint.run_record.get("metrics", {}))
        log_artifact(run, _artifact(name, "model", files, {**found, **config}))
        run.summary.update(found)
    run.finish()


def _project(checkpoint: Checkpoint) -> str:
    """The W&B project of the run that wrote a checkpoint; it has the artifacts of that run."""
    return str(checkpoint.run_record.get("project", "videomem"))


def _group(checkpoint: Checkpoint) -> str:
    """The W&B group of the run that wrote a checkpoint; default: the name of the data set."""
    return str(checkpoint.run_record.get("group") or data_name(checkpoint.data_arguments["catalog"]))


def _artifact(
    name: str, kind: str, files: Mapping[str, Path], metadata: dict[str, Any], policy: Policy = "immutable"
) -> wandb.Artifact:
    artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", name)[:128], kind, metadata=without_paths(metadata))
    for inside, path in files.items():
        artifact.add_file(str(path.absolute()), name=inside, policy=policy, skip_cache=True)
    return artifact


def _public_path(path: str, folder: Path) -> str:
    """A path relative to the catalog's folder or, for a path outside it, the file name."""
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else Path(path).name
