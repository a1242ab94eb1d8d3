"""The parts of the order test: splits, training conditions, training jobs and their cache, memories, projection."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIGS
from helpers.order_clips import SHORT, SMALL, drawn, planned, with_fixed_split
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from videomem.errors import VideomemError
from videomem.experiments.clips import Clips, projected
from videomem.experiments.memories import read_heads
from videomem.experiments.order_test import training
from videomem.experiments.order_test.data import (
    ConditionData,
    check_sizes,
    common_order,
    feature_statistics,
    training_orders,
)
from videomem.experiments.order_test.jobs import build_head, in_cache, job_key, jobs_of, with_parameters_of_largest
from videomem.experiments.order_test.methods import methods_text
from videomem.experiments.order_test.plan import PRIMARY, TRAINING_CONDITIONS, OrderPlan, Recipe
from videomem.experiments.order_test.run import run_order_test
from videomem.experiments.order_test.run_splits import RunSplit, run_splits, training_share
from videomem.experiments.order_test.training import run_jobs, train_jobs
from videomem.experiments.order_test.training_results import TrainingResult, read_training_result, write_training_result
from videomem.training.samplers import EpochSampler

# Splits.


@given(groups=st.integers(8, 30), per_group=st.integers(1, 4), folds=st.integers(2, 4), runs=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_groups_are_in_one_part_of_a_run_and_tested_equally_often(
    groups: int, per_group: int, folds: int, runs: int
) -> None:
    clips = drawn(groups, per_group)
    splits = run_splits(clips, replace(SMALL, folds=folds, runs=runs, selection="validation" if folds > 2 else "last"))
    for split in splits:
        parts = [set(clips.groups[rows].tolist()) for rows in (split.train, split.val, split.test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert len(split.train) + len(split.val) + len(split.test) == len(clips)
    times = np.bincount(np.concatenate([split.test for split in splits]), minlength=len(clips))
    assert times.max() - times.min() <= 1


def test_a_fixed_split_is_that_of_the_catalog() -> None:
    clips = drawn()
    fixed, names = replace(SMALL, split="fixed"), np.array(with_fixed_split(clips).splits)
    split = run_splits(with_fixed_split(clips), fixed)[1]
    assert set(names[split.test]) == {"test"} and set(names[split.train]) == {"train"}
    with pytest.raises(VideomemError, match="no clip in split 'train'"):
        run_splits(clips, fixed)


@given(share=st.floats(0.01, 0.9), more=st.floats(0.01, 1.0))
@settings(max_examples=30, deadline=None)
def test_a_larger_share_of_training_contains_the_smaller_and_every_class(share: float, more: float) -> None:
    clips = drawn()
    train = run_splits(clips, SMALL)[0].train
    small, large = (set(training_share(clips, train, size, 3).tolist()) for size in sorted((share, more)))
    assert small <= large <= set(train.tolist())
    assert set(clips.labels[list(small)]) == {0, 1}


def test_folds_are_as_many_as_the_rarest_class_allows() -> None:
    clips = drawn(groups=6, per_group=1)
    assert planned(clips, folds=10).settings.folds == 3
    alone = replace(clips, labels=np.array([0, 1, 1, 1, 1, 1]))
    with pytest.raises(VideomemError, match="clips of one group only"):
        planned(alone)
    with pytest.raises(VideomemError, match="class 'left' has no usable clip"):
        planned(replace(clips, class_names=("down", "up", "left")))


# Training conditions.


def training_order(condition: str, clips: Clips, row: int, *rest: Any) -> NDArray[np.int64]:
    """The frame order (T,) of one clip, when those of all clips are drawn."""
    rows = np.arange(len(clips))
    return training_orders(condition, clips, rows, *rest)[row, : clips.lengths[row]]


@pytest.mark.parametrize("condition", TRAINING_CONDITIONS)
def test_a_condition_shows_every_frame_once_and_the_same_order_for_the_same_seed(condition: str) -> None:
    clips = drawn(ragged=True)
    for row in (0, 4, 8):
        order = training_order(condition, clips, row, SMALL, 5, 2)
        assert sorted(order.tolist()) == list(range(clips.lengths[row]))
        assert np.array_equal(order, training_order(condition, clips, row, SMALL, 5, 2))


def test_training_conditions_show_their_frame_orders() -> None:
    clips, protocol = drawn(frames=12, ragged=True), replace(SMALL, windows=4, blocks=4)
    rows = range(len(clips))

    def show(condition: str, row: int, epoch: int = 0) -> NDArray[np.int64]:
        return training_order(condition, clips, row, protocol, 1, epoch)

    def is_kept(condition: str, row: int) -> bool:
        return np.array_equal(show(condition, row), show(condition, row, 1))

    assert all(np.array_equal(show("ordered", row), np.arange(clips.lengths[row])) for row in rows)
    assert all(is_kept("fixed_permutation", row) for row in rows)
    assert not all(is_kept("reshuffled", row) for row in rows)
    assert len({show("fixed_permutation", row).tobytes() for row in rows}) > len(clips) // 2
    common = {int(clips.lengths[row]): show("common_permutation", row) for row in rows}
    for row in rows:
        length = int(clips.lengths[row])
        assert np.array_equal(show("common_permutation", row, 3), common[length])
        assert np.array_equal(common[12][common[12] < length], common[length])  # Shorter clips leave frames out.
        assert np.array_equal(show("windows", row) // 4, np.arange(length) // 4)
        blocks = show("blocks", row)
        assert np.all((np.diff(blocks) == 1) | (blocks[1:] % 4 == 0))
    assert np.array_equal(common_order(12, 12, 1)[0], common[12])


def test_the_permutation_of_a_clip_does_not_depend_on_its_row() -> None:
    clips = drawn()
    turned = replace(clips, features=lambda row: clips.features(len(clips) - 1 - row), ids=clips.ids[::-1])
    assert np.array_equal(
        training_order("fixed_permutation", clips, 0, SMALL, 0, 0),
        training_order("fixed_permutation", turned, len(clips) - 1, SMALL, 0, 0),
    )


def test_training_clips_are_in_the_frame_orders_of_their_condition(tmp_path: Path) -> None:
    clips = drawn()
    split = run_splits(clips, SMALL)[0]
    for batch in ConditionData(clips, split, "fixed_permutation", SMALL, 0, 16).train_dataloader():
        for x_TD, row, label in zip(batch.x, batch.clip.tolist(), batch.labels.tolist(), strict=True):
            order = training_order("fixed_permutation", clips, row, SMALL, 0, 0)
            assert torch.equal(x_TD, clips.features(row)[torch.from_numpy(order)])
            assert row in split.train and clips.labels[row] == label


def test_windows_as_long_as_the_clip_are_refused() -> None:
    with pytest.raises(VideomemError, match=r"order\.windows is 6, but clips have 6 frames"):
        check_sizes(drawn(), replace(SMALL, windows=6))
    check_sizes(drawn(), replace(SMALL, windows=6, training_conditions=PRIMARY))


# Training jobs and their cache.


def test_the_key_of_a_training_job_has_every_cause_and_nothing_else() -> None:
    clips = drawn()
    split, plan = run_splits(clips, SMALL)[0], planned(clips)
    job = jobs_of(plan, clips)[0]
    base = job_key(job, clips, split, SMALL, SHORT)
    other_label = replace(clips, labels=1 - clips.labels)
    other_clip = replace(clips, ids=("0" * 32, *clips.ids[1:]))
    changed = [
        job_key(replace(job, condition="fixed_permutation"), clips, split, SMALL, SHORT),
        job_key(replace(job, run=1), clips, split, SMALL, SHORT),
        job_key(
            replace(job, head={**job.head, "memory": {**job.head["memory"], "init_args": {"hidden_dim": 9}}}),
            clips,
            split,
            SMALL,
            SHORT,
        ),
        job_key(replace(job, analysis="equal_parameters"), clips, split, SMALL, SHORT),
        job_key(job, other_label, split, SMALL, SHORT),
        job_key(job, other_clip, split, SMALL, SHORT),
        job_key(job, clips, replace(split, train=split.train[1:]), SMALL, SHORT),
        job_key(job, clips, split, replace(SMALL, num_permutations=4), SHORT),
        job_key(job, clips, split, replace(SMALL, projection="learned"), SHORT),
        job_key(job, clips, split, replace(SMALL, selection="validation"), SHORT),
        job_key(job, clips, split, SMALL, replace(SHORT, epochs=3)),
        job_key(job, clips, split, SMALL, replace(SHORT, dropout=0.3)),
    ]
    assert len({base, *changed}) == 1 + len(changed)
    assert base == job_key(job, clips, split, replace(SMALL, margin=0.1, runs=7, heads=("gru",)), SHORT)


def test_training_results_are_read_as_written_and_a_damaged_one_is_a_one_line_error(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(clips)
    jobs = {jobs_of(plan, clips)[0]: run_splits(clips, SMALL)[0]}
    training_result = next(train_jobs(jobs, clips, SMALL, SHORT))
    write_training_result(tmp_path / "a.npz", training_result)
    again = read_training_result(tmp_path / "a.npz")
    assert again.predicted.keys() == training_result.predicted.keys()
    assert all(np.array_equal(again.predicted[name], value) for name, value in training_result.predicted.items())
    assert again.frame_right is not None and np.array_equal(again.frame_right, training_result.frame_right)  # type: ignore[arg-type]
    assert replace(again, predicted={}, frame_right=None) == replace(training_result, predicted={}, frame_right=None)
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:200])
    with pytest.raises(VideomemError, match="a damaged training result"):
        read_training_result(tmp_path / "a.npz")


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory) -> tuple[OrderPlan, Clips, Path]:
    """A plan with its training results in a folder."""
    clips, cache = drawn(), tmp_path_factory.mktemp("cached")
    plan = planned(clips, training_conditions=PRIMARY, heads=("gru",))
    run_jobs(plan, clips, cache)
    return plan, clips, cache


def copied(cached: tuple[OrderPlan, Clips, Path], tmp_path: Path) -> tuple[OrderPlan, Clips, list[Path]]:
    plan, clips, cache = cached
    shutil.copytree(cache, tmp_path / "cache")
    return plan, clips, [path for _, path in in_cache(plan, clips, tmp_path / "cache").values()]


def test_a_training_result_in_place_of_another_is_noticed(
    cached: tuple[OrderPlan, Clips, Path], tmp_path: Path
) -> None:
    plan, clips, (first, second, *_) = copied(cached, tmp_path)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    with pytest.raises(
        VideomemError, match=f"^{first}: the training result of another job .*; delete it and run again$"
    ):
        run_jobs(plan, clips, first.parent)


def test_every_flipped_bit_of_a_training_result_is_noticed_or_changes_nothing(
    cached: tuple[OrderPlan, Clips, Path], tmp_path: Path
) -> None:
    _, _, (path, *_) = copied(cached, tmp_path)
    whole, expected = path.read_bytes(), read_training_result(path)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            found = read_training_result(path)
        except VideomemError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        else:
            assert found.predicted.keys() == expected.predicted.keys()
            assert all(np.array_equal(found.predicted[name], value) for name, value in expected.predicted.items())
            assert repr(replace(found, predicted={})) == repr(replace(expected, predicted={}))


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, predicted={name: value[:, :-1] for name, value in one.predicted.items()}),
        lambda one: replace(one, predicted={name: value + 7 for name, value in one.predicted.items()}),
        lambda one: replace(one, predicted={name: value - 9 for name, value in one.predicted.items()}),
        lambda one: replace(one, predicted={"ordered": one.predicted["ordered"]}),
        lambda one: replace(one, predicted={}),
        lambda one: replace(one, predicted={name: value.astype(float) for name, value in one.predicted.items()}),
        lambda one: replace(one, predicted={name: value[0] for name, value in one.predicted.items()}),
        lambda one: replace(one, losses=one.losses[1:]),
        lambda one: replace(one, losses="many"),
        lambda one: replace(one, best_position=99),
        lambda one: replace(one, label=3),
        lambda one: replace(one, frame_right=np.ones((2, 3))),
        lambda one: replace(one, frame_right=np.ones((len(one.predicted["ordered"][0]), 99), bool)),
    ],
)
def test_a_training_result_of_other_shapes_or_ranges_is_one_line(
    cached: tuple[OrderPlan, Clips, Path], tmp_path: Path, change: Callable[[TrainingResult], TrainingResult]
) -> None:
    plan, clips, (path, *_) = copied(cached, tmp_path)
    write_training_result(path, change(read_training_result(path)))
    with pytest.raises(VideomemError, match=f"^{path}: a .*; delete it and run again$") as told:
        run_jobs(plan, clips, path.parent)
    assert "\n" not in str(told.value)


def test_the_same_seed_gives_the_same_predictions_and_another_seed_others() -> None:
    clips = drawn()
    split, plan = run_splits(clips, SMALL)[0], planned(clips)
    job = next(job for job in jobs_of(plan, clips) if job.name == "gru" and job.condition == "reshuffled")
    one, two = (next(train_jobs({job: split}, clips, SMALL, SHORT)) for _ in range(2))
    other = next(train_jobs({job: split}, clips, replace(SMALL, seed=1), SHORT))
    assert np.array_equal(one.predicted["shuffle"], two.predicted["shuffle"])
    assert not np.array_equal(one.predicted["shuffle"], other.predicted["shuffle"])


def test_an_interrupted_test_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = drawn()
    plan = planned(clips, training_conditions=PRIMARY, heads=("gru",))
    written: list[Path] = []

    def until_interrupted(path: Path, result: TrainingResult) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write_training_result(path, result)

    monkeypatch.setattr(training, "write_training_result", until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(plan, clips, tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == 3
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(training, "write_training_result", write_training_result)
    resumed = run_jobs(plan, clips, tmp_path, progress=lambda done, total: told.append((done, total)))
    whole = run_jobs(plan, clips, tmp_path / "other")
    assert told == [(3, 4), (4, 4)]
    assert all(np.array_equal(resumed[job].predicted["shuffle"], whole[job].predicted["shuffle"]) for job in whole)


@pytest.mark.slow
def test_two_processes_give_the_predictions_of_one(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(clips, heads=("gru",))
    one, two = run_jobs(plan, clips, tmp_path / "one"), run_jobs(plan, clips, tmp_path / "two", num_processes=2)
    assert len(one) == 2 * len(TRAINING_CONDITIONS) and one.keys() == two.keys()
    for job, training_result in one.items():
        assert all(np.array_equal(two[job].predicted[name], value) for name, value in training_result.predicted.items())


@pytest.mark.gpu
def test_a_gpu_gives_nearly_the_predictions_of_the_cpu(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(clips, replace(SHORT, dropout=0.0), heads=("gru",), training_conditions=PRIMARY)
    cpu, gpu = (run_jobs(plan, clips, tmp_path / name, devices=[name]) for name in ("cpu", "cuda:0"))
    same = [np.mean(gpu[job].predicted["ordered"] == result.predicted["ordered"]) for job, result in cpu.items()]
    assert min(same) > 0.9


def test_a_training_that_diverges_is_a_one_line_error(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(clips, replace(SHORT, learning_rate=1e30, gradient_clip_val=None), heads=("leaky",))
    said = r"leaky, training condition ordered, run 0: logits are not finite.*learning_rate"
    with pytest.raises(VideomemError, match=said):
        run_jobs(plan, clips, tmp_path)


# Memories.


def test_memories_have_one_state_size_and_the_same_start() -> None:
    named = read_heads(("gru", str(CONFIGS / "head" / "lstm.yaml")), 7)
    assert list(named) == ["gru", "lstm"]
    assert {head["memory"]["init_args"]["hidden_dim"] for head in named.values()} == {7}
    heads = []
    for head in named.values():
        torch.manual_seed(0)
        heads.append(build_head(head, 5, 2, 1, 4))
    weights = [head.projection.weight for head in heads]
    assert weights[0].shape == (4, 5) and torch.equal(*weights)


@pytest.mark.parametrize("name", ["gruu", "nowhere.yaml"])
def test_an_unknown_memory_is_refused_and_known_ones_are_named(name: str) -> None:
    with pytest.raises(VideomemError, match=r"is not a head; choose from .*gru"):
        read_heads((name,), 8)


def test_a_head_file_that_names_another_packages_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text("model: {memory: {class_path: this.Zen}}")
    with pytest.raises(VideomemError, match=r"names this\.Zen, which is not a memory"):
        read_heads((str(tmp_path / "evil.yaml"),), 8)


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "gru.yaml"
    other.write_text((CONFIGS / "head" / "rnn.yaml").read_text())
    with pytest.raises(VideomemError, match=r"another head has the name 'gru'"):
        read_heads(("gru", str(other)), 8)


def test_equal_parameters_are_nearly_equal() -> None:
    memories = read_heads(("none", "leaky", "gated", "lstm"), 16)
    resized = with_parameters_of_largest(memories, lambda head: build_head(head, 20, 3, 1, 16))
    counts = [sum(p.numel() for p in build_head(head, 20, 3, 1, 16).parameters()) for head in resized.values()]
    assert max(counts) < 1.02 * min(counts)
    assert resized["lstm"] == memories["lstm"]


# The projection.


def test_a_cached_projection_is_not_used_for_other_clips() -> None:
    train = np.arange(40)
    for seed in range(20):  # Clips that are gone may leave their id to others.
        clips = drawn(seed=seed)
        assert np.array_equal(projected(clips, train, 3).labels, clips.labels)
        assert projected(clips, train, 3).ids == clips.ids
        mean, _ = feature_statistics(clips, train)
        assert torch.allclose(mean, torch.cat([clips.features(row) for row in train.tolist()]).mean(0), atol=1e-5)
        del clips


def test_the_projection_is_the_principal_components_of_training_frames_alone() -> None:
    clips = drawn()
    train = np.arange(30)
    shown = projected(clips, train, 3)
    frames = torch.cat([clips.features(row) for row in train.tolist()]).double()
    mean, std = frames.mean(0), frames.std(0, correction=0)
    axes = torch.linalg.svd((frames - mean) / std).Vh[:3]
    expected = ((clips.features(50).double() - mean) / std) @ axes.T
    assert torch.allclose(shown.features(50).double().abs(), expected.abs(), atol=1e-3)


def test_a_training_result_that_inflates_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", predicted=np.zeros((10**4, 10**4), np.int8))
    with pytest.raises(VideomemError, match=r"a.npz: a damaged training result .*would take 1000\d+ bytes"):
        read_training_result(tmp_path / "a.npz")


# What the methods paragraph says, with the parts of torch.nn alone.


def standardize(x_ND: Tensor, frames_ND: Tensor) -> Tensor:
    return ((x_ND - frames_ND.mean(0)) / frames_ND.std(0, correction=0)).clamp(-10, 10)


class Described(nn.Module):
    """A learner as the methods paragraph describes it, for clips of one length."""

    def __init__(self, network: type[nn.GRU] | type[nn.LSTM], num_features: int, num_units: int, forget: float) -> None:
        super().__init__()
        self.rnn = network(num_features, num_units, batch_first=True)
        gate = slice(num_units, 2 * num_units)  # z of r, z, n in nn.GRU, and f of i, f, g, o in nn.LSTM
        self.rnn.bias_ih_l0.data[gate], self.rnn.bias_hh_l0.data[gate] = forget, 0.0
        self.classify = nn.Linear(num_units, 2)

    def forward(self, x_BTD: Tensor, dropout: float = 0.0) -> Tensor:
        sizes = x_BTD.shape[2], self.classify.in_features
        first, second = (nn.functional.dropout(torch.ones(len(x_BTD), 1, size), dropout) for size in sizes)
        out_BTH, _ = self.rnn(x_BTD * first)
        return self.classify(out_BTH * second).mean(1)


def trained_as_described(name: str, clips: Clips, split: RunSplit, recipe: Recipe, num_units: int, forget: float,
                         with_pca: bool) -> tuple[list[float], Tensor]:  # fmt: skip
    """Losses of the epochs and logits of the test clips; draws of clips and masks have the seeds of the first run."""
    x_NTD = torch.stack([clips.features(row).float() for row in range(len(clips))])
    labels, train = torch.from_numpy(clips.labels), torch.from_numpy(split.train)
    x_NTD = standardize(x_NTD, x_NTD[train].flatten(0, 1))
    if with_pca:
        x_NTD = x_NTD @ torch.linalg.svd(x_NTD[train].flatten(0, 1), full_matrices=False)[2][:4].T
        x_NTD = standardize(x_NTD, x_NTD[train].flatten(0, 1))
        # The sign of a principal component is arbitrary, but the initial weights do not follow it.
        theirs = projected(clips, split.train, 4)
        x_NTD *= torch.stack([x_TD * theirs.features(row) for row, x_TD in enumerate(x_NTD)]).sum((0, 1)).sign()
    torch.manual_seed(0)
    model = Described(nn.GRU if name == "gru" else nn.LSTM, x_NTD.shape[2], num_units, forget)
    matrices, biases = ([p for p in model.parameters() if (p.ndim == 2) == wanted] for wanted in (True, False))
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.999), eps=1e-8)
    losses, step = [], 0
    for epoch in range(recipe.epochs):
        order = torch.tensor([item for item, _ in EpochSampler(len(train), 0, lambda epoch=epoch: epoch)])
        of_epoch = []
        for rows in train[order].split(recipe.batch_size):
            torch.manual_seed(step)
            loss = nn.functional.cross_entropy(model(x_NTD[rows], recipe.dropout), labels[rows])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip_val or 0.0)
            optimizer.step()
            optimizer.zero_grad()
            of_epoch.append(float(loss))
            step += 1
        losses.append(float(np.mean(of_epoch)))
    with torch.no_grad():
        return losses, model(x_NTD[split.test])


@pytest.mark.parametrize("with_pca", [False, True], ids=["features", "principal components"])
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_the_methods_paragraph_suffices_to_replicate_a_training_with_torch(name: str, with_pca: bool) -> None:
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=1e-2, weight_decay=0.1, dropout=0.3, gradient_clip_val=0.2)
    clips = drawn()
    plan = planned(clips, recipe, heads=(name,), training_conditions=PRIMARY,
                   projection="pca" if with_pca else "none")  # fmt: skip
    (job, (split, _)), *_ = in_cache(plan, clips, Path("unused")).items()
    assert job.condition == "ordered" and job.run == 0
    (result,) = train_jobs({job: split}, clips, plan.settings, plan.recipe)
    losses, logits = trained_as_described(name, clips, split, recipe, plan.settings.hidden_dim, 1.0, with_pca)
    assert result.losses == pytest.approx(losses, abs=1e-4)
    assert np.array_equal(result.predicted["ordered"][0], logits.argmax(1))
    without, _ = trained_as_described(name, clips, split, recipe, plan.settings.hidden_dim, 0.0, with_pca)
    assert without != pytest.approx(losses, abs=1e-4)


def test_the_methods_paragraph_states_what_a_replication_needs(tmp_path: Path) -> None:
    clips = drawn()
    plan = planned(clips, heads=("none", "gru", "lstm", "gated", "rnn"), training_conditions=PRIMARY)
    text = methods_text(run_order_test(clips, plan, tmp_path).result)
    for said in (
        "standardized by the mean and the standard deviation of all training frames and clamped to ±10",
        "so were whitened", "initially 0", "averaged over its frames", "uniformly within 1 / sqrt(number of inputs)",
        "initially orthogonal", "the forget gate of the LSTM had the initial bias 1 (input bias 1, recurrent bias 0)",
        "the update gate of the GRU, which in torch multiplies the previous state, had the initial bias 1",
        "betas 0.9 and 0.999, epsilon 1e-08, and weight decay 0.01 of weight matrices but not of biases",
        "gradient of a learner was limited to 1", "one mask for all frames of a clip", "scaled by 1.11",
        "Batches had 16 clips (the last of an epoch had the rest), in a new random order in each of 2 epochs",
    ):  # fmt: skip
        assert said in text, said
