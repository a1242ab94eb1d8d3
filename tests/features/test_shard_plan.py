"""Planning on arrays of keys gives the shards that planning on lists and sets of text gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videomem.features.shard_plan import Plan, halves, key_numbers

KEYS = st.integers(0, 11).map(lambda n: f"{n // 3:016x}{n % 3:016x}")  # Some have equal halves.
LISTS = st.lists(KEYS, max_size=8)


def plan_of(shards: list[list[str]]) -> Plan:
    return Plan.of_texts(["".join(shard) for shard in shards])


@given(st.lists(LISTS, max_size=5))
def test_a_plan_is_the_list_of_its_shards(shards: list[list[str]]) -> None:
    plan = plan_of(shards)
    assert list(plan) == shards and plan.texts == ["".join(shard) for shard in shards]
    assert list(Plan.merged([plan, Plan.merged([]), plan])) == shards * 2
    assert plan.shard_N.tolist() == [number for number, shard in enumerate(shards) for _ in shard]


@given(st.lists(LISTS, max_size=5), LISTS, LISTS, st.sets(st.integers(0, 4)))
def test_what_is_missing_from_a_plan_is_what_sets_of_keys_say(
    shards: list[list[str]], wanted: list[str], again: list[str], complete: set[int]
) -> None:
    own = [number for number, shard in enumerate(shards) if set(shard) <= set(wanted)]
    complete &= set(range(len(shards)))
    known = {key for n in {*own, *complete} for key in shards[n] if not (n in complete and key in again)}
    is_complete_S = np.isin(np.arange(len(shards)), list(complete))
    new, incomplete = plan_of(shards).missing_from(halves(wanted), halves(again), is_complete_S)
    assert [wanted[row] for row in new] == [key for key in dict.fromkeys(wanted) if key not in known]
    assert incomplete.tolist() == [number for number in own if number not in complete]


@given(LISTS, LISTS)
def test_equal_keys_have_equal_numbers(first: list[str], second: list[str]) -> None:
    numbers = np.concatenate(key_numbers(halves(first), halves(second))).tolist()
    assert len(set(zip(first + second, numbers, strict=True))) == len(set(first + second)) == len(set(numbers))


@pytest.mark.parametrize("text", ["0" * 31, "0" * 31 + "g", "0" * 30 + "  ", "0" * 31 + "é", "0" * 33])
def test_other_text_is_no_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|hexadecimal"):
        halves([text])
    with pytest.raises(ValueError, match=r"key|hexadecimal"):
        Plan.of_texts([text])
