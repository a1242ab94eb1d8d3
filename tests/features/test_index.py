"""Tables of a large store: the same clips as the headers of shards, without reading them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from videomem.errors import VideomemError
from videomem.features import store
from videomem.features.backbone import BackboneSettings
from videomem.features.index import ClipTable, Entry
from videomem.features.settings import FeatureSettings, ImportedFeatures
from videomem.features.store import FeatureStore
from videomem.video.catalog import Catalog, Clip
from videomem.video.sampling import Uniform

SETTINGS = FeatureSettings(BackboneSettings(), Uniform(2), imported=ImportedFeatures("a", 3))
FIELDS = {"num_available": 5, "fps": 25.0, "decoder": "pyav", "damage": "", "indices": [0, 4]}


def key(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.setattr(store, "SHARD_CLIPS", 4)
    monkeypatch.setattr(store, "MIN_SEGMENT_SHARDS", 2)
    monkeypatch.setattr(store, "MIN_RECORD_CLIPS", 1)
    made = FeatureStore(tmp_path, SETTINGS)
    made.create()
    return made


def add(mine: FeatureStore, numbers: range, failing: int = 7) -> None:
    """Write shards of these clips; every multiple of `failing` fails."""
    for number, keys in mine.extend_plan(map(key, numbers)).items():
        good = [one for one in keys if int(one[16:], 16) % failing]
        mine.shards.write(number, [(one, FIELDS, torch.full((2, 3), float(int(one[16:], 16)))) for one in good])


def by_header(mine: FeatureStore) -> dict[str, Entry]:
    plan = mine.read_plan()
    return {k: e for number in mine.shards.states() for k, e in mine.shards.entries(number, plan[number]).items()}


def test_an_index_has_the_clips_of_all_headers_and_reads_none(
    mine: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stop in (20, 28, 60, 61, 90):
        add(mine, range(1, stop))
        mine.update_index()
        assert dict(mine.read_index()) == by_header(mine)
    expected = by_header(mine)
    assert len(list((mine.folder / "index").iterdir())) <= 3
    add(mine, range(90, 100))
    mine.update_index()
    for part, name in ((mine.shards, "_rows"), (mine, "read_plan")):
        monkeypatch.setattr(part, name, None)
    index = mine.read_index()
    assert all(index[k] == entry for k, entry in expected.items()) and not index.loose
    assert index.is_settled(key(7)) and key(7) not in index
    assert not index.is_settled(key(1000)) and not index.is_settled("odd") and key(1000) not in index
    assert torch.equal(mine.shards.read(index[key(9)]), torch.full((2, 3), 9.0, dtype=torch.float16))


def test_an_index_counts_for_no_shard_that_is_absent_or_replaced(mine: FeatureStore) -> None:
    add(mine, range(1, 41))
    mine.update_index()
    shards = sorted((mine.folder / "shards").iterdir())
    shards[0].unlink()
    others = mine.read_index()
    assert key(1) not in others and not others.is_settled(key(1)) and key(5) in others
    assert list(others.loose) == []
    mine.shards.write(1, [(key(5), FIELDS, torch.zeros(2, 3))])
    assert list(mine.read_index().loose) == [1]
    assert key(6) not in mine.read_index() and mine.read_index().is_settled(key(6))
    add(mine, range(1, 41))
    os.utime(shards[2], ns=(5, 5))
    assert dict(mine.read_index()) == by_header(mine)
    mine.update_index()
    assert dict(mine.read_index()) == by_header(mine) and not mine.read_index().loose


def test_a_clip_that_failed_in_one_shard_and_not_in_another_has_features(mine: FeatureStore) -> None:
    add(mine, range(1, 17))
    mine.update_index()
    for number, keys in mine.extend_plan([key(7)], [key(7)]).items():
        mine.shards.write(number, [(one, FIELDS, torch.zeros(2, 3)) for one in keys])
    assert key(7) in mine.read_index()
    add(mine, range(17, 40))
    mine.update_index()
    assert key(7) in mine.read_index() and not mine.read_index().entries


def test_every_damaged_byte_of_an_index_is_one_line_or_changes_nothing(mine: FeatureStore) -> None:
    add(mine, range(1, 30))
    mine.update_index()
    (path,) = (mine.folder / "index").iterdir()
    whole, expected = path.read_bytes(), dict(mine.read_index())
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            assert dict(mine.read_index()) == expected
        except VideomemError as error:
            assert "\n" not in str(error) and f"delete {path.name}, and run" in str(error)
    for length in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(VideomemError, match="a damaged index"):
            mine.read_index()
    path.unlink()
    assert dict(mine.read_index()) == expected


def test_a_recorded_catalog_is_opened_while_its_shards_and_its_table_are_unchanged(mine: FeatureStore) -> None:
    add(mine, range(1, 30))
    numbers = [9, 7, 3, 28]
    catalog = Catalog(tuple(Clip(f"{n}.mp4", "a", "train", "g") for n in numbers), "table")
    assert mine.recorded_catalog(catalog) is None
    mine.record_catalog("table", [key(9), key(7), key(3), None], index := mine.read_index())
    table = mine.recorded_catalog(catalog)
    assert table is not None
    assert table.key(0) == key(9) and table.places_N5[:, 2].astype(bool).tolist() == [True, False, True, False]
    assert mine.recorded_catalog(Catalog(catalog.clips, "another table")) is None
    sorted((mine.folder / "shards").iterdir())[index[key(9)].shard].unlink()
    assert mine.recorded_catalog(catalog) is None


def test_a_catalog_with_a_clip_that_is_not_extracted_is_not_recorded(mine: FeatureStore) -> None:
    add(mine, range(1, 30))
    mine.record_catalog("table", [key(9), key(500)], mine.read_index())
    assert not (mine.folder / "catalogs").exists()


@given(st.sets(st.integers(0, 2**128 - 1) | st.integers(0, 5).map(lambda low: 2**64 * 9 + low), min_size=1))
def test_a_key_is_found_by_binary_search_beside_keys_with_the_same_first_half(numbers: set[int]) -> None:
    entries = {f"{number:032x}": Entry(0, row, row + 1, 2**32 - 1, 1) for row, number in enumerate(numbers)}
    states = {0: (1, 1)}
    table = ClipTable.merged([ClipTable.of(entries, {}, states)], states)
    for name in entries:
        row = table.find(int(name[:16], 16), int(name[16:], 16))
        assert row is not None and table.key(row) == name
    assert table.find(9, 6) is None
    assert np.all(np.diff(table.high_N.astype(object)) >= 0)
