"""Pictures of a shuffle evaluation: accuracies, and animations of clips whose predicted class changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from videomem.experiments.clips import shown_frames
from videomem.experiments.drawing import BLUE, ORANGE, PURPLE, Figure
from videomem.experiments.permutations import SHUFFLE
from videomem.experiments.shuffle.measurements import CONDITIONS, Evaluation
from videomem.experiments.shuffle.shuffle_result import Summary
from videomem.training.data_module import VideoDataModule

COLORS = {"ordered": BLUE, "shuffled": ORANGE, "reversed": PURPLE}
MAX_CLIPS = 4
FRAME_MS = 150
GAP_PX = 6


def accuracy_figure(
    summaries: Sequence[Summary], names: Sequence[str], chance: float, ceiling: float | None = None
) -> Figure:
    """Draws the accuracy of each checkpoint in each condition, with 95 % intervals over groups of clips.

    Args:
        chance: Accuracy of always predicting the most frequent class.
        ceiling: Highest accuracy that an order-blind classifier can reach, if known.
    """
    figure = Figure(figsize=(max(6.4, 1.15 * len(summaries) + 1.5), 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(summaries))
    for number, condition in enumerate(CONDITIONS):
        heights = [summary.accuracy[condition] for summary in summaries]
        estimates = [summary.estimate[condition] for summary in summaries]
        intervals = [(one.low, one.high) if one else (np.nan, np.nan) for one in estimates]
        lengths = np.abs(np.transpose(intervals) - heights)  # NaN draws no error bar.
        axes.bar(places + 0.27 * (number - 1), heights, 0.25, yerr=lengths, capsize=2, label=condition,
                 color=COLORS[condition], error_kw={"elinewidth": 1})  # fmt: skip
    axes.axhline(chance, color="0.35", linestyle=":", linewidth=1.2, label="chance")
    if ceiling is not None:
        axes.axhline(ceiling, color="0.35", linestyle="--", linewidth=1.2, label="order-blind ceiling")
    axes.set_xticks(places, names, rotation=20, ha="right", rotation_mode="anchor")
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=1, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


class FlippedClip(NamedTuple):
    """A clip and one of its permutations.

    Attributes:
        row: Row of the clip in the data.
        clip: Index of the clip among those that were measured.
        permutation: Number of the permutation.
    """

    row: int
    clip: int
    permutation: int


def flipped_clips(evaluation: Evaluation) -> list[FlippedClip]:
    """The clips that are classified correctly in order and change most often when shuffled, with the first such
    permutation.
    """
    shuffled_KN = evaluation.predicted_KN[1:-1]
    flips_KN = shuffled_KN != evaluation.predicted_KN[0]
    share_N = flips_KN.mean(0) * (evaluation.correct_N["ordered"] == 1)
    chosen = [n for n in np.argsort(-share_N, kind="stable")[:MAX_CLIPS].tolist() if share_N[n] > 0]
    return [FlippedClip(evaluation.clips_N[n], n, int(flips_KN[:, n].argmax())) for n in chosen]


def animations(
    data: VideoDataModule, evaluation: Evaluation, num_permutations: int, permutation_seed: int
) -> Iterator[tuple[bytes, str]]:
    """Yields a GIF and its caption for each of `flipped_clips` whose video is available, with the same permutations."""
    for one in flipped_clips(evaluation):
        frames_THWC = shown_frames(data, one.row)
        if frames_THWC is None:
            continue
        num_frames = len(frames_THWC)
        orders_KT = SHUFFLE.frame_orders(num_frames, num_frames, num_permutations, (permutation_seed, one.row))
        in_order, shuffled = (data.class_names[evaluation.predicted_KN[k, one.clip]] for k in (0, 1 + one.permutation))
        caption = f"{data.clips[one.row].label}: left, in order, predicted {in_order}; right, shuffled, predicted "
        yield gif(frames_THWC, frames_THWC[orders_KT[one.permutation]]), caption + shuffled


def gif(left_THWC: NDArray[np.uint8], right_THWC: NDArray[np.uint8]) -> bytes:
    """Two clips of equal shape beside each other, as a GIF that repeats."""
    gap = np.full((*left_THWC.shape[:2], GAP_PX, 3), 255, np.uint8)
    first, *rest = map(Image.fromarray, np.concatenate([left_THWC, gap, right_THWC], axis=2))
    buffer = BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
    return buffer.getvalue()
