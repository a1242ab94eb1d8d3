"""The recall tasks: sequences of frames in which a cue must be reported after a delay.

A cue is a marked frame, distractors show the same symbols without the mark, and the last frame is the query. The head
is read at the query alone: with a mean over frames, the logits of the cue frame would solve the task without memory.

    latch    one cue
    update   several cues with different symbols, of which the latest is the answer; a sum over frames contains the
             symbols of all cues but not which of them was the latest

Reference:
    Hochreiter and Schmidhuber 1997, section 5 (long time lags among distractors).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from videomem.experiments.memory_horizon.recall_frames import NUM_SYMBOLS, FrameTable, Ints

LEAD = 16  # number of frames up to and including the cue to report
NUM_CUES = 3  # in the update task
CHANCE = 1 / NUM_SYMBOLS


class Sequences(NamedTuple):
    """Sequences as rows of a frame table.

    Attributes:
        rows_BT: Row of each frame; the query is the last frame.
        labels_B: Symbol of the cue to report.
        cues_BN: Position of each cue; the cue to report is the last.
    """

    rows_BT: Ints
    labels_B: Ints
    cues_BN: Ints


# Arguments: generator, frame table, drawings to use, delay in frames, number of sequences.
Task = Callable[[np.random.Generator, FrameTable, Ints, int, int], Sequences]


def latch(rng: np.random.Generator, table: FrameTable, variants: Ints, delay: int, num: int) -> Sequences:
    """Returns sequences with one cue, `delay` frames before the query."""
    return _compose(rng, table, variants, delay, rng.integers(NUM_SYMBOLS, size=(num, 1)))


def update(rng: np.random.Generator, table: FrameTable, variants: Ints, delay: int, num: int) -> Sequences:
    """Returns sequences with `NUM_CUES` cues of different symbols, the latest `delay` frames before the query.

    A head that stores which cues occurred, but not their order, has an accuracy of at most 1 / `NUM_CUES`.
    """
    symbols = rng.permuted(np.tile(np.arange(NUM_SYMBOLS), (num, 1)), axis=1)
    return _compose(rng, table, variants, delay, symbols[:, :NUM_CUES])


TASKS: dict[str, Task] = {"latch": latch, "update": update}


def _compose(rng: np.random.Generator, table: FrameTable, variants: Ints, delay: int, symbols_BN: Ints) -> Sequences:
    """Composes distractors, the query, and cues among the first `LEAD` frames, of which the last is a cue."""
    num, num_cues = symbols_BN.shape
    symbols_BT = rng.integers(NUM_SYMBOLS, size=(num, LEAD + delay))
    marked_BT = np.zeros_like(symbols_BT, dtype=bool)
    earlier = rng.permuted(np.tile(np.arange(LEAD - 1), (num, 1)), axis=1)[:, : num_cues - 1]
    cues_BN = np.concatenate([earlier, np.full((num, 1), LEAD - 1)], axis=1)
    np.put_along_axis(symbols_BT, cues_BN, symbols_BN, axis=1)
    np.put_along_axis(marked_BT, cues_BN, True, axis=1)
    rows_BT = table.rows(symbols_BT, marked_BT, rng.choice(variants, size=symbols_BT.shape))
    rows_BT[:, -1] = table.query_rows(rng.choice(variants, size=num))
    return Sequences(rows_BT, symbols_BN[:, -1], cues_BN)
