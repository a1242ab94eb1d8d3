"""Extract features into the store: decode clips in workers, batch frames of several clips, write shards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from threading import Semaphore
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from videomem.errors import DecodingError, VideomemError, one_line
from videomem.features.backbone import Backbone, exact_float32, extract_features, load_backbone
from videomem.features.failures import Failure
from videomem.features.preprocessing import Preprocessing
from videomem.features.settings import FeatureSettings
from videomem.features.store import FeatureStore
from videomem.utils.parallel_jobs import one_thread
from videomem.utils.progress import LineProgress
from videomem.utils.workers import TIME_LIMIT_S, Lost, run_isolated, start_early
from videomem.video.catalog import Clip
from videomem.video.decoding import DecodedClip, decode_clip
from videomem.video.files import file_problem, split_template

MAX_QUEUED = 2  # batches of frames that wait for the backbone


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


def decode_frames(
    clip: Clip, settings: FeatureSettings, preprocessing: Preprocessing | None = None
) -> tuple[Tensor, DecodedClip]:
    """Decode a clip for the backbone.

    Args:
        clip: The clip.
        settings: How features are computed.
        preprocessing: That of the backbone, which workers need not look up; None: that of the settings.
    Returns:
        Frames (T, 3, crop, crop) uint8, or of a video network segments (S, F, 3, crop, crop) of the first S * F frames;
        and the decoded clip.
    Raises:
        DecodingError: If it cannot be decoded exactly, or has fewer than two segments.
    """
    decoded = decode_clip(clip.path, settings.sampling, clip.interval, settings.decoder, clip.fps, settings.on_damage)
    frames = (preprocessing or settings.preprocessing).shape_frames(decoded.frames_THWC)
    length = settings.backbone.segment_frames
    if length == 1:
        return frames, decoded
    if (num_segments := len(frames) // length) < 2:
        raise DecodingError(
            f"{clip.path}: {len(frames)} frames are sampled, but order needs at least 2 segments of {length} frames "
            "(backbone.segment_frames)"
        )
    return frames[: num_segments * length].unflatten(0, (num_segments, length)), decoded


# Number, failures and largest feature values (D,) of each shard.
Extracted = Generator[tuple[int, list[Failure], Tensor], None, None]
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
        start_early(__name__)
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

        def decoded(wanted: Sequence[Clip]) -> Iterator[Decoded | Failure]:
            decode = partial(decode_frames, settings=settings, preprocessing=settings.preprocessing)
            stream = decode_each(wanted, decode, settings.decoder, num_workers, time_limit_s)
            return stack.enter_context(closing(stream))

        if not retry_failed:
            missing = store.extend_plan(by_key)
            earlier = [Failure.of(c, "decode", "unknown", "failed in an earlier run") for c in failed.values()]
            failures = [*unreadable, *(failure_table.get(failure.location, failure) for failure in earlier)]
        else:
            never_read = {k: c for k, c in by_key.items() if not done.is_settled(k) and c.location in failure_table}
            answers = progress.each(decoded(list(failed.values())), "trying failed clips again", len(failed))
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
    store.update_index()
    now = store.read_index()
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


def extract_shards(
    store: FeatureStore,
    shards: Mapping[int, Mapping[str, Clip]],
    device: str,
    num_workers: int,
    time_limit_s: float,
    tell: Callable[[int], None] = lambda num_frames: None,
) -> Extracted:
    """Extract and write shards; yields number, failures and largest feature values (D,) of each, before rounding.

    Args:
        store: The store.
        shards: The clips of each shard, by their keys.
        device: Where the backbone runs.
        num_workers: Number of decoding processes.
        time_limit_s: A clip fails if decoding it in a worker takes longer.
        tell: Called for each clip, with the number of its frames.
    """
    clips = [clip for shard in shards.values() for clip in shard.values()]
    settings = store.settings
    decode = partial(decode_frames, settings=settings, preprocessing=settings.preprocessing)
    stream = decode_each(clips, decode, settings.decoder, num_workers, time_limit_s)
    backbone = load_backbone(settings.backbone, device)
    with closing(stream), _batch_threads(device) as batches, ThreadPoolExecutor(1) as writer:
        before: tuple[int, list[Failure], Future[Tensor]] | None = None
        for number, shard in shards.items():
            packer = _FramePacker(backbone, batches)
            read, lost = _read_shard(store, list(shard), stream, packer, tell)
            if before is not None:
                yield *before[:2], before[2].result()  # Raises its error; and at most one shard is being written.
            before = number, lost, writer.submit(_write_shard, store, number, read, packer)
        if before is not None:
            yield *before[:2], before[2].result()


def _advance(progress: Progress, task: Any, num_frames: int) -> None:
    progress.update(task, frames=progress.tasks[task].fields["frames"] + num_frames)
    progress.advance(task)


# A clip of a shard: its key, the fields of its entry in the store, and the rows of its features.
_Read = tuple[str, dict[str, Any], list[int]]


@contextmanager
def _batch_threads(device: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that run the backbone on batches while the next clips are decoded.

    On a CPU each batch has one thread, and several batches are computed at a time. If the threads shared a batch, they
    would wait for each other, and for decoding on the same cores.
    """
    on_cpu, num_threads = torch.device(device).type == "cpu", torch.get_num_threads()
    # Set once, because the threads would overwrite each other's settings.
    with (
        exact_float32(),
        one_thread() if on_cpu else nullcontext(),
        ThreadPoolExecutor(num_threads if on_cpu else 1) as threads,
    ):
        yield threads


def _read_shard(
    store: FeatureStore,
    keys: Sequence[str],
    stream: Iterator[Decoded | Failure],
    packer: _FramePacker,
    tell: Callable[[int], None],
) -> tuple[list[_Read], list[Failure]]:
    """Read the clips of a shard from the decoded stream, and give their frames to the backbone."""
    failures: list[Failure] = []
    clips: list[_Read] = []
    for key in keys:
        item = next(stream)
        if isinstance(item, Failure):
            if not os.path.lexists(split_template(item.path)[0]):
                raise VideomemError(f"{item.path}: existed at the start, but is missing now; restore it and run again")
            failures.append(item)
        else:
            clips.append((key, item.fields, packer.add(torch.from_numpy(item.frames))))
        tell(0 if isinstance(item, Failure) else len(item.fields["indices"]))
    packer.flush()
    store.failure_table.add(*failures)  # Before the shard is complete, and its clips are settled.
    return clips, failures


def _write_shard(store: FeatureStore, number: int, clips: Sequence[_Read], packer: _FramePacker) -> Tensor:
    """Write a shard; returns the largest absolute value of each feature (D,) before rounding to the stored type."""
    features = packer.features()
    store.write_shard(number, [(key, fields, features[rows]) for key, fields, rows in clips])
    return features.abs().amax(0) if len(features) else features.new_zeros(features.shape[1])


class _FramePacker:
    """Batches frames of several videos, and computes the features of identical frames once.

    The features of a frame therefore do not depend on its video: a clip and its reversal have identical rows.
    """

    def __init__(self, backbone: Backbone, threads: ThreadPoolExecutor) -> None:
        self._backbone, self._threads = backbone, threads
        self._batch_size = backbone.batch_size  # Once, since it counts the weights.
        self._row_of: dict[bytes, int] = {}
        self._waiting: list[Tensor] = []
        self._batches: list[Future[Tensor]] = []
        self._queue = Semaphore(MAX_QUEUED)

    def add(self, frames: Tensor) -> list[int]:
        """Add frames (T, 3, crop, crop), or segments of frames; returns their row numbers in `features`."""
        rows = []
        for frame in frames:
            digest = blake2b(frame.contiguous().numpy(), digest_size=16).digest()
            if digest not in self._row_of:
                self._row_of[digest] = len(self._row_of)
                self._waiting.append(frame)
                if len(self._waiting) == self._batch_size:
                    self.flush()
            rows.append(self._row_of[digest])
        return rows

    def flush(self) -> None:
        """Start the computation of the frames added so far."""
        if not self._waiting:
            return
        batch, self._waiting = torch.stack(self._waiting), []
        self._queue.acquire()
        self._batches.append(self._threads.submit(self._compute, batch))

    def _compute(self, batch: Tensor) -> Tensor:
        self._queue.release()
        return extract_features(self._backbone, batch)

    def features(self) -> Tensor:
        """Features (N, D) of the distinct frames."""
        rows = [batch.result() for batch in self._batches]
        return torch.cat(rows).cpu() if rows else torch.empty(0, self._backbone.feature_dim)


Decode = Callable[[Clip], tuple[Tensor, DecodedClip]]


class Decoded(NamedTuple):
    """A clip decoded by a worker: frames or segments, fields of its entry in the store, and frame times."""

    frames: NDArray[np.uint8]
    fields: dict[str, Any]
    times_s: list[float] | None


def _decode_or_fail(decode: Decode, decoder: str, clip: Clip) -> Decoded | Failure:
    """Decode a clip, or return its failure, so that other clips are not affected."""
    started = time.perf_counter()
    try:
        frames, decoded = decode(clip)
    except OSError:
        raise  # A fault of the machine, not of the clip: stop; the extraction can be continued later.
    except Exception as error:  # noqa: BLE001 - a decoder may raise any error; only this clip fails
        reason = one_line(error)
        if not isinstance(error, DecodingError):
            reason = f"{clip.path}: {type(error).__name__}: {reason}"
        return Failure.of(clip, "decode", type(error).__name__, reason, decoder, time.perf_counter() - started)
    fields = {name: getattr(decoded, name) for name in ("num_available", "fps", "decoder", "damage")}
    fields["indices"] = decoded.indices_T.tolist()
    return Decoded(frames.numpy(), fields, None if decoded.times_s_T is None else decoded.times_s_T.tolist())


def _on_one_thread(decode: Callable[[Clip], Decoded | Failure], clip: Clip) -> Decoded | Failure:
    torch.set_num_threads(1)  # Workers run in parallel; more threads would compete for the same cores.
    return decode(clip)


def decode_each(
    clips: Sequence[Clip], decode: Decode, decoder: str, num_workers: int, time_limit_s: float
) -> Generator[Decoded | Failure, None, None]:
    """Decode clips in order, in this process or in isolated workers. Yields a `Failure` for each clip that fails.

    Args:
        clips: Clips of a catalog.
        decode: Decodes a clip to frames for the network; must be picklable.
        decoder: Name of the decoder, for failures.
        num_workers: Number of decoding processes. 0 decodes in this process, without a time limit or crash isolation.
        time_limit_s: A clip fails if decoding it in a worker takes longer.
    Raises:
        VideomemError: If workers cannot start.
        OSError: If reading fails for a reason other than the clip.
    """
    decode_or_fail = partial(_decode_or_fail, decode, decoder)
    if num_workers == 0:
        yield from map(decode_or_fail, clips)
        return
    answers = run_isolated(partial(_on_one_thread, decode_or_fail), clips, num_workers, time_limit_s, preload=__name__)
    for clip, answer in zip(clips, answers, strict=True):
        if isinstance(answer, Lost):
            yield Failure.of(clip, "decode", answer.error, f"{clip.path}: {answer.reason}", decoder, answer.seconds)
        else:
            yield answer


def _progress(console: Console | None) -> LineProgress:
    texts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("clips")
    return LineProgress(*texts, _FrameRate(""), TimeRemainingColumn(), console=console)


class _FrameRate(TextColumn):
    """Frames per second since the start."""

    def render(self, task: Any) -> Any:
        rate = task.fields.get("frames", 0) / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:.0f} frames/s")
