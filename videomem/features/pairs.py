"""Time-reversed pairs: two clips of one group, each the other played backwards.

Both show the same bag of frames, so a classifier that ignores order gives both the same answer and is right on exactly
half of them at best. That holds only for whole pairs, and for a sampling that is its own mirror image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor

from videomem.errors import VideomemError
from videomem.video.catalog import Clip
from videomem.video.sampling import Sampling, Uniform


def whole_pairs(clips: Sequence[Clip]) -> list[Clip]:
    """The clips whose group has exactly two members of different labels; a pair that lost a member is dropped whole."""
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        members[clip.group].append(clip)
    for group, pair in members.items():
        if len(pair) > 2 or len({clip.label for clip in pair}) < len(pair):
            raise VideomemError(
                f"group {group!r} is no time-reversed pair: it has {len(pair)} clips with labels "
                f"{', '.join(sorted({clip.label for clip in pair}))}; set data.reversed_pairs to false"
            )
        if len(splits := sorted({clip.split for clip in pair})) > 1:
            raise VideomemError(f"group {group!r} is a time-reversed pair in splits {', '.join(splits)}; it needs one")
    return [clip for clip in clips if len(members[clip.group]) == 2]


def check_symmetric(sampling: Sampling, num_available: int) -> None:
    """Refuse a sampling that gives a clip and its reversal different frames.

    Args:
        sampling: How frames are chosen.
        num_available: Frames of a clip.
    """
    if not isinstance(sampling, Uniform):
        raise VideomemError(
            f"sampling is {type(sampling).__name__}, which gives a clip and its reversal different frames; "
            "with data.reversed_pairs use Uniform"
        )
    if sampling.num_frames % 2 and num_available % 2 == 0:
        raise VideomemError(
            f"sampling.num_frames is {sampling.num_frames}, which is odd, and a clip of {num_available} frames has no "
            "middle one: its reversal would give another frame; with data.reversed_pairs use an even number"
        )


def check_same_bag(group: str, one_TD: Tensor, other_TD: Tensor) -> None:
    """Prove that two clips have the same feature rows in some order, to the bit."""
    if one_TD.shape != other_TD.shape or _sorted_rows(one_TD) != _sorted_rows(other_TD):
        raise VideomemError(
            f"group {group!r}: the two clips do not have the same frames, so half is not the most that an order-blind "
            "classifier can reach; make the videos with `videomem synthesize`, or set data.reversed_pairs to false"
        )


def _sorted_rows(x_TD: Tensor) -> list[bytes]:
    return sorted(row.numpy().tobytes() for row in x_TD)
