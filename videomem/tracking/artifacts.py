"""What runs make of what: data sets, checkpoints and exported folders as artifacts, joined by runs.

A version of an artifact is known by its name and its content. So a run that uses a checkpoint names the very version
that its training logged, whichever of the two is uploaded first, and though neither knows of the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import wandb

from videomem.tracking.runs import Mode, files_beside, folder_of, group_of, start_run, without_paths
from videomem.training.checkpoint import RUN_RECORD, Checkpoint
from videomem.training.data_module import VideoDataModule
from videomem.video.catalog import Catalog, data_name, write_catalog

Policy = Literal["mutable", "immutable"]


def use_artifact(run: wandb.Run, artifact: wandb.Artifact, alias: str = "latest") -> None:
    """Say that a run has used an artifact, which becomes its input in the lineage.

    `Run.use_artifact` is refused offline, and online it waits for the server. The same stands in the run's log without
    either: the artifact, to be used once it is there. W&B, or `wandb sync` later, uploads the content, unless a version
    of that name and content is there already, and joins it to the run.

    Args:
        alias: What the version is called from then on; W&B leaves none without one.
    """
    with files_beside(run):
        run._log_artifact(artifact, aliases=[alias], is_user_created=True, use_after_commit=True)


def use_checkpoint(run: wandb.Run, path: Path) -> None:
    """Say that a run has used a checkpoint: `used`, and not `latest`, since training may have made later ones."""
    use_artifact(run, checkpoint_artifact(path), alias="used")


def log_artifact(run: wandb.Run, artifact: wandb.Artifact, aliases: Sequence[str] = ("latest",)) -> None:
    """Make an artifact the output of a run."""
    with files_beside(run):
        run.log_artifact(artifact, aliases=list(aliases))


def data_artifact(run: wandb.Run, data: VideoDataModule) -> wandb.Artifact:
    """The catalog, with paths below its folder or names alone; what its features were made of is in the metadata."""
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
    write_catalog(Catalog(tuple(replace(clip, path=_told(clip.path, folder)) for clip in clips)), table)
    return _artifact(f"data-{data_name(data.catalog_path)}", "dataset", {"catalog.csv": table}, metadata)


def checkpoint_artifact(path: Path, policy: Policy = "immutable") -> wandb.Artifact:
    """A checkpoint of `fit`; its metrics, epoch and step, memory and seed are in the metadata.

    Args:
        path: The .ckpt file.
        policy: `mutable` copies the file at once, since training will write over it; else it is read where it is.
    """
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    record, model = content.get(RUN_RECORD, {}), content.get("hyper_parameters", {})
    metadata = {
        **record.get("metrics", {}),
        "epoch": content.get("epoch"),
        "step": content.get("global_step"),
        "memory": model.get("memory"),
        "seed": model.get("seed"),
        "original_filename": path.name,
    }
    return _artifact(f"model-{_run_id(record, path)}", "model", {"model.ckpt": path}, metadata, policy)


def run_of_checkpoints(
    name: str, folder: Path, mode: Mode, checkpoints: Sequence[Checkpoint], job_type: str | None = None
) -> wandb.Run:
    """Start a run that measures trained heads: in the group of their training, with their checkpoints as its inputs."""
    projects = {project_of(checkpoint) for checkpoint in checkpoints}
    groups = {group_of_checkpoint(checkpoint) for checkpoint in checkpoints}
    run = start_run(
        projects.pop() if len(projects) == 1 else "videomem",
        folder,
        mode,
        name=name,
        job_type=job_type or name,
        group=groups.pop() if len(groups) == 1 else None,
    )
    for checkpoint in checkpoints if not run.disabled else ():
        use_checkpoint(run, checkpoint.path)
    return run


def track_export(
    folder: Path,
    checkpoint: Checkpoint,
    mode: Mode = "offline",
    metrics: Mapping[str, float] | None = None,
    where: Path | None = None,
) -> None:
    """Record an exported folder: a run that used the checkpoint, and made an artifact of the folder.

    Args:
        folder: What `videomem export` wrote.
        checkpoint: What it was made of.
        mode: Of the W&B run.
        metrics: What is known of how good it is; by default, what the checkpoint holds of its last epoch.
        where: Below which folder the run's files are written; by default the directory of the training run.
    """
    config = {"memory": checkpoint.model_arguments["memory"], **checkpoint.training_facts()}
    name = f"export-{checkpoint.run_dir.name}"
    details = {"name": name, "job_type": "export", "group": group_of_checkpoint(checkpoint), "config": config}
    run = start_run(project_of(checkpoint), where or checkpoint.run_dir, mode, **details)
    if not run.disabled:
        use_checkpoint(run, checkpoint.path)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        found = dict(metrics if metrics is not None else checkpoint.run_record.get("metrics", {}))
        log_artifact(run, _artifact(name, "model", files, {**found, **config}))
        run.summary.update(found)
    run.finish()


def project_of(checkpoint: Checkpoint) -> str:
    """The W&B project of the run that made a checkpoint, where its artifacts are."""
    return str(checkpoint.run_record.get("project", "videomem"))


def group_of_checkpoint(checkpoint: Checkpoint) -> str:
    """The group of the run that made a checkpoint, or the data's."""
    return str(checkpoint.run_record.get("group") or group_of(data_name(checkpoint.data_arguments["catalog"])))


def _artifact(
    name: str, kind: str, files: Mapping[str, Path], metadata: dict[str, Any], policy: Policy = "immutable"
) -> wandb.Artifact:
    artifact = wandb.Artifact(re.sub(r"[^\w.-]+", "-", name)[:128], kind, metadata=without_paths(metadata))
    for inside, path in files.items():
        artifact.add_file(str(path.absolute()), name=inside, policy=policy, skip_cache=True)
    return artifact


def _run_id(record: Mapping[str, Any], path: Path) -> str:
    """The id of the W&B run that made a checkpoint, or of one that had none, its content's hash."""
    if record.get("id"):
        return str(record["id"])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]


def _told(path: str, folder: Path) -> str:
    """A path below the catalog's folder as it stands there; of others the name alone."""
    return Path(path).relative_to(folder).as_posix() if Path(path).is_relative_to(folder) else Path(path).name
