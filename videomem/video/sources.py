"""Which videos the words of a command line name: files, folders, patterns, or a list on standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence

from videomem.video.datasets.common import VIDEO_SUFFIXES
from videomem.video.files import images_in, split_template


def videos_named(words: Sequence[str], listed: Iterable[str] = ()) -> list[str]:
    """Paths of videos in the order of the words, each once; whether they can be read is not asked here.

    Args:
        words: A file; a folder of videos, at any depth; a folder of numbered images, which is one video; a pattern such
            as `videos/**/*.mp4`; or `-`, the lines of `listed`, each a path.
        listed: Lines, such as those of standard input.
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


def _below(path: str) -> list[str]:
    """The videos of a folder; any other path, and a folder that has none, is the name of one itself."""
    if not os.path.isdir(path):
        return [path]
    found = sorted(
        os.path.join(folder, name)
        for folder, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(tuple(VIDEO_SUFFIXES)) and not name.startswith(".")
    )
    return found or ([path] if next(images_in(path), None) else _image_folders(path)) or [path]


def _image_folders(path: str) -> list[str]:
    """Folders of images below a folder that has no videos."""
    return sorted(folder for folder, _, _ in os.walk(path) if next(images_in(folder), None))
