"""Samplers of training items: their order in an epoch, and the share of each of several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

WINDOW_SHARDS = 16
_PART = 65_536  # Items that are Python objects at a time.


class EpochSampler(Sampler[tuple[int, int]]):
    """Samples training items in an order that depends only on seed and epoch, so that a resumed run has the same order.

    Yields (item, epoch). Workers draw the augmentation from the epoch.

    Args:
        num_items: Number of items.
        seed: Seed of the order.
        epoch: Returns the current epoch.
        weights: Sampling weight of each item, drawn with replacement; None uses each item once.
        shards: Shard of each item (N,), see `order_by_shards`; None draws all items alike.
    """

    def __init__(
        self,
        num_items: int,
        seed: int,
        epoch: Callable[[], int],
        weights: Tensor | None = None,
        shards: NDArray[np.int32] | None = None,
    ) -> None:
        self._num_items, self._seed, self._epoch, self._weights = num_items, seed, epoch, weights
        self._shards = shards

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self._epoch()
        generator = torch.Generator().manual_seed(mix_seed(self._seed, epoch))
        if self._shards is not None:
            order = order_by_shards(self._shards, generator)
        elif self._weights is None:
            order = torch.randperm(self._num_items, generator=generator)
        else:
            order = torch.multinomial(self._weights, self._num_items, replacement=True, generator=generator)
        for part in order.split(_PART):
            for item in part.tolist():
                yield item, epoch


def order_by_shards(shards_N: NDArray[np.int32], generator: torch.Generator) -> Tensor:
    """A random order (N,) of items, in which items of the same shard are near each other.

    Shards are shuffled and taken `WINDOW_SHARDS` at a time, and all items of these are shuffled. An epoch therefore
    reads each shard within one window, so that the memory needs to hold only the shards of a window.
    """
    shards, shard_of_N = np.unique(shards_N, return_inverse=True)
    place_S = torch.randperm(len(shards), generator=generator).numpy()
    order_N = torch.randperm(len(shards_N), generator=generator).numpy()
    window_S = (place_S // WINDOW_SHARDS).astype(np.uint16 if len(shards) < WINDOW_SHARDS * 2**16 else np.int64)
    return torch.from_numpy(order_N[np.argsort(window_S[shard_of_N[order_N]], kind="stable")])


PADDING = -1  # An item that fills a share: the last clip, with a label that is ignored.


class ShareSampler(Sampler[Any]):
    """The share of one of several processes: the items number rank, rank + world_size, ... of a sampler.

    If each process makes batches of B items, then the n-th batches of all processes together have the items of the
    n-th batch of B * world_size items of a single process. Every item is in exactly one share. Shares have equal
    lengths, so that all processes make the same number of steps: those that lack an item end with `PADDING`.

    Args:
        sampler: Yields the same items in every process.
        rank: Number of the process.
        world_size: Number of processes.
    """

    def __init__(self, sampler: Sampler[Any], rank: int, world_size: int) -> None:
        self._sampler, self._rank, self._world_size = sampler, rank, world_size

    def __len__(self) -> int:
        return -(-len(self._sampler) // self._world_size)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        own = islice(self._sampler, self._rank, None, self._world_size)
        num_own = len(range(self._rank, len(self._sampler), self._world_size))  # type: ignore[arg-type]
        return chain(own, [PADDING] * (len(self) - num_own))


def mix_seed(*parts: int) -> int:
    """Combine several numbers into one seed. Seeds of similar numbers are independent."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
