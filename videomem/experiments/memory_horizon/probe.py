"""Linear probes of earlier frames from the state: ridge regressions, evaluated on held-out groups of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from torch import Tensor

from videomem.errors import VideomemError
from videomem.heads import Head
from videomem.statistics.variance import two_way

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PENALTIES = np.logspace(-1, 5, 7)  # for regressors with a mean variance of 1 and thousands of frames
NUM_COMPONENTS = 32  # of the targets
NUM_FOLDS = 5  # at most
SEEN = 4  # number of components of x_t among the regressors, per target component
MAX_FITTED = 5000  # frames that components are fitted on; more change them little


@dataclass(frozen=True)
class ProbeCurve:
    """How well the frame `lag` frames earlier can be predicted from the state, beyond the current frame.

    Attributes:
        lags: Lags in frames, from 1.
        partial_r2: 1 - SSE(x_{t-lag} | x_t, h_t) / SSE(x_{t-lag} | x_t) on held-out groups. Negative where the state
            makes the prediction worse; NaN where fewer than 2 groups have clips longer than the lag.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        frame_r2: 1 - SSE(x_{t-lag} | x_t) / SSE(x_{t-lag}) on held-out groups: the prediction from the current frame.
        num_pairs: Number of predicted pairs (t, t - lag).
        num_groups: Number of groups that the pairs are from.
    """

    lags: tuple[int, ...]
    partial_r2: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    frame_r2: tuple[float, ...]
    num_pairs: tuple[int, ...]
    num_groups: tuple[int, ...]


class _Frames(NamedTuple):
    """The frames of all clips, concatenated.

    Attributes:
        group_B: Number of the group of each clip.
        clip_N: Number of the clip of each frame.
        time_N: Position of each frame in its clip.
        states_NH: Regressors of the second regression only.
        alone_NH: Regressors of both regressions, in addition to the components of the frame.
    """

    group_B: Ints
    clip_N: Ints
    time_N: Ints
    states_NH: Floats
    alone_NH: Floats


def probe(
    states_by_clip: Sequence[Tensor],
    features_by_clip: Sequence[Tensor],
    groups: Sequence[str],
    lags: Sequence[int],
    alone_by_clip: Sequence[Tensor] | None = None,
    max_pairs: int = 6000,
    seed: int = 0,
) -> ProbeCurve:
    """Measures the partial R^2 of x_{t-lag} from h_t beyond x_t, by cross-validation over groups.

    Targets are the first principal components of the features, weighted by their variance. Two ridge regressions are
    compared: from more components of x_t, and from these components and h_t. Folds consist of whole groups. Components,
    scales and penalty come from the training groups alone; the penalty is chosen on a third of them. The states are a
    non-linear function of x_t and could predict earlier frames better than components of x_t without any memory.
    `alone_by_clip` excludes this: it adds the states of each frame without a past to both regressions.

    The interval is for the ratio of the summed errors and is cluster-robust over groups (CR2 with Student's t; see
    `statistics.variance`). It neglects that folds share training groups, and holds for probes fitted on as many frames:
    regressors without information increase the error, by about H over the number of training frames.

    Args:
        states_by_clip: Activations (T, H) of each clip, as the readout receives them; see `states_of`.
        features_by_clip: Features (T, D) of each clip, standardized by `head.norm`.
        groups: Source of each clip; groups are never split.
        lags: Lags in frames, from 1. Clips that are not longer than a lag are left out at this lag.
        alone_by_clip: Activations (T, H) of each frame without a past: `states_of(head, clips, alone=True)`.
        max_pairs: Largest number of pairs (t, t - lag) per lag; more are subsampled at random.
        seed: Seed of the subsampling.
    Raises:
        VideomemError: If there are fewer than 2 groups, a lag is below 1, or states and features differ in length.
    Reference:
        Alain and Bengio 2017, "Understanding intermediate layers using linear classifier probes"; Jaeger 2001, "Short
        term memory in echo state networks" (memory curves); Bell and McCaffrey 2002 (the interval).
    """
    alone_by_clip = [states[:, :0] for states in states_by_clip] if alone_by_clip is None else alone_by_clip
    _check(states_by_clip, alone_by_clip, features_by_clip, groups, lags)
    frames = _frames(states_by_clip, alone_by_clip, groups)
    rng, num_groups = np.random.default_rng(seed), len(set(groups))
    pairs = [_pairs(frames.time_N, lag, max_pairs, rng) for lag in lags]
    errors_LGE = np.zeros((len(lags), num_groups, 4))
    for is_test_N, seen_NP in _folds(frames, features_by_clip, min(NUM_FOLDS, num_groups)):
        target_NP = seen_NP[:, :NUM_COMPONENTS]
        for number, (lag, now_M) in enumerate(zip(lags, pairs, strict=True)):
            _add_errors(errors_LGE[number], frames, seen_NP, target_NP[now_M - lag], now_M, is_test_N[now_M])
    return _curve(tuple(lags), errors_LGE)


@torch.no_grad()
def states_of(head: Head, clips: Sequence[Tensor], alone: bool = False) -> list[Tensor]:
    """Returns the activations (T, H) of the last layer, the input of the readout, for each clip (T, D).

    Args:
        alone: Whether each frame is processed as a separate clip, so that its state has no past.
    """
    device, states = head.norm.mean.device, []
    for x_TD in clips:
        y = head.projection(head.norm(x_TD.to(device).unsqueeze(1 if alone else 0)))
        lengths_B = torch.full((len(y),), y.shape[1], device=device)
        for memory in head.memories:
            y = memory.activation(memory(y, lengths_B)[0])
        states.append(y.flatten(0, 1).cpu())
    return states


def _check(
    states: Sequence[Tensor], alone: Sequence[Tensor], features: Sequence[Tensor], groups: Sequence[str],
    lags: Sequence[int],
) -> None:  # fmt: skip
    if len({len(states), len(alone), len(features), len(groups)}) != 1:
        raise VideomemError(
            f"states are of {len(states)} clips, states of single frames of {len(alone)}, features of {len(features)}, "
            f"and there are {len(groups)} groups; give one of each per clip"
        )
    for number, parts in enumerate(zip(states, alone, features, strict=True)):
        if len(set(lengths := [len(part) for part in parts])) != 1:
            raise VideomemError(
                f"clip {number}: states, states of single frames and features have {', '.join(map(str, lengths))} "
                "frames; give equal numbers"
            )
    if (num_groups := len(set(groups))) < 2:
        raise VideomemError(
            f"clips are of {num_groups} group(s), but at least 2 are needed to fit a probe and to evaluate it; "
            "add clips of other groups"
        )
    if min(lags, default=1) < 1:
        raise VideomemError(f"lag is {min(lags)}, but must be at least 1; leave out lag 0")


def _frames(states: Sequence[Tensor], alone: Sequence[Tensor], groups: Sequence[str]) -> _Frames:
    lengths = np.array([len(part) for part in states])
    clip_N = np.repeat(np.arange(len(states)), lengths)
    return _Frames(
        group_B=np.unique(np.array(groups), return_inverse=True)[1].reshape(-1),
        clip_N=clip_N,
        time_N=np.concatenate([np.arange(length) for length in lengths]),
        states_NH=torch.cat([*states]).detach().cpu().double().numpy(),
        alone_NH=torch.cat([*alone]).detach().cpu().double().numpy(),
    )


def _pairs(time_N: Ints, lag: int, max_pairs: int, rng: np.random.Generator) -> Ints:
    """Returns the rows of frames whose clip has a frame `lag` rows earlier."""
    now_M = np.flatnonzero(time_N >= lag)
    return np.sort(rng.choice(now_M, max_pairs, replace=False)) if len(now_M) > max_pairs else now_M


def _folds(frames: _Frames, features: Sequence[Tensor], num_folds: int) -> Iterator[tuple[NDArray[np.bool_], Floats]]:
    """Yields for each fold the mask (N,) of test frames, and components (N, P) fitted on the training frames."""
    for train, test in GroupKFold(num_folds).split(frames.group_B, groups=frames.group_B):
        components = _components([features[clip] for clip in train], SEEN * NUM_COMPONENTS)
        yield np.isin(frames.clip_N, test), np.concatenate([components(x_TD) for x_TD in features])


def _components(train: Sequence[Tensor], num_components: int) -> Callable[[Tensor], Floats]:
    """Fits principal components, and returns a function (T, D) -> (T, P)."""
    every = -(-sum(map(len, train)) // MAX_FITTED)
    fitted_ND = torch.cat([x_TD[::every] for x_TD in train]).cpu().float().numpy()
    pca = PCA(min(num_components, *fitted_ND.shape), random_state=0).fit(fitted_ND)
    return lambda x_TD: pca.transform(x_TD.cpu().float().numpy()).astype(np.float64)


def _add_errors(
    errors_GE: Floats, frames: _Frames, seen_NP: Floats, target_MP: Floats, now_M: Ints, is_test_M: NDArray[np.bool_]
) -> None:
    """Adds the number of pairs of a fold per group, and squared errors: of the mean, from x_t, and from x_t and h_t."""
    group_M = frames.group_B[frames.clip_N[now_M]]
    if is_test_M.sum() < 1 or (~is_test_M).sum() < 2:
        return
    kinds = (seen_NP, frames.alone_NH, frames.states_NH)
    seen_MK, alone_MH, states_MH = (_scaled(kind[now_M], is_test_M) for kind in kinds)
    # The first regression has the states of single frames twice, so that both have as many regressors of the same scale
    # and are penalized equally. A state without memory then gives a partial R^2 of exactly zero.
    frame_MK = np.concatenate([seen_MK, alone_MH, alone_MH], axis=1)
    both_MK = np.concatenate([seen_MK, alone_MH, states_MH], axis=1)
    mean_P = target_MP[~is_test_M].mean(0)
    guesses = [mean_P, *(_predicted(x, target_MP, group_M, is_test_M) for x in (frame_MK, both_MK))]
    squares = [((target_MP[is_test_M] - guess) ** 2).sum(1) for guess in guesses]
    np.add.at(errors_GE, group_M[is_test_M], np.stack([np.ones(is_test_M.sum()), *squares], axis=1))


def _predicted(x_MK: Floats, target_MP: Floats, group_M: Ints, is_test_M: NDArray[np.bool_]) -> Floats:
    """Returns predictions for the test rows from a ridge regression on the training rows."""
    train_M = ~is_test_M
    num_groups = len(set(group_M[train_M].tolist()))
    # With one training group, RidgeCV falls back to leaving out single frames.
    splits = GroupKFold(min(3, num_groups)).split(x_MK[train_M], groups=group_M[train_M]) if num_groups > 1 else None
    ridge = RidgeCV(PENALTIES, cv=[next(splits)] if splits else None, scoring="neg_mean_squared_error")
    ridge.fit(x_MK[train_M], target_MP[train_M])
    return np.asarray(ridge.predict(x_MK[is_test_M])).reshape(is_test_M.sum(), -1)


def _scaled(x_MK: Floats, is_test_M: NDArray[np.bool_]) -> Floats:
    """Scales regressors of one kind to a mean variance of 1 over the training rows.

    All get one scale: a scale per hidden unit would amplify those that are nearly constant in the training groups.
    """
    spread = x_MK[~is_test_M].std(0)
    size = np.sqrt(np.square(spread).mean()) if len(spread) else 1.0
    return x_MK / (size or 1.0)


def _curve(lags: tuple[int, ...], errors_LGE: Floats) -> ProbeCurve:
    pairs_LG, total_LG, frame_LG, both_LG = np.moveaxis(errors_LGE, 2, 0)
    ends = np.array([_interval(*errors) for errors in zip(frame_LG, both_LG, strict=True)]).reshape(-1, 3)
    with np.errstate(invalid="ignore", divide="ignore"):
        frame_r2_L = 1 - frame_LG.sum(1) / total_LG.sum(1)
    return ProbeCurve(
        lags=lags,
        partial_r2=tuple(ends[:, 0].tolist()),
        low=tuple(ends[:, 1].tolist()),
        high=tuple(ends[:, 2].tolist()),
        frame_r2=tuple(frame_r2_L.tolist()),
        num_pairs=tuple(pairs_LG.sum(1).astype(int).tolist()),
        num_groups=tuple((pairs_LG > 0).sum(1).tolist()),
    )


def _interval(frame_G: Floats, both_G: Floats) -> tuple[float, float, float]:
    """Returns 1 - sum(both) / sum(frame) and its 95 % interval over groups; groups without pairs have zeros."""
    there_G = frame_G > 0
    if there_G.sum() < 2:
        return (float("nan"),) * 3
    # A weighted mean of relative differences over groups, with their errors as weights.
    fit = two_way((frame_G - both_G)[there_G, None], frame_G[there_G, None])
    value, half = float(fit.value), float(fit.half(0.95))
    return value, value - half, min(value + half, 1.0)
