"""Tables of rows (clip, run) with one line per group and one column per run, from which contrasts are computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from videomem.errors import VideomemError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MAX_ENTRIES = 4_000_000


def rows(values_N: ArrayLike, *ids_N: ArrayLike, limit: float | None = 1.0) -> tuple[Any, ...]:
    """Validate rows, and return values as floats and ids as integers.

    Raises:
        VideomemError: If there are no rows, lengths differ, an id is not an integer, or a value is not finite or
            exceeds `limit`.
    """
    values = np.asarray(values_N, dtype=np.float64)
    ids = [np.asarray(one) for one in ids_N]
    lengths = [len(values), *(one.size for one in ids)]
    if len(set(lengths)) != 1:
        raise VideomemError(f"lengths of values and ids differ: {lengths}; give one of each per (clip, run)")
    if not len(values):
        raise VideomemError("there are 0 rows, but at least 1 is needed; test some clips first")
    for one in ids:
        if one.dtype.kind not in "iu":
            raise VideomemError(
                f"ids of groups, runs and classes have type {one.dtype}, but must be integers; number them"
            )
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
        raise VideomemError(f"row {bad} of the values is {values[bad]}, not a finite number; leave the row out")
    if limit is not None and np.abs(values).max() > limit:
        worst = values.flat[int(np.abs(values).argmax())]
        raise VideomemError(f"a value is {worst:g}, outside [-{limit:g}, {limit:g}]; give shares of 1, not points")
    return (values, *(one.astype(np.int64) for one in ids))


def codes(ids_N: Ints) -> tuple[Ints, int]:
    """Ids renumbered as 0, 1, 2, ..., and their number."""
    distinct, codes_N = np.unique(ids_N, return_inverse=True)
    return codes_N.reshape(-1), len(distinct)


def group_by_run(
    values_N: Floats, groups_N: Ints, runs_N: Ints, weights_N: Floats | None = None
) -> tuple[Floats, Floats]:
    """Sums and counts for each (group, run); with weights, sums of weighted values and of weights.

    Shape:
        values (N,), groups (N,), runs (N,), weights (N,) -> sums (G, R), counts (G, R)
    """
    weights_N = np.ones_like(values_N) if weights_N is None else weights_N
    group_codes, num_groups = codes(groups_N)
    run_codes, num_runs = codes(runs_N)
    entry, shape = group_codes * num_runs + run_codes, (num_groups, num_runs)
    tables = (np.bincount(entry, one, minlength=num_groups * num_runs) for one in (weights_N * values_N, weights_N))
    sums, counts = (table.astype(np.float64).reshape(shape) for table in tables)
    return sums, counts


def chunks(num_draws: int, entries: int) -> list[int]:
    """Divide draws into chunks, so that an array of `entries` per draw has at most about `MAX_ENTRIES`."""
    chunk = max(1, MAX_ENTRIES // entries)
    return [min(chunk, num_draws - start) for start in range(0, num_draws, chunk)]
