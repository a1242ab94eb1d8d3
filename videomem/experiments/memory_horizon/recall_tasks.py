"""The recall tasks: sequences of rendered frames in which a cue must be reported after a delay.

A cue is a marked frame, distractors show the same symbols without the mark, and the last frame is the query. The head
is read at the query alone: with a mean over frames, the logits of the cue frame would solve the task without memory.

    latch    one cue
    update   several cues with different symbols, of which the latest is the answer; a sum over frames contains the
             symbols of all cues but not which of them was the latest

Frames are rendered and encoded once, and combined into sequences by index: the backbone processes single frames, so the
features of a sequence are the features of its frames.

Reference:
    Hochreiter and Schmidhuber 1997, section 5 (long time lags among distractors).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.clips import clips_of_arrays, projected
from videomem.features.backbone import BackboneSettings, extract_features, load_backbone
from videomem.video.synthetic import BRIGHT, DARK, SHAPES, Image, Pose, draw, grid, texture

Ints = NDArray[np.int64]
NUM_SYMBOLS = 8  # positions of an object around the center; the position is the content of a cue
CHANCE = 1 / NUM_SYMBOLS
SIZE_PX = 112  # height and width of frames
LEAD = 16  # number of frames up to and including the cue to report
NUM_CUES = 3  # in the update task


@dataclass(frozen=True)
class FrameTable:
    """N distinct frames: every symbol with and without the mark, and the query, each in several drawings.

    Attributes:
        frames_NHWC: RGB frames (N, size, size, 3) uint8.
        num_variants: Number of drawings of each; they differ in background, surface, shape and noise.
    """

    frames_NHWC: NDArray[np.uint8]
    num_variants: int

    def rows(self, symbol: Ints, marked: NDArray[np.bool_], variant: Ints) -> Ints:
        """Returns the rows of frames that show a symbol, marked as a cue or not."""
        return np.asarray((marked * NUM_SYMBOLS + symbol) * self.num_variants + variant, dtype=np.int64)

    def query_rows(self, variant: Ints) -> Ints:
        """Returns the rows of query frames."""
        return np.asarray(2 * NUM_SYMBOLS * self.num_variants + variant, dtype=np.int64)

    @property
    def variants_N(self) -> Ints:
        """Number of the drawing of each frame."""
        return np.tile(np.arange(self.num_variants), 2 * NUM_SYMBOLS + 1)


@dataclass(frozen=True)
class RecallFrames:
    """The frames of the recall tasks and their features.

    Attributes:
        table: The frames.
        x_ND: Their features, projected on the first principal components of the training drawings.
        train_variants: Numbers of the training drawings.
        test_variants: Numbers of the test drawings, which are not used in training.
    """

    table: FrameTable
    x_ND: Tensor
    train_variants: Ints
    test_variants: Ints

    def training_statistics(self) -> tuple[Tensor, Tensor]:
        """Returns the mean and standard deviation (D,) of the features of the training drawings."""
        x_ND = self.x_ND[np.isin(self.table.variants_N, self.train_variants)]
        return x_ND.mean(0), x_ND.std(0)


def recall_frames(table: FrameTable, features_ND: Tensor, num_test_variants: int, projection_dim: int) -> RecallFrames:
    """Projects features D -> P as the order test does, with components fitted on the training drawings alone."""
    train, test = np.split(np.arange(table.num_variants), [-num_test_variants])
    names = table.variants_N.astype(str).tolist()
    clips = clips_of_arrays(list(features_ND.unsqueeze(1)), names, names, name="recall frames")
    seen = projected(clips, np.flatnonzero(np.isin(table.variants_N, train)), projection_dim)
    return RecallFrames(table, torch.cat([seen.features(row) for row in range(len(clips))]), train, test)


def features_of(table: FrameTable, backbone: BackboneSettings) -> Tensor:
    """Returns the features (N, D) of every frame, extracted as for the feature store."""
    network = load_backbone(backbone)
    return extract_features(network, network.preprocessing.shape_frames(table.frames_NHWC))


def render_frames(num_variants: int) -> FrameTable:
    """Draws `num_variants` drawings of each frame.

    Raises:
        VideomemError: If `num_variants` is below 2.
    """
    if num_variants < 2:
        raise VideomemError(
            f"num_variants is {num_variants}, but must be at least 2, because some drawings are for testing"
        )
    frames = [
        _symbol(np.random.default_rng([0, variant, symbol, marked]), SIZE_PX, symbol, bool(marked))
        for marked, symbol, variant in np.ndindex(2, NUM_SYMBOLS, num_variants)
    ]
    frames += [_query(np.random.default_rng([0, variant]), SIZE_PX) for variant in range(num_variants)]
    return FrameTable(np.stack(frames), num_variants)


def _symbol(rng: np.random.Generator, size: int, symbol: int, marked: bool) -> NDArray[np.uint8]:
    """Draws an object at one of the positions; a cue has a bright border."""
    direction = 2 * math.pi * symbol / NUM_SYMBOLS
    pose = Pose(0.2 * math.cos(direction), 0.2 * math.sin(direction), 0.11, rng.uniform(0, 2 * math.pi))
    shape = list(SHAPES.values())[rng.integers(len(SHAPES))]
    image = draw(texture(rng, size, DARK), texture(rng, size, BRIGHT), shape, pose)
    if marked:
        y, x = grid(size)
        far = np.maximum(np.abs(x), np.abs(y))
        image = np.where(((far > 0.36) & (far < 0.42))[..., None], texture(rng, size, BRIGHT), image)
    return _noisy(rng, image)


def _query(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Draws a bright cross over the whole frame."""
    y, x = grid(size)
    cross = (np.minimum(np.abs(x), np.abs(y)) < 0.05)[..., None]
    return _noisy(rng, np.where(cross, texture(rng, size, BRIGHT), texture(rng, size, DARK)))


def _noisy(rng: np.random.Generator, image: Image) -> NDArray[np.uint8]:
    return (image + rng.normal(0, 1, image.shape)).round().clip(0, 255).astype(np.uint8)


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
