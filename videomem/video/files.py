"""Paths of videos: a video file, a folder of numbered images, or a template of the image names."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence

VIDEO_SUFFIXES = frozenset(
    [".264", ".265", ".3g2", ".3gp", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265",
     ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg",
     ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m"]
)  # fmt: skip
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_TEMPLATE = re.compile(r"([^{}]*)\{(?::0\d+d?)?\}([^{}]*)")
# A file that is written to again so soon may keep its modification time, which some file systems count in 2 s.
_UNSETTLED_NS = 2 * 10**9
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


def is_url(path: str) -> bool:
    return _URL.match(path) is not None


def ffmpeg_url(path: str | os.PathLike[str]) -> str:
    """The address of a file for FFmpeg, which takes the start of other paths for a protocol."""
    return f"file:{os.path.abspath(path)}"


def is_video_name(path: str) -> bool:
    return path.lower().endswith(tuple(VIDEO_SUFFIXES))


def split_template(path: str) -> tuple[str, re.Pattern[str] | None]:
    """Split a template such as `a/img_{:05}.jpg` into the folder `a` and a pattern of the image names.

    A template has one field, `{}`, `{:05}` or `{:05d}`, and the suffix of an image. Any other path is returned
    unchanged, with None; so is the path of an existing file.
    """
    folder, name = os.path.split(path)
    match = _TEMPLATE.fullmatch(name)
    if match is None or not name.lower().endswith(IMAGE_SUFFIXES) or os.path.exists(path):
        return path, None
    return folder, re.compile(rf"{re.escape(match[1])}(?P<number>\d+){re.escape(match[2])}")


def is_image_folder(path: str) -> bool:
    """Whether a path is a folder or a template of image names, not a file."""
    return split_template(path)[1] is not None or os.path.isdir(path)


def file_problem(path: str) -> str | None:
    """The reason why a path cannot be a clip of a catalog, or None.

    The path must name a local, regular, readable, non-empty file, a folder with images, or a template that matches at
    least one image.
    """
    if is_url(path):
        return f"{path}: a URL; videomem reads local files only"
    place, template = split_template(path)
    if not os.path.exists(place):
        dangling = " (a dangling link)" if os.path.islink(place) else ""
        return f"{path}: no such file{dangling}"
    if template is not None or os.path.isdir(place):
        return _folder_problem(path, place, template)
    if not os.path.isfile(path):
        return f"{path}: not a regular file"
    if not os.access(path, os.R_OK):
        return f"{path}: no permission to read it"
    return f"{path}: an empty file" if os.path.getsize(path) == 0 else None


def _folder_problem(path: str, folder: str, template: re.Pattern[str] | None) -> str | None:
    try:
        if next(images_in(folder, template), None) is not None:
            return None
    except PermissionError:
        return f"{path}: no permission to read it"
    except NotADirectoryError:
        return f"{path}: {folder} is not a folder"
    named = "" if template is None else " of that name"
    return f"{path}: not a regular file, nor a folder with images{named} ({', '.join(IMAGE_SUFFIXES)})"


def file_state(path: str) -> tuple[int, ...] | None:
    """Tells a file and its content, or a folder and its names, from others; None if they may change unnoticed.

    It also tells this process from others: what a decoder keeps open must not be used after a fork.
    """
    try:
        found = os.stat(split_template(path)[0])
    except OSError:  # Opening it gives a better reason.
        return None
    if time.time_ns() - found.st_mtime_ns < _UNSETTLED_NS:
        return None
    return os.getpid(), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def images_in(folder: str, template: re.Pattern[str] | None = None) -> Iterator[str]:
    """Names of the images in a folder, or of those that match a template, in arbitrary order."""
    with os.scandir(folder) as entries:
        for entry in entries:
            fits = entry.name.lower().endswith(IMAGE_SUFFIXES) if template is None else template.fullmatch(entry.name)
            if fits and not entry.name.startswith(".") and entry.is_file():
                yield entry.name


def videos_named(words: Sequence[str], listed: Iterable[str] = ()) -> list[str]:
    """Paths of the videos that command line arguments name, in order and without duplicates.

    Does not check whether the videos can be read.

    Args:
        words: Each is a file, a folder that is searched recursively for videos, a folder of numbered images, a pattern
            such as `videos/**/*.mp4`, or `-` for the paths in `listed`.
        listed: Lines with a path each, such as those of standard input.
    """
    paths: list[str] = []
    for word in words:
        if word == "-":
            paths += [path for line in listed if (name := line.rstrip("\r\n")) for path in _below(name)]
        elif glob.has_magic(word) and not os.path.lexists(word) and split_template(word)[1] is None:
            found = sorted(glob.glob(word, recursive=True))
            paths += [path for match in found for path in _below(match)] or [word]
        else:
            paths += _below(word)
    return list(dict.fromkeys(paths))


def files_below(path: str) -> list[str]:
    """Paths of the files in a folder, at any depth, sorted. Hidden files and folders are left out.

    Links to folders are not followed.
    """
    return sorted(os.path.join(folder, name) for folder, names in _folders(path) for name in names if name[0] != ".")


def _folders(path: str) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it that are not hidden, such as .Trash or .ipynb_checkpoints; each with its files."""
    for folder, below, names in os.walk(path):
        below[:] = [name for name in below if name[0] != "."]
        yield folder, names


def videos_below(path: str) -> list[str]:
    """Those of `files_below` whose name is that of a video."""
    return list(filter(is_video_name, files_below(path)))


def _below(path: str) -> list[str]:
    """The videos or image folders in a folder. A path that is not a folder, or a folder without any, is returned."""
    if not os.path.isdir(path):
        return [path]
    if next(images_in(path), None):
        return videos_below(path) or [path]
    folders = (folder for folder, _ in _folders(path) if next(images_in(folder), None))
    return videos_below(path) or sorted(folders) or [path]
