"""Time-reversed pairs: the two clips of a group, each of which is the other played backwards.

Both clips have the same set of frames, so a classifier that ignores frame order predicts the same class for both, and
its accuracy is at most one half. This holds only for complete pairs and for a sampling that is symmetric in time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from torch import Tensor

from videomem.errors import VideomemError
from videomem.video.catalog import Clip
from videomem.video.sampling import Sampling, Uniform


def whole_pairs(clips: Sequence[Clip]) -> list[Clip]:
    """The clips of complete pairs; a clip whose partner is missing is left out.

    Raises:
        VideomemError: If a group has more than two clips, equal labels, or clips in several splits.
    """
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        members[clip.group].append(clip)
    for group, pair in members.items():
        if len(pair) > 2 or len({clip.label for clip in pair}) < len(pair):
            raise VideomemError(
                f"group {group!r} is not a time-reversed pair: it has {len(pair)} clips with labels "
                f"{', '.join(sorted({clip.label for clip in pair}))}; set data.reversed_pairs to false"
            )
        if len(splits := sorted({clip.split for clip in pair})) > 1:
            raise VideomemError(
                f"group {group!r} is a time-reversed pair in splits {', '.join(splits)}; put both clips in one"
            )
    return [clip for clip in clips if len(members[clip.group]) == 2]


def check_symmetric(sampling: Sampling, num_available: int) -> None:
    """Check that a sampling selects the same frames of a clip and of its reversal.

    Args:
        sampling: The sampling.
        num_available: Number of frames of a clip.
    Raises:
        VideomemError: If it does not.
    """
    if not isinstance(sampling, Uniform):
        raise VideomemError(
            f"sampling is {type(sampling).__name__}, which selects different frames of a clip and of its reversal; "
            "with data.reversed_pairs use Uniform"
        )
    if sampling.num_frames % 2 and num_available % 2 == 0:
        raise VideomemError(
            f"sampling.num_frames is {sampling.num_frames}, which is odd, but a clip of {num_available} frames has no "
            "middle frame, so its reversal would give another frame; with data.reversed_pairs use an even number"
        )


def check_pairs(clips: Sequence[Clip], rows: Sequence[int], features: Callable[[int], Tensor]) -> None:
    """Check that both clips of each pair have the same stored features.

    Args:
        clips: Clips of complete pairs.
        rows: Indices of the clips to check.
        features: The features (T, D) of a clip by its index.
    Raises:
        VideomemError: If they do not.
    """
    first: dict[str, int] = {}
    for row in rows:
        group = clips[row].group
        if group in first:
            check_same_bag(group, features(first[group]), features(row))
        first.setdefault(group, row)


def check_same_bag(group: str, one_TD: Tensor, other_TD: Tensor) -> None:
    """Check that two clips have bit-identical feature rows, in any order.

    Raises:
        VideomemError: If they do not.
    """
    if one_TD.shape != other_TD.shape or _sorted_rows(one_TD) != _sorted_rows(other_TD):
        raise VideomemError(
            f"group {group!r}: the two clips do not have the same frames, so an order-blind classifier can be right on "
            "more than half of them; make the videos with `videomem synthesize`, or set data.reversed_pairs to false"
        )


def _sorted_rows(x_TD: Tensor) -> list[bytes]:
    return sorted(row.numpy().tobytes() for row in x_TD)
