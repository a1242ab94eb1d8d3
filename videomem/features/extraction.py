"""Extract the features of clips into a store: plan shards, extract them here or elsewhere, and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from videomem.features import clip_decoding
from videomem.features.clip_decoding import decode_clips
from videomem.features.failures import Failure
from videomem.features.settings import FeatureSettings
from videomem.features.shard_extraction import Extracted, extract_shards
from videomem.features.store import FeatureStore
from videomem.utils.progress import LineProgress
from videomem.utils.workers import TIME_LIMIT_S, start_early
from videomem.video.catalog import Clip
from videomem.video.files import file_problem


@dataclass(frozen=True)
class ExtractionReport:
    """Result of an extraction: clips extracted before, clips extracted now, and failures of both.

    `imprecise_share` is the share of the features that are not 0, but are in every clip extracted now too small for the
    full precision of the stored data type.
    """

    num_done_before: int
    num_extracted: int
    failures: tuple[Failure, ...]
    imprecise_share: float
    folder: Path | str
    failure_table: Path | str


Engine = Callable[[FeatureStore, Mapping[int, Mapping[str, Clip]], str, int, float], Extracted]


def extract(
    clips: Sequence[Clip],
    settings: FeatureSettings,
    root: Path | str,
    device: str = "cpu",
    num_workers: int = 0,
    console: Console | None = None,
    time_limit_s: float = TIME_LIMIT_S,
    retry_failed: bool = False,
    catalog_digest: str = "",
    part: str = "",
    engine: Engine | None = None,
) -> ExtractionReport:
    """Extract the features of clips into the store below `root`. Existing features are kept.

    An interrupted extraction can be continued; the resulting store is byte-identical to that of an uninterrupted one.
    A clip that fails is added to the failure table, and the other clips are extracted.

    Args:
        clips: Clips of a catalog.
        settings: What to extract; its hash names the store.
        root: Folder of stores, or its URL.
        device: Where the backbone runs, such as `cpu` or `cuda`.
        num_workers: Number of decoding processes. 0 decodes in this process, without a time limit or crash isolation.
        console: Where progress is shown, see `LineProgress`; None: nowhere.
        time_limit_s: A clip fails if decoding it in a worker takes longer.
        retry_failed: Extract only the clips that failed before.
        catalog_digest: Hash of the catalog's table, to record its clips in a large store; empty: not recorded.
        part: Name of the part of a catalog that these clips are, such as `3-of-16`; empty: all of it.
        engine: Computes shards elsewhere, see `videomem.features.ray_engine`; None: on this machine.
    Raises:
        VideomemError: If the backbone cannot be built, the store cannot be written, or workers cannot start.
    """
    if num_workers:
        start_early(clip_decoding.__name__)
    store = FeatureStore(root, settings, part)
    store.create()
    keys, unreadable = store.clip_keys(clips)
    done, failure_table = store.read_index(), store.failure_table.read()
    by_key = {key: clip for clip, key in keys.items()}
    for key, clip in list(by_key.items()):
        # A file that is temporarily missing must not be planned and marked as failed permanently.
        if not done.is_settled(key) and (problem := file_problem(clip.path)):
            unreadable.append(Failure.of(clip, "open", "FileNotFoundError", problem))
            del by_key[key]
    known = {location: failure.message for location, failure in failure_table.items()}
    store.failure_table.add(*(one for one in unreadable if known.get(one.location) != one.message))
    failed = {key: clip for key, clip in by_key.items() if done.is_settled(key) and key not in done}
    with ExitStack() as stack:
        progress = stack.enter_context(_progress(console))

        if not retry_failed:
            missing = store.extend_plan(by_key)
            earlier = [Failure.of(c, "decode", "unknown", "failed in an earlier run") for c in failed.values()]
            failures = [*unreadable, *(failure_table.get(failure.location, failure) for failure in earlier)]
        else:
            never_read = {k: c for k, c in by_key.items() if not done.is_settled(k) and c.location in failure_table}
            decoded = decode_clips(list(failed.values()), settings, settings.preprocessing, num_workers, time_limit_s)
            stack.enter_context(closing(decoded))
            answers = progress.each(decoded, "trying failed clips again", len(failed))
            failing = {k: answer for k, answer in zip(failed, answers, strict=True) if isinstance(answer, Failure)}
            again = {key: clip for key, clip in failed.items() if key not in failing}
            by_key = never_read | again
            missing = store.extend_plan(by_key, again)
            failures = [*unreadable, *failing.values()]
        shards = {number: {key: by_key[key] for key in keys} for number, keys in missing.items()}
        task = progress.add_task("extracting clips", total=sum(map(len, shards.values())), frames=0)
        largest_D = torch.zeros(settings.feature_dim)
        if engine is None:
            tell = partial(_advance, progress, task)
            extracted = extract_shards(store, shards, device, num_workers, time_limit_s, tell)
        else:
            extracted = engine(store, shards, device, num_workers, time_limit_s)
        for number, lost, shard_D in stack.enter_context(closing(extracted)) if shards else ():
            failures += lost
            largest_D = torch.maximum(largest_D, shard_D)
            if engine is not None:
                progress.advance(task, len(shards[number]))
    now = store.update_index()
    store.record_catalog(catalog_digest, [keys.get(clip) for clip in clips], now)
    done_now = {clip.location for clip, key in keys.items() if key in now}
    failures = [failure for failure in failures if failure.location not in done_now]
    if retry_failed:
        latest = failure_table | store.failure_table.read() | {failure.location: failure for failure in failures}
        store.failure_table.rewrite(failure for failure in latest.values() if failure.location not in done_now)
    num_before, num_now = (sum(key in found for key in keys.values()) for found in (done, now))
    is_imprecise_D = (largest_D > 0) & (largest_D < torch.finfo(getattr(torch, settings.dtype)).tiny)
    share = float(is_imprecise_D.float().mean())
    return ExtractionReport(
        num_before, num_now - num_before, tuple(failures), share, store.folder, store.failure_table.path
    )


def _advance(progress: Progress, task: Any, num_frames: int) -> None:
    progress.update(task, frames=progress.tasks[task].fields["frames"] + num_frames)
    progress.advance(task)


def _progress(console: Console | None) -> LineProgress:
    texts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("clips")
    return LineProgress(*texts, _FrameRate(""), TimeRemainingColumn(), console=console)


class _FrameRate(TextColumn):
    """Frames per second since the start."""

    def render(self, task: Any) -> Any:
        rate = task.fields.get("frames", 0) / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:.0f} frames/s")
