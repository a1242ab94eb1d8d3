"""The shared projection D -> P: principal components of a run's training frames."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videomem.experiments.clips import Clips
from videomem.heads import FeatureNorm
from videomem.training.feature_sources import frame_statistics

MAX_FRAMES = 20_000  # for fitting; more frames change the components little
_KEPT = 2
_projected: OrderedDict[tuple[int, bytes, int], tuple[Clips, Clips]] = OrderedDict()


def projected(clips: Clips, train: NDArray[np.int64], projection_dim: int) -> Clips:
    """Project all frames to the first principal components of the training frames. The result is held in memory.

    Frames are standardized by the statistics of the training frames, as in `FeatureNorm`. Labels and frame order do not
    affect the projection. It is fitted to each training set; the latest ones are cached, because the memories and
    training conditions of a run share theirs.

    Args:
        clips: Clips with features (T, D).
        train: Rows of the training clips.
        projection_dim: P, at most min(D, number of training frames).
    Reference:
        Halko et al. 2011, "Finding structure with randomness", algorithm 5.1 (as `torch.pca_lowrank`).
    """
    key = (id(clips), train.tobytes(), projection_dim)
    if key not in _projected:
        # Keep a reference to the clips, so that their id is not reused.
        _projected[key] = clips, _project(clips, train, projection_dim)
        while len(_projected) > _KEPT:
            _projected.popitem(last=False)
    return _projected[key][1]


def _project(clips: Clips, train: NDArray[np.int64], projection_dim: int) -> Clips:
    norm = FeatureNorm(clips.feature_dim)
    norm.set_statistics(*frame_statistics(map(clips.features, train.tolist()), clips.feature_dim))

    def standardized(row: int) -> Tensor:
        x_TD: Tensor = norm(clips.features(row))
        return x_TD

    rng = np.random.default_rng(0)
    frames = [(row, t) for row in train.tolist() for t in range(int(clips.lengths[row]))]
    chosen = rng.choice(len(frames), min(MAX_FRAMES, len(frames)), replace=False)
    taken: dict[int, list[int]] = {}
    for row, t in (frames[number] for number in np.sort(chosen).tolist()):
        taken.setdefault(row, []).append(t)
    x_ND = torch.cat([standardized(row)[places] for row, places in taken.items()])
    dim = min(projection_dim, *x_ND.shape)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        components_DP = torch.pca_lowrank(x_ND, q=min(dim + 8, *x_ND.shape), center=False, niter=3)[2][:, :dim]
    features = [standardized(row) @ components_DP for row in range(len(clips))]
    return replace(clips, features=features.__getitem__, feature_dim=dim)
