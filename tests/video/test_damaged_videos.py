"""Damaged files of many kinds give the right frames or an error, never wrong frames, a hang or a crash.

`pytest -s -m slow tests/video/test_damaged_videos.py` tries every kind and prints the counts.
"""

from __future__ import annotations

import resource
import zlib
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.audit import watched
from helpers.barcodes import KINDS, file_of
from numpy.typing import NDArray

from videomem.errors import DecodingError
from videomem.utils.workers import Lost, run_isolated
from videomem.video.decoders import by_torchcodec
from videomem.video.decoding import OnDamage, decode_clip
from videomem.video.sampling import Uniform

DAMAGES = ("none", "truncated", "a bit flipped", "100 bytes of zero", "100 random bytes", "5 % random", "2 % zero",
           "37 bytes removed", "last tenth zero", "first tenth random")  # fmt: skip
# Frames whose pixels differ by at most this are equal; barcodes differ by 215.
TOLERANCE = 16


class Trial(NamedTuple):
    kind: str
    damage: str
    on_damage: OnDamage


def damaged(content: bytes, damage: str, seed: int) -> bytes:
    rng, num_bytes = np.random.default_rng(seed), len(content)
    place, changed = int(rng.integers(num_bytes // 20, num_bytes - num_bytes // 20)), bytearray(content)
    tenth = num_bytes // 10
    if damage == "truncated":
        return content[:place]
    if damage == "37 bytes removed":
        return content[:place] + content[place + 37 :]
    if damage == "a bit flipped":
        changed[place] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    start, patch = {
        "none": (0, b""),
        "100 bytes of zero": (place, bytes(100)),
        "100 random bytes": (place, rng.bytes(100)),
        "5 % random": (place, rng.bytes(num_bytes // 20)),
        "2 % zero": (place, bytes(num_bytes // 50)),
        "last tenth zero": (num_bytes - tenth, bytes(tenth)),
        "first tenth random": (tenth, rng.bytes(tenth)),
    }[damage]
    changed[start : start + len(patch)] = patch
    return bytes(changed[:num_bytes])


def same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    return one.shape == other.shape and int(np.abs(one.astype(np.int16) - other).max()) <= TOLERANCE


def verdict(folder: Path, trial: Trial) -> str:
    """Result for a damaged file: `right`, `refused`, `altered` (a picture that is no original frame) or `wrong`."""
    whole = file_of(folder, trial.kind)
    num_frames = max(len(KINDS[trial.kind].expected), 2)
    reference = decode_clip(whole, Uniform(num_frames), decoder="pyav").frames_THWC
    path = folder / f"damaged-{zlib.crc32(repr(trial).encode())}{whole.suffix}"
    path.write_bytes(damaged(whole.read_bytes(), trial.damage, zlib.crc32(repr(trial[:2]).encode())))
    try:
        clip = decode_clip(path, Uniform(num_frames), on_damage=trial.on_damage)
    except DecodingError:
        return "refused"
    finally:
        path.unlink()
    found = []
    for image, index in zip(clip.frames_THWC, clip.indices_T.tolist(), strict=True):
        candidates = [index, *range(len(reference))]
        found.append((index, next((n for n in candidates if n < len(reference) and same(image, reference[n])), None)))
    known = [(index, number) for index, number in found if number is not None]
    for (index, number), (next_index, next_number) in pairwise(known):
        if next_number - number < next_index - index:
            return "wrong"  # Frames in the wrong order, or a repeated frame.
    if len(known) < len(found):
        return "altered"
    return "right" if all(index == number for index, number in known) else "right, frames missing unnoticed"


def run(folder: Path, kinds: list[str], modes: tuple[OnDamage, ...]) -> Counter[tuple[bool, str]]:
    """Results for all damages of some kinds, including hangs, crashes and errors other than DecodingError."""
    for kind in kinds:
        file_of(folder, kind)  # Written once, before several workers read it.
    trials = [Trial(kind, damage, mode) for kind in kinds for damage in DAMAGES for mode in modes]
    counts: Counter[tuple[bool, str]] = Counter()
    for trial, answer in zip(trials, run_isolated(partial(verdict, folder), trials, 2, time_limit_s=60), strict=True):
        said = {"TimeLimit": "hang", "WorkerDied": "crash"}[answer.error] if isinstance(answer, Lost) else answer
        counts[trial.damage != "none", said] += 1
        if said in ("wrong", "hang", "crash") or (trial.damage == "none" and said != "right"):
            print(trial, said)
    return counts


def assert_reliable(counts: Counter[tuple[bool, str]]) -> None:
    for is_damaged, name in ((False, "whole files"), (True, "damaged files")):
        said = {verdict_: n for (damaged_, verdict_), n in counts.items() if damaged_ == is_damaged}
        print(f"{name}: {sum(said.values())} tried; {', '.join(f'{n} {v}' for v, n in sorted(said.items()))}")
    assert {said for (is_damaged, said) in counts if not is_damaged} == {"right"}
    assert not {"wrong", "hang", "crash"} & {said for _, said in counts}


# A video of each kind of container.
CONTAINERS = ["h264 without B-frames", "h264 variable frame rate in mkv", "vp8 in webm", "h264 in avi", "h264 in mov",
              "h264 in mpegts", "h264 in flv", "gif", "wmv1", "mpeg2 in mpg", "h264 raw", "h264 in nut"]  # fmt: skip
MAX_MIB = 1024  # of a decoding process, most of it torch


class Act(NamedTuple):
    """What a process did with a damaged video."""

    refused: bool
    actions: list[str]
    peak_mib: int


def fuzzed(content: bytes, seed: int) -> bytes:
    """Content with flipped bits, cut off, with a block twice, or with a huge number."""
    rng, changed = np.random.default_rng(seed), bytearray(content)
    place, length = int(rng.integers(len(content))), int(rng.integers(1, len(content) // 4))
    if seed % 4 == 0:
        return content[:place]
    if seed % 4 == 1:
        return content[:place] + content[place : place + length] * 2 + content[place + length :]
    if seed % 4 == 2:
        changed[place : place + 4] = b"\x7f\xff\xff\xff"[: len(content) - place]
    else:
        for bit in rng.integers(8 * len(content), size=3).tolist():
            changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def act(folder: Path, item: tuple[str, int]) -> Act:
    kind, seed = item
    whole = file_of(folder, kind)
    path = folder / f"{zlib.crc32(kind.encode())}-{seed}{whole.suffix}"
    path.write_bytes(fuzzed(whole.read_bytes(), seed))
    refused = False
    if by_torchcodec.versions():
        import torchcodec.decoders  # noqa: F401 - loads its libraries, which is not an act of the file
    with watched([path], time_limit_s=60) as events:
        try:
            decode_clip(path, Uniform(8), on_damage="prefix" if seed % 8 < 4 else "exclude")
        except DecodingError as error:
            assert "\n" not in str(error)
            refused = True
    path.unlink()
    actions = [event for event in events if not event.startswith("import ") and not event.endswith("for reading")]
    return Act(refused, actions, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


@pytest.mark.parametrize("num_files", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_containers_end_in_time_and_do_nothing_but_decode(tmp_path: Path, num_files: int) -> None:
    for kind in CONTAINERS:
        file_of(tmp_path, kind)
    items = [(kind, seed) for kind in CONTAINERS for seed in range(num_files)]
    answers = list(run_isolated(partial(act, tmp_path), items, 2, time_limit_s=20))
    assert not [(item, answer) for item, answer in zip(items, answers, strict=True) if isinstance(answer, Lost)]
    acts = [answer for answer in answers if isinstance(answer, Act)]
    assert not [action for one in acts for action in one.actions]
    assert max(one.peak_mib for one in acts) < MAX_MIB
    assert 0.1 < np.mean([one.refused for one in acts]) < 0.9


SOME = [
    "h264 without B-frames",
    "h264 open GOP",
    "hevc in mkv",
    "vp9 in webm",
    "mpeg4 in avi with B-frames",
    "h264 in mpegts",
]


@pytest.mark.parametrize("mode", ["exclude", "prefix"])
def test_damage_of_common_kinds_is_refused_or_does_no_harm(tmp_path: Path, mode: OnDamage) -> None:
    counts = run(tmp_path, SOME, (mode,))
    assert_reliable(counts)
    assert counts[True, "refused" if mode == "exclude" else "right"] >= 20


@pytest.mark.slow
def test_damage_of_every_kind_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    for mode in ("exclude", "prefix"):
        print(f"\non_damage: {mode}")
        assert_reliable(run(tmp_path, list(KINDS), (mode,)))  # type: ignore[arg-type]
