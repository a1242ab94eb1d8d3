"""The plan of a store: the clips of each shard, as arrays of their keys.

A plan of ten million clips takes 160 MB; text is made of the keys of a shard when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY_DIGITS = 32
_Halves = NDArray[np.uint64]


def halves(keys: Iterable[str]) -> tuple[_Halves, _Halves]:
    """The first and last 64 bits (N,) of keys of 32 hexadecimal digits.

    Raises:
        ValueError: If one is no key.
    """
    texts = keys if isinstance(keys, Sequence) else list(keys)
    if set(map(len, texts)) - {KEY_DIGITS}:
        odd = next(text for text in texts if len(text) != KEY_DIGITS)
        raise ValueError(f"{odd!r:.40} is not a key of {KEY_DIGITS} digits")
    return halves_of_text("".join(texts))


def halves_of_text(text: str) -> tuple[_Halves, _Halves]:
    """The same for keys without anything between them."""
    content = bytes.fromhex(text)  # Skips spaces.
    if len(text) % KEY_DIGITS or len(content) * 2 != len(text):
        raise ValueError(f"not keys of {KEY_DIGITS} hexadecimal digits")
    pairs = np.frombuffer(content, ">u8").reshape(-1, 2)
    return pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)


def text_of(high_N: _Halves, low_N: _Halves) -> str:
    """The text of keys, without anything between them."""
    return np.stack([high_N, low_N], 1).astype(">u8").tobytes().hex()


def key_numbers(*parts: tuple[_Halves, _Halves]) -> list[NDArray[np.int64]]:
    """A number of each key, the same for equal keys, for each part; numbers are below the count of all keys."""
    high, low = (np.concatenate(some) for some in zip(*parts, strict=True))
    order = np.argsort(high)
    is_next = high[order][1:] == high[order][:-1]
    if (is_next & (low[order][1:] != low[order][:-1])).any():  # Keys are hashes: hardly ever in an honest store.
        order = np.lexsort((low, high))
        is_next = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    numbers = np.empty(len(high), np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(~is_next)])[: len(high)]
    return np.split(numbers, np.cumsum([len(one) for one, _ in parts])[:-1])


@dataclass(frozen=True)
class Plan(Sequence[list[str]]):
    """Keys of the clips in each shard, in the order of shard numbers.

    Shape:
        high_N, low_N uint64: the halves of each key; starts_S int64: the place of the first clip of each shard, and N
    """

    high_N: _Halves
    low_N: _Halves
    starts_S: NDArray[np.int64]

    @classmethod
    def of_texts(cls, shards: Sequence[str]) -> Plan:
        """The plan of shards as `texts` gives them.

        Raises:
            ValueError: If a text has other than keys.
        """
        sizes = np.array([len(text) for text in shards], np.int64)
        if (sizes % KEY_DIGITS).any():
            raise ValueError(f"a shard that is not a list of keys of {KEY_DIGITS} digits")
        return cls(*halves_of_text("".join(shards)), np.concatenate([[0], np.cumsum(sizes // KEY_DIGITS)]))

    @classmethod
    def merged(cls, plans: Sequence[Plan]) -> Plan:
        """The shards of one plan after those of another."""
        sizes = np.concatenate([[0], *(np.diff(plan.starts_S) for plan in plans)]).astype(np.int64)
        high_N, low_N = (
            np.concatenate([np.empty(0, np.uint64), *(getattr(plan, name) for plan in plans)])
            for name in ("high_N", "low_N")
        )
        return cls(high_N, low_N, np.cumsum(sizes))

    @property
    def texts(self) -> list[str]:
        """The text of the keys of each shard."""
        text, places = text_of(self.high_N, self.low_N), (self.starts_S * KEY_DIGITS).tolist()
        return [text[start:stop] for start, stop in pairwise(places)]

    def __len__(self) -> int:
        return len(self.starts_S) - 1

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(number)
        start, stop = self.starts_S[number % len(self) :][:2].tolist()
        text = text_of(self.high_N[start:stop], self.low_N[start:stop])
        return [text[place : place + KEY_DIGITS] for place in range(0, len(text), KEY_DIGITS)]

    @property
    def shard_N(self) -> NDArray[np.int64]:
        """The number of the shard of each clip."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts_S))

    def missing_from(
        self, wanted: tuple[_Halves, _Halves], again: tuple[_Halves, _Halves], is_complete_S: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What is left to do for the wanted clips; see `FeatureStore.extend_plan`.

        Returns:
            The rows of wanted clips that are in no shard that counts, and the numbers of those shards that count and
            are incomplete.
        """
        wanted_W, again_A, planned_N = key_numbers(wanted, again, (self.high_N, self.low_N))
        is_wanted, is_again, is_known = np.zeros((3, len(wanted_W) + len(again_A) + len(planned_N)), bool)
        is_wanted[wanted_W], is_again[again_A] = True, True
        num_others_S = np.bincount(self.shard_N[~is_wanted[planned_N]], minlength=len(self))
        is_own_S = num_others_S == 0
        counts_N = (is_own_S | is_complete_S)[self.shard_N] & ~(is_complete_S[self.shard_N] & is_again[planned_N])
        is_known[planned_N[counts_N]] = True
        first = np.full(len(is_known), -1)
        first[wanted_W[::-1]] = np.arange(len(wanted_W))[::-1]  # Of equal keys, the last one that is assigned counts.
        is_first_W = first[wanted_W] == np.arange(len(wanted_W))
        return np.flatnonzero(is_first_W & ~is_known[wanted_W]), np.flatnonzero(is_own_S & ~is_complete_S)


@dataclass(frozen=True)
class PlannedShards(Mapping[int, list[str]]):
    """Some shards of a plan, by their numbers."""

    plan: Plan
    numbers: Sequence[int]

    def __getitem__(self, number: int) -> list[str]:
        return list(self.plan[number])

    def __iter__(self) -> Any:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)
