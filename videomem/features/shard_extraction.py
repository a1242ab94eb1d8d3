"""Extract the features of shards: batch frames of several clips while others are decoded, and write the shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from hashlib import blake2b
from threading import Semaphore
from typing import Any

import torch
from torch import Tensor

from videomem.errors import VideomemError
from videomem.features.backbone import Backbone, exact_float32, extract_features, load_backbone
from videomem.features.clip_decoding import Decoded, decode_clips
from videomem.features.failures import Failure
from videomem.features.store import FeatureStore
from videomem.utils.parallel_jobs import one_thread
from videomem.video.catalog import Clip
from videomem.video.files import split_template

MAX_QUEUED = 2  # batches of frames that wait for the backbone
# Number, failures and largest feature values (D,) of each shard.
Extracted = Generator[tuple[int, list[Failure], Tensor], None, None]


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
        device, num_workers, time_limit_s: As in `extract`.
        tell: Called for each clip, with the number of its frames.
    """
    clips = [clip for shard in shards.values() for clip in shard.values()]
    stream = decode_clips(clips, store.settings, store.settings.preprocessing, num_workers, time_limit_s)
    backbone = load_backbone(store.settings.backbone, device)
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
    store.shards.write(number, [(key, fields, features[rows]) for key, fields, rows in clips])
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
