"""The frames of the recall tasks: rendered once, their features extracted once, composed to sequences by index.

The backbone sees single frames, so the features of a sequence are the features of its frames, whatever the sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.errors import VideomemError
from videomem.experiments.clips import clips_of_arrays
from videomem.experiments.projection import projected
from videomem.features.backbone import BackboneSettings, extract_features, load_backbone
from videomem.features.store import FRAME_BATCH
from videomem.video.synthetic import BRIGHT, DARK, SHAPES, Image, Pose, draw, grid, texture

Ints = NDArray[np.int64]
NUM_SYMBOLS = 8  # places of an object around the centre: what a cue says


@dataclass(frozen=True)
class FrameTable:
    """Distinct frames, N of them: every symbol with and without the mark, and the query, each drawn several times.

    Attributes:
        frames_NHWC: RGB frames, (N, size, size, 3) uint8.
        num_variants: Drawings V of each; they differ in background, surface, shape and noise.
    """

    frames_NHWC: NDArray[np.uint8]
    num_variants: int

    def rows(self, symbol: Ints, marked: NDArray[np.bool_], variant: Ints) -> Ints:
        """Rows of frames that show a symbol, marked as a cue or not."""
        return np.asarray((marked * NUM_SYMBOLS + symbol) * self.num_variants + variant, dtype=np.int64)

    def query_rows(self, variant: Ints) -> Ints:
        """Rows of frames that ask for the answer."""
        return np.asarray(2 * NUM_SYMBOLS * self.num_variants + variant, dtype=np.int64)

    @property
    def variants_N(self) -> Ints:
        """Which drawing each frame is."""
        return np.tile(np.arange(self.num_variants), 2 * NUM_SYMBOLS + 1)


@dataclass(frozen=True)
class RecallFrames:
    """The frames of the recall tasks as heads see them.

    Attributes:
        table: The frames.
        x_ND: Their features, in the first principal components of the drawings that heads are trained on.
        train_variants: Drawings to train on.
        test_variants: Drawings to test on, which no head has seen.
    """

    table: FrameTable
    x_ND: Tensor
    train_variants: Ints
    test_variants: Ints

    def training_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) of the training drawings."""
        x_ND = self.x_ND[np.isin(self.table.variants_N, self.train_variants)]
        return x_ND.mean(0), x_ND.std(0)


def recall_frames(table: FrameTable, features_ND: Tensor, num_test_variants: int, projection_dim: int) -> RecallFrames:
    """Features projected as the order test projects them, D -> P, without a look at the drawings kept for testing."""
    drawings, names = np.arange(table.num_variants), [str(number) for number in table.variants_N]
    train, test = drawings[:-num_test_variants], drawings[-num_test_variants:]
    clips = clips_of_arrays(list(features_ND.unsqueeze(1)), names, names, name="recall frames")
    of_training = np.flatnonzero(np.isin(table.variants_N, train))
    seen = projected(clips, of_training, projection_dim)
    x_ND = torch.cat([seen.features(row) for row in range(len(clips))])
    return RecallFrames(table, x_ND, train, test)


def features_of(table: FrameTable, backbone: BackboneSettings) -> Tensor:
    """Features (N, D) of every frame, in batches as the feature store's."""
    network = load_backbone(backbone)
    return extract_features(network, network.preprocessing.shape_frames(table.frames_NHWC), FRAME_BATCH)


def render_frames(num_variants: int, frame_size: int = 112, seed: int = 0) -> FrameTable:
    """Draw every frame from a seed.

    Args:
        num_variants: Drawings of each frame; some are kept for testing, so at least 2.
        frame_size: Height and width in pixels.
        seed: Seed of all that is drawn.
    """
    if num_variants < 2:
        raise VideomemError(f"num_variants is {num_variants}, but must be at least 2: some are kept for testing")
    frames = [
        _symbol(np.random.default_rng([seed, variant, symbol, marked]), frame_size, symbol, bool(marked))
        for marked in (0, 1)
        for symbol in range(NUM_SYMBOLS)
        for variant in range(num_variants)
    ]
    frames += [_query(np.random.default_rng([seed, variant]), frame_size) for variant in range(num_variants)]
    return FrameTable(np.stack(frames), num_variants)


def _symbol(rng: np.random.Generator, size: int, symbol: int, marked: bool) -> NDArray[np.uint8]:
    """An object at one of the places; a cue has a bright frame around it."""
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
    """A bright cross through the whole picture."""
    y, x = grid(size)
    cross = (np.minimum(np.abs(x), np.abs(y)) < 0.05)[..., None]
    return _noisy(rng, np.where(cross, texture(rng, size, BRIGHT), texture(rng, size, DARK)))


def _noisy(rng: np.random.Generator, image: Image) -> NDArray[np.uint8]:
    return (image + rng.normal(0, 1, image.shape)).round().clip(0, 255).astype(np.uint8)
