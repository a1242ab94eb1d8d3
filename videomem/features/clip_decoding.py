"""Decode clips to frames for a network, in this process or in isolated workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import DecodingError, one_line
from videomem.features.failures import Failure
from videomem.features.preprocessing import Preprocessing
from videomem.features.settings import FeatureSettings
from videomem.utils.workers import Lost, run_isolated
from videomem.video.catalog import Clip
from videomem.video.decoding import DecodedClip, decode_clip


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


Decode = Callable[[Clip], tuple[Tensor, DecodedClip]]


class Decoded(NamedTuple):
    """A clip decoded by a worker: frames or segments, fields of its entry in the store, and frame times."""

    frames: NDArray[np.uint8]
    fields: dict[str, Any]
    times_s: list[float] | None


def _decode_or_fail(decode: Decode, decoder: str, in_worker: bool, clip: Clip) -> Decoded | Failure:
    """Decode a clip, or return its failure, so that other clips are not affected."""
    started = time.perf_counter()
    if in_worker:
        torch.set_num_threads(1)  # Workers run in parallel; more threads would compete for the same cores.
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


def decode_clips(
    clips: Sequence[Clip],
    settings: FeatureSettings,
    preprocessing: Preprocessing,
    num_workers: int,
    time_limit_s: float,
) -> Generator[Decoded | Failure, None, None]:
    """`decode_each` with `decode_frames`."""
    decode = partial(decode_frames, settings=settings, preprocessing=preprocessing)
    return decode_each(clips, decode, settings.decoder, num_workers, time_limit_s)


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
    decode_or_fail = partial(_decode_or_fail, decode, decoder, bool(num_workers))
    answers = run_isolated(decode_or_fail, clips, num_workers, time_limit_s, preload=__name__)
    for clip, answer in zip(clips, answers, strict=True):
        if isinstance(answer, Lost):
            yield Failure.of(clip, "decode", answer.error, f"{clip.path}: {answer.reason}", decoder, answer.seconds)
        else:
            yield answer
