"""Clips of chiral pairs as video strips: in order, shuffled and reversed, with what each memory takes them for."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from videomem.errors import DecodingError, VideomemError
from videomem.experiments import permutations
from videomem.experiments.clips import Clips
from videomem.experiments.frame_strips import Example, Strip
from videomem.experiments.order_test.conditions import condition_of, test_orders
from videomem.experiments.order_test.folds import RunSplit
from videomem.experiments.order_test.plan import OrderPlan
from videomem.experiments.order_test.result import OrderCard
from videomem.experiments.order_test.scores import Scores
from videomem.training.data_module import VideoDataModule
from videomem.video.decoding import decode_clip
from videomem.video.files import file_problem

HEIGHT_PX = 96
MAX_EXAMPLES = 4
_log = logging.getLogger("videomem")


def examples_of(
    data: VideoDataModule, clips: Clips, plan: OrderPlan, first: RunSplit, scores: Scores, card: OrderCard
) -> list[Example]:
    """A clip of the first run for each of the strongest chiral pairs; none where the videos are not at hand.

    Args:
        data: Where the videos are.
        clips: The clips of the test; row for row those of `data`.
        plan: The plan.
        first: The split of the first run, whose answers are shown.
        scores: What was answered.
        card: Where the pairs stand.
    """
    examples = []
    for one, other in _pairs(card)[:MAX_EXAMPLES]:
        label, partner = clips.class_names.index(one), clips.class_names.index(other)
        place = _telling(first.test, clips, scores, card, label, partner)
        if place is None:
            continue
        row = int(first.test[place])
        frames_THWC = _frames(data, row)
        if frames_THWC is not None and len(frames_THWC) == clips.lengths[row]:
            examples.append(Example(one, other, _strips(frames_THWC, row, place, clips, plan, scores, card)))
    return examples


def _pairs(card: OrderCard) -> list[tuple[str, str]]:
    """Pairs that some memory takes for each other (p at most 0.05), the surest first, each once."""
    all_pairs = [pair for result in card.memories if result.chiral for pair in result.chiral.pairs]
    found = sorted((pair.p, -pair.excess, pair.first, pair.second) for pair in all_pairs if pair.p <= 0.05)
    return list(dict.fromkeys((min(one, other), max(one, other)) for _, _, one, other in found))


def _telling(
    test: NDArray[np.int64], clips: Clips, scores: Scores, card: OrderCard, label: int, partner: int
) -> int | None:
    """Place of a test clip of the class that most memories take for the partner when it is reversed."""
    places = np.flatnonzero(clips.labels[test] == label)
    if not len(places):
        return None
    votes = np.zeros(len(test))
    for result in card.memories:
        answers = [scores.predicted(result.name, "O", name)[0][: len(test)] for name in ("ordered", "reverse")]
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
    card: OrderCard,
) -> list[Strip]:
    length = len(frames_THWC)
    shuffle = condition_of("F", clips.max_frames, plan.settings)
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
            {one.label: clips.class_names[scores.predicted(one.name, "O", name)[0][place]] for one in card.memories},
        )
        for name, order_T in orders.items()
    ]
