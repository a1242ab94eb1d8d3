"""From a catalog to the feature store: decode in workers, pack the frames of many videos into batches, write shards."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videomem.errors import DecodingError
from videomem.features.backbone import Backbone, Preprocessing, extract_features, load_backbone
from videomem.features.keys import clip_keys
from videomem.features.store import FRAME_BATCH, Failure, FeatureSettings, FeatureStore
from videomem.video.catalog import Clip, file_problem
from videomem.video.decoding import DecodedClip, decode_clip


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction did: clips found done, extracted now, and failed now or before."""

    num_done_before: int
    num_extracted: int
    failures: tuple[Failure, ...]
    folder: Path


def decode_frames(clip: Clip, settings: FeatureSettings) -> tuple[Tensor, DecodedClip]:
    """The frames of a clip as the backbone takes them, (T, 3, crop, crop) uint8, and how they were decoded."""
    decoded = decode_clip(clip.path, settings.sampling, clip.interval, settings.decoder)
    return Preprocessing.of(settings.backbone.name).shape_frames(decoded.frames_THWC), decoded


def extract(
    clips: Sequence[Clip],
    settings: FeatureSettings,
    root: Path | str,
    device: str = "cpu",
    num_workers: int = 0,
    console: Console | None = None,
) -> ExtractionReport:
    """Extract the features of clips into the store below `root`; what is there already is left as it is.

    An interrupted extraction goes on where it was and ends with the bytes of one that ran through. A clip that fails is
    in the ledger, and the others are extracted all the same.

    Args:
        clips: Clips of a catalog.
        settings: What to extract; its hash names the store.
        root: Folder of stores.
        device: Where the backbone runs, such as `cpu` or `cuda`.
        num_workers: Processes that decode; 0 decodes in this one.
        console: Where the progress bar goes; none by default.
    Raises:
        VideomemError: If the backbone cannot be built or the store not be written.
    """
    keys, unreadable = clip_keys(clips, root)
    store = FeatureStore(root, settings)
    store.create()
    done, settled = set(store.read_index()), store.settled_clips()
    by_key = {key: clip for clip, key in keys.items()}
    for key, clip in list(by_key.items()):
        # A file that is gone for now must not be settled as one that failed for ever.
        if key not in settled and (problem := file_problem(clip.path)):
            unreadable.append(Failure(clip.path, "open", "", "FileNotFoundError", problem, 0.0))
            del by_key[key]
    for failure in unreadable:
        store.log_failure(failure)
    plan = store.extend_plan(list(by_key))
    missing = [n for n, shard in enumerate(plan) if not store.has_shard(n) and all(key in by_key for key in shard)]
    backbone = load_backbone(settings.backbone)[0].to(device)
    failures = list(unreadable)
    with _progress(console) as progress:
        task = progress.add_task("extracting", total=sum(len(plan[number]) for number in missing), frames=0)
        stream = iter(_loader([by_key[key] for number in missing for key in plan[number]], settings, num_workers))
        for number in missing:
            failures += _extract_shard(store, number, plan[number], stream, backbone, progress, task)
    now = store.read_index()
    tried = {key for number in missing for key in plan[number]}
    failures += _earlier_failures(store, [clip for key, clip in by_key.items() if key not in now and key not in tried])
    num_before = len(done & by_key.keys())
    return ExtractionReport(num_before, len(now.keys() & by_key.keys()) - num_before, tuple(failures), store.folder)


def _extract_shard(
    store: FeatureStore,
    number: int,
    keys: Sequence[str],
    stream: Iterator[tuple[Tensor, dict[str, Any]] | Failure],
    backbone: Backbone,
    progress: Progress,
    task: Any,
) -> list[Failure]:
    """Take the shard's clips from the stream of decoded ones, run the backbone, write the shard."""
    failures: list[Failure] = []
    packer = _FramePacker(backbone)
    clips: list[tuple[str, dict[str, Any], list[int]]] = []
    for key in keys:
        item = next(stream)
        if isinstance(item, Failure):
            store.log_failure(item)
            failures.append(item)
        else:
            clips.append((key, item[1], packer.add(item[0])))
            progress.update(task, frames=progress.tasks[0].fields["frames"] + len(item[0]))
        progress.advance(task)
    features = packer.finish()
    store.write_shard(number, [(key, fields, features[rows]) for key, fields, rows in clips])
    return failures


class _FramePacker:
    """Packs frames of several videos into full batches, and computes frames that are the same image once.

    So a frame's features do not depend on the video it is in: a clip and its reversal give the same rows.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._row_of: dict[bytes, int] = {}
        self._waiting: list[Tensor] = []
        self._features: list[Tensor] = []

    def add(self, frames: Tensor) -> list[int]:
        """Rows of the features that `finish` will give for frames (T, 3, crop, crop)."""
        rows = []
        for frame in frames:
            image = frame.contiguous().numpy().tobytes()
            digest = blake2b(image, digest_size=16).digest()
            if digest not in self._row_of:
                self._row_of[digest] = len(self._row_of)
                self._waiting.append(frame)
                if len(self._waiting) == FRAME_BATCH:
                    self._run()
            rows.append(self._row_of[digest])
        return rows

    def finish(self) -> Tensor:
        self._run()
        return torch.cat(self._features) if self._features else torch.empty(0, self._backbone.feature_dim)

    def _run(self) -> None:
        if self._waiting:
            self._features.append(extract_features(self._backbone, torch.stack(self._waiting), FRAME_BATCH).cpu())
            self._waiting = []


class _Frames(Dataset[tuple[Tensor, dict[str, Any]] | Failure]):
    """Decoded clips; a clip that fails is an item too, so that it costs nothing but itself."""

    def __init__(self, clips: Sequence[Clip], settings: FeatureSettings) -> None:
        self._clips = clips
        self._settings = settings

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> tuple[Tensor, dict[str, Any]] | Failure:
        clip, started = self._clips[number], time.perf_counter()
        try:
            frames, decoded = decode_frames(clip, self._settings)
        except (OSError, MemoryError):
            raise  # The machine's fault, not the clip's: stop, and go on from here when it is mended.
        except Exception as error:  # noqa: BLE001 - whatever a strange file makes a decoder raise costs that clip only
            seconds, reason = time.perf_counter() - started, " ".join(str(error).split())
            if not isinstance(error, DecodingError):
                reason = f"{clip.path}: {type(error).__name__}: {reason}"
            return Failure(clip.path, "decode", self._settings.decoder, type(error).__name__, reason, round(seconds, 3))
        return frames, {
            "num_available": decoded.num_available,
            "fps": decoded.fps,
            "decoder": decoded.decoder,
            "indices": decoded.indices_T.tolist(),
        }


def _loader(clips: Sequence[Clip], settings: FeatureSettings, num_workers: int) -> DataLoader[Any]:
    return DataLoader(_Frames(clips, settings), batch_size=None, num_workers=min(num_workers, len(clips)))


def _earlier_failures(store: FeatureStore, clips: Sequence[Clip]) -> list[Failure]:
    """The ledger's last word on clips that failed in an earlier run."""
    ledger = {failure.path: failure for failure in store.read_ledger()}
    unknown = Failure("", "decode", "", "unknown", "failed in an earlier run", 0.0)
    return [ledger.get(clip.path, replace(unknown, path=clip.path)) for clip in clips]


def _progress(console: Console | None) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("clips"),
        _FrameRate(""),
        TimeRemainingColumn(),
    )
    shown = console is not None and console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=not shown)


class _FrameRate(TextColumn):
    """Frames per second since the start."""

    def render(self, task: Any) -> Any:
        rate = task.fields["frames"] / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:.0f} frames/s")
