"""The recall tasks: sequences of frames in which a cue is asked for after a delay.

A cue is a marked frame, the distractors show the same symbols without the mark, and the last frame is the query. Only
the logits there count: a mean over frames would let the cue's own logits give the answer away.

    latch    one cue, asked for after a delay
    update   the latest of several cues with different symbols: a sum over frames knows which there were, not the last

Reference:
    Hochreiter and Schmidhuber 1997, section 5 (long time lags among distractors).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from videomem.experiments.memory_horizon.recall_frames import NUM_SYMBOLS, FrameTable, Ints

LEAD = 16  # frames up to the cue that is asked for, itself included
NUM_CUES = 3  # in the update task
CHANCE = 1 / NUM_SYMBOLS


class Sequences(NamedTuple):
    """Sequences as rows of a frame table.

    Attributes:
        rows_BT: Row of each frame, the query last.
        labels_B: Symbol of the cue that is asked for.
        cues_BN: Place of each cue, the one that is asked for last.
    """

    rows_BT: Ints
    labels_B: Ints
    cues_BN: Ints


# From a generator, frames, the drawings to use, a delay in frames and a number of sequences.
Task = Callable[[np.random.Generator, FrameTable, Ints, int, int], Sequences]


def latch(rng: np.random.Generator, table: FrameTable, variants: Ints, delay: int, num: int) -> Sequences:
    """One cue, `delay` frames before the query."""
    return _compose(rng, table, variants, delay, rng.integers(NUM_SYMBOLS, size=(num, 1)))


def update(rng: np.random.Generator, table: FrameTable, variants: Ints, delay: int, num: int) -> Sequences:
    """Several cues with different symbols, the latest `delay` frames before the query.

    What only knows which cues there were is right in one of `NUM_CUES` cases at best.
    """
    symbols = rng.permuted(np.tile(np.arange(NUM_SYMBOLS), (num, 1)), axis=1)
    return _compose(rng, table, variants, delay, symbols[:, :NUM_CUES])


TASKS: dict[str, Task] = {"latch": latch, "update": update}


def _compose(rng: np.random.Generator, table: FrameTable, variants: Ints, delay: int, symbols_BN: Ints) -> Sequences:
    """Distractors, cues among the first `LEAD` frames with the last of them at its end, and the query."""
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
