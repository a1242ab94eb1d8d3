"""The folder of a store: local, or on an object store such as `s3://bucket/prefix`, which fsspec reads and writes.

An object is complete or absent, as is a local file that is written atomically. Objects are not appended to. What is
memory-mapped is downloaded once, to a folder of this machine: `VIDEOMEM_CACHE`, or `videomem` in the user's cache.
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import fsspec

from videomem.errors import VideomemError, one_line
from videomem.utils.atomic import atomic_path, cannot_write, is_orphan, make_folders, remove_orphans, write_atomic
from videomem.utils.checked_json import parse_checked
from videomem.video.files import is_url

_HEADER_BYTES = 2**18  # in most cases the whole header of a shard
# A checkpoint or a config may name any URL: only these reach a file system of fsspec.
_PACKAGES = {"s3": "s3fs; run `pip install 'videomem[s3]'`", "gs": "gcsfs; run `pip install gcsfs`", "memory": ""}
# What object stores answer to a conditional request that failed.
_EXISTS = ("PreconditionFailed", "At least one of the pre-conditions", "ConditionalRequestConflict")


def store_folder(root: Path | str) -> StoreFolder:
    """The folder of stores at a path or a URL.

    Raises:
        VideomemError: If the package for this kind of URL is not installed.
    """
    text = os.fspath(root)
    if text.startswith("file://"):
        return LocalFolder(Path(text.removeprefix("file://")).absolute())
    return RemoteFolder(text.rstrip("/")) if is_url(text) else LocalFolder(Path(text).absolute())


class StoreFolder(ABC):
    """Files of a store by their names, such as `plan/000000.json`."""

    place: Path | str  # for messages
    cache: Path  # folder on this machine for files that every machine makes for itself

    @abstractmethod
    def inside(self, name: str) -> StoreFolder:
        """The folder `name` in this one."""

    @abstractmethod
    def make(self, *names: str) -> None:
        """Make folders in which files are written, and remove temporary files of processes that were killed."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; also of what is no regular file."""

    @abstractmethod
    def states(self, folder: str) -> dict[str, tuple[int, int]]:
        """Names of the files in a folder, with the size of each and a number that changes with its content."""

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders in this one, sorted."""

    @abstractmethod
    def is_file(self, name: str) -> bool: ...

    @abstractmethod
    def read(self, name: str) -> bytes: ...

    @abstractmethod
    def write(self, name: str, content: bytes, exclusive: bool = False) -> None:
        """Write a file atomically; with `exclusive`, keep the existing file."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""

    @abstractmethod
    def local(self, name: str) -> Path:
        """A file on this machine with the content of `name`, to be memory-mapped."""

    def header(self, name: str) -> AbstractContextManager[Path]:
        """Context with a path, valid within it, of a safetensors file whose header alone is read."""
        return nullcontext(self.local(name))

    def is_orphan(self, name: str) -> bool:
        """Whether a temporary file is of a process that has ended on this machine."""
        return False

    def named(self, name: str) -> Any:
        """The path of a file, for messages."""
        return self.place / name if isinstance(self.place, Path) else f"{self.place}/{name}"

    def read_checked(self, name: str, identity: dict[str, Any], remedy: str) -> Any:
        """The content of a file of `dump_checked`; see `parse_checked`."""
        if not self.is_file(name):  # A pipe or a device would be read for ever.
            raise VideomemError(f"{self.named(name)}: not a regular file; {remedy}")
        return parse_checked(self.read(name), self.named(name), identity, remedy)


@dataclass(frozen=True)
class LocalFolder(StoreFolder):
    place: Path

    @property
    def cache(self) -> Path:  # type: ignore[override]
        return self.place

    def inside(self, name: str) -> LocalFolder:
        return LocalFolder(self.place / name)

    def make(self, *names: str) -> None:
        make_folders(self.place.parent, self.place.name)
        make_folders(self.place, *names)
        for name in names:
            remove_orphans(self.place / name)

    def names(self, folder: str) -> list[str]:
        return sorted(os.listdir(self.place / folder)) if (self.place / folder).is_dir() else []

    def states(self, folder: str) -> dict[str, tuple[int, int]]:
        try:
            with os.scandir(self.place / folder) as files:
                states = {file.name: file.stat() for file in files if file.is_file()}
        except FileNotFoundError:
            return {}
        return {name: (state.st_size, state.st_mtime_ns) for name, state in sorted(states.items())}

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.place.iterdir() if path.is_dir()) if self.place.is_dir() else []

    def is_file(self, name: str) -> bool:
        return (self.place / name).is_file()

    def read(self, name: str) -> bytes:
        return (self.place / name).read_bytes()

    def write(self, name: str, content: bytes, exclusive: bool = False) -> None:
        write_atomic(self.place / name, content, exclusive)

    def remove(self, name: str) -> None:
        try:
            (self.place / name).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.place / name, error) from error

    def is_orphan(self, name: str) -> bool:
        return is_orphan(self.place / name)

    def local(self, name: str) -> Path:
        return self.place / name


@dataclass(frozen=True)
class RemoteFolder(StoreFolder):
    """A prefix of an object store."""

    place: str

    def __post_init__(self) -> None:
        _ = self._files

    @property
    def _files(self) -> tuple[Any, str]:
        """The file system and the prefix. Not kept, because connections do not survive a fork."""
        scheme = self.place.split("://")[0]
        if scheme not in _PACKAGES or "::" in self.place:
            raise VideomemError(f"{self.place}: not a folder of stores; use a folder, s3://, gs:// or file://")
        try:
            # Other processes write too, so that listings are not kept.
            return fsspec.core.url_to_fs(self.place, use_listings_cache=False)
        except ImportError as error:
            raise VideomemError(f"{self.place}: needs {_PACKAGES[scheme]}") from error

    @property
    def cache(self) -> Path:  # type: ignore[override]
        base = os.environ.get("VIDEOMEM_CACHE") or Path(
            os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "videomem"
        )
        folder = Path(base).absolute() / sha256(self.place.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def _reached(self, name: str = "") -> Iterator[tuple[Any, str]]:
        """The file system and the path of a file. Whatever a client library raises becomes one line."""
        files, prefix = self._files
        try:
            yield files, f"{prefix}/{name}".rstrip("/")
        except (FileNotFoundError, FileExistsError, VideomemError):
            raise
        except Exception as error:
            raise VideomemError(
                f"{self.place}/{name}: cannot be reached ({one_line(error)}); complete shards are kept: check the "
                "network and the credentials, and run the same command again"
            ) from error

    def inside(self, name: str) -> RemoteFolder:
        return RemoteFolder(f"{self.place}/{name}")

    def make(self, *names: str) -> None:
        """Nothing to do: a prefix exists with its first object, and an upload that was killed leaves no object."""

    def names(self, folder: str) -> list[str]:
        return list(self.states(folder))

    def _listed(self, folder: str, kind: str) -> dict[str, dict[str, Any]]:
        """What the object store tells of each `file` or `directory` in a folder, by their names in order."""
        with self._reached(folder) as (files, path):
            try:
                infos = files.ls(path, detail=True)
            except FileNotFoundError:
                return {}
        named = {info["name"].rstrip("/").rsplit("/", 1)[-1]: info for info in infos if info["type"] == kind}
        return dict(sorted(named.items()))

    def states(self, folder: str) -> dict[str, tuple[int, int]]:
        files = self._listed(folder, "file")
        return {name: (info["size"], int(_version(info)[:15], 16)) for name, info in files.items()}

    def folders(self) -> list[str]:
        return list(self._listed("", "directory"))

    def is_file(self, name: str) -> bool:
        with self._reached(name) as (files, path):
            return bool(files.isfile(path))

    def read(self, name: str) -> bytes:
        with self._reached(name) as (files, path):
            return bytes(files.cat_file(path))

    def write(self, name: str, content: bytes, exclusive: bool = False) -> None:
        with self._reached(name) as (files, path):
            if not exclusive:
                files.pipe_file(path, content)
                return
            try:
                files.pipe_file(path, content, mode="create")
            except Exception as error:
                if not isinstance(error, FileExistsError) and not any(text in str(error) for text in _EXISTS):
                    raise

    def remove(self, name: str) -> None:
        with self._reached(name) as (files, path), suppress(FileNotFoundError):
            files.rm_file(path)

    def local(self, name: str) -> Path:
        with self._reached(name) as (files, path):
            info = files.info(path)
            copy = self.cache / f"{name.replace('/', '-')}.{_version(info)}"
            if not copy.is_file() or copy.stat().st_size != info["size"]:
                with atomic_path(copy) as temporary:
                    files.get_file(path, str(temporary))
                    if temporary.stat().st_size != info["size"]:
                        raise OSError("the download is incomplete")
        return copy

    @contextmanager
    def header(self, name: str) -> Iterator[Path]:
        """A sparse file with the size of the object, of which only the header was downloaded."""
        with tempfile.NamedTemporaryFile() as file:
            with self._reached(name) as (files, path):
                num_bytes = files.info(path)["size"]
                content = files.cat_file(path, start=0, end=min(_HEADER_BYTES, num_bytes))
                stop = min(8 + int.from_bytes(content[:8], "little"), num_bytes)
                if stop > len(content):
                    content += files.cat_file(path, start=len(content), end=stop)
            file.write(content)
            file.truncate(num_bytes)
            file.flush()
            yield Path(file.name)


def _version(info: dict[str, Any]) -> str:
    """A hash that changes with the content of an object."""
    facts = [info["size"], *(info.get(name) for name in ("ETag", "etag", "generation", "LastModified", "created"))]
    return sha256(repr(facts).encode()).hexdigest()[:16]
