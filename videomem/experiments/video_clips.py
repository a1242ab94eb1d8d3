"""Clips for experiments from videos, in one call: list them, extract the features that are missing, and load them."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from os import PathLike
from pathlib import Path

import torch

from videomem.errors import VideomemError
from videomem.experiments.clips import Clips, clips_of_data
from videomem.features.backbone import BackboneSettings
from videomem.features.extraction import extract
from videomem.features.settings import FeatureSettings
from videomem.training.data_module import VideoDataModule
from videomem.utils.progress import interactive_console
from videomem.utils.text import printable
from videomem.video.catalog import Catalog
from videomem.video.catalog_checks import catalog_problems
from videomem.video.catalog_files import read_catalog
from videomem.video.datasets import LAYOUTS
from videomem.video.sampling import Uniform

_NO_SPLIT = "none"  # A catalog needs splits, and no folder of a split has this name.
_log = logging.getLogger("videomem")


def load_clips(
    videos: str | PathLike[str],
    *,
    group_by: str | None = None,
    num_frames: int = 16,
    backbone: BackboneSettings = BackboneSettings(),
    store: str | PathLike[str] = "features",
    device: str | None = None,
    num_workers: int = 0,
    allow_failures: bool = False,
    progress: bool = True,
) -> Clips:
    """Extract the features of videos, and return them as clips for `videomem.order_test`.

    Features are stored as by `videomem extract`; those that are already stored are not computed again. The splits of
    the clips are those of the catalog, or of the folders `train`, `val` and `test`; a folder without them has none.

    Args:
        videos: A folder with one folder of videos per class, or a catalog of `videomem catalog build`.
        group_by: Of a folder: regular expression whose match in a file's path below `videos`, or its parenthesized
            part, names the group of the clip, such as the person or the recording that it shows. By default every
            file is a group of its own.
        num_frames: Frames per clip, spread evenly over the video.
        backbone: The frozen network that computes the features.
        store: Folder of feature stores, or its URL.
        device: Where the backbone runs; by default a GPU if there is one.
        num_workers: Processes that decode videos; 0 decodes in this process.
        allow_failures: Whether to leave out videos that cannot be decoded, instead of raising an error.
        progress: Whether to show progress in a notebook or on a terminal.
    Raises:
        VideomemError: If there are no videos, the catalog or the backbone cannot be read, or a video cannot be
            decoded and `allow_failures` is False.
    """
    catalog = _catalog(Path(videos), group_by)
    settings = FeatureSettings(backbone, Uniform(num_frames))
    report = extract(
        catalog.clips,
        settings,
        str(store),
        device or ("cuda" if torch.cuda.is_available() else "cpu"),
        num_workers,
        interactive_console() if progress else None,
        catalog_digest=catalog.digest,
    )
    if report.failures and not allow_failures:
        raise VideomemError(
            f"{report.failures[0].message} ({len(report.failures)} of {len(catalog.clips)} clips failed, see "
            f"{report.failure_table}); fix the videos, or leave them out with allow_failures=True"
        )
    data = VideoDataModule(str(videos), settings, str(store))
    data.catalog = catalog
    clips = clips_of_data(data)
    if Path(videos).is_dir() and set(clips.splits) == {_NO_SPLIT}:
        return replace(clips, splits=("",) * len(clips))
    return clips


def _catalog(videos: Path, group_by: str | None) -> Catalog:
    """The clips of a folder, or of the table of a catalog."""
    if not videos.is_dir():
        if group_by is not None:
            raise VideomemError(f"{videos}: group_by is for folders, but a catalog has its groups; leave it out")
        return read_catalog(videos)
    try:
        options = {} if group_by is None else {"group_by": re.compile(group_by)}
    except re.error as error:
        raise VideomemError(f"group_by is {group_by!r}, but must be a regular expression ({error})") from error
    found = LAYOUTS["folder"].find(videos, None, **options)
    for warning in found.warnings:
        _log.warning("%s", printable(warning))
    catalog = Catalog(tuple(replace(clip, split=clip.split or _NO_SPLIT) for clip in found.clips))
    if problems := catalog_problems(catalog):
        raise VideomemError(f"{videos}: {problems[0]}")
    return catalog
