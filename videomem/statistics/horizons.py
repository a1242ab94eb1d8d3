"""Curves over delays, averaged over seeds, and the delay at which they fall below one half."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression
from scipy.stats import t

from videomem.errors import VideomemError
from videomem.statistics.group_tables import Floats
from videomem.utils.result_models import Number, result_model

LEVEL = 0.5  # chance-corrected accuracy at the horizon


@result_model
class Curve:
    """A measurement at several delays or lags, over seeds.

    Attributes:
        places: Delays or lags, in frames.
        value: Mean over seeds at each place.
        low: Lower end of the 95 % interval by Student's t over seeds; the value itself for a single seed.
        high: Upper end of the same interval.
        seeds: The curve of each seed.
    """

    places: tuple[int, ...]
    value: tuple[Number, ...]
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    seeds: tuple[tuple[Number, ...], ...]


def curve_over_seeds(
    places: ArrayLike, values_SX: ArrayLike, log: bool = False, limits: tuple[float, float] = (-np.inf, np.inf)
) -> Curve:
    """Mean and interval at each place. Intervals are pointwise, so the band covers less than 95 % of complete curves.

    Args:
        places: Delays or lags X, in frames.
        values_SX: One curve per seed. Values that are not finite are ignored.
        log: Whether to average logarithms, for values over several orders of magnitude: the mean is geometric. Zeros
            are ignored; if all values at a place are zero, so is the mean.
        limits: Smallest and largest possible value, which the interval does not exceed: (0, 1) for a share.
    """
    values = np.asarray(values_SX, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        used = np.log(values) if log else values
    used = np.where(np.isfinite(used), used, np.nan)
    counts = np.isfinite(used).sum(0)
    middle = np.nansum(used, 0) / np.where(counts, counts, np.nan)
    spread = np.sqrt(np.nansum((used - middle) ** 2, 0) / np.maximum(counts - 1, 1) / np.maximum(counts, 1))
    half = np.where(counts > 1, t.ppf(0.975, np.maximum(counts - 1, 1)) * spread, 0)
    nothing = (values == 0).any(0) & (counts == 0)
    value, low, high = (
        tuple((np.where(nothing, 0, np.exp(end)) if log else end).tolist())
        for end in (middle, *np.clip((middle - half, middle + half), *limits))
    )
    return Curve(tuple(np.asarray(places).tolist()), value, low, high, tuple(map(tuple, values.tolist())))


@result_model
class Horizon:
    """The delay up to which the chance-corrected accuracy of a memory is at least one half.

    Attributes:
        frames: The delay, in frames; the longest tested delay if `kind` is `beyond`, None if `not learned`.
        kind: `crossed`; `beyond`, at least the longest delay; or `not learned`, below one half at the shortest delay.
    """

    frames: Number | None
    kind: Literal["crossed", "beyond", "not learned"]

    def __str__(self) -> str:
        if self.frames is None:
            return "not learned"
        return f">= {self.frames:.0f}" if self.kind == "beyond" else whole_or_three_digits(self.frames)


def whole_or_three_digits(frames: float) -> str:
    """A number of frames with three significant digits or as an integer: 5.66, 56.6, 566, 5656."""
    return f"{frames:.0f}" if frames >= 100 else f"{frames:.3g}"


def chance_corrected(accuracy: ArrayLike, chance: float) -> Floats:
    """(accuracy - chance) / (1 - chance): 0 for guessing, 1 for perfect accuracy.

    Reference:
        Cohen 1960, eq. 1, with the chance of guessing (as Abbott's formula).
    """
    return np.asarray((np.asarray(accuracy, dtype=np.float64) - chance) / (1 - chance))


def horizon(delays: ArrayLike, accuracy: ArrayLike, chance: float) -> Horizon:
    """The delay at which a decreasing fit of chance-corrected accuracy crosses one half, interpolated on a log scale.

    Args:
        delays: Delays in ascending order, in frames.
        accuracy: Accuracy at each delay, a share of 1.
        chance: Accuracy of guessing.
    Raises:
        VideomemError: If delays are not positive and ascending.
    Reference:
        Barlow et al. 1972, "Statistical inference under order restrictions" (isotonic regression).
    """
    places = np.asarray(delays, dtype=np.float64)
    if not len(places) or (places <= 0).any() or (np.diff(places) <= 0).any():
        raise VideomemError(f"delays are {places.tolist()}, but must be positive and ascending")
    fit = isotonic_regression(chance_corrected(accuracy, chance), increasing=False).x
    if fit[0] < LEVEL:
        return Horizon(None, "not learned")
    if fit[-1] >= LEVEL:
        return Horizon(float(places[-1]), "beyond")
    below = int(np.argmax(fit < LEVEL))
    share = (fit[below - 1] - LEVEL) / (fit[below - 1] - fit[below])
    crossing = np.log(places[below - 1]) + share * (np.log(places[below]) - np.log(places[below - 1]))
    return Horizon(float(np.exp(crossing)), "crossed")
