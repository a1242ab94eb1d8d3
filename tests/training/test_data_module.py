from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import data_arguments, read_data_module
from hypothesis import given
from hypothesis import strategies as st

from videomem.batch import VideoBatch, collate, length_mask
from videomem.errors import VideomemError
from videomem.features.backbone import BackboneSettings
from videomem.features.extraction import extract
from videomem.features.settings import FeatureSettings
from videomem.features.store import FeatureStore
from videomem.training.data_module import VideoDataModule
from videomem.training.feature_sources import Augmentation, LiveVideo
from videomem.training.reversed_pairs import check_same_bag, check_symmetric, whole_pairs
from videomem.training.samplers import WINDOW_SHARDS, EpochSampler, order_by_shards
from videomem.video.catalog import Catalog, Clip
from videomem.video.catalog_files import read_catalog, write_catalog
from videomem.video.sampling import FixedRate, Uniform

RANDOM = FeatureSettings(BackboneSettings(weights="random", layer="pool5"), FixedRate(8.0, 20))


def module(workspace: Path, *options: str) -> VideoDataModule:
    return read_data_module([*data_arguments(workspace), *options])


@pytest.fixture(scope="module")
def few(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A catalog of four clips in each split, for tests that extract features: live, a clip takes a whole batch."""
    path = tmp_path_factory.mktemp("few") / "catalog.csv"
    clips = [
        clip
        for split in catalog.splits
        for label in catalog.classes[:2]
        for clip in [clip for clip in catalog.split(split) if clip.label == label][:2]
    ]
    write_catalog(Catalog(tuple(clips)), path)
    return str(path)


def batches(data: VideoDataModule, stage: str = "test") -> list[VideoBatch]:
    data.setup(stage)
    loader = data.test_dataloader() if stage == "test" else data.train_dataloader()
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def test_padding_stands_behind_and_masks_are_derived() -> None:
    batch = collate([(torch.ones(3, 2), 0, 7), (torch.ones(1, 2), 1, 8)])
    assert batch.x.shape == (2, 3, 2) and batch.lengths.tolist() == [3, 1]
    assert batch.x[1, 1:].eq(0).all()
    assert length_mask(batch.lengths, 3).tolist() == [[True, True, True], [True, False, False]]


def test_loaders_of_features_on_the_device_carry_lengths_and_no_features(workspace: Path) -> None:
    data = module(workspace, "--data.storage", "device")
    for batch in data.train_dataloader():
        assert batch.x.shape == (len(batch.labels), int(batch.lengths.max()), 0)


@pytest.mark.parametrize(
    ("storage", "num_workers"), [("mmap", "0"), ("mmap", "2"), ("ram", "0"), ("ram", "2"), ("device", "0")]
)
def test_every_storage_gives_the_same_batches(workspace: Path, storage: str, num_workers: str) -> None:
    reference = batches(module(workspace, "--data.storage", "mmap"))
    found = batches(module(workspace, "--data.storage", storage, "--data.num_workers", num_workers))
    for one, other in zip(reference, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_features_in_memory_are_one_tensor_so_that_workers_share_one_descriptor(
    workspace: Path, tmp_path: Path
) -> None:
    shutil.copytree(workspace / "features", tmp_path / "features")
    data = module(workspace, "--data.storage", "ram", "--data.store", str(tmp_path / "features"))
    data.test_dataloader()
    values = [data.features(row) for row in data.rows("test")]
    num_frames = sum(entry.stop_row - entry.start_row for entry in map(data.entry, range(len(data.clips))))
    assert {one.untyped_storage().nbytes() for one in values} == {num_frames * values[0][0].nbytes}
    assert len({one.untyped_storage().data_ptr() for one in values}) == 1 < len(values)
    # A mapped shard would be in memory a second time.
    assert str(tmp_path / "features") not in Path("/proc/self/maps").read_text()


def test_live_video_gives_the_features_of_the_store(workspace: Path, few: str) -> None:
    options = ("--data.catalog", few, "--data.reversed_pairs", "false", "--data.batch_size", "3")
    stored, live = batches(module(workspace, *options)), batches(module(workspace, *options, "--data.source", "video"))
    for one, other in zip(stored, live, strict=True):
        assert torch.equal(one.labels, other.labels) and torch.equal(one.lengths, other.lengths)
        assert torch.equal(one.x, other.x)


def test_variable_lengths_are_padded_alike_live_and_stored(few: str, tmp_path: Path) -> None:
    some = read_catalog(few).clips
    clips = tuple(replace(clip, end_s=None if number % 3 else 0.5) for number, clip in enumerate(some))
    write_catalog(Catalog(clips), tmp_path / "catalog.csv")
    modules = [
        VideoDataModule(str(tmp_path / "catalog.csv"), RANDOM, str(tmp_path / "s"), source=source)  # type: ignore[arg-type]
        for source in ("features", "video")
    ]
    extract(clips, modules[0].settings, tmp_path / "s")
    stored, live = (batches(data)[0] for data in modules)
    assert sorted(set(stored.lengths.tolist())) == [4, 8]
    assert torch.equal(stored.lengths, live.lengths) and torch.equal(stored.x, live.x)


def test_statistics_are_those_of_the_training_frames(data: VideoDataModule) -> None:
    rows = torch.cat([data.features(row) for row in data.rows("train")]).double()
    mean, std = data.feature_statistics()
    assert torch.allclose(mean.double(), rows.mean(0), atol=1e-6)
    assert torch.allclose(std.double(), rows.std(0, correction=0), atol=1e-6)


def test_statistics_of_videos_are_computed_once_for_the_same_training_videos(
    workspace: Path, few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statistics(*options: str) -> tuple[int, list[list[float]]]:
        of_videos = (
            "--data.reversed_pairs",
            "false",
            "--data.source",
            "video",
            "--data.store",
            str(tmp_path / "store"),
            "--data.catalog",
            few,
        )
        data = module(workspace, *of_videos, *options)
        decoded = []
        features = LiveVideo.features
        monkeypatch.setattr(LiveVideo, "features", lambda *given: (decoded.append(given), features(*given))[1])
        found = [values_D.tolist() for values_D in data.feature_statistics()]
        monkeypatch.setattr(LiveVideo, "features", features)
        return len(decoded), found

    first, again, other = statistics(), statistics(), statistics("--data.features.on_damage", "prefix")
    assert first[0] == other[0] > 0 and again[0] == 0 and first[1] == again[1] == other[1]
    for path in (tmp_path / "store" / "video_statistics").glob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    with pytest.raises(VideomemError, match=r"video_statistics/.*damaged.*; delete it"):
        statistics()


def test_order_of_training_depends_on_seed_and_epoch_alone() -> None:
    epoch = 0
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = EpochSampler(50, seed, lambda: epoch)  # noqa: B023
            torch.manual_seed(epoch * 7 + seed)
            orders[seed, epoch] = list(sampler)
            assert list(sampler) == orders[seed, epoch]
            assert sorted(item for item, _ in orders[seed, epoch]) == list(range(50))
    assert len({tuple(item for item, _ in order) for order in orders.values()}) == 4


def test_balanced_sampling_draws_classes_alike() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = 1 / torch.bincount(labels)[labels].double()
    drawn = labels[torch.tensor([item for item, _ in EpochSampler(4000, 0, lambda: 0, weights.repeat(40))]) % 100]
    assert abs(drawn.float().mean() - 0.5) < 0.05


# Augmentation.


def test_flips_are_refused_unless_the_classes_allow_them() -> None:
    with pytest.raises(VideomemError, match=r"set augmentation\.classes_survive_flip"):
        Augmentation(horizontal_flip=0.5)
    assert Augmentation(horizontal_flip=0.5, classes_survive_flip=True).active


def test_augmentation_draws_once_for_all_frames_of_a_clip() -> None:
    frames = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8).repeat(5, 1, 1, 1)
    augmentation = Augmentation(crop=True, horizontal_flip=0.5, classes_survive_flip=True)
    results = [augmentation.apply(frames, torch.Generator().manual_seed(seed)) for seed in range(8)]
    assert all(torch.equal(result, result[:1].expand_as(result)) for result in results)
    assert len({result.float().mean().item() for result in results}) == 8


def test_augmented_epochs_differ_and_repeat_by_seed(workspace: Path, few: str) -> None:
    live = ("--data.catalog", few, "--data.reversed_pairs", "false", "--data.source", "video")
    options = (*live, "--data.augmentation.crop", "true")
    one, two = module(workspace, *options), module(workspace, *options, "--data.num_workers", "1")
    first, again = batches(one, "fit")[0].x, batches(two, "fit")[0].x
    assert torch.equal(first, again)
    plain = batches(module(workspace, *live), "fit")[0].x
    assert not torch.equal(first, plain)


def test_augmenting_stored_features_is_refused(workspace: Path) -> None:
    with pytest.raises(VideomemError, match=r"set data\.source to video"):
        module(workspace, "--data.augmentation.crop", "true")


# Time-reversed pairs.


def pair(group: str, *labels: str) -> list[Clip]:
    return [Clip(f"{group}{label}.mp4", label, "test", group) for label in labels]


def test_a_pair_that_lost_a_member_is_removed() -> None:
    assert whole_pairs([*pair("1", "a", "b"), *pair("2", "a")]) == pair("1", "a", "b")


@pytest.mark.parametrize("labels", ["aa", "abc"])
def test_a_group_that_is_no_pair_is_refused(labels: str) -> None:
    with pytest.raises(VideomemError, match="is not a time-reversed pair"):
        whole_pairs(pair("1", *labels))


def test_a_pair_across_splits_is_refused() -> None:
    one, other = pair("1", "a", "b")
    with pytest.raises(VideomemError, match="is a time-reversed pair in splits test, train"):
        whole_pairs([one, replace(other, split="train")])


def test_sampling_that_breaks_the_symmetry_is_refused(workspace: Path) -> None:
    check_symmetric(Uniform(7), 15)
    with pytest.raises(VideomemError, match="use an even number"):
        check_symmetric(Uniform(7), 16)
    with pytest.raises(VideomemError, match="use Uniform"):
        check_symmetric(FixedRate(), 16)
    assert {module(workspace).entry(row).num_available for row in range(4)} == {16}


def test_clips_with_other_frames_are_no_pair() -> None:
    x = torch.randn(6, 4)
    check_same_bag("g", x, x.flip(0))
    with pytest.raises(VideomemError, match="do not have the same frames"):
        check_same_bag("g", x, x.flip(0) + 1e-6)


def test_every_evaluated_pair_is_proved(
    workspace: Path, data: VideoDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    proved = []
    monkeypatch.setattr(
        "videomem.training.reversed_pairs.check_same_bag", lambda group, one, other: proved.append(group)
    )
    data.setup("test")
    assert sorted(proved) == sorted({data.clips[row].group for row in data.rows("test")})


def test_a_reversed_member_that_fails_takes_its_partner_along(
    workspace: Path, catalog: Catalog, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    lost = catalog.split("test")[0]
    clips = tuple(replace(clip, path=str(broken)) if clip == lost else clip for clip in catalog.clips)
    write_catalog(Catalog(clips), tmp_path / "catalog.csv")
    places = ("--data.catalog", str(tmp_path / "catalog.csv"), "--data.store", str(tmp_path / "s"))
    data = module(workspace, *places, "--data.features.sampling.num_frames", "2")
    report = extract(data.catalog.clips, data.settings, tmp_path / "s")
    assert len(report.failures) == 1 and data.num_unusable == 2
    assert lost.group not in {clip.group for clip in data.clips}


# Missing features and clips.


def test_a_store_of_other_settings_is_named(workspace: Path, tmp_path: Path) -> None:
    there = module(workspace).feature_store.folder  # Other tests leave other stores beside this one.
    (tmp_path / there.name).mkdir()
    shutil.copy(there / "settings.json", tmp_path / there.name)
    with pytest.raises(
        VideomemError, match=r"no features of these settings; the most similar store there has backbone\.node"
    ):
        _ = module(workspace, "--data.store", str(tmp_path), "--data.features.backbone.layer", "fc7").clips


def test_the_store_that_differs_least_is_named(workspace: Path, tmp_path: Path) -> None:
    near = module(workspace, "--data.features.dtype", "float32").feature_store
    other = ("--data.features.backbone.layer", "fc7", "--data.features.sampling.init_args.num_frames", "8")
    for store in (near, module(workspace, *other).feature_store):
        FeatureStore(tmp_path, store.settings).create()
    assert FeatureStore(tmp_path, module(workspace).settings).nearest() == "dtype float32 not float16"


def test_a_test_split_that_the_catalog_lacks_is_refused_before_training(workspace: Path) -> None:
    with pytest.raises(
        VideomemError, match=r"data\.test_split is 'foo', but .* no such split; it has train, val, test"
    ):
        module(workspace, "--data.test_split", "foo").setup("fit")


def test_clips_that_are_not_extracted_yet_are_named(workspace: Path, catalog: Catalog, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.mp4"
    shutil.copy(catalog.clips[0].path, stranger)
    stranger.write_bytes(stranger.read_bytes() + b"x")
    clips = (*catalog.clips, *(replace(clip, path=str(stranger), group="new") for clip in catalog.clips[:1]))
    write_catalog(Catalog(clips), tmp_path / "catalog.csv")
    data = module(workspace, "--data.catalog", str(tmp_path / "catalog.csv"), "--data.reversed_pairs", "false")
    with pytest.raises(VideomemError, match=r"stranger\.mp4: not extracted yet \(1 of 51"):
        _ = data.clips
    assert len(read_catalog(tmp_path / "catalog.csv").clips) == 51


def test_an_empty_split_is_named(workspace: Path) -> None:
    with pytest.raises(VideomemError, match="no usable clip in split 'holdout'"):
        module(workspace, "--data.test_split", "holdout").setup("test")


@pytest.mark.gpu
def test_features_can_lie_on_the_gpu(workspace: Path) -> None:
    data = module(workspace, "--data.storage", "device")
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    on_gpu = data.on_after_batch_transfer(VideoBatch(*(part.cuda() for part in batch)), 0)
    assert on_gpu.x.is_cuda and torch.equal(on_gpu.x.cpu(), batches(module(workspace))[0].x)


@given(st.lists(st.integers(0, 90), max_size=600), st.integers(0, 9))
def test_an_order_by_shards_has_each_clip_once_and_reads_few_shards_at_a_time(shards: list[int], seed: int) -> None:
    shards_N = np.array(shards, np.int32)
    first, again = (order_by_shards(shards_N, torch.Generator().manual_seed(seed)).tolist() for _ in range(2))
    assert first == again and sorted(first) == list(range(len(shards)))
    window: set[int] = set()
    done: set[int] = set()
    for item in first:
        if shards[item] not in window and len(window) == WINDOW_SHARDS:
            done, window = done | window, set()
        window.add(shards[item])
        assert shards[item] not in done


def test_the_order_by_shards_depends_on_seed_and_epoch_and_mixes_the_shards_of_a_window() -> None:
    shards = np.repeat(np.arange(200, dtype=np.int32), 10)
    orders = {
        (seed, epoch): tuple(item for item, _ in EpochSampler(len(shards), seed, lambda: epoch, None, shards))  # noqa: B023
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4
    assert len({item // 10 for item in orders[0, 0][: 10 * WINDOW_SHARDS]}) == WINDOW_SHARDS
    assert len({item // 10 for item in orders[0, 0][:16]}) > 4


def test_shards_are_read_one_after_another_only_where_features_exceed_the_memory(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"SC_PHYS_PAGES": 2**40, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", sizes.__getitem__)
    whole = [item for item, _ in read_data_module(data_arguments(workspace)).train_dataloader().sampler]
    assert whole == [item for item, _ in EpochSampler(len(whole), 0, lambda: 0)]
    sizes["SC_PHYS_PAGES"] = 0
    data = read_data_module(data_arguments(workspace))
    assert data._in_shards and sorted(item for item, _ in data.train_dataloader().sampler) == sorted(whole)
    assert not read_data_module([*data_arguments(workspace), "--data.shuffle", "global"])._in_shards
    assert not read_data_module([*data_arguments(workspace), "--data.storage", "ram"])._in_shards
    with pytest.raises(
        VideomemError, match=r"data.balanced_sampling draws clips repeatedly; set data.shuffle to global"
    ):
        VideoDataModule("a.csv", data.settings, shuffle="shards", balanced_sampling=True)
