"""Models on the Hugging Face Hub: download some files of a repository, upload a folder.

A repository is named by `hf://owner/name` or `hf://owner/name@revision`. Nothing here reads what it downloads.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import videomem
from videomem.errors import VideomemError, one_line, requires_extra

PREFIX = "hf://"
# The largest accepted number of bytes of a config and of a file of weights.
CONFIG_BYTES, WEIGHTS_BYTES = 16 * 2**20, 32 * 2**30
NOT_CACHED = "not in the cache, and HF_HUB_OFFLINE is set; unset it to download the model"
_NAME = re.compile(
    r"(?P<repo_id>[a-z0-9][\w.-]*/[a-z0-9][\w.-]*)(?:@(?P<revision>\w(?:[\w/-]|\.(?!\.))*))?", re.I | re.A
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubModel:
    """A repository of a model.

    Attributes:
        repo_id: `owner/name`.
        revision: A branch, a tag or the hash of a commit; None for the branch `main`.
    """

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo_id}" + (f"@{self.revision}" if self.revision else "")


def named_model(path: Path | str, revision: str | None = None) -> HubModel | None:
    """The repository that a text names; None for a local path.

    `hf://owner/name[@revision]` always is a repository. `owner/name[@revision]` is one if no file or folder is called
    `owner`. A `Path` is never one.

    Raises:
        VideomemError: If a local path has a revision, or for the reasons of `hub_model`.
    """
    if isinstance(path, str):
        is_short = _NAME.fullmatch(path) is not None and not Path(path.split("/")[0]).exists()
        if is_short or path.startswith(PREFIX):
            return hub_model(path, revision)
    if revision is not None:
        raise VideomemError(f"{path}: a local path, which has no revision; name a repository as {PREFIX}owner/name")
    return None


def hub_model(text: str, revision: str | None = None) -> HubModel:
    """The repository that `hf://owner/name[@revision]` or `owner/name[@revision]` names.

    Raises:
        VideomemError: If the text has another form, or names another revision than `revision`.
    """
    if revision is not None and "@" not in text:
        text = f"{text}@{revision}"
    found = _NAME.fullmatch(text.removeprefix(PREFIX))
    if found is None:
        raise VideomemError(
            f"{text!r:.200} is no repository on the Hugging Face Hub; write {PREFIX}owner/name@revision"
        )
    if revision is not None and found["revision"] != revision:
        raise VideomemError(f"{text}: names another revision than {revision!r}; give one of them")
    return HubModel(found["repo_id"], found["revision"])


def download(model: HubModel, required: Mapping[str, int], optional: Mapping[str, int] | None = None) -> Path:
    """Download some files of a repository to the cache of huggingface_hub; returns the folder of the snapshot.

    With `HF_HUB_OFFLINE=1`, only the cache is used. A commit in the cache is not asked for again unless there are
    optional files, which may be missing in the cache only.

    Args:
        model: The repository.
        required: Names of files, with the largest accepted number of bytes of each.
        optional: Likewise for files that a repository may lack, as patterns such as `*.safetensors`.
    Raises:
        VideomemError: If the repository or a file does not exist, cannot be accessed, or is too large.
    """
    hub, offline = _library(), is_offline()
    if offline or (not optional and _COMMIT.fullmatch(model.revision or "")):
        found = [hub.try_to_load_from_cache(model.repo_id, name, revision=model.revision) for name in required]
        if all(isinstance(path, str) for path in found):
            return Path(found[0]).parent
    if offline:
        raise VideomemError(f"{model}: {NOT_CACHED}")
    with _one_line_errors(model):
        api = _api()
        info = api.model_info(model.repo_id, revision=model.revision, files_metadata=True)
        names = _accepted(model, {file.rfilename: file.size for file in info.siblings or ()}, required, optional or {})
        folders = {Path(api.hf_hub_download(model.repo_id, name, revision=model.revision)).parent for name in names}
    if [folder.name for folder in folders] != [info.sha]:
        raise VideomemError(f"{model}: was changed during the download; try again, or name a commit")
    return folders.pop()


def _accepted(
    model: HubModel, sizes: Mapping[str, int | None], required: Mapping[str, int], optional: Mapping[str, int]
) -> list[str]:
    """Names of the files to download. The required ones are last: a snapshot that has them is complete."""
    if missing := [name for name in required if name not in sizes]:
        raise VideomemError(f"{model}: the repository lacks {missing[0]}")
    limits = {
        name: most
        for pattern, most in (dict(optional) | dict(required)).items()
        for name in fnmatch.filter(sizes, pattern)
        if "/" not in name
    }
    for name, most in limits.items():
        if (size := sizes[name]) is None or size > most:
            raise VideomemError(f"{model}: {name} has {size} bytes, above the limit of {most}")
    return list(limits)


def check_upload(text: str, revision: str | None) -> HubModel:
    """The repository to upload to. Opens no connection.

    Raises:
        VideomemError: If the name is not `owner/name`, huggingface_hub is missing or offline, or there is no token.
    """
    model = hub_model(text, revision)
    if _library().get_token() is None:
        raise VideomemError(f"{model}: no access token; run `hf auth login`, or set HF_TOKEN to a token that may write")
    if is_offline():
        raise VideomemError(f"{model}: cannot be written to, because HF_HUB_OFFLINE is set; unset it")
    return model


def upload(folder: Path, model: HubModel, private: bool, ours: Collection[str]) -> HubModel:
    """Upload the files of a folder in one commit. Makes the repository and the branch if they do not exist.

    Args:
        folder: The folder.
        model: The repository, and the branch.
        private: Make a private repository.
        ours: Names of files and folders in the repository that are deleted where the folder lacks them.
    Returns:
        The repository at the new commit.
    Raises:
        VideomemError: If the repository cannot be written to, or is public although a private one is asked for.
    """
    hub = _library()
    with _one_line_errors(model):
        api = _api()
        api.create_repo(model.repo_id, private=private or None, exist_ok=True)
        if private and not api.model_info(model.repo_id).private:
            raise VideomemError(f"{model}: exists and is public; make it private on the Hub, or leave --private out")
        if model.revision is not None:
            api.create_branch(model.repo_id, branch=model.revision, exist_ok=True)
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        there = api.list_repo_files(model.repo_id, revision=model.revision)
        # Graphs of an earlier upload would be of other weights.
        stale = [name for name in there if name not in files and name.split("/")[0] in ours]
        commit = api.create_commit(
            model.repo_id,
            [
                *(hub.CommitOperationDelete(name) for name in stale),
                *(hub.CommitOperationAdd(name, path) for name, path in files.items()),
            ],
            commit_message=f"Upload with videomem {videomem.__version__}",
            revision=model.revision,
        )
    return HubModel(model.repo_id, commit.oid)


def _library() -> Any:
    with requires_extra("hub", "the Hugging Face Hub"):
        import huggingface_hub
    return huggingface_hub


def is_offline() -> bool:
    return bool(_library().constants.HF_HUB_OFFLINE)


def _api() -> Any:
    return _library().HfApi(library_name="videomem", library_version=videomem.__version__)


@contextmanager
def _one_line_errors(model: HubModel) -> Iterator[None]:
    """Turn the errors of huggingface_hub into one line."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    # Besides those of connections: of the disk, of the transfer of large files, and of names and answers.
    except (HTTPError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise VideomemError(f"{model}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    match error:
        case errors.GatedRepoError():
            return f"access is restricted; request it on the page of the model, and {log_in}"
        case errors.RevisionNotFoundError():
            return "the repository has no such revision; name a branch, a tag or a commit"
        case errors.RepositoryNotFoundError():
            return f"no such repository, or a private one; check the name, and {log_in}"
        case errors.HfHubHTTPError(response=response):
            answer = f"{response.status_code} ({one_line(error.server_message or response.reason_phrase)})"
            return f"the Hub answers {answer}; {log_in if response.status_code in (401, 403) else 'try again later'}"
        case _:
            return f"the transfer failed ({one_line(error)}); check the name, the network and the disk"
