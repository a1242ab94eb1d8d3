"""Survey a catalog: decode a few frames of every clip, and summarize the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray

from videomem.errors import DecodingError, one_line
from videomem.utils.workers import TIME_LIMIT_S, Lost, run_isolated
from videomem.video.catalog import Catalog, Clip
from videomem.video.decoding import DecodedClip, decode_clip
from videomem.video.fingerprint import SAMPLING, fingerprint, is_reversal, near_pairs

_MOST_LISTED = 6


@dataclass(frozen=True, eq=False)
class ClipFacts:
    """Facts about a clip that can be decoded.

    Attributes:
        duration_s: None if the frame rate is unknown.
        fingerprint: (4,) uint64, or None if the frames have too little contrast.
    """

    num_frames: int
    duration_s: float | None
    height: int
    width: int
    codec: str
    decoder: str
    fingerprint: NDArray[np.uint64] | None


def survey(clips: Sequence[Clip], num_workers: int, time_limit_s: float = TIME_LIMIT_S) -> Iterator[ClipFacts | str]:
    """Decode a few frames of each clip, in this process or in isolated workers.

    Args:
        clips: Clips of a catalog, with absolute paths.
        num_workers: Number of decoding processes. 0 decodes in this process, without a time limit or crash isolation.
        time_limit_s: A clip fails if decoding it in a worker takes longer.
    Yields:
        For each clip in order its facts, or one line that names the clip and why it cannot be decoded.
    """
    answers = run_isolated(partial(_look, decode_clip), clips, num_workers, time_limit_s, preload=__name__)
    for clip, answer in zip(clips, answers, strict=True):
        yield f"{clip}: {answer.reason}" if isinstance(answer, Lost) else answer


def _look(decode: Callable[..., DecodedClip], clip: Clip) -> ClipFacts | str:
    try:
        decoded = decode(clip.path, SAMPLING, clip.interval, fps=clip.fps)
        _, height, width, _ = decoded.frames_THWC.shape
        duration_s = decoded.num_available / decoded.fps if decoded.fps > 0 else None
        found = fingerprint(decoded.frames_THWC)
        return ClipFacts(decoded.num_available, duration_s, height, width, decoded.codec, decoded.decoder, found)
    except DecodingError as error:
        return one_line(error)
    except Exception as error:  # noqa: BLE001 - a decoder may raise any error; only this clip fails
        return f"{clip}: {type(error).__name__}: {one_line(error)}"


def summary(facts: Sequence[ClipFacts]) -> dict[str, str]:
    """Summary of clips: one line each for durations, frames, resolutions, codecs and decoders, by name."""
    if not facts:
        return {}
    durations_s = [fact.duration_s for fact in facts if fact.duration_s is not None]
    durations = _spread(durations_s, ".2f", " s") if durations_s else ""
    if num_unknown := len(facts) - len(durations_s):
        durations += f"{', ' if durations else ''}{num_unknown} unknown (no frame rate, or one frame)"
    return {
        "durations": durations,
        "frames": _spread([fact.num_frames for fact in facts], "g"),
        "resolutions": _counted(f"{fact.width}x{fact.height}" for fact in facts),
        "codecs": _counted(fact.codec for fact in facts),
        "decoders": _counted(fact.decoder for fact in facts),
    }


def _spread(values: Sequence[float], form: str, unit: str = "") -> str:
    return " / ".join(format(f(values), form) for f in (min, median, max)) + f"{unit} (min / median / max)"


def _counted(names: Iterable[str]) -> str:
    counts = Counter(names).most_common()
    listed = ", ".join(f"{name} ({count})" for name, count in counts[:_MOST_LISTED])
    return listed if len(counts) <= _MOST_LISTED else f"{listed}, ... and {len(counts) - _MOST_LISTED} more"


def near_duplicates(facts: Mapping[Clip, ClipFacts], most: int = 20) -> tuple[Counter[str], list[str]]:
    """Number of near-duplicate pairs of clips by their two splits, and descriptions of at most `most` of them."""
    prints = {clip: fact.fingerprint for clip, fact in facts.items() if fact.fingerprint is not None}
    num_pairs: Counter[str] = Counter()
    named: list[str] = []
    for one, other in combinations(Catalog(tuple(prints)).splits, 2):
        left, right = ([clip for clip in prints if clip.split == split] for split in (one, other))
        left_A4, right_B4 = (np.stack([prints[clip] for clip in clips]) for clips in (left, right))
        for pairs in near_pairs(left_A4, right_B4):
            num_pairs[f"{one} and {other}"] += len(pairs)
            for a, b in pairs[: most - len(named)]:
                turned = ", reversed" if is_reversal(left_A4[a], right_B4[b]) else ""
                named.append(f"{left[a]} ({one}) and {right[b]} ({other}){turned}")
    return num_pairs, named
