"""Example clips of chiral pairs: frames in order, shuffled and reversed, with the prediction of each memory."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from videomem.errors import DecodingError, VideomemError
from videomem.experiments import permutations
from videomem.experiments.clips import Clips
from videomem.experiments.html import Example, Strip
from videomem.experiments.order_test.folds import RunSplit
from videomem.experiments.order_test.frame_orders import test_orders, test_perturbation
from videomem.experiments.order_test.plan import OrderPlan
from videomem.experiments.order_test.result import OrderTestResult
from videomem.experiments.order_test.scores import Scores
from videomem.training.data_module import VideoDataModule
from videomem.video.decoding import decode_clip
from videomem.video.files import file_problem

HEIGHT_PX = 96
MAX_EXAMPLES = 4
_log = logging.getLogger("videomem")


def examples_of(
    data: VideoDataModule, clips: Clips, plan: OrderPlan, first: RunSplit, scores: Scores, result: OrderTestResult
) -> list[Example]:
    """One test clip of the first run for each of the most significant chiral pairs.

    Args:
        data: The data module that the videos are decoded with. If a video is missing, its example is left out.
        clips: The clips of the test, in the row order of `data`.
        plan: The plan.
        first: The split of the first run, whose predictions are shown.
        scores: Predictions of all training jobs.
        result: The result, for its chiral pairs.
    """
    examples = []
    for one, other in _pairs(result)[:MAX_EXAMPLES]:
        label, partner = clips.class_names.index(one), clips.class_names.index(other)
        place = _clearest(first.test, clips, scores, result, label, partner)
        if place is None:
            continue
        row = int(first.test[place])
        frames_THWC = _frames(data, row)
        if frames_THWC is not None and len(frames_THWC) == clips.lengths[row]:
            examples.append(Example(one, other, _strips(frames_THWC, row, place, clips, plan, scores, result)))
    return examples


def _pairs(result: OrderTestResult) -> list[tuple[str, str]]:
    """Distinct pairs with p at most 0.05 for any memory, sorted by p."""
    all_pairs = [pair for one in result.memories if one.chiral for pair in one.chiral.pairs]
    found = sorted((pair.p, -pair.excess, pair.first, pair.second) for pair in all_pairs if pair.p <= 0.05)
    return list(dict.fromkeys((min(one, other), max(one, other)) for _, _, one, other in found))


def _clearest(
    test: NDArray[np.int64], clips: Clips, scores: Scores, result: OrderTestResult, label: int, partner: int
) -> int | None:
    """Index of the test clip of a class that most memories classify as the partner when it is reversed."""
    places = np.flatnonzero(clips.labels[test] == label)
    if not len(places):
        return None
    votes = np.zeros(len(test))
    for one in result.memories:
        answers = [scores.predicted(one.name, "ordered", name)[0][: len(test)] for name in ("ordered", "reverse")]
        votes += (answers[0] == label) * 1.0 + (answers[1] == partner)
    return int(places[votes[places].argmax()])


def _frames(data: VideoDataModule, row: int) -> NDArray[np.uint8] | None:
    clip, settings = data.clips[row], data.settings
    if settings.imported is not None:
        return None
    if problem := file_problem(clip.path):
        _log.info("no video strip: %s", problem)
        return None
    try:
        decoded = decode_clip(
            clip.path, settings.sampling, clip.interval, settings.decoder, clip.fps, settings.on_damage
        )
    except (DecodingError, VideomemError) as error:
        _log.warning("no video strip: %s", error)
        return None
    step = max(1, decoded.frames_THWC.shape[1] // HEIGHT_PX)
    return decoded.frames_THWC[:, ::step, ::step]


def _strips(
    frames_THWC: NDArray[np.uint8],
    row: int,
    place: int,
    clips: Clips,
    plan: OrderPlan,
    scores: Scores,
    result: OrderTestResult,
) -> list[Strip]:
    length = len(frames_THWC)
    shuffle = test_perturbation("fixed_permutation", clips.max_frames, plan.settings)
    orders = {
        "ordered": permutations.ordered(length, length)[0],
        "shuffle": test_orders(clips, row, shuffle, plan.settings.num_permutations)[0][:length],
        "reverse": permutations.reversed_order(length, length)[0],
    }
    words = {"ordered": "ordered", "shuffle": "shuffled", "reverse": "reversed"}
    return [
        Strip(
            words[name],
            frames_THWC[order_T],
            {
                one.label: clips.class_names[scores.predicted(one.name, "ordered", name)[0][place]]
                for one in result.memories
            },
        )
        for name, order_T in orders.items()
    ]
